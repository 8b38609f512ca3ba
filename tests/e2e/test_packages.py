"""The part that keeps packages: downloads serve everybody, and nobody can spoil them for anybody."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from labdock.core.site import PACKAGES_PORT
from tests.e2e.conftest import Guests
from tests.e2e.test_sessions import reaches, shell
from tests.stack import Stack

ASK = """
import os, urllib.error, urllib.request
def ask(method, path):
    address = os.environ["PIP_INDEX_URL"].removesuffix("/index/") + path
    request = urllib.request.Request(address, method=method, data=b"evil" if method != "GET" else None)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
"""
DOWNLOAD = "pip download -q --no-deps --no-cache-dir --disable-pip-version-check"


def fetched(stack: Stack, name: str) -> int:
    """How often the part says that it fetched *name* from the machine's index."""
    return stack.labdock("logs", "packages", "--lines", "10000").stdout.count(f"fetched {name}")


@contextmanager
def cut_off(stack: Stack) -> Iterator[None]:
    """The part has no way to the outside; sessions still reach it."""

    inside = ["nsenter", "--target", str(stack.process_id("packages")), "--net", "ip", "route"]

    def route(*words: str) -> str:
        return subprocess.run([*inside, *words], check=True, capture_output=True, text=True).stdout

    way = route("show", "default").split()
    route("del", "default")
    try:
        yield
    finally:
        route("add", *way)


@contextmanager
def stopped(stack: Stack) -> Iterator[None]:
    """The part is stopped, as by hand."""

    stack.stop_part("packages")
    try:
        yield
    finally:
        done = stack.labdock("restart", "packages")
        assert done.returncode == 0, done.stderr


async def test_what_one_downloads_the_next_gets_while_the_index_is_away(stack: Stack, guests: Guests) -> None:
    wheel = "toolz-1.0.0-py3-none-any.whl"
    before = fetched(stack, wheel)
    async with guests("ada") as ada, guests("bob") as bob:
        for person in (ada, bob):
            await person.start(None)
            await person.take_token()
        ada_kernel, bob_kernel = await ada.kernel(), await bob.kernel()
        assert await shell(ada, ada_kernel, f"{DOWNLOAD} -d got toolz==1.0.0") == ""
        with cut_off(stack):
            said = await shell(bob, bob_kernel, "labdock-env create mine toolz==1.0.0")
            assert 'Choose the kernel "mine"' in said
            # The way out really is closed, and that is said at once.
            assert "502" in await shell(
                bob, bob_kernel, 'curl -sS -o /dev/null -w "%{http_code}" "$PIP_INDEX_URL"wheel/'
            )
        assert await shell(ada, ada_kernel, f"{DOWNLOAD} -d again wheel==0.45.1") == ""
        assert fetched(stack, wheel) == before + (1 if before == 0 else 0)
        lock = await shell(bob, bob_kernel, "cat ~/.labdock/envs/mine/labdock.lock; echo $LABDOCK_IMAGE")
        image = lock.splitlines()[-1]
        assert re.fullmatch(r"labdock[^ ]*/cpu:[0-9a-f]{12}", image)
        assert f"# image: {image}" in lock


async def test_pip_and_uv_are_told_of_it_and_of_nothing_else(guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        told = await shell(ada, kernel, "env | grep -E '^(PIP|UV)_' | sort")
        address = re.findall(r"http://10\.[0-9.]+:8082/index/", told)
        assert len(address) == 2
        assert len(set(address)) == 1
        assert [line.partition("=")[0] for line in told.splitlines()] == [
            "PIP_INDEX_URL",
            "PIP_TRUSTED_HOST",
            "UV_DEFAULT_INDEX",
        ]


async def test_nobody_in_a_session_can_change_what_it_keeps(stack: Stack, guests: Guests) -> None:
    async with guests("eve") as eve:
        await eve.start(None)
        await eve.take_token()
        kernel = await eve.kernel()
        assert await shell(eve, kernel, f"{DOWNLOAD} -d got toolz==1.0.0") == ""
        kept = sorted((stack.state / "packages").iterdir())
        assert kept
        tried = await eve.run_cell(
            kernel,
            f"{ASK}\nfor method in ('POST', 'PUT', 'DELETE', 'PATCH'):\n"
            "    for path in ('/cache/list', '/cache/toolz', '/index/toolz/', '/index/toolz/x.whl', '/'):\n"
            "        print(*ask(method, path))",
        )
        assert tried.splitlines() == ["405 b'Only GET is answered here.\\n'"] * 20
        assert sorted((stack.state / "packages").iterdir()) == kept
        # Nor by any other way in, nor through it to others.
        host = await shell(eve, kernel, r"echo $PIP_INDEX_URL | sed -E 's,http://([0-9.]+):.*,\1,'")
        address = host.strip()
        assert await reaches(eve, kernel, address, PACKAGES_PORT)
        for port in (22, 80, 443, 8000, 8080, 8081, 8083, 8888):
            assert not await reaches(eve, kernel, address, port)
        folder = stack.state / "packages"
        assert folder.stat().st_mode & 0o077 == 0


async def test_a_file_that_was_changed_on_the_disk_does_not_reach_anybody(
    stack: Stack, guests: Guests
) -> None:
    """The part looks again at what has changed; and pip compares with what the index says."""
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        before = set((stack.state / "packages").iterdir())
        get = f"rm -rf got; {DOWNLOAD} -d got cachetools==5.5.0 2>&1"
        assert await shell(ada, kernel, get) == ""
        new = set((stack.state / "packages").iterdir()) - before
        (wheel,) = [path for path in new if path.read_bytes()[:2] == b"PK"]
        whole, facts = wheel.read_bytes(), wheel.stat()
        evil = whole[:-1] + bytes([whole[-1] ^ 1])
        # With nothing to see from outside: the very same file, size and time.
        with wheel.open("r+b") as file:
            file.write(evil)
        os.utime(wheel, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        said = await shell(ada, kernel, get)
        assert "THESE PACKAGES DO NOT MATCH THE HASHES" in said
        assert await shell(ada, kernel, "ls got 2>/dev/null") == ""
        # As everybody else would change it, it is noticed before it leaves.
        wheel.write_bytes(evil)
        assert await shell(ada, kernel, get) == ""
        assert wheel.read_bytes() == whole


async def test_without_it_a_session_starts_and_pip_asks_the_machines_index(
    stack: Stack, guests: Guests
) -> None:
    async with guests("ada") as ada:
        with stopped(stack):
            # Until the hub has looked again.
            await asyncio.sleep(3)
            steps = await ada.start(None)
            assert all(step["state"] == "done" for step in steps)
            await ada.take_token()
            kernel = await ada.kernel()
            assert await shell(ada, kernel, "env | grep -E '^(PIP|UV)_'") == ""
            assert await shell(ada, kernel, f"{DOWNLOAD} -d got toolz==1.0.0") == ""
            status = stack.labdock("status")
            assert status.returncode == 1
            assert "packages" in status.stdout
        async with asyncio.timeout(120):
            while True:
                await ada.stop()
                await ada.start(None)
                told = await shell(ada, await ada.kernel(), "echo $PIP_INDEX_URL")
                # A busy part that was away is not waited for: then the next session is told.
                if "8082" in told:
                    break


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_doctor_and_status_know_the_part(stack: Stack, command: str) -> None:
    assert "packages" in stack.labdock(command).stdout
