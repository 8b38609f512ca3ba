"""How files come and go where the part keeps them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from labdock.packages.source import Source, SourceSession
from labdock.packages.store import Store, _Reader
from tests.packages.conftest import FakeIndex

CONTENT = os.urandom(4_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(index: FakeIndex, tmp_path: Path) -> Store:
    index.files["big-1.0.whl"] = CONTENT
    return Store(tmp_path, 10**9, SourceSession(Source()), free_bytes=lambda folder: 10**12)


def leave(body: object) -> None:
    assert isinstance(body, _Reader)
    body.close()


def test_a_fetch_that_everybody_has_left_is_given_up_and_the_next_is_whole(
    store: Store, index: FakeIndex, tmp_path: Path
) -> None:
    index.gate.clear()
    url = f"{index.url}/files/big-1.0.whl"
    one, other = store.open(url, DIGEST), store.open(url, DIGEST)
    assert next(iter(one.chunks)) == CONTENT[: 64 * 1024]
    leave(one.chunks)
    leave(one.chunks)
    leave(other.chunks)
    index.gate.set()
    assert b"".join(store.open(url, DIGEST).chunks) == CONTENT
    deadline = time.monotonic() + 5
    while list(tmp_path.iterdir()) != [tmp_path / DIGEST] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [path.name for path in tmp_path.iterdir()] == [DIGEST]


def test_whoever_stays_gets_the_whole_file(store: Store, index: FakeIndex) -> None:
    index.gate.clear()
    url = f"{index.url}/files/big-1.0.whl"
    one, other = store.open(url, DIGEST), store.open(url, DIGEST)
    leave(one.chunks)
    index.gate.set()
    assert b"".join(other.chunks) == CONTENT
    assert index.asked["/files/big-1.0.whl"] == 1


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_open_file_is_left_behind(store: Store, index: FakeIndex) -> None:
    url = f"{index.url}/files/big-1.0.whl"
    before = open_files()
    for name in ("big-1.0.whl", "gone.whl"):
        for _ in range(3):
            try:
                body = store.open(f"{index.url}/files/{name}", DIGEST if name != "gone.whl" else "1" * 64)
            except Exception as error:  # noqa: BLE001  whatever it is, nothing may stay open
                assert type(error).__name__ == "FileGoneError"
                continue
            b"".join(body.chunks)
            if body.file is not None:
                body.file.close()
            else:
                leave(body.chunks)
    assert store.length(url, DIGEST) == len(CONTENT)
    # One connection to the index is kept for the next fetch.
    assert open_files() <= before + 2
