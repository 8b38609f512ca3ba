"""GPUs on the whole stack, with simulated cards: given, kept apart, freed, never given twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from labdock.adapters.agent_api import AgentClient
from labdock.adapters.engine import Engine
from labdock.adapters.visitor import Visitor
from labdock.core.errors import EngineError, StartError
from labdock.core.gpus import GpuReport, Lease
from tests.e2e.conftest import Guests
from tests.stack import PASSWORD, Stack

OPEN = """
import errno, os
def says(path):
    try:
        os.close(os.open(path, os.O_RDWR))
        return "opened"
    except OSError as error:
        return errno.errorcode[error.errno]
"""
"""A driver is not there: where the kernel lets a device be opened, it says ENXIO."""

MAKE = """
import os, stat
try:
    os.mknod("/tmp/node", stat.S_IFCHR | 0o600, os.makedev({major}, {minor}))
except OSError as error:
    print(error.strerror)
"""


def agent(stack: Stack) -> AgentClient:
    return AgentClient(stack.state / "run/agent/agent.sock")


async def report(stack: Stack) -> GpuReport:
    return await agent(stack).gpus()


async def leases(stack: Stack) -> dict[str, Lease]:
    """What is held in this instance, by person."""
    return {lease.person: lease for lease in (await report(stack)).leases if lease.instance == stack.instance}


async def until(claim: Callable[[], Awaitable[bool]], *, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not await claim():
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {within_s:.0f} s")
        await asyncio.sleep(0.1)


async def nobody_holds_a_card(stack: Stack) -> bool:
    return not await leases(stack)


@asynccontextmanager
async def rest(stack: Stack) -> AsyncIterator[aiohttp.ClientSession]:
    """JupyterHub's REST API with the command line's token, for as many requests at once as one likes."""
    token = (stack.state / "secrets/api_token").read_text().strip()
    async with aiohttp.ClientSession(
        f"{stack.url}/hub/api/",
        headers={"Authorization": f"token {token}"},
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        yield session


async def ask_to_start(
    session: aiohttp.ClientSession, name: str, **options: Any
) -> tuple[int, dict[str, Any], float]:
    """Status, answer and seconds of a request to start *name*'s session."""
    begun = time.monotonic()
    async with session.post(f"users/{name}/server", json=options) as response:
        text = await response.text()
    return response.status, json.loads(text) if text else {}, time.monotonic() - begun


async def have_arrive(stack: Stack, names: list[str]) -> None:
    """Invite *names*, and let each sign in once: before, JupyterHub does not know them."""
    gate = asyncio.Semaphore(4)

    async def one(name: str) -> None:
        stack.remove(name)
        async with gate, Visitor.arrive(stack.url) as visitor:
            await visitor.set_password(stack.invite(name), name, PASSWORD)

    await asyncio.gather(*map(one, names))


async def test_four_simulated_cards_are_shown_and_called_simulated(gpu_stack: Stack) -> None:
    facts = gpu_stack.facts("gpus")
    assert facts["simulated"] is True
    assert len({card["uuid"] for card in facts["cards"]}) == 4
    assert all("simulated" in card["model"] and not card["fault"] for card in facts["cards"])
    assert "SIMULATED" in gpu_stack.labdock("gpus").stdout


def test_verify_proves_that_a_cell_sees_the_card_of_the_lease(gpu_stack: Stack) -> None:
    done = gpu_stack.labdock("verify", "--gpu")
    assert done.returncode == 0, done.stdout
    assert "It works" in done.stdout
    assert "SIMULATED" in done.stdout


def test_doctor_finds_simulated_cards_well(gpu_stack: Stack) -> None:
    findings = {one["check"]: one for one in json.loads(gpu_stack.labdock("doctor", "--json").stdout)}
    for check in ("GPU driver", "GPU 0", "GPU 3", "GPU devices", "GPU injection"):
        assert findings[check]["ok"], findings[check]


