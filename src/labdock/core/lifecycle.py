"""Facts and wishes → a plan: what ``labdock up`` and ``labdock down`` will do, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from labdock.core.image import DEBIAN_TAG, ImageSet, Recipe
from labdock.core.shelf import Shelves


class Act(StrEnum):
    """The kinds of change that a plan may hold."""

    INSTALL_ENGINE = "install-engine"
    START_ENGINE = "start-engine"
    GET_DEBIAN = "get-debian"
    FETCH = "fetch"
    BUILD = "build"
    CHECK = "check"
    PUBLISH = "publish"
    MAKE_FOLDER = "make-folder"
    MAKE_SECRET = "make-secret"  # noqa: S105  the name of an act
    WRITE = "write"
    START_PARTS = "start-parts"
    STOP_SESSION = "stop-session"
    REMOVE_PARTS = "remove-parts"
    REMOVE_NETWORKS = "remove-networks"


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what kind, on what (a path, a tag, a container), and the words for people.

    *image* is the id of the notebook image that the step is for: if it fails, that image stays as it is and
    the rest goes on.
    """

    act: Act
    subject: str
    text: str
    image: str = ""


Plan = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder below the state directory, its mode, and whether the service user owns it."""

    path: str
    mode: int
    service: bool


FOLDERS = (
    Folder("secrets", 0o700, service=True),
    Folder("hub", 0o700, service=True),
    Folder("agent", 0o700, service=False),
    Folder("packages", 0o700, service=True),
    Folder("names", 0o755, service=False),
    Folder("parts/agent", 0o755, service=False),
    Folder("parts/hub", 0o700, service=True),
    Folder("parts/edge", 0o755, service=False),
    Folder("run/agent", 0o711, service=False),
    Folder("run/proxy", 0o700, service=True),
    Folder("run/edge", 0o700, service=True),
    Folder("run/edge-admin", 0o700, service=True),
    Folder("certificates", 0o700, service=True),
    Folder("certificates/own", 0o700, service=True),
)

SIMULATION_FOLDER = Folder("simulation", 0o755, service=False)
"""There only where simulated GPUs were asked for."""


@dataclass(frozen=True, slots=True)
class Making:
    """A line of the section ``images``, and the recipes that make it, each standing on the one before.

    *fetched* is somebody else's image that the first of them stands on, "" for none.
    """

    image: str
    recipes: tuple[Recipe, ...]
    fetched: str = ""

    @property
    def tag(self) -> str:
        """What the engine calls the finished image."""
        return self.recipes[-1].tag

    @property
    def version(self) -> str:
        """Its content in a word."""
        return self.tag.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What should be: the images, the files by path below the state, the secrets, what each part runs.

    *parts* maps a part to its image and the digest of its settings. *simulation*: with simulated GPUs.
    """

    images: ImageSet
    notebooks: tuple[Making, ...]
    files: Mapping[str, str]
    secrets: tuple[str, ...]
    parts: Mapping[str, tuple[str, str]]
    simulation: bool = False

    def folders(self) -> tuple[Folder, ...]:
        """The folders to have below the state directory."""
        return (*FOLDERS, SIMULATION_FOLDER) if self.simulation else FOLDERS

    def recipes(self) -> tuple[Recipe, ...]:
        """The images that the parts run, each after the one it stands on."""
        return (
            self.images.base,
            *((self.images.simulation,) if self.simulation else ()),
            self.images.server,
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What is: the tags the engine has, the files, folders and secrets that exist, the parts that run.

    *shelves* is what is remembered of the notebook images.
    """

    tags: frozenset[str]
    files: Mapping[str, str]
    folders: frozenset[str]
    secrets: frozenset[str]
    parts: Mapping[str, tuple[str, str]]
    shelves: Shelves = field(default_factory=Shelves)


def plan_engine(*, answers: bool, installed: bool, with_systemd: bool) -> Plan:
    """How to get an engine that answers."""
    if answers:
        return ()
    how = "with systemd" if with_systemd else "as a process of its own, since systemd does not run here"
    start = Step(Act.START_ENGINE, "docker", f"Start the Docker engine {how}")
    if installed:
        return (start,)
    return (
        Step(Act.INSTALL_ENGINE, "docker.io", "Install the distribution's Docker engine (docker.io)"),
        start,
    )


def plan_up(wanted: Wanted, found: Found) -> Plan:
    """How to get from *found* to *wanted*, notebook images aside; empty when there is nothing to do."""
    missing_images = [r for r in wanted.recipes() if r is not wanted.images.base and r.tag not in found.tags]
    # Without the base, nothing can be built; where all is there that stands on it, it is not needed.
    base = [wanted.images.base] if missing_images and wanted.images.base.tag not in found.tags else []
    steps = _plan_builds([*base, *missing_images], found.tags)
    steps += [
        Step(Act.MAKE_FOLDER, folder.path, f"Make the folder {folder.path}")
        for folder in wanted.folders()
        if folder.path not in found.folders
    ]
    steps += [
        Step(Act.MAKE_SECRET, name, f"Make the secret {name}")
        for name in wanted.secrets
        if name not in found.secrets
    ]
    steps += [
        Step(Act.WRITE, path, f"Write {path}")
        for path, text in wanted.files.items()
        if found.files.get(path) != text
    ]
    missing = set(wanted.secrets) - found.secrets
    # Parts read secrets when they start: with a new one all must begin anew.
    changed = [part for part, runs in wanted.parts.items() if missing or found.parts.get(part) != runs]
    gone = [part for part in found.parts if part not in wanted.parts]
    if changed or gone:
        # Compose takes away what its file no longer names.
        words = [f"Start {', '.join(changed)}"] if changed else []
        words += [f"remove {', '.join(gone)}"] if gone else []
        text = " and ".join(words)
        steps.append(Step(Act.START_PARTS, " ".join(changed), text[0].upper() + text[1:]))
    return tuple(steps)


def _plan_builds(recipes: list[Recipe], tags: frozenset[str], image: str = "") -> list[Step]:
    """How to build *recipes*, in order, on an engine that has *tags*."""
    steps = [Step(Act.BUILD, recipe.tag, f"Build the image {recipe.tag}", image) for recipe in recipes]
    if any(recipe.parent == DEBIAN_TAG for recipe in recipes) and DEBIAN_TAG not in tags:
        steps.insert(0, Step(Act.GET_DEBIAN, DEBIAN_TAG, "Get Debian to build on", image))
    return steps


def plan_making(making: Making, tags: frozenset[str]) -> list[Step]:
    """How to have the image of *making* in the engine, which has *tags*; empty when it is there.

    What is missing below an image that is there is not built: it is in that image.
    """
    there = max((index for index, recipe in enumerate(making.recipes) if recipe.tag in tags), default=-1)
    builds = list(making.recipes[there + 1 :])
    steps = _plan_builds(builds, tags, making.image)
    if making.fetched and there == -1 and making.fetched not in tags:
        steps.insert(0, Step(Act.FETCH, making.fetched, f"Fetch {making.fetched}", making.image))
    return steps


def plan_images(wanted: Wanted, found: Found) -> Plan:
    """How to offer people every image of the configuration as it says now.

    What is offered already stays; what an administrator rolled back does not come back by itself.
    """
    steps: list[Step] = []
    for making in wanted.notebooks:
        shelf = found.shelves.of(making.image)
        offered = shelf.release
        there = offered is not None and offered.reference in found.tags
        if there and offered is not None and making.version in {*shelf.withdrawn, offered.version}:
            continue
        planned = {step.subject for step in steps}
        steps += [step for step in plan_making(making, found.tags) if step.subject not in planned]
        steps += [
            Step(Act.CHECK, making.image, f"Check the image {making.image}", making.image),
            Step(Act.PUBLISH, making.image, f"Publish the image {making.image}", making.image),
        ]
    return tuple(steps)


def plan_down(*, parts: tuple[str, ...], sessions: tuple[str, ...], everything: bool) -> Plan:
    """How to stop the parts; with *everything* also people's sessions, and the networks."""
    stop = tuple(Step(Act.STOP_SESSION, name, f"Stop the session {name}") for name in sessions if everything)
    remove = (
        (Step(Act.REMOVE_PARTS, " ".join(parts), f"Stop and remove {', '.join(parts)}"),) if parts else ()
    )
    networks = (
        (Step(Act.REMOVE_NETWORKS, "networks", "Remove the networks and the firewall rules"),)
        if everything
        else ()
    )
    return stop + remove + networks
