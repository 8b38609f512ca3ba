"""Every image of Labdock's own is built, passes its checks, and is told of on the page of images."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labdock.adapters.engine import Engine
from labdock.cli.console import Console
from labdock.cli.images import Checked, Keeper
from labdock.cli.instance import Instance
from labdock.cli.shelves import read_lines, read_look
from labdock.cli.up import read_images
from labdock.core.config import Config, Image
from labdock.core.image import BUILTINS
from labdock.core.image_check import LEAST_DRIVER, Seen
from labdock.core.shelf import Shelves, format_gb
from tests.stack import PREFIX

pytestmark = pytest.mark.images

PAGE = Path(__file__).parents[2] / "docs/reference/images.md"
HEAD = """\
# Built-in images

Written by `make test-images`, which builds all of them, runs every check, and fails when one does not pass.
Sizes are what the engine counts, with all layers; an image that stands on another shares its layers with it.
*Packages* is what the Python packages take as installed, of the same bytes.
The start is the notebook server's own, in CPU seconds, on the machine that wrote this page.
What the images are for, and how they are made, is in [notebook images](../explanation/images.md).

| image | size | packages | CUDA | driver from | start | versions |
|---|---|---|---|---|---|---|
"""
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, str]]:
    """The rows of the page, by image; written down when all are there."""
    found: dict[str, str] = {}
    yield found
    if set(found) == set(BUILTINS):
        PAGE.write_text(HEAD + "".join(found[name] for name in BUILTINS))


def row_of(name: str, checked: Checked, seen: Seen) -> str:
    release = checked.release
    major = int(release.cuda.partition(".")[0]) if release.cuda else 0
    driver = ".".join(f"{part:02}" if part < 10 else str(part) for part in LEAST_DRIVER.get(major, ()))
    versions = ", ".join(f"{what} {version}" for what, version in release.headline)
    return (
        f"| `builtin/{name}` | {format_gb(release.size_bytes)} | {format_gb(seen.installed_bytes)} "
        f"| {release.cuda or '–'} | {driver or '–'} | {seen.start.cpu_seconds:.2f} s | {versions} |\n"
    )


@pytest.fixture
def kept(engine_socket: Path, tmp_path: Path) -> Instance:
    config = Config(images=tuple(Image(name, name, f"builtin/{name}") for name in BUILTINS))
    return Instance(f"{PREFIX}{os.getpid()}b", tmp_path, config, None, None, engine_socket)


async def built_and_examined(instance: Instance, name: str) -> tuple[Checked, Seen]:
    images, shelves = read_images(), Shelves()
    async with Engine(instance.engine_socket) as engine:
        lines = read_lines(instance, images, shelves)
        keeper = Keeper(instance, engine, Console(), lines, shelves, images.hub_version)
        await keeper.build(name)
        checked = await keeper.examine(name, anew=True)
    line = next(line for line in lines if line.image.id == name)
    seen = read_look(instance, line.making.version)
    assert seen is not None
    return checked, seen


@pytest.mark.parametrize("name", BUILTINS)
def test_a_built_in_image_is_built_and_fit(name: str, kept: Instance, rows: dict[str, str]) -> None:
    checked, seen = asyncio.run(built_and_examined(kept, name))
    assert [finding for finding in checked.findings if not finding.ok] == []
    assert not seen.broken
    assert len(seen.imports) > 0
    rows[name] = row_of(name, checked, seen)
    print(rows[name])
    if name == "cpu":
        assert checked.release.size_bytes <= 700 * MEGABYTE
    if name == "torch":
        assert checked.release.size_bytes <= seen.installed_bytes + 500 * MEGABYTE
