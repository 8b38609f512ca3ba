"""A simulated machine in a folder, from compiled files or from stand-ins with room for a version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labdock.core.site import DriverPlaces
from labdock.simulation.layout import LIBRARIES, PROGRAM, VERSION_MARK, VERSION_ROOM, lay_out
from labdock.simulation.machine import Machine, new_machine

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")


def stand_ins(folder: Path) -> Path:
    """*folder* with files as the compiler leaves them, as far as laying them out is concerned."""
    folder.mkdir()
    for name in (*LIBRARIES, PROGRAM):
        (folder / name).write_bytes(b"before " + VERSION_MARK + bytes(VERSION_ROOM) + b" behind")
    (folder / "multiarch").write_text("x86_64-linux-gnu\n")
    return folder


def laid_out(root: Path, compiled: Path, machine: Machine | None = None) -> Machine:
    """*machine*, by default one of four cards, now below *root*."""
    wanted = machine or new_machine("lab", 4)
    return lay_out(root, lambda _: wanted, compiled)


def places(root: Path) -> DriverPlaces:
    """Where discovery finds the machine below *root*."""
    return DriverPlaces(
        str(root), str(root), f"{root}/proc", f"{root}/sys", f"{root}/dev", f"{root}/dev", f"{root}/state"
    )


def everything(root: Path) -> dict[str, object]:
    """What is below *root*, by path: a file's bytes, a link's target, a node's numbers, None for a folder."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        what: object = None
        if path.is_symlink():
            what = str(path.readlink())
        elif path.is_file():
            what = (oct(status.st_mode), path.read_bytes())
        elif not path.is_dir():
            what = (oct(status.st_mode), status.st_rdev)
        found[str(path.relative_to(root))] = what
    return found
