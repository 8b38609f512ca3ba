"""Starts the kernel of a person's environment, or the image's own where that environment cannot run.

Imports next to nothing: every start of a notebook goes through here.
"""

from __future__ import annotations

import os
import sys

BASE = os.environ.get("LABDOCK_BASE", "/opt/env")
"""The image's environment, which a person's own stand on."""

THIS_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
LOCK_NAME = "labdock.lock"


def env_path(name: str) -> str:
    return os.path.join(os.path.expanduser("~"), ".labdock", "envs", name)


def read_settings(folder: str) -> dict[str, str]:
    """What ``pyvenv.cfg`` in *folder* says, by key; nothing when there is none."""
    try:
        with open(os.path.join(folder, "pyvenv.cfg"), encoding="utf-8") as file:
            pairs = (line.partition("=") for line in file)
            return {key.strip(): value.strip() for key, _, value in pairs}
    except OSError:
        return {}


def minor(version: str) -> str:
    """``3.13`` of ``3.13.5``."""
    return ".".join(version.split(".")[:2])


def why_not(name: str) -> str:
    """Why the environment *name* cannot run in this image, as the end of a sentence; "" when it can."""
    folder = env_path(name)
    made = read_settings(folder)
    version, home = minor(made.get("version", "")), made.get("home", "")
    here = read_settings(BASE).get("home", "")
    if not version:
        return "is not there any more" if not os.path.lexists(folder) else "is damaged"
    if version != THIS_PYTHON:
        return f"was made for Python {version}, and this image has Python {THIS_PYTHON}"
    if home != here:
        return f"was made for the Python in {home}, and this image's is in {here}"
    if not os.access(os.path.join(folder, "bin", "python"), os.X_OK):
        return "has no Python that runs"
    return ""


def notice(name: str, reason: str) -> str:
    """The two lines to show where the image's own kernel runs in place of that of *name*."""
    first = f'The environment "{name}" {reason}: this is the image\'s own kernel, without its packages.'
    if os.path.lexists(env_path(name)):
        return (
            f"{first}\nRun  !labdock-env rebuild {name}  to build it anew from its lock, "
            "then restart the kernel."
        )
    return (
        f"{first}\nRun  !labdock-env create {name}  to make it, "
        f"or  !labdock-env remove {name}  to drop its kernel."
    )


def main(words: list[str]) -> int:
    """Become the kernel that ``kernel NAME -f CONNECTION_FILE`` asks for."""
    if len(words) < 2:
        print("labdock-env: usage: labdock-env kernel NAME -f CONNECTION_FILE", file=sys.stderr)
        return 2
    name, rest = words[1], words[2:]
    reason = why_not(name)
    environment = dict(os.environ)
    if reason:
        python = os.path.join(BASE, "bin", "python")
        environment["LABDOCK_NOTICE"] = notice(name, reason)
        arguments = [python, os.path.join(os.path.dirname(os.path.abspath(__file__)), "labdock_standin.py")]
    else:
        folder = env_path(name)
        python = os.path.join(folder, "bin", "python")
        # With these, `!pip` in a cell is the environment's own.
        environment["VIRTUAL_ENV"] = folder
        environment["PATH"] = os.path.join(folder, "bin") + os.pathsep + environment.get("PATH", os.defpath)
        arguments = [python, "-m", "ipykernel_launcher"]
    os.execve(python, [*arguments, *rest], environment)  # noqa: S606  no shell is wanted
