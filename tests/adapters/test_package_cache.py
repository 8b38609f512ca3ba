"""Whether the part that keeps packages answers: seldom asked, and never waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from labdock.adapters.package_cache import PackageCacheLook


class Part:
    """Listens, and answers with ``status`` unless it ``hangs``."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.hangs = False
        self.asked = 0
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"GET /health HTTP/1.0\r\n"
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(0.5)
        writer.write(f"HTTP/1.0 {self.status}\r\n\r\nok\n".encode())
        writer.close()


@pytest.fixture
async def part() -> AsyncIterator[Part]:
    made = Part()
    async with await asyncio.start_server(made.answer, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_many_starts_share_one_look_and_the_next_comes_after_three_seconds(part: Part) -> None:
    clock = Clock()
    look = PackageCacheLook("127.0.0.1", part.port, clock=clock)
    assert await asyncio.gather(*(look.answers() for _ in range(20))) == [True] * 20
    assert part.asked == 1
    clock.now += 2.9
    assert await look.answers()
    assert part.asked == 1
    clock.now += 0.2
    part.status = "502 Bad Gateway"
    assert not await look.answers()
    assert part.asked == 2


async def test_one_that_hangs_holds_a_start_up_for_a_moment_only(part: Part) -> None:
    part.hangs = True
    clock = Clock()
    look = PackageCacheLook("127.0.0.1", part.port, clock=clock)
    for longest_s in (0.4, 0.15):
        began = time.monotonic()
        assert not await look.answers()
        assert not await look.answers()
        assert time.monotonic() - began < longest_s
        clock.now += 10


async def test_one_that_is_not_there_does_not_answer() -> None:
    assert not await PackageCacheLook("127.0.0.1", 9).answers()
    # An address that nobody has, as that of a part that is stopped.
    began = time.monotonic()
    assert not await PackageCacheLook("192.0.2.1", 8082).answers()
    assert time.monotonic() - began < 0.4
