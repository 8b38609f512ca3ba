"""What an instance's images are made from and which are offered: its files, read and written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.config_file import read_node
from labdock.cli.instance import Instance
from labdock.core.compose import SERVICE_UID
from labdock.core.config import Image
from labdock.core.errors import ConfigError, HostError
from labdock.core.image import ImageSet
from labdock.core.image_check import Seen
from labdock.core.lifecycle import Making
from labdock.core.own_image import OwnFiles, check_folder, own_recipes
from labdock.core.settings import Items, Scalar, value_of
from labdock.core.shelf import (
    Offered,
    Shelves,
    allowed,
    allowed_to_json,
    choices,
    choices_to_json,
)

SHELVES = "images.json"
LOOKS = "images"
"""The folder below the state with what was seen inside each image."""

MOST_CONTEXT_BYTES = 512 * 2**20
"""The largest folder that is sent to the engine for a build."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the section ``images``: what it says, its files, and the recipes that make it."""

    image: Image
    own: OwnFiles
    making: Making


def read_shelves(instance: Instance) -> Shelves:
    """What the instance remembers of its images; nothing before the first ``up``.

    Raises:
        HostError: The file is damaged.
    """
    path = instance.state / SHELVES
    try:
        text = host.read_text(path)
        return Shelves() if text is None else Shelves.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise HostError(f"{path} is damaged ({error}).", fix="Bring it back from a backup.") from error


def write_shelves(instance: Instance, shelves: Shelves) -> None:
    """Remember *shelves*, and tell agent and hub; what a hub may choose, its agent knows already."""
    state, service = instance.state, os.geteuid() or SERVICE_UID
    agent, hub = shelf_files(instance, shelves)
    host.write_file(state / SHELVES, shelves.to_json(), mode=0o644)
    host.write_file(state / "parts/agent" / SHELVES, agent, mode=0o644)
    host.write_file(state / "parts/hub" / SHELVES, hub, mode=0o600, uid=service)


def shelf_files(instance: Instance, shelves: Shelves) -> tuple[str, str]:
    """What agent and hub are told of the images, as the texts of their files."""
    offered = tuple(Offered(image.id, image.label, image.default) for image in instance.config.images)
    return allowed_to_json(allowed(offered, shelves)), choices_to_json(choices(offered, shelves))


def read_lines(instance: Instance, images: ImageSet, shelves: Shelves) -> tuple[Line, ...]:
    """Every line of the section ``images``, with the files it names.

    Raises:
        ConfigError: A file is missing, or a folder holds nothing that could be added.
    """
    return tuple(read_line(instance, image, images, shelves) for image in instance.config.images)


def read_line(instance: Instance, image: Image, images: ImageSet, shelves: Shelves) -> Line:
    """As ``read_lines``, for one of them."""
    own = _read_own_files(instance, image)
    recipes = own_recipes(image, own, images, shelves.of(image.id).edition)
    fetched = "" if image.base.startswith("builtin/") or _ignores_base(own) else image.base
    return Line(image, own, Making(image.id, recipes, fetched))


def _ignores_base(own: OwnFiles) -> bool:
    return bool(own.context) and b"BASE" not in own.context["Dockerfile"]


def _read_own_files(instance: Instance, image: Image) -> OwnFiles:
    beside = instance.config_path.parent if instance.config_path is not None else Path.cwd()
    folder = {} if image.files is None else _read_folder(instance, beside / image.files, image, "files")
    if image.files is not None:
        check_folder(image, frozenset(folder))
    context: dict[str, bytes] = {}
    if image.dockerfile is not None:
        path = beside / image.dockerfile
        if not path.is_file():
            raise ConfigError(
                f"The image {image.id} is to be built from {path}, which is not there.",
                fix="Write it, or correct dockerfile in labdock.yaml.",
            )
        context = {
            **_read_folder(instance, path.parent, image, "dockerfile"),
            "Dockerfile": path.read_bytes(),
        }
    return OwnFiles(folder, context)


def _read_folder(instance: Instance, folder: Path, image: Image, setting: str) -> dict[str, bytes]:
    if not folder.is_dir():
        raise ConfigError(
            f"The image {image.id} is to be built from the folder {folder}, which is not there.",
            fix=f"Make it, or correct {setting} in labdock.yaml.",
        )
    if instance.state.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"The folder {folder} of the image {image.id} holds {instance.state}, with Labdock's secrets.",
            fix="Give the image a folder of its own.",
        )
    try:
        return _read_files(folder, image)
    except OSError as error:
        raise ConfigError(
            f"{error.filename} of the image {image.id} cannot be read: {error.strerror}."
        ) from error


def _read_files(folder: Path, image: Image) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or ".git" in path.relative_to(folder).parts:
            continue
        total += path.stat().st_size
        if total > MOST_CONTEXT_BYTES:
            raise ConfigError(
                f"The folder {folder} of the image {image.id} holds more than "
                f"{MOST_CONTEXT_BYTES // 2**20} MiB.",
                fix="Give it a folder of its own, with nothing but what the image is built from.",
            )
        name = str(path.relative_to(folder))
        if not name.isprintable():
            raise ConfigError(
                f"The folder {folder} of the image {image.id} holds a file with an odd name: {name!r}.",
                fix="Rename it: letters of UTF-8 alone.",
            )
        found[name] = path.read_bytes()
    return found


def place_of(instance: Instance, image: Image, setting: str, word: str) -> str:
    """Where *word* stands in the image's *setting*, for a message: ``labdock.yaml:14 images[1].pip``."""
    index = [one.id for one in instance.config.images].index(image.id)
    where = f"images[{index}].{setting}"
    if instance.config_path is None:
        return where
    try:
        node = value_of(read_node(instance.config_path), "images")
    except ConfigError:
        return where
    line = 0
    if isinstance(node, Items) and index < len(node.nodes):
        value = value_of(node.nodes[index], setting)
        line = value.line
        items = value.nodes if isinstance(value, Items) else ()
        for item in items:
            if word and isinstance(item, Scalar) and str(item.value).lower().startswith(word.lower()):
                line = item.line
    return f"{instance.config_path.name}:{line} {where}" if line else where


def read_look(instance: Instance, image_id: str) -> Seen | None:
    """What was seen inside the image that the engine knows as *image_id*, None if nobody looked yet."""
    text = host.read_text(_look_file(instance, image_id))
    try:
        return None if text is None else Seen.from_json(text)
    except (ValueError, TypeError, KeyError):
        # Of another version of Labdock: look again.
        return None


def write_look(instance: Instance, image_id: str, seen: Seen) -> None:
    host.make_folder(instance.state / LOOKS, mode=0o755)
    host.write_file(_look_file(instance, image_id), seen.to_json(), mode=0o644)


def _look_file(instance: Instance, image_id: str) -> Path:
    return instance.state / LOOKS / f"{image_id.removeprefix('sha256:')[:24]}.json"


def claim_of(instance: Instance, image: str, version: str) -> str:
    """The reference under which the instance keeps an image that it offers.

    Tags are content, and several instances may share one; a claim is an instance's own, so whoever cleans up
    sees that somebody still needs it.
    """
    return f"labdock-{instance.name}/{image}:{version}"