async def test_inside_a_session_exactly_the_leased_cards_open(gpu_stack: Stack, gpu_guests: Guests) -> None:
    async with gpu_guests("ada") as ada:
        await ada.start(None, gpus=2)
        await ada.take_token()
        kernel = await ada.kernel()
        held = (await leases(gpu_stack))["ada"].cards
        found = {card.uuid: card for card in (await report(gpu_stack)).inventory.cards}
        for uuid, card in found.items():
            (node,) = card.nodes
            # By the numbers too: a node that is not there could be made by whoever may.
            tried = await ada.run_cell(kernel, f"{OPEN}\nprint(says({node.path!r}))")
            made = await ada.run_cell(kernel, MAKE.format(major=node.major, minor=node.minor))
            assert tried == ("ENXIO\n" if uuid in held else "ENOENT\n"), card
            assert made == "Operation not permitted\n"
        listed = await ada.run_cell(kernel, "!nvidia-smi -L")
        assert {uuid for uuid in found if uuid in listed} == set(held)
        library = (await report(gpu_stack)).inventory.driver
        assert library is not None
        for file in library.files:
            assert await ada.run_cell(kernel, f"print(os.access({file.path!r}, os.W_OK))") == "False\n"


async def test_the_driver_s_libraries_load_in_a_session(gpu_guests: Guests) -> None:
    load = (
        "import ctypes\nnvml = ctypes.CDLL('libnvidia-ml.so.1')\nn = ctypes.c_uint()\n"
        "print(nvml.nvmlInit_v2(), nvml.nvmlDeviceGetCount_v2(ctypes.byref(n)), n.value, "
        "bool(ctypes.CDLL('libcuda.so.1').cuInit))"
    )
    async with gpu_guests("ada") as ada:
        await ada.start(None, gpus=1)
        await ada.take_token()
        assert await ada.run_cell(await ada.kernel(), load) == "0 0 1 True\n"


async def test_a_session_without_a_gpu_sees_none(gpu_stack: Stack, gpu_guests: Guests) -> None:
    async with gpu_guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        assert await nobody_holds_a_card(gpu_stack)
        assert await ada.run_cell(kernel, "import glob; print(glob.glob('/dev/nvidia*'))") == "[]\n"
        assert "not found" in await ada.run_cell(kernel, "!nvidia-smi")
        assert await ada.run_cell(kernel, "!echo $NVIDIA_VISIBLE_DEVICES") == "void\r\n"


async def test_what_is_stopped_or_removed_by_hand_is_free_again(gpu_stack: Stack, gpu_guests: Guests) -> None:
    async with gpu_guests("ada") as ada, gpu_guests("ben") as ben:
        await ada.start(None, gpus=2)
        await ben.start(None, gpus=2)
        held = await leases(gpu_stack)
        assert not set(held["ada"].cards) & set(held["ben"].cards)
        await ada.stop()
        assert set(await leases(gpu_stack)) == {"ben"}
        async with Engine(gpu_stack.engine_socket) as engine:
            await engine.remove(f"{gpu_stack.instance}-session-ben")
        assert await nobody_holds_a_card(gpu_stack)


async def test_a_session_that_crashes_or_never_gets_ready_leaves_its_card(
    gpu_stack: Stack, gpu_guests: Guests
) -> None:
    async with gpu_guests("ada") as ada:
        await ada.start(None, gpus=1)
        assert set(await leases(gpu_stack)) == {"ada"}
        async with Engine(gpu_stack.engine_socket) as engine:
            shown = await engine.inspect(f"{gpu_stack.instance}-session-ada")
        assert shown is not None
        os.kill(shown["State"]["Pid"], signal.SIGKILL)
        await until(lambda: nobody_holds_a_card(gpu_stack))
        (home,) = (gpu_stack.state / "storage/homes").glob("ada-*")
        settings = home / ".jupyter/jupyter_server_config.py"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text("raise SystemExit('broken')\n")
        for path in (settings.parent, settings):
            os.chown(path, home.stat().st_uid, home.stat().st_gid)
        with pytest.raises(StartError, match="exit code 1"):
            await ada.start(None, gpus=1)
        await until(lambda: nobody_holds_a_card(gpu_stack))


