"""A Labdock of the tests' own: its name, its state in a temporary folder, and the command line on it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from labdock.adapters.engine import Engine
from labdock.adapters.hub_api import HubApi
from labdock.core.session import LABEL_INSTANCE

PREFIX = "ldtest"
PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Stack:
    """One instance under test."""

    instance: str
    folder: Path
    port: int
    engine_socket: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def config(self) -> Path:
        return self.folder / "labdock.yaml"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> HubApi:
        token = (self.state / "secrets/api_token").read_text().strip()
        return HubApi(self.url, token, socket=self.state / "run/edge/proxy.sock")

    def command(self, *arguments: str) -> list[str]:
        """The words that run ``labdock`` on this instance."""
        options = ("--state", str(self.state), "--instance", self.instance, "--config", str(self.config))
        return [str(Path(sys.executable).parent / "labdock"), *options, *arguments]

    def labdock(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``labdock`` to its end, without a terminal."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=600,
            env={**os.environ, **environment},
            cwd=self.folder,
        )

    def facts(self, *arguments: str) -> Any:
        """What a command prints with ``--json``; it must succeed."""
        done = self.labdock(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def invite(self, name: str, *, admin: bool = False) -> str:
        """A fresh invitation link for *name*."""
        return str(self.api.add_user(name, admin=admin)["link"])

    def remove(self, name: str) -> None:
        """Remove *name* if they are there."""
        if any(user["name"] == name for user in self.api.users()):
            self.api.remove_user(name, home="delete")

    def simulate(self, *words: str) -> None:
        """Change the simulated machine while it runs."""
        root = str(self.state / "simulation")
        command = [sys.executable, "-m", "labdock.simulation", "--root", root, "set", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    async def kill_part(self, part: str) -> None:
        """End the process of *part* with SIGKILL, as a crash would."""
        async with Engine(self.engine_socket) as engine:
            shown = await engine.inspect(f"{self.instance}-{part}")
        assert shown is not None
        os.kill(shown["State"]["Pid"], signal.SIGKILL)

    def container_id(self, name: str) -> str | None:
        """The engine's id of the container *name*, or None if there is none."""
        shown = self._ask(lambda engine: engine.inspect(name))
        return shown["Id"] if shown else None

    def process_id(self, part: str) -> int:
        """The first process of *part*, as this machine numbers it."""
        return int(self._ask(lambda engine: engine.inspect(f"{self.instance}-{part}"))["State"]["Pid"])

    def stop_part(self, part: str) -> None:
        """Stop *part*, as somebody would by hand."""
        self._ask(lambda engine: engine.stop(f"{self.instance}-{part}", grace_s=5))

    def _ask(self, question: Callable[[Engine], Coroutine[Any, Any, Any]]) -> Any:
        return ask_engine(self.engine_socket, question)


def ask_engine(engine_socket: Path, question: Callable[[Engine], Coroutine[Any, Any, Any]]) -> Any:
    """What the engine answers."""

    async def ask() -> Any:
        async with Engine(engine_socket) as engine:
            return await question(engine)

    # In a thread of its own: tests with an event loop ask too, and those with a browser have one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(ask())).result()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bridge_address(engine_socket: Path) -> str:
    """This machine's address on the engine's own network: tests here and containers reach it alike."""

    subnets = dict(ask_engine(engine_socket, lambda engine: engine.network_subnets()))
    return str(IPv4Network(subnets["bridge"])[1])


def make_stack(folder: Path, engine_socket: Path, suffix: str = "") -> Stack:
    """An instance that is configured but not up."""
    stack = Stack(f"{PREFIX}{os.getpid()}{suffix}", folder, free_port(), engine_socket)
    stack.config.write_text(
        f"""\
site: {{name: Test Lab, url: {stack.url}, contact: admin@lab.example}}
login: {{admins: [mia]}}
storage:
  shared:
    - {{name: datasets}}
    - {{name: pool, write: everybody}}
limits: {{cpus: 2, memory: 1G, shm: 256M, pids: 512}}
"""
    )
    return stack


@contextmanager
def running_stack(
    folder: Path, engine_socket: Path, suffix: str = "", *, simulated_gpus: int = 0, more: str = ""
) -> Iterator[Stack]:
    """An instance that is up; down again afterwards, with everything it made on the engine.

    *more* is added to its configuration.
    """
    stack = make_stack(folder, engine_socket, suffix)
    with stack.config.open("a") as config:
        config.write(more)
    try:
        done = stack.labdock("up", "--simulate-gpus", str(simulated_gpus))
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        yield stack
    finally:
        take_down(stack)


def take_down(stack: Stack) -> None:
    """Remove everything of *stack* from the engine, also after half an ``up``."""
    stack.labdock("down", "--all", "--yes")
    ask_engine(stack.engine_socket, lambda engine: _remove_instance(engine, stack.instance))


def sweep_left_over(engine_socket: Path) -> None:
    """Remove what a killed test run left: instances named after a process that is gone."""

    async def instances(engine: Engine) -> set[str]:
        return (
            {container.labels.get(LABEL_INSTANCE, "") for container in await engine.containers({})}
            | {name.rsplit("-", 1)[0] for name, _ in await engine.network_subnets()}
            | {
                reference.partition("/")[0].removeprefix("labdock-")
                for reference in await engine.image_references()
            }
        )

    for instance in ask_engine(engine_socket, instances):
        owner = re.fullmatch(rf"{PREFIX}(\d+)[a-z]*", instance)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            ask_engine(engine_socket, partial(_remove_instance, instance=instance))


async def _remove_instance(engine: Engine, instance: str) -> None:
    for container in await engine.containers({LABEL_INSTANCE: instance}):
        await engine.remove(container.name)
    for network in ("sessions", "edge"):
        await engine.remove_network(f"{instance}-{network}")
    for reference in await engine.image_references():
        if reference.startswith(f"labdock-{instance}/"):
            await engine.untag(reference)
