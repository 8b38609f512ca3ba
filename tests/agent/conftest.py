"""Fixtures of the agent's tests: the fake engine, and the machine's where there is one."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.agent.engines import EngineUnderTest, FakeEngine, RealEngine, build_session_image, docker
from tests.agent.harness import RunningAgent, running_agent


@pytest.fixture(scope="session")
def session_image(small_image: str) -> Iterator[str]:
    """The small image with ``labdock-session`` in it."""
    tag = f"labdock-agent-test:{secrets.token_hex(4)}"
    build_session_image(small_image, tag)
    yield tag
    docker("DELETE", f"/images/{tag}?force=1")


@pytest.fixture(scope="session")
def willful_image(small_image: str) -> Iterator[str]:
    """An image that others made for their own ends: all cards, root, another first process, volumes."""
    tag = f"labdock-agent-test:{secrets.token_hex(4)}"
    build_session_image(
        small_image,
        tag,
        "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all",
        "USER root",
        "WORKDIR /opt/theirs",
        'ENTRYPOINT ["/bin/sh", "-c", "exit 7"]',
        "CMD []",
        "STOPSIGNAL SIGUSR2",
        "VOLUME /data /home/ada",
    )
    yield tag
    docker("DELETE", f"/images/{tag}?force=1")


@pytest.fixture
async def fake_engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    async with FakeEngine(str(tmp_path / "engine.sock")).running() as engine:
        yield engine


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.engine)])
def machines_image(request: pytest.FixtureRequest) -> str | None:
    """An image of the machine's engine, or None for the fake one; made outside of any event loop."""
    return str(request.getfixturevalue("session_image")) if request.param == "real" else None


@pytest.fixture
async def engine(machines_image: str | None, tmp_path: Path) -> AsyncIterator[EngineUnderTest]:
    """Both engines, one after the other: what holds for the fake must hold for the real one."""
    if machines_image is None:
        async with FakeEngine(str(tmp_path / "engine.sock")).running() as fake:
            yield fake
    else:
        with RealEngine(machines_image).running() as real:
            yield real


@pytest.fixture
async def agent(engine: EngineUnderTest, tmp_path: Path) -> AsyncIterator[RunningAgent]:
    if os.geteuid() != 0:
        pytest.skip("the agent gives homes to people, which takes root")
    async with running_agent(engine, tmp_path) as running:
        yield running
