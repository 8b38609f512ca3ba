"""What a session is, seen from inside, and what it cannot reach."""

from __future__ import annotations

import asyncio
import time

import pytest

from labdock.adapters.engine import Engine
from labdock.adapters.visitor import Visitor
from labdock.core.errors import HubError, StartError
from tests.e2e.conftest import Guests
from tests.stack import Stack

REACH = """
import socket
def reach(host, port):
    try:
        socket.create_connection((host, port), timeout=2).close()
        return True
    except OSError:
        return False
"""


async def shell(visitor: Visitor, kernel: str, command: str) -> str:
    """What *command* prints in a shell of the session, errors too."""
    run = f"subprocess.run({command!r}, shell=True, text=True, stdout=-1, stderr=-2)"
    return await visitor.run_cell(kernel, f"import subprocess; print({run}.stdout, end='')")


async def reaches(visitor: Visitor, kernel: str, host: str, port: int) -> bool:
    return await visitor.run_cell(kernel, f"{REACH}\nprint(reach({host!r}, {port}))") == "True\n"


async def test_a_session_is_its_person_and_nothing_more(stack: Stack, guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        assert await shell(ada, kernel, "whoami; hostname; pwd") == "ada\nsession-ada\n/home/ada\n"
        status = await shell(ada, kernel, "cat /proc/self/status")
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert int(await shell(ada, kernel, "id -u")) >= 200_001
        assert "Permission denied" in await shell(ada, kernel, "touch /opt/env/lib/x")
        assert "Permission denied" in await shell(ada, kernel, "touch /etc/x")
        assert await shell(ada, kernel, "ps -o comm= -p 1") in {"docker-init\n", "tini\n", "catatonit\n"}
        assert await shell(ada, kernel, "echo $NVIDIA_VISIBLE_DEVICES") == "void\n"


async def test_the_limits_hold_inside(guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        memory = await shell(
            ada,
            kernel,
            "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null",
        )
        assert memory == f"{2**30}\n"
        pids = await shell(
            ada, kernel, "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null"
        )
        assert pids == "512\n"
        assert (
            await shell(ada, kernel, "df -B1 --output=size /dev/shm | tail -1 | tr -d ' '")
            == f"{256 * 2**20}\n"
        )


async def test_sessions_reach_the_hub_and_neither_each_other_nor_the_other_parts(
    stack: Stack, guests: Guests
) -> None:
    async with guests("ada") as ada, guests("bob") as bob:
        for person in (ada, bob):
            await person.start(None)
            await person.take_token()
        kernel = await ada.kernel()
        assert await reaches(ada, kernel, "hub", 8081)
        assert not await reaches(ada, kernel, "hub", 8000)
        for port in (8000, 8001, 8080):
            assert not await reaches(ada, kernel, "proxy", port)
        assert not await reaches(ada, kernel, f"{stack.instance}-session-bob", 8888)
        assert not await reaches(ada, kernel, "169.254.169.254", 80)
        assert not await reaches(ada, kernel, "edge", 8080)
        found = await shell(ada, kernel, "ls /run/labdock /var/run/docker.sock /run/docker.sock 2>&1")
        assert found.count("No such file") == 3


async def test_everybodys_names_resolve_and_shared_folders_are_what_they_say(guests: Guests) -> None:
    async with guests("ada") as ada, guests("bob") as bob:
        for person in (ada, bob):
            await person.start(None)
            await person.take_token()
        ada_kernel, bob_kernel = await ada.kernel(), await bob.kernel()
        await shell(ada, ada_kernel, "echo hello > /shared/pool/from-ada")
        assert await shell(bob, bob_kernel, "cat /shared/pool/from-ada") == "hello\n"
        assert await shell(bob, bob_kernel, "stat -c '%U %G' /shared/pool/from-ada") == "ada lab\n"
        assert "Read-only file system" in await shell(ada, ada_kernel, "touch /shared/datasets/x")
        assert "No such file" in await shell(bob, bob_kernel, "ls /home/ada")


async def test_a_home_outlives_its_session_and_keeps_its_owner(guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        uid = await shell(ada, kernel, "id -u")
        await shell(ada, kernel, "mkdir -p deep/er; echo kept > deep/er/file")
        await ada.stop()
        await ada.start(None)
        kernel = await ada.kernel()
        assert (
            await shell(ada, kernel, "cat deep/er/file; stat -c %u deep/er/file; id -u")
            == f"kept\n{uid}{uid}"
        )


async def test_every_start_tells_its_steps_and_their_seconds(guests: Guests) -> None:
    async with guests("ada") as ada:
        steps = await ada.start(None)
    assert [step["id"] for step in steps] == ["image", "container", "jupyter"]
    assert all(step["seconds"] is not None for step in steps[:2])


async def test_a_failed_start_tells_the_cause_and_the_last_lines(stack: Stack, guests: Guests) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        await ada.write_file("broken.py", "raise SystemExit('my settings are broken')\n")
        kernel = await ada.kernel()
        await shell(ada, kernel, "mkdir -p .jupyter; mv broken.py .jupyter/jupyter_server_config.py")
        await ada.stop()
        with pytest.raises(StartError) as failed:
            await ada.start(None)
        assert "exit code 1" in failed.value.message
        assert any("my settings are broken" in line for line in failed.value.details)
        logged = stack.labdock("logs", "ada")
        assert "my settings are broken" in logged.stdout
        assert "my settings are broken" in stack.labdock("logs", "hub").stdout
        assert stack.container_id(f"{stack.instance}-session-ada") is None


async def test_a_hanging_start_of_one_person_does_not_delay_another(guests: Guests) -> None:
    async with guests("ada") as ada, guests("bob") as bob:
        await ada.start(None)
        await ada.take_token()
        kernel = await ada.kernel()
        code = "import time\ntime.sleep(30)\n"
        await shell(ada, kernel, f"mkdir -p .jupyter; printf {code!r} > .jupyter/jupyter_server_config.py")
        await ada.stop()
        hanging = asyncio.create_task(ada.start(None))
        await asyncio.sleep(1)
        begun = time.monotonic()
        await bob.start(None)
        await bob.take_token()
        await bob.stop()
        assert not hanging.done()
        assert time.monotonic() - begun < 25
        hanging.cancel()


async def test_a_container_removed_by_hand_is_noticed_and_the_next_start_works(
    stack: Stack, guests: Guests
) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        async with Engine(stack.engine_socket) as engine:
            await engine.remove(f"{stack.instance}-session-ada")
        # Noticed at once, not at JupyterHub's next look.
        async with asyncio.timeout(5):
            while stack.api.users()[0]["session"] != "none":
                await asyncio.sleep(0.1)
        await ada.start(None)
        assert stack.container_id(f"{stack.instance}-session-ada") is not None


async def test_a_session_that_the_hub_lost_sight_of_goes_with_its_person(
    stack: Stack, guests: Guests
) -> None:
    container = f"{stack.instance}-session-ada"
    async with guests("ada") as ada:
        starting = asyncio.create_task(ada.start(None))
        async with asyncio.timeout(20):
            while await asyncio.to_thread(stack.container_id, container) is None:
                await asyncio.sleep(0.02)
        async with Engine(stack.engine_socket) as engine:
            await engine.restart(f"{stack.instance}-hub", grace_s=0)
        starting.cancel()
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(stack.api.healthy):
                await asyncio.sleep(0.2)
    # Removed with the person, or before that as nobody's.
    assert stack.container_id(container) is None


async def test_options_that_make_no_sense_are_refused_and_not_kept(guests: Guests) -> None:
    async with guests("ada") as ada:
        with pytest.raises(HubError, match=r"400.*There is no image 'no-such-image'"):
            await ada.start("no-such-image")
        await ada.start(None)
