"""The simulated driver as the image compiles it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiodocker
import pytest

from labdock.adapters.engine import Engine
from labdock.cli.up import read_images


@pytest.fixture(scope="session")
def simulation_image(small_image: str, engine_socket: Path) -> str:
    """The image of the simulated driver, built unless it is there."""
    recipe = read_images().simulation
    assert recipe.parent == small_image

    async def build() -> None:
        async with Engine(engine_socket) as engine:
            if not await engine.has_image(recipe.tag):
                arguments = {recipe.argument: recipe.parent}
                await engine.build(recipe.tag, recipe.files, arguments=arguments, labels={}, on_line=print)

    asyncio.run(build())
    return recipe.tag


@pytest.fixture(scope="session")
def compiled(simulation_image: str, engine_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the image compiled."""
    folder = tmp_path_factory.mktemp("compiled")

    async def copy() -> None:
        async with aiodocker.Docker(f"unix://{engine_socket}") as docker:
            container = await docker.containers.create({"Image": simulation_image})
            try:
                with await container.get_archive("/opt/labdock/simulated") as archive:
                    archive.extractall(folder, filter="data")
            finally:
                await container.delete(force=True)

    asyncio.run(copy())
    return folder / "simulated"
