"""Labdock as an administrator runs it: an instance of its own, by the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

import labdock
from bench.client import Hub
from bench.stage import Stage
from labdock.adapters.agent_api import AgentClient
from labdock.adapters.hub_api import HubApi
from labdock.adapters.visitor import Visitor
from labdock.core.compose import PARTS, part_container
from labdock.core.errors import HostError, LabdockError
from labdock.core.image import DEBIAN_TAG
from labdock.core.session import LABEL_INSTANCE, container_name

_TAGS = (
    "import json; from labdock.cli.up import read_images; from labdock.core.image import DEBIAN_TAG; "
    "images = read_images(); "
    "recipes = [one for name in ('server', 'simulation', 'cpu') for one in images.lineage(name)]; "
    "print(json.dumps({'debian': DEBIAN_TAG} | {recipe.name: recipe.tag for recipe in recipes}))"
)


class Ours:
    """One instance of Labdock in *folder*, run from a copy of the code.

    The copy keeps what is measured still while somebody edits, and with *cold* it names its images
    differently and breaks the engine's cache, so that a first ``up`` has nothing to stand on, and nobody
    else's images need to go.
    """

    def __init__(self, stage: Stage, folder: Path, http: aiohttp.ClientSession, *, cold: bool) -> None:
        self._stage = stage
        self._folder = folder
        self._http = http
        self._cold = cold
        self._code = folder / "code"
        self._state = folder / "state"
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.images: dict[str, str] = {}
        self.parts = {part: part_container(stage.run, part) for part in PARTS}

    async def prepare(self) -> None:
        """Copy the code and write a configuration."""
        package = Path(labdock.__file__).parent
        copy = self._code / "labdock"
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if self._cold:
            _replace(copy / "core/image.py", '"labdock/debian:{DEBIAN_RELEASE}"', f'"{self._debian}"')
            _replace(
                copy / "images/base/Dockerfile",
                "FROM ${PARENT}\n",
                f"FROM ${{PARENT}}\nLABEL org.labdock.bench-cold={self._stage.run}\n",
            )
        self._write_config()
        tags = await self._run((sys.executable, "-c", _TAGS), lambda line: None)
        self.images = json.loads(tags)
        if self._cold:
            self._stage.own_images(*self.images.values())

    @property
    def _debian(self) -> str:
        return f"{DEBIAN_TAG.rpartition(':')[0]}:{self._stage.run}"

    async def up(self, on_line: Callable[[str], None]) -> float:
        """``labdock up``; returns its seconds."""
        begun = time.monotonic()
        await self._labdock(("up", "--yes"), on_line)
        return time.monotonic() - begun

    def hub(self) -> Hub:
        return Hub(self.url, self._api_token(), self._http)

    async def add_people(self, names: Sequence[str]) -> dict[str, str]:
        """Invite *names*, and let each sign in once as a browser does; returns everybody's password."""
        api = HubApi(self.url, self._api_token())
        passwords = {}
        for name in names:
            invitation = await asyncio.to_thread(api.add_user, name, admin=False)
            passwords[name] = f"measured-{os.urandom(12).hex()}"
            async with Visitor.arrive(self.url) as visitor:
                await visitor.set_password(invitation["link"], name, passwords[name])
        return passwords

    async def simulate_gpus(self, number: int) -> None:
        """Have *number* simulated cards from now on."""
        await self._labdock(("up", "--yes", "--simulate-gpus", str(number)), lambda line: None)

    async def publish_with(self, packages: Sequence[str]) -> float:
        """Offer an image of the lab's own with *packages* of pip's beside the built-in one; its seconds.

        The image is built, checked and published, as an administrator does it after adding a line.
        """
        pip = json.dumps(list(packages))
        images = f"images:\n  - {{id: cpu, default: true}}\n  - {{id: own, base: builtin/cpu, pip: {pip}}}\n"
        self._write_config(images)
        begun = time.monotonic()
        await self._labdock(("images", "publish", "own"), lambda line: None)
        return time.monotonic() - begun

    async def roll_back(self) -> float:
        """Take the lab's own image back to the release before; its seconds."""
        begun = time.monotonic()
        await self._labdock(("images", "rollback", "own"), lambda line: None)
        return time.monotonic() - begun

    def _write_config(self, more: str = "") -> None:
        (self._folder / "labdock.yaml").write_text(f"site:\n  name: Bench\n  url: {self.url}\n{more}")

    def agent(self) -> AgentClient:
        return AgentClient(self._state / "run/agent/agent.sock")

    def session(self, name: str) -> str:
        """The container of *name*'s session."""
        return container_name(self._stage.run, name)

    async def remove(self) -> None:
        """Take the instance down, with everything it made."""
        if self._state.exists():
            with contextlib.suppress(LabdockError):  # what is left of a broken instance is removed below
                await self._labdock(("down", "--all", "--yes"), lambda line: None)
        await self._stage.remove_containers({LABEL_INSTANCE: self._stage.run})
        for network in ("sessions", "edge"):
            await self._stage.engine.remove_network(f"{self._stage.run}-{network}")
        for reference in await self._stage.engine.image_references():
            if reference.startswith((f"labdock-{self._stage.run}/", "labdock/own-own:")):
                await self._stage.engine.untag(reference)
        if os.geteuid() != 0 and self._state.exists():
            await self._empty_state()

    async def _empty_state(self) -> None:
        """Empty the state directory, where the agent made things that belong to others."""
        name = f"{self._stage.run}-broom"
        await self._stage.run_container(
            name,
            {
                "Image": self.images["base"],
                "User": "0:0",
                "Cmd": ["find", "/state", "-mindepth", "1", "-delete"],
                "HostConfig": {
                    "NetworkMode": "none",
                    "Mounts": [{"Type": "bind", "Source": str(self._state), "Target": "/state"}],
                },
            },
        )
        while (await self._stage.inspect(name))["State"]["Running"]:  # noqa: ASYNC110  the engine tells no event
            await asyncio.sleep(0.1)

    def _api_token(self) -> str:
        return (self._state / "secrets/api_token").read_text().strip()

    async def _labdock(self, arguments: tuple[str, ...], on_line: Callable[[str], None]) -> str:
        program = str(Path(sys.executable).parent / "labdock")
        where = ("--instance", self._stage.run, "--state", str(self._state))
        config = ("--config", str(self._folder / "labdock.yaml"))
        return await self._run((program, *where, *config, *arguments), on_line)

    async def _run(self, command: tuple[str, ...], on_line: Callable[[str], None]) -> str:
        """Run *command* on the copy of the code; returns what it prints.

        Raises:
            HostError: It failed; with its last lines.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # The copy imports nothing from where the bench is started, only itself.
            env={**os.environ, "PYTHONPATH": str(self._code), "PYTHONSAFEPATH": "1"},
            # A Ctrl-C is for the bench, which then ends this in order.
            start_new_session=True,
        )
        lines: list[str] = []
        try:
            assert process.stdout is not None  # noqa: S101  a pipe was asked for
            async for raw in process.stdout:
                lines.append(raw.decode(errors="replace").rstrip())
                on_line(lines[-1])
            status = await process.wait()
        except asyncio.CancelledError:
            os.killpg(process.pid, signal.SIGINT)
            await process.wait()
            raise
        if status != 0:
            raise HostError(f"{Path(command[0]).name} ended with {status}.", details=tuple(lines[-20:]))
        return "\n".join(lines)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if text.count(old) != 1:
        raise HostError(f"{path.name} does not hold {old!r} once: a cold start cannot be arranged.")
    path.write_text(text.replace(old, new))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
