"""The hub hears of every end, through failures of the agent."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from labdock.adapters.agent_api import AgentClient
from labdock.core.errors import EngineError
from labdock.hub import ends


class Agent:
    """Answers what it was given, one answer a question; then it waits for ever."""

    def __init__(self, *answers: tuple[int, tuple[str, ...]] | EngineError) -> None:
        self.answers = list(answers)
        self.asked: list[int] = []

    async def ends(self, number: int) -> tuple[int, tuple[str, ...]]:
        self.asked.append(number)
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, EngineError):
            raise answer
        return answer


async def test_the_hub_looks_at_what_ended_and_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ends, "PAUSE_S", 0.0)
    agent = Agent((2, ("a", "b")), EngineError("away"), (2, ()), (3, ("c",)))
    seen: list[frozenset[str]] = []

    async def look(names: frozenset[str]) -> None:
        seen.append(names)

    task = asyncio.create_task(ends.follow_ends(cast(AgentClient, agent), look))
    async with asyncio.timeout(5):
        while len(agent.asked) < 5:
            await asyncio.sleep(0)
    task.cancel()
    assert seen == [frozenset({"a", "b"}), frozenset({"c"})]
    assert agent.asked == [0, 2, 2, 2, 3]