async def test_the_tools_of_the_field_run_on_a_simulated_card_in_a_session(gpu_guests: Guests) -> None:
    async with gpu_guests("ada") as ada:
        await ada.start(None, gpus=1)
        await ada.take_token()
        kernel = await ada.kernel()
        install = (
            "!python -m venv ~/tools && ~/tools/bin/pip install -q gpustat==1.1.1 nvitop==1.7.2; echo $?"
        )
        assert (await ada.run_cell(kernel, install, timeout_s=300)).endswith("0\r\n")
        asked = "import pynvml as n; n.nvmlInit(); print(n.nvmlDeviceGetCount())"
        assert "1" in await ada.run_cell(kernel, f"!~/tools/bin/python -W ignore -c '{asked}'")
        for tool in ("gpustat --no-color", "nvitop --once --no-unicode"):
            shown = await ada.run_cell(kernel, f"!~/tools/bin/{tool}; echo exit $?")
            assert "exit 0" in shown, shown
            assert "(simulated)" in shown, shown
            assert "rror" not in shown, shown


@pytest.mark.parametrize("part", ["hub", "agent"])
async def test_a_part_killed_in_the_middle_of_starts_leaves_no_lease_behind(
    gpu_stack: Stack, gpu_guests: Guests, part: str
) -> None:
    names = [f"guest{number}" for number in range(6)]
    await have_arrive(gpu_stack, names)
    try:
        async with rest(gpu_stack) as session:
            starts = [asyncio.create_task(ask_to_start(session, name, gpus=1)) for name in names]
            await until(lambda: _some_lease(gpu_stack))
            await gpu_stack.kill_part(part)
            await asyncio.gather(*starts, return_exceptions=True)
            await until(lambda: asyncio.to_thread(gpu_stack.api.healthy))
            await until(lambda: _agent_answers(gpu_stack))
            held = Counter(uuid for lease in (await report(gpu_stack)).leases for uuid in lease.cards)
            assert all(number == 1 for number in held.values()), held
            # Whatever came of the starts: once everybody has stopped, all four can be had again.
            for name in names:
                async with session.delete(f"users/{name}/server") as response:
                    assert response.status in {202, 204, 400, 404}, await response.text()
            await until(lambda: nobody_holds_a_card(gpu_stack), within_s=100)
            async with gpu_guests("ada") as ada, gpu_guests("ben") as ben:
                await ada.start(None, gpus=2)
                await ben.start(None, gpus=2)
                assert len(await leases(gpu_stack)) == 2
    finally:
        for name in names:
            gpu_stack.remove(name)


async def _holds(stack: Stack, names: set[str]) -> bool:
    return set(await leases(stack)) == names


async def _some_lease(stack: Stack) -> bool:
    return bool(await leases(stack))


async def _agent_answers(stack: Stack) -> bool:
    try:
        await report(stack)
    except EngineError:
        return False
    return True


