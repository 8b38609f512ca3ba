"""Fetches and builds images, step by step of a plan, with this machine's own settings for the builds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.build_settings import BuildSettings, read_build_settings
from labdock.adapters.engine import Engine
from labdock.cli.console import Console
from labdock.core.errors import BuildError, EngineError, HostError
from labdock.core.image import (
    DEBIAN_REGISTRY_IMAGE,
    DEBIAN_RELEASE,
    DEBIAN_TAG,
    HOST_PREFIX,
    Recipe,
)

REGISTRY_TIMEOUT_S = 60.0
IMAGE_LABEL = "org.labdock.image-of"
SOURCES = "etc/apt/sources.list.d/debian.sources"
SOURCES_INSIDE = "opt/labdock/debian.sources"
RELEASE_INSIDE = "@release@"
"""What stands for the release in SOURCES_INSIDE, which ``adapt`` fills in."""

DISK_FULL_BYTES = 64 * 2**20
"""With less than this left, a build that failed most likely failed for want of room."""


class Maker:
    """Carries out the steps of a plan that bring images into the engine."""

    def __init__(self, engine: Engine, console: Console, recipes: Mapping[str, Recipe]) -> None:
        """*recipes* are what may be built, by tag."""
        self._engine = engine
        self._console = console
        self._recipes = recipes
        self._settings: BuildSettings | None = None

    def _build_settings(self) -> BuildSettings:
        if self._settings is None:
            self._settings = read_build_settings(os.environ, DEBIAN_RELEASE)
            for name in self._settings.with_passwords:
                self._console.note(f"Note: your {name} carries a password; people can read it in the images.")
        return self._settings

    async def get_debian(self) -> None:
        """Have Debian under DEBIAN_TAG: from the image registry, otherwise from this machine's packages."""
        with self._console.step(f"Ask the image registry for {DEBIAN_REGISTRY_IMAGE}"):
            pulled = await self._engine.pull(DEBIAN_REGISTRY_IMAGE, timeout_s=REGISTRY_TIMEOUT_S)
        if pulled:
            await self._engine.tag(DEBIAN_REGISTRY_IMAGE, DEBIAN_TAG)
            return
        text = f"No image registry answers: make Debian {DEBIAN_RELEASE} from this machine's packages"
        with self._console.step(text) as show, tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "debian.tar"
            host.bootstrap_debian(DEBIAN_RELEASE, self._build_settings().mirror, archive, on_line=show)
            dockerfile = b'FROM scratch\nADD debian.tar /\nCMD ["bash"]\n'
            await self._engine.build(
                DEBIAN_TAG,
                {"Dockerfile": dockerfile, "debian.tar": archive},
                arguments={},
                labels={IMAGE_LABEL: "debian"},
                on_line=show,
            )

    async def fetch(self, reference: str) -> None:
        """Fetch somebody else's image."""
        with self._console.step(f"Fetch {reference}") as show:
            await self._engine.fetch(reference, on_line=show)

    async def build(self, tag: str) -> None:
        """Build the recipe whose tag is *tag*.

        Raises:
            EngineError: What it stands on is not there.
            BuildError: With the last lines and the line of the Dockerfile that failed.
            HostError: The disk is full.
        """
        recipe = self._recipes[tag]
        if not await self._engine.has_image(recipe.parent):
            # The engine would ask a registry for it, where anybody may have put something under that name.
            raise EngineError(f"The image {recipe.parent}, which {tag} stands on, is not on this machine.")
        settings = self._build_settings()
        with self._console.step(f"Build the image {tag}") as show:
            try:
                await self._engine.build(
                    tag,
                    {**recipe.files, **(self._machine(recipe) if recipe.with_host else {})},
                    arguments={**settings.arguments, recipe.argument: recipe.parent},
                    labels={IMAGE_LABEL: recipe.name},
                    on_line=show,
                    fresh=recipe.edition > 0,
                )
            except BuildError as error:
                root = (await self._engine.facts()).root_dir
                free = host.free_bytes(Path(root))
                if free < DISK_FULL_BYTES:
                    raise HostError(
                        f"The disk is full where Docker keeps images ({root}): {free / 2**20:.0f} MiB left.",
                        fix="`labdock images prune` removes what nobody uses; then run the command again.",
                        details=error.details,
                    ) from error
                raise

    def _machine(self, recipe: Recipe) -> dict[str, bytes]:
        """This machine's settings for *recipe*; which Debian an image of the lab's has is known inside."""
        files = dict(self._build_settings().files)
        if recipe.name != "base":
            files = {path: data for path, data in files.items() if not path.startswith("etc/apt/sources")}
            sources = read_build_settings(os.environ, RELEASE_INSIDE).files.get(SOURCES, b"")
            files[SOURCES_INSIDE] = sources
        return {HOST_PREFIX + path: data for path, data in files.items()}
