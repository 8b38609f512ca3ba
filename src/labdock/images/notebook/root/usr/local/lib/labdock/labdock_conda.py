"""Installs conda packages into an image while it is built, with a kernel for the Python among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from labdock_kernel import BASE
from labdock_micromamba import CHANNEL, Failed, its_environment, program

PREFIX = Path(os.environ.get("LABDOCK_CONDA", "/opt/conda"))
"""Where other people's images have it too, and then it is theirs that is added to."""

USAGE = f"""usage: labdock-conda PACKAGE... | FILE...

Installs conda packages, or what environment.yml files ask for, into {PREFIX}; for builds of images, as root.
In a session, make an environment with: micromamba create -n NAME -c {CHANNEL} PACKAGE"""


def wanted(words: list[str]) -> list[list[str]]:
    """What micromamba is asked for, one list of words for each time that it runs.

    A file of plain lines is a list of packages; another one is for micromamba to read.

    Raises:
        Failed: A word is a file that is not there.
    """
    packages: list[str] = []
    asked: list[list[str]] = []
    for word in words:
        if not Path(word).is_file():
            if word.endswith((".yml", ".yaml", ".txt", ".lock")):
                raise Failed(f"there is no file {word}. Is it in the folder that the image is built from?")
            packages.append(word)
            continue
        text = Path(word).read_text()
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        if word.endswith((".yml", ".yaml")):
            named = any(line.startswith("channels:") for line in lines)
            asked.append(["-f", word, *(() if named else ("-c", CHANNEL))])
        elif "@EXPLICIT" in lines:
            asked.append(["-f", word])
        else:
            packages += [line for line in lines if line]
    return asked + ([["-c", CHANNEL, *packages]] if packages else [])


def micromamba(*words: str, cache: str) -> None:
    environment = its_environment(os.environ) | {"MAMBA_ROOT_PREFIX": cache}
    done = subprocess.run([program(), *words], env=environment, check=False)  # noqa: S603  the build's own words
    if done.returncode:
        raise Failed(f"micromamba {words[0]} failed; above it says why.")


def install(words: list[str]) -> None:
    """Install what *words* ask for, and register a kernel if there is a Python then."""
    asked = wanted(words)
    # What is fetched lies in a folder that goes away: an image keeps no cache.
    with tempfile.TemporaryDirectory(prefix="labdock-conda-", dir=PREFIX.parent) as cache:
        for one in asked:
            word = "install" if (PREFIX / "conda-meta").is_dir() else "create"
            micromamba(word, "-y", "-p", str(PREFIX), *one, cache=cache)
        if not (PREFIX / "bin/python").exists():
            return
        if not list(PREFIX.glob("lib/python3.*/site-packages/ipykernel/__init__.py")):
            micromamba("install", "-y", "-p", str(PREFIX), "-c", CHANNEL, "ipykernel", cache=cache)
    register()


def register() -> None:
    """Put the kernel "Python (conda)" into the launcher of everybody."""
    folder = Path(BASE, "share/jupyter/kernels/conda")
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [f"{PREFIX}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python (conda)",
        "language": "python",
        "env": {"CONDA_PREFIX": str(PREFIX), "PATH": f"{PREFIX}/bin:${{PATH}}"},
        "metadata": {"debugger": True},
    }
    (folder / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n")


def main(words: list[str]) -> int:
    """Do it; 0 when it is done, 1 when it failed, 2 when the words are wrong."""
    if not words or words[0] in {"-h", "--help"}:
        print(USAGE)
        return 0 if words else 2
    if words[0].startswith("-"):
        print(f"labdock-conda: {words[0]} is no package. See: labdock-conda --help", file=sys.stderr)
        return 2
    try:
        if not os.access(PREFIX if PREFIX.exists() else PREFIX.parent, os.W_OK):
            raise Failed(
                f"{PREFIX} cannot be written: this is for builds of images. "
                f"In a session: micromamba create -n NAME -c {CHANNEL} PACKAGE"
            )
        install(words)
    except Failed as failed:
        print(f"labdock-conda: {failed}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"labdock-conda: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    return 0
