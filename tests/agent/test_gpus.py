"""Cards through the agent: given by label, and never twice. What a session finds is in tests/ways."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from labdock.adapters.agent_api import AgentClient
from labdock.agent.engine import Listed
from labdock.agent.gpus import LOCK, lease_of
from labdock.core.gpus import (
    LABEL_DRIVER,
    LABEL_GPUS,
    LABEL_GROUPS,
    CardRule,
    GpuRules,
    Share,
    Sharing,
    Trouble,
    Way,
)
from labdock.core.session import LABEL_PERSON
from tests.adapters.drivers import INSIDE, Machine, installed, multiarch, uuid
from tests.agent.builders import good_body
from tests.agent.engines import EngineUnderTest, FakeEngine
from tests.agent.harness import Clock, RunningAgent, running_agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the agent makes homes and devices")

VERSION = "570.86.15"
NEXT_VERSION = "575.51.03"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return installed(tmp_path / "machine", 0, 1, 2, version=VERSION)


@pytest.fixture
async def agent(engine: EngineUnderTest, tmp_path: Path, machine: Machine) -> AsyncIterator[RunningAgent]:
    """One that leaves ended sessions where they are, so that tests see what they hold."""
    rules = GpuRules(per_session=2, cards=(CardRule(uuid(2), Share(Sharing.SEATS, 2)),))
    async with running_agent(engine, tmp_path, watching=False, machine=machine, gpus=rules) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fake_agent(
    fake_engine: FakeEngine, tmp_path: Path, machine: Machine, clock: Clock
) -> AsyncIterator[RunningAgent]:
    async with running_agent(fake_engine, tmp_path, watching=False, machine=machine, clock=clock) as running:
        yield running


async def refusal(agent: RunningAgent, name: str, *cards: str) -> str:
    """Why somebody called *name* is not given *cards*."""
    person = await agent.client.person(f"local:{name}", name)
    with pytest.raises(aiodocker.DockerError) as caught:
        await agent.create(person, cards=cards)
    assert caught.value.status == 403
    return str(caught.value.message)


async def held(client: AgentClient) -> dict[str, list[str]]:
    """People by the cards they hold."""
    holders: dict[str, list[str]] = {}
    for lease in (await client.gpus()).leases:
        for card in lease.cards:
            holders.setdefault(card, []).append(lease.person)
    return holders


# On both engines


async def test_the_report_tells_cards_leases_and_way(agent: RunningAgent, engine: EngineUnderTest) -> None:
    ada = await agent.client.person("local:ada", "ada")
    body = good_body(agent.rules, ada, images=agent.images())
    body["Labels"] |= {LABEL_GPUS: f"{uuid(2)},{uuid(0)}", LABEL_GROUPS: '["vision", "züge"]'}
    await agent.docker.containers.create(body, name=f"{agent.rules.instance}-session-ada")
    engine.add_holder(f"{uuid(1)},nonsense")
    report = await agent.client.gpus()
    assert [card.uuid for card in report.inventory.cards] == [uuid(0), uuid(1), uuid(2)]
    assert report.way is Way.DEVICES
    assert report.trouble is None
    assert not report.inventory.simulated
    session, other = sorted(report.leases, key=lambda lease: not lease.person)
    assert session.container == f"{agent.rules.instance}-session-ada"
    assert (session.person, session.identity, session.instance) == ("ada", "local:ada", agent.rules.instance)
    assert (session.cards, session.groups) == ((uuid(2), uuid(0)), ("vision", "züge"))
    assert (session.driver, report.outdated(session)) == (VERSION, False)
    assert (other.cards, other.person) == ((uuid(1),), "")
    assert 0 <= other.since_s - session.since_s < 60


async def test_of_many_who_want_one_card_at_once_exactly_one_gets_it(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    names = [f"p{number}" for number in range(20)]
    people = [await agent.client.person(f"local:{name}", name) for name in names]
    wanted = (agent.create(person, cards=(uuid(1),)) for person in people)
    results = await asyncio.gather(*wanted, return_exceptions=True)
    made = [result for result in results if isinstance(result, str)]
    refused = [result for result in results if isinstance(result, aiodocker.DockerError)]
    assert (len(made), len(refused)) == (1, 19)
    assert {error.status for error in refused} == {403}
    assert all(f"{uuid(1)} is taken" in error.message for error in refused)
    assert engine.containers() == made


async def test_while_another_instance_gives_out_cards_nobody_here_gets_one_by_older_leases(
    agent: RunningAgent, engine: EngineUnderTest, machine: Machine
) -> None:
    ada, bob = [await agent.client.person(f"local:{name}", name) for name in ("ada", "bob")]
    lock = os.open(Path(machine.places.dev, LOCK), os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = asyncio.create_task(agent.create(ada, cards=(uuid(0),)))
        await agent.create(bob)
        engine.add_holder(uuid(0))
        assert not waiting.done()
    finally:
        os.close(lock)
    with pytest.raises(aiodocker.DockerError, match="is taken"):
        await waiting


async def test_a_session_that_ended_holds_its_card_until_its_container_is_gone(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    ada = await agent.client.person("local:ada", "ada")
    name = await agent.create(ada, "JUPYTER_TEST_EXIT=3", cards=(uuid(0),))
    assert "is taken" in await refusal(agent, "bob", uuid(0))
    await agent.start(name)
    shown = agent.docker.containers.container(name)
    async with asyncio.timeout(10):
        while (await shown.show())["State"]["Status"] != "exited":
            await asyncio.sleep(0.02)
    assert await held(agent.client) == {uuid(0): ["ada"]}
    assert "is taken" in await refusal(agent, "bob", uuid(0))
    engine.remove(name)
    assert await held(agent.client) == {}
    bob = await agent.client.person("local:bob", "bob")
    await agent.create(bob, cards=(uuid(0),))


async def test_a_container_started_by_hand_holds_its_card_until_it_is_removed(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    by_hand = engine.add_holder(uuid(0))
    assert "is taken" in await refusal(agent, "ada", uuid(0))
    engine.remove(by_hand)
    ada = await agent.client.person("local:ada", "ada")
    await agent.create(ada, cards=(uuid(0),))


async def test_blanks_between_cards_in_a_label_hide_none(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    engine.add_holder(f"{uuid(1)}, {uuid(0)} ")
    assert "is taken" in await refusal(agent, "ada", uuid(0))


@pytest.mark.parametrize(
    ("label", "text"), [(LABEL_PERSON, "e\x1b[2Jve"), (LABEL_DRIVER, "\x07"), (LABEL_GROUPS, "[[[")]
)
def test_a_foreign_label_that_makes_no_sense_counts_as_nothing(label: str, text: str) -> None:
    lease = lease_of(Listed("other", {LABEL_GPUS: uuid(0), label: text}, 1.0))
    assert (lease.cards, lease.person, lease.driver, lease.groups) == ((uuid(0),), "", "", ())


async def test_a_session_without_cards_is_made_as_the_hub_sent_it_and_asks_no_driver(
    agent: RunningAgent, engine: EngineUnderTest, machine: Machine
) -> None:
    ada = await agent.client.person("local:ada", "ada")
    name = await agent.create(ada)
    body = engine.body(name)
    assert not body["HostConfig"].get("Devices")
    assert "NVIDIA_VISIBLE_DEVICES=void" in body["Env"]
    assert not [item for item in body["Env"] if item.startswith(("CUDA", "TRITON"))]
    assert LABEL_DRIVER not in body["Labels"]
    assert len(body["HostConfig"]["Mounts"]) == len(good_body(agent.rules, ada)["HostConfig"]["Mounts"])
    assert machine.asked == []


async def test_a_seat_is_counted_and_no_more_than_there_are_are_given(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    for name in ("ada", "bob"):
        await agent.create(await agent.client.person(f"local:{name}", name), cards=(uuid(2),))
    assert "all 2 seats" in await refusal(agent, "eve", uuid(2))
    assert len(engine.containers()) == 2


# On the fake one


async def test_the_agent_adds_devices_and_files_of_exactly_the_leased_cards(
    fake_agent: RunningAgent, fake_engine: FakeEngine, machine: Machine
) -> None:
    ada = await fake_agent.client.person("local:ada", "ada")
    sent = good_body(fake_agent.rules, ada)
    body = fake_engine.body(await fake_agent.create(ada, cards=(uuid(1),)))
    dev = machine.places.host_dev
    assert body["HostConfig"]["Devices"] == [
        {"PathOnHost": f"{dev}/{name}", "PathInContainer": f"/dev/{name}", "CgroupPermissions": "rw"}
        for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia1")
    ]
    added = body["HostConfig"]["Mounts"][len(sent["HostConfig"]["Mounts"]) :]
    assert {mount["Target"] for mount in added} >= {f"{INSIDE}/libcuda.so.1", "/usr/bin/nvidia-smi"}
    assert all(mount["ReadOnly"] and mount["Type"] == "bind" for mount in added)
    assert set(body["Env"]) - set(sent["Env"]) == {
        "CUDA_DEVICE_ORDER=PCI_BUS_ID",
        f"TRITON_LIBCUDA_PATH={INSIDE}",
    }
    assert body["Labels"] == {**sent["Labels"], LABEL_GPUS: uuid(1), LABEL_DRIVER: VERSION}
    assert "Runtime" not in body["HostConfig"]
    assert body["HostConfig"].keys() - sent["HostConfig"].keys() == {"Devices"}


async def test_of_other_instances_only_what_they_hold_of_these_cards_is_told(
    fake_agent: RunningAgent, fake_engine: FakeEngine
) -> None:
    for number, cards in enumerate(("GPU-simulated-elsewhere", uuid(1))):
        fake_engine.add(f"other{number}", {"Labels": {LABEL_GPUS: cards}, "Env": []})
    (told,) = (await fake_agent.client.gpus()).leases
    assert told.cards == (uuid(1),)


async def test_the_engine_is_asked_once_for_all_leases(
    fake_agent: RunningAgent, fake_engine: FakeEngine
) -> None:
    for number in range(3):
        fake_engine.add(f"other{number}", {"Labels": {LABEL_GPUS: uuid(number)}, "Env": []})
    fake_engine.questions.clear()
    assert len((await fake_agent.client.gpus()).leases) == 3
    assert fake_engine.questions == ["list"]


async def test_a_card_that_is_not_there_or_ill_is_not_given(
    fake_agent: RunningAgent, fake_engine: FakeEngine, machine: Machine, clock: Clock
) -> None:
    assert "not there" in await refusal(fake_agent, "ada", uuid(7))
    machine.lost[1] = (15, "GPU is lost")
    clock.now += 2
    assert "fallen off the bus" in await refusal(fake_agent, "ada", uuid(1))
    machine.lost.clear()
    machine.unplug(2)
    clock.now += 2
    assert "no longer lists it" in await refusal(fake_agent, "ada", uuid(2))
    assert [(card.uuid, bool(card.fault)) for card in (await fake_agent.client.gpus()).inventory.cards] == [
        (uuid(0), False),
        (uuid(1), False),
        (uuid(2), True),
    ]
    assert fake_engine.containers() == []


async def test_trouble_with_the_driver_is_told_with_the_way_out_and_stops_nobody_without_cards(
    fake_agent: RunningAgent, machine: Machine, clock: Clock
) -> None:
    assert (await fake_agent.client.gpus()).trouble is None
    machine.load(NEXT_VERSION)
    clock.now += 2
    report = await fake_agent.client.gpus()
    assert report.inventory.cards == ()
    assert report.way is None
    assert report.trouble is not None
    assert report.trouble.kind == "mismatch"
    assert report.trouble.message in await refusal(fake_agent, "ada", uuid(0))
    await fake_agent.create(await fake_agent.client.person("local:bob", "bob"))
    machine.load(VERSION)
    clock.now += 2
    await fake_agent.create(await fake_agent.client.person("local:ada", "ada"), cards=(uuid(0),))


async def test_sessions_from_before_a_drivers_upgrade_are_marked_and_new_ones_get_its_files(
    fake_agent: RunningAgent, fake_engine: FakeEngine, machine: Machine, clock: Clock
) -> None:
    ada, bob = [await fake_agent.client.person(f"local:{name}", name) for name in ("ada", "bob")]
    await fake_agent.create(ada, cards=(uuid(0),))
    multiarch(machine, NEXT_VERSION)
    machine.load(NEXT_VERSION)
    clock.now += 2
    new = fake_engine.body(await fake_agent.create(bob, cards=(uuid(1),)))
    assert any(NEXT_VERSION in mount["Source"] for mount in new["HostConfig"]["Mounts"])
    assert not any(VERSION in mount["Source"] for mount in new["HostConfig"]["Mounts"])
    report = await fake_agent.client.gpus()
    assert {lease.person: report.outdated(lease) for lease in report.leases} == {"ada": True, "bob": False}


async def test_the_driver_is_not_asked_again_within_two_seconds(
    fake_agent: RunningAgent, machine: Machine, clock: Clock
) -> None:
    await asyncio.gather(*(fake_agent.client.gpus() for _ in range(10)))
    clock.now += 1.9
    await fake_agent.client.gpus()
    assert len(machine.asked) == 1
    clock.now += 0.1
    await fake_agent.client.gpus()
    assert len(machine.asked) == 2


async def test_what_took_long_to_ask_is_not_asked_again_for_three_times_as_long(
    fake_agent: RunningAgent, machine: Machine, clock: Clock
) -> None:
    def hang() -> None:
        clock.now += 10

    machine.until = hang
    await fake_agent.client.gpus()
    clock.now += 29.9
    await fake_agent.client.gpus()
    assert len(machine.asked) == 1
    clock.now += 0.1
    await fake_agent.client.gpus()
    assert len(machine.asked) == 2


def slow_driver(machine: Machine) -> tuple[threading.Event, threading.Event]:
    """One event for being asked, one that lets it answer."""
    asked, answered = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        answered.wait(20)

    machine.until = wait
    return asked, answered


async def test_a_driver_that_hangs_delays_nobody_who_wants_no_card(
    fake_engine: FakeEngine, tmp_path: Path, machine: Machine
) -> None:
    asked, answered = slow_driver(machine)
    async with running_agent(fake_engine, tmp_path, machine=machine) as agent:
        ada, bob = [await agent.client.person(f"local:{name}", name) for name in ("ada", "bob")]
        waiting = asyncio.create_task(agent.create(ada, cards=(uuid(0),)))
        await asyncio.to_thread(asked.wait, 10)
        await agent.create(bob)
        assert not waiting.done()
        answered.set()
        await waiting


async def test_somebody_removed_while_the_driver_is_asked_gets_no_session(
    fake_engine: FakeEngine, tmp_path: Path, machine: Machine
) -> None:
    asked, answered = slow_driver(machine)
    async with running_agent(fake_engine, tmp_path, machine=machine) as agent:
        ada = await agent.client.person("local:ada", "ada")
        waiting = asyncio.create_task(agent.create(ada, cards=(uuid(0),)))
        await asyncio.to_thread(asked.wait, 10)
        await agent.client.remove_person("local:ada", delete_home=False)
        answered.set()
        with pytest.raises(aiodocker.DockerError, match="nobody that is registered"):
            await waiting
        assert fake_engine.containers() == []


async def test_a_machine_without_a_driver_has_an_empty_report(
    fake_engine: FakeEngine, tmp_path: Path
) -> None:
    async with running_agent(fake_engine, tmp_path) as agent:
        report = await agent.client.gpus()
        assert (report.inventory.cards, report.way, report.trouble) == ((), None, None)
        assert "not there" in await refusal(agent, "ada", uuid(0))


async def test_what_the_engine_cannot_do_is_trouble_with_the_way_out(
    fake_engine: FakeEngine, tmp_path: Path, machine: Machine
) -> None:
    rules = GpuRules(inject="nvidia")
    async with running_agent(fake_engine, tmp_path, machine=machine, gpus=rules) as agent:
        report = await agent.client.gpus()
        assert len(report.inventory.cards) == 3
        assert isinstance(report.trouble, Trouble)
        assert "nvidia-ctk" in report.trouble.fix
        assert "no runtime" in await refusal(agent, "ada", uuid(0))


async def test_nvidias_runtime_is_told_the_cards(
    fake_engine: FakeEngine, tmp_path: Path, machine: Machine
) -> None:
    fake_engine.abilities["Runtimes"]["nvidia"] = {}
    rules = GpuRules(inject="nvidia")
    async with running_agent(fake_engine, tmp_path, machine=machine, gpus=rules) as agent:
        ada = await agent.client.person("local:ada", "ada")
        body = fake_engine.body(await agent.create(ada, cards=(uuid(2),)))
        assert body["HostConfig"]["Runtime"] == "nvidia"
        assert f"NVIDIA_VISIBLE_DEVICES={uuid(2)}" in body["Env"]
        assert "NVIDIA_VISIBLE_DEVICES=void" not in body["Env"]
        assert "Devices" not in body["HostConfig"]


async def test_the_cdi_spec_is_written_before_a_session_and_again_when_it_changed(
    fake_engine: FakeEngine, tmp_path: Path, machine: Machine, clock: Clock
) -> None:
    folder = tmp_path / "cdi"
    folder.mkdir()
    fake_engine.abilities["CDISpecDirs"] = [str(folder), "/var/run/cdi"]
    async with running_agent(
        fake_engine, tmp_path, machine=machine, clock=clock, cdi_dir=str(folder)
    ) as agent:
        assert (await agent.client.gpus()).way is Way.CDI
        assert list(folder.iterdir()) == []
        ada, bob, eve = [await agent.client.person(f"local:{name}", name) for name in ("ada", "bob", "eve")]
        body = fake_engine.body(await agent.create(ada, cards=(uuid(0),)))
        assert body["HostConfig"]["DeviceRequests"] == [
            {"Driver": "cdi", "DeviceIDs": [f"labdock.org/gpu-labdock={uuid(0)}"]}
        ]
        assert "Devices" not in body["HostConfig"]
        (file,) = folder.iterdir()
        spec: dict[str, Any] = json.loads(file.read_text())
        assert (file.name, spec["kind"]) == ("labdock-labdock.json", "labdock.org/gpu-labdock")
        assert [device["name"] for device in spec["devices"]] == [uuid(0), uuid(1), uuid(2)]
        before = file.stat()
        await agent.create(bob, cards=(uuid(1),))
        assert file.stat() == before
        multiarch(machine, NEXT_VERSION)
        machine.load(NEXT_VERSION)
        clock.now += 2
        await agent.create(eve, cards=(uuid(2),))
        assert NEXT_VERSION in file.read_text()
        assert VERSION not in file.read_text()
        assert list(folder.iterdir()) == [file]
