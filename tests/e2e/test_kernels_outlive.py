"""Kernels go on while parts are restarted or killed."""

from __future__ import annotations

import asyncio

import pytest

from labdock.adapters import host
from labdock.adapters.engine import Engine
from labdock.adapters.visitor import Visitor
from labdock.core.errors import HubError
from tests.e2e.conftest import Guests
from tests.stack import Stack

COUNT = """
import threading, time
ticks = []
def count():
    while True:
        ticks.append(time.time())
        time.sleep(0.1)
threading.Thread(target=count, daemon=True).start()
print("counting")
"""
LONGEST_GAP = "print(max(b - a for a, b in zip(ticks, ticks[1:])) < 1.5, len(ticks) > 5)"


async def until_back(stack: Stack, visitor: Visitor, kernel: str) -> str:
    """What the kernel says as soon as the page reaches it again."""
    for _ in range(300):
        try:
            if stack.api.healthy():
                return await visitor.run_cell(kernel, LONGEST_GAP)
        except (HubError, TimeoutError):
            pass
        await asyncio.sleep(0.1)
    pytest.fail("the kernel did not come back within 30 s")


@pytest.mark.parametrize(
    "how", ["restart hub", "restart proxy", "restart", "kill hub", "kill agent", "kill proxy"]
)
async def test_a_kernel_goes_on_through(how: str, stack: Stack, guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        assert await ada.run_cell(kernel, COUNT) == "counting\n"
        before = stack.container_id(f"{stack.instance}-session-ada")
        verb, _, part = how.partition(" ")
        if verb == "restart":
            done = await asyncio.to_thread(stack.labdock, "restart", *([part] if part else []))
            assert done.returncode == 0, done.stderr
        else:
            await stack.kill_part(part)
            await asyncio.sleep(1)
        assert await until_back(stack, ada, kernel) == "True True\n"
        assert stack.container_id(f"{stack.instance}-session-ada") == before
        # The hub still knows the session as running: it can stop it.
        await ada.stop()
        assert stack.container_id(f"{stack.instance}-session-ada") is None


async def test_an_open_websocket_survives_the_hub(stack: Stack, guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        async with ada.channels(kernel) as socket:
            done = await asyncio.to_thread(stack.labdock, "restart", "hub")
            assert done.returncode == 0, done.stderr
            assert not socket.closed
            await socket.ping()


async def test_a_cell_runs_after_the_page_asked_what_its_kernel_uses(stack: Stack, guests: Guests) -> None:
    """JupyterLab asks so whenever a notebook is opened, and the cells run in the notebook server."""
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        for _ in range(4):
            run = await ada._json("POST", f"{ada._session}/api/kernels/{kernel}/execute", {"code": "6 * 7"})
            answer: dict[str, str] = {}
            async with asyncio.timeout(30):
                while answer.get("status") != "ok":
                    await asyncio.sleep(0.1)
                    answer = await ada._json("GET", f"{ada._session}{run['request_url']}")
            assert '"text/plain": "42"' in answer["outputs"]
            usage = f"{ada._session}/api/metrics/v1/kernel_usage/get_usage/{kernel}"
            await asyncio.gather(*(ada._json("GET", usage) for _ in range(4)))
        await ada.stop()


async def test_a_connection_ends_with_the_token_that_opened_it(stack: Stack, guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        async with ada.channels(kernel) as socket:
            tokens = await ada._json("GET", "/hub/api/users/ada/tokens")
            (ours,) = [one["id"] for one in tokens["api_tokens"] if "Labdock visitor" in one["note"]]
            await ada._json("DELETE", f"/hub/api/users/ada/tokens/{ours}")
            # With every ping the session asks the hub again.
            async with asyncio.timeout(90):
                async for _ in socket:
                    pass
            assert socket.close_code == 1008


async def test_an_upgrade_that_replaces_every_part_leaves_the_kernel_alone(
    stack: Stack, guests: Guests
) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        assert await ada.run_cell(kernel, COUNT) == "counting\n"
        hub_before = stack.container_id(f"{stack.instance}-hub")
        assert stack.labdock("down", "--yes").returncode == 0
        assert stack.labdock("up").returncode == 0
        assert stack.container_id(f"{stack.instance}-hub") != hub_before
        assert await until_back(stack, ada, kernel) == "True True\n"
        await ada.stop()


async def test_a_hub_that_starts_while_the_agent_is_away_keeps_every_session(
    stack: Stack, guests: Guests
) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        assert await ada.run_cell(kernel, COUNT) == "counting\n"
        async with Engine(stack.engine_socket) as engine:
            await engine.stop(f"{stack.instance}-agent", grace_s=5)
            await engine.restart(f"{stack.instance}-hub", grace_s=10)
            await asyncio.sleep(4)
            await engine.start(f"{stack.instance}-agent")
        socket = stack.state / "run/agent/agent.sock"
        assert await asyncio.to_thread(host.wait_for_socket, socket, timeout_s=30)
        assert await until_back(stack, ada, kernel) == "True True\n"
        await ada.stop()