async def test_of_200_who_ask_at_once_for_4_cards_exactly_4_get_one(gpu_stack: Stack) -> None:
    names = [f"crowd{number:03}" for number in range(200)]
    await have_arrive(gpu_stack, names)
    try:
        async with rest(gpu_stack) as session:
            answers = await asyncio.gather(*(ask_to_start(session, name, gpus=1) for name in names))
            statuses = Counter(status for status, _, _ in answers)
            started = {
                name for name, (status, _, _) in zip(names, answers, strict=True) if status in {201, 202}
            }
            refused = [answer for status, answer, _ in answers if status == 503]
            print(f"slowest answer {max(seconds for *_, seconds in answers):.2f} s: {dict(statuses)}")
            assert (len(started), len(refused)) == (4, 196), statuses
            assert all("of 4" in answer["message"] for answer in refused), refused[0]
            # Whoever was told yes has the card; the container that says so is made right after.
            await until(lambda: _holds(gpu_stack, started))
            held = await leases(gpu_stack)
            assert len({uuid for lease in held.values() for uuid in lease.cards}) == 4
            async with Engine(gpu_stack.engine_socket) as engine:
                sessions = await engine.containers(
                    {"org.labdock.instance": gpu_stack.instance, "org.labdock.role": "session"}
                )
            assert len(sessions) == 4, "a container was half made"
    finally:
        for name in names:
            gpu_stack.remove(name)
    assert await nobody_holds_a_card(gpu_stack)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gpus": -1}, "gpus"),
        ({"gpus": 10**9}, "gpus"),
        ({"gpus": "1; rm -rf /"}, "gpus"),
        ({"gpus": True}, "gpus"),
        ({"gpus": 1, "gpu_model": "Voodoo 2"}, "gpu_model"),
        ({"gpus": 1, "gpu_memory": "2T"}, "gpu_memory"),
        ({"gpus": 1, "devices": "/dev/sda"}, "devices"),
    ],
)
async def test_nonsense_is_refused_by_its_field(
    gpu_stack: Stack, options: dict[str, Any], field: str
) -> None:
    await have_arrive(gpu_stack, ["ada"])
    try:
        async with rest(gpu_stack) as session:
            status, answer, _ = await ask_to_start(session, "ada", **options)
            assert status == 400, answer
            assert answer["field"] == field, answer
            # What was refused is not kept: the next start, without options, works.
            status, answer, _ = await ask_to_start(session, "ada")
            assert status in {201, 202}, answer
    finally:
        gpu_stack.remove("ada")


async def test_a_card_with_a_fault_is_not_given_out_and_is_told(gpu_stack: Stack, gpu_guests: Guests) -> None:
    gpu_stack.simulate("card", "0", "fault=lost")
    try:
        await until(lambda: _has_fault(gpu_stack, True))
        facts = gpu_stack.facts("gpus")
        assert "bus" in facts["cards"][0]["fault"]
        async with gpu_guests("ada") as ada, gpu_guests("ben") as ben:
            await ada.start(None, gpus=2)
            await ben.start(None, gpus=1)
            held = await leases(gpu_stack)
            assert facts["cards"][0]["uuid"] not in held["ada"].cards + held["ben"].cards
    finally:
        gpu_stack.simulate("card", "0", "fault=none")
        await until(lambda: _has_fault(gpu_stack, False))


async def _has_fault(stack: Stack, wanted: bool) -> bool:
    return any(card.fault for card in (await report(stack)).inventory.cards) is wanted


async def test_after_a_driver_update_new_sessions_work_and_old_ones_are_marked(
    gpu_stack: Stack, gpu_guests: Guests
) -> None:
    before = (await report(gpu_stack)).inventory.driver
    assert before is not None
    async with gpu_guests("ada") as ada, gpu_guests("ben") as ben:
        await ada.start(None, gpus=1)
        gpu_stack.simulate("driver", "version=580.65.06")
        try:
            await until(lambda: _has_driver(gpu_stack, "580.65.06"))
            await ben.start(None, gpus=1)
            await ben.take_token()
            shown = await ben.run_cell(await ben.kernel(), "!nvidia-smi")
            assert "580.65.06" in shown
            holders = [h for card in gpu_stack.facts("gpus")["cards"] for h in card["holders"]]
            assert {h["person"]: h["restart_needed"] for h in holders} == {"ada": True, "ben": False}
        finally:
            gpu_stack.simulate("driver", f"version={before.version}")
            await until(lambda: _has_driver(gpu_stack, before.version))


async def _has_driver(stack: Stack, version: str) -> bool:
    driver = (await report(stack)).inventory.driver
    return driver is not None and driver.version == version
