"""The hub's way to the agent, with a real agent at the other end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from labdock.adapters.agent_api import AgentClient, Ended
from labdock.adapters.nvidia import read_inventory
from labdock.core.errors import AccountError, BadRequestError, EngineError, HostError
from labdock.core.gpus import Way
from labdock.core.people import FIRST_UID, Person
from tests.adapters.drivers import installed, uuid
from tests.agent.engines import FakeEngine
from tests.agent.harness import RunningAgent, running_agent


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[RunningAgent]:
    if os.geteuid() != 0:
        pytest.skip("the agent gives homes to people, which takes root")
    async with (
        FakeEngine(str(tmp_path / "engine.sock")).running() as engine,
        running_agent(engine, tmp_path, watching=False) as running,
    ):
        yield running


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


async def test_a_person_is_registered_once_and_listed(agent: RunningAgent) -> None:
    ada = await agent.client.person("local:ada", "ada")
    assert ada == Person("local:ada", "ada", FIRST_UID, f"ada-{FIRST_UID}")
    assert await agent.client.person("local:ada", "ada") == ada
    bob = await agent.client.person("local:bob", "bob")
    assert await agent.client.people() == (ada, bob)


async def test_a_person_is_removed_with_or_without_the_home(agent: RunningAgent, tmp_path: Path) -> None:
    await agent.client.person("local:ada", "ada")
    kept = await agent.client.remove_person("local:ada", delete_home=False)
    assert kept == f"{tmp_path}/storage/removed/ada-{FIRST_UID}"
    await agent.client.person("local:bob", "bob")
    assert await agent.client.remove_person("local:bob", delete_home=True) == ""
    assert names_in(tmp_path / "storage/removed") == [f"ada-{FIRST_UID}"]
    assert await agent.client.people() == ()


async def test_the_agents_errors_keep_their_kind_and_words(agent: RunningAgent, tmp_path: Path) -> None:
    await agent.client.person("local:ada", "ada")
    with pytest.raises(AccountError, match="belongs to somebody else"):
        await agent.client.person("local:eve", "ada")
    with pytest.raises(AccountError, match="Use 1 to 32") as name:
        await agent.client.person("local:eve", "Eve!")
    assert name.value.fix.startswith("Use 1 to 32")
    with pytest.raises(BadRequestError) as identity:
        await agent.client.person("", "eve")
    assert identity.value.field == "identity"
    (tmp_path / "storage/homes" / f"eve-{FIRST_UID + 1}").write_text("in the way")
    with pytest.raises(HostError, match="no folder"):
        await agent.client.person("local:eve", "eve")


async def test_last_words_are_told_or_none(agent: RunningAgent) -> None:
    ended = Ended("labdock-session-ada", 137, True, ("a", "b"), datetime.now(UTC))
    agent.last_words.save(ended)
    assert await agent.client.ended("labdock-session-ada") == ended
    assert await agent.client.ended("labdock-session-bob") is None


async def test_problems_are_told(agent: RunningAgent) -> None:
    assert await agent.client.health() == ()
    agent.problems += ["One.", "Two."]
    assert await agent.client.health() == ("One.", "Two.")


async def test_the_cards_are_told_as_the_agent_knows_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the agent gives homes to people, which takes root")
    machine = installed(tmp_path / "machine", 0, 1)
    machine.split(1, {1: 0, 2: 0})
    async with (
        FakeEngine(str(tmp_path / "engine.sock")).running() as engine,
        running_agent(engine, tmp_path, machine=machine) as agent,
    ):
        engine.add_holder(uuid(0))
        report = await agent.client.gpus()
    assert report.inventory == read_inventory(machine.places, machine)
    assert [lease.cards for lease in report.leases] == [(uuid(0),)]
    assert (report.way, report.trouble) == (Way.DEVICES, None)


async def test_an_agent_that_is_down_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="The agent does not answer"):
        await AgentClient(tmp_path / "agent.sock").health()


async def test_an_answer_that_makes_no_sense_is_an_error(tmp_path: Path) -> None:
    async def gibberish(request: web.BaseRequest) -> web.Response:
        return web.Response(text="<html>", status=500)

    runner = web.ServerRunner(web.Server(gibberish))
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "agent.sock")).start()
    with pytest.raises(EngineError, match="makes no sense"):
        await AgentClient(tmp_path / "agent.sock").people()
    await runner.cleanup()
