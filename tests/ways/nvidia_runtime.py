#!/usr/bin/env python3
"""An OCI runtime that stands in for NVIDIA's: runc, and the cards that a container's environment asks for.

It is these tests' own. It does what NVIDIA's documentation says of the variables NVIDIA_VISIBLE_DEVICES and
NVIDIA_DRIVER_CAPABILITIES, with a driver laid out below the folder after ``--driver``; whether NVIDIA's own
does the same is not proven by it. Arguments that follow are runc's.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

COMPUTE = ("libcuda", "libcudadebugger", "libnvidia-gpucomp", "libnvidia-nvvm", "libnvidia-ptxjitcompiler")
UTILITY = ("libnvidia-ml",)
PROGRAMS = ("nvidia-smi", "nvidia-debugdump")
CONTROLS = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
LIBRARIES = f"usr/lib/{os.uname().machine}-linux-gnu"


def chosen_cards(driver: Path, asked: str) -> list[int] | None:
    """The minor numbers of the cards that *asked* means; None where the container is to be left alone."""
    if asked in {"", "void"}:
        return None
    told = [path.read_text() for path in sorted(driver.glob("proc/driver/nvidia/gpus/*/information"))]
    minors = {fact(text, "GPU UUID"): int(fact(text, "Device Minor")) for text in told}
    if asked in {"none", "all"}:
        return list(minors.values()) if asked == "all" else []
    by_index = {str(index): minor for index, minor in enumerate(minors.values())}
    try:
        return [(minors | by_index)[name] for name in asked.split(",")]
    except KeyError as error:
        sys.exit(f"the tests' own nvidia runtime: unknown device {error}")


def fact(information: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)$", information, re.MULTILINE)
    return found[1] if found else ""


def driver_files(driver: Path, capabilities: set[str]) -> dict[str, Path]:
    """What a container with *capabilities* is given, by path inside."""
    everything = "all" in capabilities
    names = [
        *(COMPUTE if everything or "compute" in capabilities else ()),
        *(UTILITY if everything or "utility" in capabilities else ()),
    ]
    version = (driver / "sys/module/nvidia/version").read_text().strip()
    files: dict[str, Path] = {}
    for name in names:
        real = driver / LIBRARIES / f"{name}.so.{version}"
        links = (path for path in real.parent.glob(f"{name}.so*") if path.resolve() == real.resolve())
        files |= {f"/{LIBRARIES}/{path.name}": real.resolve() for path in links}
        if name == "libcuda":
            files[f"/{LIBRARIES}/libcuda.so"] = real.resolve()
    if UTILITY[0] in names:
        files |= {f"/usr/bin/{name}": (driver / "usr/bin" / name).resolve() for name in PROGRAMS}
    return files


def with_cards(config: dict[str, Any], driver: Path) -> dict[str, Any]:
    """The container's *config*, as the runtime specification has it, with the cards that it asks for."""
    environment = dict(item.split("=", 1) for item in config["process"]["env"])
    minors = chosen_cards(driver, environment.get("NVIDIA_VISIBLE_DEVICES", ""))
    if minors is None:
        return config
    wanted = environment.get("NVIDIA_DRIVER_CAPABILITIES") or "compute,utility"
    for target, source in driver_files(driver, set(wanted.split(","))).items():
        options = ["ro", "nosuid", "nodev", "bind"]
        config["mounts"].append(
            {"destination": target, "type": "bind", "source": str(source), "options": options}
        )
    linux = config["linux"]
    for name in (*CONTROLS, *(f"nvidia{minor}" for minor in minors)):
        number = (driver / "dev" / name).stat().st_rdev
        device = {"type": "c", "major": os.major(number), "minor": os.minor(number)}
        linux.setdefault("devices", []).append(
            {**device, "path": f"/dev/{name}", "fileMode": 0o666, "uid": 0, "gid": 0}
        )
        linux["resources"]["devices"].append({**device, "allow": True, "access": "rw"})
    return config


def main() -> None:
    option, driver, *arguments = sys.argv[1:]
    if option != "--driver":
        sys.exit("the tests' own nvidia runtime: --driver FOLDER comes first")
    if "create" in arguments:
        file = Path(arguments[arguments.index("--bundle") + 1], "config.json")
        file.write_text(json.dumps(with_cards(json.loads(file.read_text()), Path(driver))))
    os.execvp("runc", ["runc", *arguments])  # noqa: S606  the same words, and no shell


if __name__ == "__main__":
    main()
