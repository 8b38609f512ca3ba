"""Nobody who asks misses an end."""

from __future__ import annotations

import asyncio

from labdock.agent.ends import Ends


async def test_an_end_reaches_whoever_waits_and_whoever_asks_later() -> None:
    ends = Ends(0)
    waiting = asyncio.create_task(ends.after(0, patience_s=5))
    await asyncio.sleep(0)
    ends.add("one")
    assert await waiting == (1, ("one",))
    ends.add("two")
    assert await ends.after(1, patience_s=5) == (2, ("two",))
    assert await ends.after(0, patience_s=5) == (2, ("one", "two"))


async def test_nothing_new_is_an_empty_answer_in_time() -> None:
    ends = Ends(0)
    ends.add("one")
    assert await ends.after(1, patience_s=0.01) == (1, ())


async def test_a_number_from_before_a_restart_gets_every_end_since() -> None:
    ends = Ends(1000)
    ends.add("one")
    ends.add("two")
    async with asyncio.timeout(1):
        assert await ends.after(7, patience_s=60) == (1002, ("one", "two"))


async def test_a_number_from_the_future_is_answered_at_once() -> None:
    async with asyncio.timeout(1):
        assert await Ends(0).after(7, patience_s=60) == (0, ())


async def test_nobody_waits_for_an_agent_that_is_about_to_end() -> None:
    ends = Ends(7)
    waiting = asyncio.create_task(ends.after(7, patience_s=60))
    await asyncio.sleep(0)
    ends.close()
    assert await asyncio.wait_for(waiting, 5) == (7, ())
    assert await asyncio.wait_for(ends.after(7, patience_s=60), 5) == (7, ())
