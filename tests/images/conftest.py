"""Fixtures for the programs that run inside images; with `engine`, inside a real one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from labdock.adapters.engine import Engine
from labdock.cli.console import Console
from labdock.cli.making import Maker
from labdock.cli.up import read_images
from labdock.core.image import DEBIAN_TAG
from tests.images.places import Place, make_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "env"
    make_base(folder)
    return folder


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Place:
    home = tmp_path / "home"
    home.mkdir()
    return Place(base, home)


@pytest.fixture(scope="session")
def notebook_image(engine_socket: Path) -> str:
    """The reference of the notebook image of this working tree, built if it was not."""
    recipes = read_images().lineage("notebook")

    async def build() -> None:
        async with Engine(engine_socket) as engine:
            maker = Maker(engine, Console(), {recipe.tag: recipe for recipe in recipes})
            if not await engine.has_image(DEBIAN_TAG):
                await maker.get_debian()
            for recipe in recipes:
                if not await engine.has_image(recipe.tag):
                    await maker.build(recipe.tag)

    asyncio.run(build())
    return recipes[-1].tag
