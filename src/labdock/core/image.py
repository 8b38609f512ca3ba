"""What an image is made from, and the tag that names exactly that."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

DEBIAN_RELEASE = "trixie"
DEBIAN_REGISTRY_IMAGE = f"debian:{DEBIAN_RELEASE}-slim"
DEBIAN_TAG = f"labdock/debian:{DEBIAN_RELEASE}"

PARENTS = {
    "base": "",
    "server": "base",
    "simulation": "base",
    "notebook": "base",
    "cpu": "notebook",
    "cuda": "cpu",
    "torch": "cpu",
    "torch-cu12": "cpu",
    "tensorflow": "cpu",
    "tensorflow-cpu": "cpu",
    "deeptools": "cpu",
}
"""Each image of Labdock's own, and the one that it stands on; ``base`` stands on Debian."""

BUILTINS = ("cpu", "cuda", "torch", "torch-cu12", "tensorflow", "tensorflow-cpu", "deeptools")
"""The notebook images that people may be offered, as ``builtin/<name>``."""

ROOM_GB = {
    "cuda": 3,
    "torch": 13,
    "torch-cu12": 12,
    "tensorflow": 12,
    "tensorflow-cpu": 4,
    "deeptools": 20,
}
"""The disk that building an image takes beside what is below it, in gigabytes: about twice its size, while
wheels and their contents both lie there. What is not named here takes little."""

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

    *parent* is the reference that the Dockerfile's *argument* receives. *with_host* says that the build finds
    this machine's own settings below HOST_PREFIX. A later *edition* is built without the engine's cache.
    """

    name: str
    files: Mapping[str, bytes]
    parent: str
    argument: str = "PARENT"
    with_host: bool = False
    edition: int = 0

    @property
    def tag(self) -> str:
        """``labdock/<name>:<content>``: the same content has the same tag on every machine."""
        digest = hashlib.sha256(self.parent.encode())
        for path in sorted(self.files):
            digest.update(b"\0" + path.encode() + b"\0" + hashlib.sha256(self.files[path]).digest())
        if self.edition:
            digest.update(b"\0edition %d" % self.edition)
        return f"labdock/{self.name}:{digest.hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images that this version of Labdock can build, by name."""

    recipes: Mapping[str, Recipe]
    adaptation: Mapping[str, bytes] = field(default_factory=dict)
    """The files that make somebody's image one that a session can run from."""

    @property
    def base(self) -> Recipe:
        return self.recipes["base"]

    @property
    def server(self) -> Recipe:
        return self.recipes["server"]

    @property
    def simulation(self) -> Recipe:
        return self.recipes["simulation"]

    @property
    def hub_version(self) -> str:
        """The version of jupyterhub that the hub runs, as the server image pins it."""
        lock = self.server.files["requirements.lock"].decode()
        found = re.search(r"^jupyterhub==([^ ]+)", lock, re.MULTILINE)
        return found[1] if found else ""

    def lineage(self, name: str) -> tuple[Recipe, ...]:
        """The image *name* after everything of Labdock's that it stands on."""
        parent = PARENTS[name]
        return (*(self.lineage(parent) if parent else ()), self.recipes[name])


def image_set(folders: Mapping[str, Mapping[str, bytes]], package: Mapping[str, bytes]) -> ImageSet:
    """The images made from *folders* (image name to files) and the source of the package itself.

    *package* maps paths below ``labdock/`` to their bytes; the server image carries it, and the simulation
    image what it runs of it. A folder that is in no line of PARENTS is none of an image.
    """
    source = {f"labdock/{path}": data for path, data in package.items()}
    carried = {
        "server": {path: data for path, data in source.items() if not path.startswith("labdock/simulation/")},
        "simulation": {path: data for path, data in source.items() if path.startswith(SIMULATION_SOURCE)},
    }
    recipes: dict[str, Recipe] = {}
    for name, parent in PARENTS.items():
        if name in folders:
            stands_on = recipes[parent].tag if parent else DEBIAN_TAG
            files = {**folders[name], **carried.get(name, {})}
            recipes[name] = Recipe(name, files, stands_on, with_host=name == "base")
    # The notebook server as it is put into an image that is none of Labdock's.
    return ImageSet(recipes, {**folders.get("notebook", {}), **folders.get("adapt", {})})
