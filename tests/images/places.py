"""A home and an image's environment on this machine, for the programs that run inside images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import labdock

PROGRAMS = Path(labdock.__file__).parent / "images/notebook/root/usr/local/bin"
LIBRARY = PROGRAMS.parent / "lib/labdock"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

STAND_IN_PIP = '''
"""Stands in for pip: installs the name of any package without fetching it; some names fail as pip would."""

import pathlib
import sys
import time

SAYS = {
    "full": "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
    "quota": "ERROR: Could not install packages due to an OSError: [Errno 122] Disk quota exceeded",
    "offline": "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by "
    "'NewConnectionError(Failed to establish a new connection)': /simple/offline/\\n"
    "ERROR: No matching distribution found for offline",
    "hiccup": "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by "
    "'NewConnectionError(Failed to establish a new connection)': /simple/hiccup/\\n"
    "ERROR: No matching distribution found for hiccup",
    "missing": "ERROR: No matching distribution found for missing",
    "old": "ERROR: No matching distribution found for old==1.0",
    "source": "ERROR: Failed building wheel for source",
    "rivals": "ERROR: ResolutionImpossible: for help visit a page",
    "odd": "ERROR: something else",
}
words = [
    word
    for before, word in zip(sys.argv[1:], sys.argv[2:])
    if not word.startswith("-") and before != "--only-binary"
]
(packages,) = pathlib.Path(sys.prefix, "lib").glob("python*/site-packages")
print("pip is given", *sys.argv[1:], flush=True)
for word in words:
    name, _, version = word.partition("==")
    if name == "slow":
        time.sleep(60)
    # The old version is gone; newer ones are there.
    if name in SAYS and (name != "old" or version == "1.0"):
        print(SAYS[name], file=sys.stderr)
        sys.exit(1)
    version = version or ("2.0" if name == "old" else "1.0")
    record = packages / f"{name}-{version}.dist-info"
    record.mkdir(exist_ok=True)
    (record / "METADATA").write_text(f"Name: {name}\\nVersion: {version}\\n\\nText.\\n")
'''


@dataclass(frozen=True)
class Place:
    """An image's environment, and the home of somebody in a session with it."""

    base: Path
    home: Path

    @property
    def envs(self) -> Path:
        return self.home / ".labdock/envs"

    @property
    def builds(self) -> list[Path]:
        return [path for path in (self.home / ".labdock/builds").iterdir() if path.is_dir()]

    def kernel(self, name: str) -> Path:
        return self.home / ".local/share/jupyter/kernels" / name / "kernel.json"

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "LABDOCK_BASE": str(self.base), **more}

    def command(self, program: str, *words: str) -> list[str]:
        return [str(self.base / "bin/python"), "-IS", str(PROGRAMS / program), *words]

    def run(self, program: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(program, *words),
            env=self.environment(environment),
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def env(self, *words: str, status: int = 0) -> str:
        """What ``labdock-env`` says, in a run that ends with *status*; of a failure, its last line."""
        done = self.run("labdock-env", *words, LABDOCK_IMAGE="labdock/cpu:one")
        assert done.returncode == status, done.stdout + done.stderr
        if status:
            return done.stderr.splitlines()[-1]
        return done.stdout

    def facts(self, *words: str) -> Any:
        return json.loads(self.env(*words, "--json"))

    def lock(self, name: str) -> list[str]:
        return (self.envs / name / "labdock.lock").read_text().splitlines()


def make_base(folder: Path) -> None:
    """An environment as an image has it: a package, a kernel, and a pip that stands in for the real one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = folder / "lib" / f"python{PYTHON}" / "site-packages"
    (packages / "of_the_image.py").write_text("")
    (packages / "pip").mkdir()
    (packages / "pip/__init__.py").write_text("")
    (packages / "pip/__main__.py").write_text(STAND_IN_PIP)
    (folder / "share/jupyter/kernels/python3").mkdir(parents=True)
    (folder / "share/jupyter/kernels/python3/logo-64x64.png").write_bytes(b"picture")
