"""What an image is made from, and the tag that names exactly that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

DEBIAN_RELEASE = "trixie"
DEBIAN_REGISTRY_IMAGE = f"debian:{DEBIAN_RELEASE}-slim"
DEBIAN_TAG = f"labdock/debian:{DEBIAN_RELEASE}"

HOST_PREFIX = "host/"
"""Below this path a build finds this machine's own settings; they are not part of what an image is."""

SIMULATION_SOURCE = (
    "labdock/__init__.py",
    "labdock/core/__init__.py",
    "labdock/core/errors.py",
    "labdock/simulation/",
)
"""What the simulated driver runs of the package: little, so that its image changes with it alone."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image to build: files by path (``Dockerfile`` among them), and the image it stands on.

    *parent* is the reference that the Dockerfile's argument *parent_argument* receives.
    """

    name: str
    files: Mapping[str, bytes]
    parent_argument: str
    parent: str

    @property
    def tag(self) -> str:
        """``labdock/<name>:<content>``: the same content has the same tag on every machine."""
        digest = hashlib.sha256(self.parent.encode())
        for path in sorted(self.files):
            digest.update(b"\0" + path.encode() + b"\0" + hashlib.sha256(self.files[path]).digest())
        return f"labdock/{self.name}:{digest.hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images one Labdock needs, each standing on the one before or on ``base``."""

    base: Recipe
    server: Recipe
    simulation: Recipe
    notebooks: Mapping[str, Recipe]

    def in_order(self) -> tuple[Recipe, ...]:
        return (self.base, *self.notebooks.values(), self.server, self.simulation)


def image_set(folders: Mapping[str, Mapping[str, bytes]], package: Mapping[str, bytes]) -> ImageSet:
    """The images made from *folders* (image name to files) and the source of the package itself.

    *package* maps paths below ``labdock/`` to their bytes; the server image carries it, and the simulation
    image what it runs of it.
    """
    base = Recipe("base", folders["base"], "DEBIAN", DEBIAN_TAG)
    source = {f"labdock/{path}": data for path, data in package.items()}
    simulated = {path: data for path, data in source.items() if path.startswith(SIMULATION_SOURCE)}
    served = {path: data for path, data in source.items() if not path.startswith("labdock/simulation/")}
    notebooks = {
        name: Recipe(name, files, "BASE", base.tag)
        for name, files in sorted(folders.items())
        if name not in {"base", "server", "simulation"}
    }
    return ImageSet(
        base,
        Recipe("server", {**folders["server"], **served}, "BASE", base.tag),
        Recipe("simulation", {**folders["simulation"], **simulated}, "BASE", base.tag),
        notebooks,
    )
