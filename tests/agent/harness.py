"""An agent in front of an engine, and what tests ask it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
from aiohttp import web

from labdock.adapters.agent_api import AgentClient
from labdock.adapters.edge_admin import EdgeAdmin
from labdock.adapters.homes import Homes
from labdock.adapters.live_file import LiveFile
from labdock.agent.certificates import CertificateKeeper
from labdock.agent.ends import Ends
from labdock.agent.engine import Engine
from labdock.agent.gpus import GpuKeeper
from labdock.agent.guard import Images
from labdock.agent.last_words import LastWords
from labdock.agent.main import bind_socket
from labdock.agent.server import AgentServer
from labdock.agent.watch import Watch
from labdock.core.driver import NvmlAnswer
from labdock.core.gpus import LABEL_GPUS
from labdock.core.people import Person
from labdock.core.session import container_name
from labdock.core.shelf import allowed_from_json, allowed_to_json
from labdock.core.site import AgentRules
from tests.adapters.drivers import Machine
from tests.agent.builders import good_body
from tests.agent.engines import EngineUnderTest


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class RunningAgent:
    """``client`` is the hub's way to the agent; ``docker`` is the hub's way to the engine through it."""

    socket: Path
    rules: AgentRules
    homes: Homes
    client: AgentClient
    docker: aiodocker.Docker
    last_words: LastWords
    watch: Watch
    images_file: Path
    problems: list[str] = field(default_factory=list)

    async def ask(
        self, method: str, target: str, body: Any = None, raw: bytes | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of the answer to *target*, sent as it is."""
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session:
            kwargs: dict[str, Any] = {"json": body} if raw is None else {"data": raw}
            async with session.request(method, f"http://agent{target}", **kwargs) as response:
                text = await response.read()
                is_json = response.content_type == "application/json" and text
                return response.status, await response.json() if is_json else text

    async def create(
        self, person: Person, *environment: str, server: str = "", cards: tuple[str, ...] = ()
    ) -> str:
        """The name of a new session's container of *person*, with *environment* and *cards* on top."""
        body = good_body(self.rules, person, server=server, images=self.images())
        body["Env"] += environment
        if cards:
            body["Labels"][LABEL_GPUS] = ",".join(cards)
        name = container_name(self.rules.instance, person.name, server)
        await self.docker.containers.create(body, name=name)
        return name

    def images(self) -> Images:
        return allowed_from_json(self.images_file.read_text())

    async def start(self, name: str) -> None:
        await self.docker.containers.container(name).start()


class NoNvml:
    """The driver's library where there is none to be asked."""

    def ask(self, library: Path) -> NvmlAnswer:
        raise AssertionError(f"{library} was asked on a machine without a driver")


@asynccontextmanager
async def running_agent(
    engine: EngineUnderTest,
    root: Path,
    *,
    watching: bool = True,
    machine: Machine | None = None,
    clock: Callable[[], float] = time.monotonic,
    **rules_changed: Any,
) -> AsyncIterator[RunningAgent]:
    """An agent in front of *engine*, with its files below *root*, and the cards of *machine*."""
    (root / "data").mkdir()
    (root / "storage").mkdir()
    places = None if machine is None else machine.places
    rules = replace(engine.rules(root / "storage"), driver=places, **rules_changed)
    (root / "own-dev").mkdir()
    homes = Homes(rules, root / "data")
    homes.prepare()
    (root / "storage/shared/models").mkdir(exist_ok=True)
    last_words = LastWords(root / "data/ended")
    problems: list[str] = []
    images = LiveFile(root / "images.json", allowed_from_json)
    (root / "images.json").write_text(allowed_to_json(engine.images))
    socket = root / "agent.sock"
    async with Engine(engine.socket) as connected:
        ends = Ends(0)
        gpus = GpuKeeper(rules, connected, machine or NoNvml(), own_dev=root / "own-dev", clock=clock)

        def told() -> tuple[str, ...]:
            return (*problems, *filter(None, (images.problem(),)))

        certificate = CertificateKeeper(rules.certificate, EdgeAdmin(Path("/nowhere")), os.getuid())
        server = AgentServer(rules, homes, connected, last_words, ends, gpus, images.value, told, certificate)
        watch = Watch(connected, rules.instance, last_words, ends)
        runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, bind_socket(socket, 0)).start()
        docker = aiodocker.Docker(url=f"unix://{socket}")
        watching_task = asyncio.create_task(watch.run()) if watching else None
        try:
            yield RunningAgent(
                socket,
                rules,
                homes,
                AgentClient(socket),
                docker,
                last_words,
                watch,
                root / "images.json",
                problems,
            )
        finally:
            await docker.close()
            if watching_task is not None:
                watching_task.cancel()
                await asyncio.wait([watching_task])
            await runner.cleanup()


async def until(claim: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """What *claim* says once it is true; it must be so within *within_s* seconds."""
    async with asyncio.timeout(within_s):
        while not (said := claim()):
            await asyncio.sleep(0.02)
    return said
