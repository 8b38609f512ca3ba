"""The engines that the ways of injection are tried on, one of each for the whole run; agents before them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labdock.core.gpus import GpuRules, Way
from labdock.core.injection import cdi_file
from tests.adapters.drivers import Machine, installed, uuid
from tests.agent.engines import DOCKER_SOCKET, RealEngine, build_session_image, docker
from tests.agent.harness import Clock, RunningAgent, running_agent
from tests.ways.engines import (
    SESSION_IMAGES,
    OwnEngine,
    engine_image,
    nested_engine,
    second_engine,
    sweep,
)

VERSION = "570.86.15"


@dataclass(frozen=True)
class Case:
    """A *way* on an engine, and what ``gpus.inject`` says to get it."""

    engine: str
    inject: str
    way: Way


CASES = (
    Case("machines", "devices", Way.DEVICES),
    # Its default runtime would give every card to whoever asks.
    Case("second", "devices", Way.DEVICES),
    Case("second", "nvidia", Way.NVIDIA),
    Case("nested", "auto", Way.CDI),
)


@dataclass(frozen=True)
class Bed:
    """An *agent* that has four cards to give on *engine*, by the way of *case*."""

    case: Case
    agent: RunningAgent
    engine: RealEngine
    machine: Machine
    clock: Clock
    own: OwnEngine

    @property
    def spec(self) -> Path:
        """Where the agent describes its cards to the engine's CDI."""
        return Path(self.own.cdi_dir, cdi_file(self.agent.rules.instance))

    def root_of(self, container: str) -> Path:
        """The root of the running *container*'s files, as this process finds it."""
        pid = self.engine.ask("GET", f"/containers/{container}/json")["State"]["Pid"]
        return self.own.processes / str(pid) / "root"


async def session(bed: Bed, name: str, *minors: int) -> str:
    """The running session of somebody called *name*, with the cards of *minors*."""
    person = await bed.agent.client.person(f"local:{name}", name)
    container = await bed.agent.create(person, cards=tuple(map(uuid, minors)))
    await bed.agent.start(container)
    return container


@pytest.fixture(scope="session")
def swept(engine_socket: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("engines, homes and devices are made as root")
    sweep()


@pytest.fixture(scope="session")
def greedy_image(swept: None, small_image: str) -> Iterator[str]:
    """An image for sessions whose own settings ask for every card, as images with CUDA do."""
    tag = f"{SESSION_IMAGES}:{os.getpid()}"
    build_session_image(
        small_image, tag, "ENV NVIDIA_VISIBLE_DEVICES=all", "ENV NVIDIA_DRIVER_CAPABILITIES=all"
    )
    yield tag
    docker("DELETE", f"/images/{tag}?force=1")


@pytest.fixture(scope="session")
def carried_image(greedy_image: str) -> bytes:
    """The image, as an engine takes it from another."""
    return bytes(docker("GET", f"/images/{greedy_image}/get"))


@pytest.fixture(scope="session")
def machines() -> OwnEngine:
    return OwnEngine(DOCKER_SOCKET)


@pytest.fixture(scope="session")
def second(carried_image: bytes) -> Iterator[OwnEngine]:
    with second_engine() as engine:
        docker("POST", "/images/load", raw=carried_image, socket_path=engine.socket)
        yield engine


@pytest.fixture(scope="session")
def nested(
    small_image: str, carried_image: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OwnEngine]:
    with nested_engine(engine_image(small_image), tmp_path_factory.getbasetemp()) as engine:
        docker("POST", "/images/load", raw=carried_image, socket_path=engine.socket)
        yield engine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return installed(tmp_path / "machine", 0, 1, 2, 3, version=VERSION)


@pytest.fixture(params=CASES, ids=lambda case: f"{case.way}-{case.engine}")
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


@pytest.fixture
def own(request: pytest.FixtureRequest, case: Case, machine: Machine) -> OwnEngine:
    """The engine of the test's case, with *machine* as the one that its runtime finds a driver on."""
    engine: OwnEngine = request.getfixturevalue(case.engine)
    if engine.driver is not None:
        engine.driver.unlink(missing_ok=True)
        engine.driver.symlink_to(machine.root)
    return engine


@pytest.fixture
async def bed(
    case: Case, own: OwnEngine, greedy_image: str, tmp_path: Path, machine: Machine
) -> AsyncIterator[Bed]:
    clock = Clock()
    network = None if own.socket == DOCKER_SOCKET else "none"
    with RealEngine(greedy_image, socket_path=own.socket, network=network).running() as engine:
        async with running_agent(
            engine,
            tmp_path,
            machine=machine,
            clock=clock,
            gpus=GpuRules(inject=case.inject, per_session=2),
            cdi_dir=own.cdi_dir,
        ) as agent:
            yield Bed(case, agent, engine, machine, clock, own)
