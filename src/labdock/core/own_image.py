"""A line of the section ``images`` → the recipes that make it, and what a failed build means.

The order of the layers is the order of what changes least: system packages, conda's, pip's, the lab's own
script. Adding a Python package builds the layer of pip anew and what stands on it, nothing below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from labdock.core.config import Image
from labdock.core.errors import BuildError, ConfigError
from labdock.core.image import ImageSet, Recipe

OWN = "own-"
"""What begins the name of a recipe that a lab's own settings make; none of Labdock's begins so."""

KNOWN_FILES = ("apt.txt", "environment.yml", "requirements.txt", "postBuild")
"""What a folder of the lab's may hold, under the names that repo2docker knows."""

_LAYERS = "/opt/labdock/layers"
"""Where an image keeps what its layers were made from."""

_APT = (
    "RUN apt-get update \\\n"
    "    && DEBIAN_FRONTEND=noninteractive xargs -a {list} apt-get install -y --no-install-recommends \\\n"
    "    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*"
)
_PIP = "RUN labdock-add {list}"
_CONDA = "RUN labdock-conda {list}"


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """What the lab keeps for an image: the files of its folder, and of its Dockerfile's, by path."""

    folder: Mapping[str, bytes] = field(default_factory=dict)
    context: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the setting it comes from, its file in the build (name and bytes), and what runs."""

    setting: str
    file: str
    data: bytes
    run: str

    def lines(self) -> str:
        return f"COPY {self.file} {_LAYERS}/\n{self.run.format(list=f'{_LAYERS}/{self.file}')}\n"


def layers_of(image: Image, own: OwnFiles) -> tuple[Layer, ...]:
    """What is added to the base of *image*, in the order in which it is built."""
    found: list[Layer] = []
    folder = own.folder
    if "apt.txt" in folder:
        found.append(Layer("files", "apt.txt", _without_comments(folder["apt.txt"]), _APT))
    if image.apt:
        found.append(Layer("apt", "labdock-apt.txt", _lines(image.apt), _APT))
    if "environment.yml" in folder:
        found.append(Layer("files", "environment.yml", folder["environment.yml"], _CONDA))
    if image.conda:
        found.append(Layer("conda", "labdock-conda.txt", _lines(image.conda), _CONDA))
    if "requirements.txt" in folder:
        found.append(Layer("files", "requirements.txt", folder["requirements.txt"], _PIP))
    if image.pip:
        found.append(Layer("pip", "labdock-pip.txt", _lines(image.pip), _PIP))
    return tuple(found)


def own_recipes(image: Image, own: OwnFiles, images: ImageSet, edition: int = 0) -> tuple[Recipe, ...]:
    """The recipes that make *image*, each standing on the one before, Labdock's own images first.

    Without anything added, the last is the built-in image itself. *edition* 1 and above fetch anew what has
    no fixed version.
    """
    built_in = image.base.startswith("builtin/")
    lineage = images.lineage(image.base.removeprefix("builtin/")) if built_in else ()
    recipes = list(lineage)
    parent = lineage[-1].tag if lineage else image.base
    if image.dockerfile is not None:
        recipe = Recipe(
            f"{OWN}{image.id}-dockerfile", own.context, parent, "BASE", edition=edition, with_host=True
        )
        recipes.append(recipe)
        parent = recipe.tag
    if image.dockerfile is not None or not built_in:
        # An edition of its own: a base fetched anew under the same name must not be taken from the cache.
        adapted = Recipe(
            f"{OWN}{image.id}-adapted", images.adaptation, parent, edition=edition, with_host=True
        )
        recipes.append(adapted)
        parent = adapted.tag
    layers = layers_of(image, own)
    if layers or "postBuild" in own.folder:
        recipes.append(Recipe(f"{OWN}{image.id}", _layer_files(layers, own, edition), parent))
    return tuple(recipes)


def _layer_files(layers: tuple[Layer, ...], own: OwnFiles, edition: int) -> dict[str, bytes]:
    head = "ARG PARENT\nFROM ${PARENT}\nUSER root\n"
    head += f'LABEL org.labdock.edition="{edition}"\n' if edition else ""
    files = {layer.file: layer.data for layer in layers}
    tail = ""
    if "postBuild" in own.folder:
        files |= {f"files/{path}": data for path, data in own.folder.items()}
        tail = f"COPY files/ {_LAYERS}/files/\n{_POST_BUILD}\n"
    return {**files, "Dockerfile": (head + "".join(layer.lines() for layer in layers) + tail).encode()}


_POST_BUILD = f"RUN cd {_LAYERS}/files && chmod +x postBuild && ./postBuild"


def _lines(words: tuple[str, ...]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


def _without_comments(data: bytes) -> bytes:
    lines = (line.partition("#")[0].strip() for line in data.decode("utf-8", "replace").splitlines())
    return _lines(tuple(word for line in lines for word in line.split()))


def asked_for(image: Image, own: OwnFiles) -> tuple[str, ...]:
    """The Python packages that the lab itself asks for, by their normal names, in the order of its files."""
    text = own.folder.get("requirements.txt", b"").decode("utf-8", "replace")
    found = (
        re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line.strip()) for line in (*text.splitlines(), *image.pip)
    )
    return tuple(dict.fromkeys(re.sub(r"[-_.]+", "-", name[0]).lower() for name in found if name))


def settings_with_passwords(image: Image, own: OwnFiles) -> tuple[str, ...]:
    """The settings of *image* in which an address carries a password, for everybody to read in a session."""
    layers = layers_of(image, own)
    return tuple(
        dict.fromkeys(layer.setting for layer in layers if re.search(rb"://[^/\s@]*:[^/\s@]+@", layer.data))
    )


def check_folder(image: Image, names: frozenset[str]) -> None:
    """Refuse a folder without anything in it that would be added.

    Raises:
        ConfigError: None of KNOWN_FILES is among *names*.
    """
    if not names.isdisjoint(KNOWN_FILES):
        return
    near = [name for name in sorted(names) if get_close_matches(name, KNOWN_FILES, 1, 0.8)]
    meant = (
        f" {near[0]} is there: did you mean {get_close_matches(near[0], KNOWN_FILES, 1)[0]}?" if near else ""
    )
    raise ConfigError(
        f"The folder {image.files} of the image {image.id} holds none of {', '.join(KNOWN_FILES)}.{meant}",
        fix="Put one of them there, or take the line files out.",
    )


@dataclass(frozen=True, slots=True)
class Mishap:
    """Why a build failed: the setting it comes from, a sentence, and the word in it that is wrong."""

    setting: str
    message: str
    word: str = ""


_CAUSES: tuple[tuple[str, str], ...] = (
    (r"^labdock(-conda)?: (?P<message>.+)$", "{message}"),
    (
        r"satisfies the requirement (?P<word>[A-Za-z0-9._-]+)\S* \(from versions: none\)",
        'pip finds no package called "{word}".',
    ),
    (
        r"satisfies the requirement (?P<word>[A-Za-z0-9._-]+)(?P<versions>\S*)"
        r".* \(from versions: (?P<known>.+)\)",
        "pip finds no {word}{versions}; the newest are {known}.",
    ),
    (r"Invalid requirement: '?(?P<word>[^':]+)", 'pip does not understand "{word}".'),
    (r"^ERROR: (?P<message>Cannot install .+ because .+)$", "{message}"),
    (r"E: Unable to locate package (?P<word>\S+)", 'apt finds no package called "{word}".'),
    (r"E: Version '(?P<versions>[^']+)' for '(?P<word>[^']+)'", "apt finds no version {versions} of {word}."),
    (r"(?P<word>[A-Za-z0-9._-]+)\S* does not exist \(perhaps a", 'conda finds no package called "{word}".'),
    (r"No space left on device", "The disk is full."),
    (
        r"^(ERROR|error): (subprocess-exited-with-error|Failed to build|Failed building wheel)",
        "a package has no wheel for this image's Python, and pip could not build it from its source; "
        "a newer version of it often has one.",
    ),
)


def explain(image: Image, own: OwnFiles, error: BuildError) -> Mishap:
    """What *error*, of a build of one of the recipes of *image*, comes down to."""
    setting = _setting_of(image, own, error.step)
    for pattern, words in _CAUSES:
        for line in error.details:
            found = re.search(pattern, line)
            if found:
                said = {key: (value or "").strip() for key, value in found.groupdict().items()}
                if "known" in said:
                    said["known"] = ", ".join(_newest(said["known"].split(", ")))
                return Mishap(setting, words.format(**said), said.get("word", ""))
    where = {"files": "A step", "dockerfile": "A step of the Dockerfile", "base": "A step on its base"}
    what = "postBuild" if "postBuild" in error.step else where.get(setting, f"The step of {setting}")
    return Mishap(setting, f"{what} failed.{_engine_words(error)}")


def _newest(versions: list[str]) -> list[str]:
    """The last three of *versions* that are no pre-releases, where there are any others."""
    return ([one for one in versions if re.fullmatch(r"[0-9.]+", one)] or versions)[-3:]


def _engine_words(error: BuildError) -> str:
    """What the engine said of *error*, as a further sentence: it is not among the lines of the build."""
    said = error.message.partition(" could not be built: ")[2].strip()
    code = re.search(r"returned a non-zero code: (\d+)", said)
    if code:
        return f" It ended with exit code {code[1]}."
    return f" The engine says: {said.rstrip('.')}." if said else ""


def _setting_of(image: Image, own: OwnFiles, step: str) -> str:
    """The setting whose layer the Dockerfile's line *step* belongs to."""
    for layer in layers_of(image, own):
        # The engine prints a command on one line.
        if f"/{layer.file}" in step or f" {layer.file} " in step:
            return layer.setting
    if "postBuild" in step:
        return "files"
    if image.dockerfile is not None and "labdock" not in step:
        return "dockerfile"
    return "base"
