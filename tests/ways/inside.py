"""What somebody in a session finds of cards and their driver."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.adapters.drivers import GPU_MAJOR, INSIDE
from tests.agent.engines import RealEngine

LIBRARIES = ("libcuda.so", "libcuda.so.1", "libnvidia-ml.so.1")

_PROBE = f"""
import ctypes, errno, json, os
def tried(act):
    try:
        act()
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
def opened(path):
    return tried(lambda: os.close(os.open(path, os.O_RDWR)))
def mounted(path):
    return "read-only" if os.statvfs(path).f_flag & os.ST_RDONLY else "writable"
def loaded(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return "missing"
    return mounted("{INSIDE}/" + name)
smi = "/usr/bin/nvidia-smi"
print(json.dumps(dict(
    nodes={{name: opened("/dev/" + name) for name in os.listdir("/dev") if name.startswith("nvidia")}},
    made=tried(lambda: os.mknod("/tmp/made", 0o20666, os.makedev({GPU_MAJOR}, 1))),
    libraries={{name: loaded(name) for name in {LIBRARIES}}},
    smi=f"{{os.popen(smi).read().strip()}} {{mounted(smi)}}" if os.path.exists(smi) else "missing",
    asked_for=os.environ.get("NVIDIA_VISIBLE_DEVICES"),
)))
"""


@dataclass(frozen=True)
class Found:
    """*nodes* by name, and what became of opening them: ENXIO where it is allowed and nobody serves it.

    *made* is what became of making a node, *libraries* and *smi* how they are mounted, the latter after what
    it prints; *asked_for* is what is left of NVIDIA_VISIBLE_DEVICES.
    """

    nodes: dict[str, str]
    made: str
    libraries: dict[str, str]
    smi: str
    asked_for: str


def look_inside(engine: RealEngine, container: str) -> Found:
    return Found(**json.loads(engine.run(container, "python3", "-c", _PROBE)))


def cards(*minors: int, version: str, asked_for: str = "void") -> Found:
    """What there is to be found with the cards of *minors*, and the driver of *version*."""
    names = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", *(f"nvidia{minor}" for minor in minors))
    return Found(
        nodes=dict.fromkeys(names, "ENXIO"),
        made="EPERM",
        libraries=dict.fromkeys(LIBRARIES, "read-only"),
        smi=f"{version} read-only",
        asked_for=asked_for,
    )


NOTHING = Found(
    nodes={}, made="EPERM", libraries=dict.fromkeys(LIBRARIES, "missing"), smi="missing", asked_for="void"
)
