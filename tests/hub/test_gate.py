"""Nobody waits for ever, and never do too many start at once."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from labdock.hub.gate import Gate


@settings(max_examples=25, deadline=None)
@given(places=st.integers(1, 4), people=st.integers(1, 12), hanging=st.sets(st.integers(0, 11)))
def test_everybody_gets_through_whoever_hangs(places: int, people: int, hanging: set[int]) -> None:
    async def go() -> None:
        gate = Gate(places, hold_s=0.005)
        through: set[int] = set()
        done = asyncio.Event()

        async def start(number: int) -> None:
            async with gate.place():
                through.add(number)
                if number in hanging:
                    await done.wait()

        starts = [asyncio.create_task(start(number)) for number in range(people)]
        async with asyncio.timeout(5):
            while len(through) < people:
                await asyncio.sleep(0.001)
        done.set()
        await asyncio.gather(*starts)

    asyncio.run(go())


async def test_no_more_than_the_places_are_taken_by_quick_starts() -> None:
    gate = Gate(2, hold_s=60)
    inside, most = 0, 0

    async def start() -> None:
        nonlocal inside, most
        async with gate.place():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(start() for _ in range(10)))
    assert most == 2


async def test_a_place_is_given_back_once_also_when_a_start_is_cancelled() -> None:
    gate = Gate(1, hold_s=0.01)

    async def hang() -> None:
        async with gate.place():
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await asyncio.sleep(0.03)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with gate.place():
        second = asyncio.create_task(hang())
        await asyncio.sleep(0.002)
        assert not second.done()
        second.cancel()
