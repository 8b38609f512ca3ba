"""Certificates in files and behind sockets, made by an authority of the tests' own."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from labdock.adapters.certificates import read_chain, read_pair, read_served, trusted_subjects
from labdock.adapters.edge_probe import addresses_of, read_date, read_mark
from labdock.core.errors import HostError
from tests.authorities import Lab, answering, lab, make

NAME = "gpu.lab.example"


@pytest.fixture(scope="module")
def authority() -> Lab:
    return lab()


def written(folder: Path, cert: str, key: str) -> tuple[Path, Path]:
    paths = folder / "cert.pem", folder / "key.pem"
    for path, text in zip(paths, (cert, key), strict=True):
        path.write_text(text)
    return paths


def test_a_pair_is_read_with_its_names_times_and_chain(tmp_path: Path, authority: Lab) -> None:
    leaf = authority.issue(NAME, "192.0.2.7", lives=timedelta(days=10))
    pair = read_pair(*written(tmp_path, authority.chain(leaf), leaf.key))
    found, middle = pair.chain
    assert (found.names, found.issuer, found.authority) == ((NAME, "192.0.2.7"), "Lab Intermediate", False)
    assert found.ends - found.begins == 10 * 86_400
    assert (middle.authority, middle.self_signed, pair.linked) == (True, False, 1)
    assert pair.text == authority.chain(leaf) + leaf.key


def test_a_chain_that_breaks_is_seen(tmp_path: Path, authority: Lab) -> None:
    leaf = authority.issue(NAME)
    pair = read_pair(*written(tmp_path, leaf.pem + authority.root.pem, leaf.key))
    assert (len(pair.chain), pair.linked) == (2, 0)
    assert pair.chain[1].self_signed


def test_files_that_make_no_pair_are_refused_with_the_reason(tmp_path: Path, authority: Lab) -> None:
    leaf, other = authority.issue(NAME), authority.issue(NAME)
    for cert, key, words in (
        (authority.chain(leaf), other.key, "is not that of the certificate"),
        (authority.chain(leaf), leaf.locked_key, "has a password"),
        (authority.chain(leaf), leaf.pem, "holds no private key"),
        (leaf.key, leaf.key, "holds no certificate"),
        ("", leaf.key, "holds no certificate"),
        ("\x00ü", leaf.key, "holds no certificate"),
        (authority.intermediate.pem + leaf.pem, leaf.key, "comes as number 2"),
    ):
        with pytest.raises(HostError, match=words):
            read_pair(*written(tmp_path, cert, key))
    with pytest.raises(HostError, match="cannot be read: No such file"):
        read_pair(tmp_path / "nothing", tmp_path / "key.pem")
    with pytest.raises(HostError, match="cannot be read: Is a directory"):
        read_chain(tmp_path)


def test_the_authorities_that_this_machine_trusts_are_known_by_name(tmp_path: Path, authority: Lab) -> None:
    (tmp_path / "roots.pem").write_text(authority.root.pem + make("Other Root", authority=True).pem)
    assert trusted_subjects(tmp_path / "roots.pem") == {"Lab Root", "Other Root"}
    assert trusted_subjects(tmp_path / "nothing") == frozenset()


@contextmanager
def server(folder: Path, cert: str, key: str, answer: bytes = b"") -> Iterator[int]:
    """The port of something that speaks TLS and says *answer*, or hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*written(folder, cert, key))
    with answering("127.0.0.1", context, answer) as port:
        yield port


def test_what_a_server_shows_is_read_whether_it_is_trusted_or_not(tmp_path: Path, authority: Lab) -> None:
    leaf, root = authority.issue(NAME), tmp_path / "root.pem"
    root.write_text(authority.root.pem)
    with server(tmp_path, authority.chain(leaf), leaf.key) as port:
        strange = read_served("127.0.0.1", port, NAME)
        trusted = read_served("127.0.0.1", port, NAME, root=root)
        other = read_served("127.0.0.1", port, "other.lab.example", root=root)
    assert [one.subject for one in strange.chain] == [NAME, "Lab Intermediate"]
    assert strange.distrust == "unable to get local issuer certificate"
    assert trusted.distrust == ""
    assert trusted.leaf == strange.leaf
    assert "mismatch" in other.distrust


def test_a_chain_that_is_not_sent_is_seen_as_missing(tmp_path: Path, authority: Lab) -> None:
    leaf, root = authority.issue(NAME), tmp_path / "root.pem"
    root.write_text(authority.root.pem)
    with server(tmp_path, leaf.pem, leaf.key) as port:
        served = read_served("127.0.0.1", port, NAME, root=root)
    assert len(served.chain) == 1
    assert served.distrust == "unable to get local issuer certificate"


def test_nobody_and_somebody_without_tls_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up() -> None:
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(HostError, match=f"There is no certificate for {NAME} at 127.0.0.1:{port}"):
            read_served("127.0.0.1", port, NAME)
    with pytest.raises(HostError, match=f"Nobody answers at 127.0.0.1:{port}"):
        read_served("127.0.0.1", port, NAME)


def test_a_mark_and_a_date_are_read_whatever_the_certificate(tmp_path: Path, authority: Lab) -> None:
    leaf = authority.issue("other.lab.example", begins_in=timedelta(days=-9), lives=timedelta(days=8))
    head = b"HTTP/1.1 200 OK\r\nDate: Sat, 01 Jan 2022 00:00:00 GMT\r\nContent-Length: 5\r\n\r\n"
    with server(tmp_path, authority.chain(leaf), leaf.key, head + b"mark\n") as port:
        assert read_mark("127.0.0.1", port, NAME, "/x", tls=True) == "mark"
        assert read_mark("127.0.0.1", port, NAME, "/x", tls=False) is None
        assert read_date(f"https://127.0.0.1:{port}/dir") == 1_640_995_200
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
    with server(tmp_path, authority.chain(leaf), leaf.key, refusal) as port:
        assert read_mark("127.0.0.1", port, NAME, "/x", tls=True) == ""
        assert read_date(f"https://127.0.0.1:{port}/dir") is None
    assert read_mark("127.0.0.1", port, NAME, "/x", tls=True) is None
    assert read_date(f"https://127.0.0.1:{port}/dir") is None


def test_a_name_has_addresses_or_none() -> None:
    assert "127.0.0.1" in addresses_of("localhost")
    assert addresses_of("nobody.invalid") == ()
