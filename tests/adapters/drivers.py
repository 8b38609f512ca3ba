"""A machine with an NVIDIA driver, laid out in a folder: files, devices, and what NVML would say."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labdock.core.driver import ARCHITECTURES, NvmlAnswer, NvmlGpu, NvmlSlice
from labdock.core.site import DriverPlaces

MULTIARCH = ARCHITECTURES[os.uname().machine].multiarch
MACHINE = ARCHITECTURES[os.uname().machine].elf_machine
INSIDE = f"/usr/lib/{MULTIARCH}"

SONAMES = {
    "libcuda": "libcuda.so.1",
    "libcudadebugger": "libcudadebugger.so.1",
    "libnvidia-gpucomp": "",
    "libnvidia-ml": "libnvidia-ml.so.1",
    "libnvidia-nvvm": "libnvidia-nvvm.so.4",
    "libnvidia-ptxjitcompiler": "libnvidia-ptxjitcompiler.so.1",
}
"""Libraries that sessions get, with the names programs call them by."""

NOT_FOR_SESSIONS = ("libnvidia-encode", "libnvidia-glcore", "libGLX_nvidia", "libnvidia-sandboxutils")

# Numbers that the kernel keeps for experiments: a real card is never opened by a test.
GPU_MAJOR, UVM_MAJOR, CAPS_MAJOR = 120, 121, 122


def shared_object(soname: str, *, machine: int = MACHINE, bits: int = 64) -> bytes:
    """A library that can be loaded and holds nothing but its name."""
    strings = b"\0" + soname.encode() + b"\0"
    headers, dynamic_size = 64 + 3 * 56, 6 * 16
    table = headers + dynamic_size
    symbols = table + len(strings)
    end = symbols + 24
    tags = ((14, 1), (5, table), (6, symbols), (10, len(strings)), (11, 24), (0, 0))
    dynamic = b"".join(_words(8, *tag) for tag in (tags if soname else (*tags[1:], (0, 0))))
    elf = b"\x7fELF" + bytes((bits // 32, 1, 1)) + bytes(9)
    elf += _words(2, 3, machine) + _words(4, 1) + _words(8, 0, 64, 0) + _words(4, 0)
    elf += _words(2, 64, 56, 3, 64, 0, 0)
    load = _words(4, 1, 6) + _words(8, 0, 0, 0, end, end, 4096)
    pointer = _words(4, 2, 6) + _words(8, headers, headers, headers, dynamic_size, dynamic_size, 8)
    # Without this, a library is taken to want a stack that can be executed, which newer systems refuse.
    plain_stack = _words(4, 0x6474E551, 6) + bytes(48)
    return elf + load + pointer + plain_stack + dynamic + strings + bytes(24)


def _words(size: int, *numbers: int) -> bytes:
    return b"".join(number.to_bytes(size, "little") for number in numbers)


def uuid(minor: int) -> str:
    return f"GPU-{minor:08x}-aaaa-bbbb-cccc-0123456789ab"


def bus(minor: int) -> str:
    return f"0000:{minor + 1:02x}:00.0"


@dataclass
class Machine:
    """A machine below *root*; ``ask`` is its NVML.

    What is in *answers* by minor, or in *lost* by index, is said instead of the usual. *asked* are the
    libraries that NVML was asked in; it answers when *until* returns.
    """

    root: Path
    gpus: list[int] = field(default_factory=list)
    answers: dict[int, NvmlGpu] = field(default_factory=dict)
    lost: dict[int, tuple[int, str]] = field(default_factory=dict)
    asked: list[Path] = field(default_factory=list)
    until: Callable[[], object] = bool

    @property
    def places(self) -> DriverPlaces:
        root = str(self.root)
        return DriverPlaces(root, root, f"{root}/proc", f"{root}/sys", f"{root}/dev", f"{root}/dev")

    def write(self, path: str, content: str | bytes, *, program: bool = False) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        if program:
            file.chmod(0o755)
        return file

    def link(self, path: str, target: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    def load(self, version: str) -> None:
        """Let the kernel module of *version* run."""
        self.write(
            "proc/driver/nvidia/version",
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Mon Jan  6 10:00:00 UTC 2026\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
        )
        self.write("sys/module/nvidia/version", f"{version}\n")
        self.write(
            "proc/devices",
            f"Character devices:\n  1 mem\n{GPU_MAJOR} nvidia\n{UVM_MAJOR} nvidia-uvm\n"
            f"{CAPS_MAJOR} nvidia-caps\n\nBlock devices:\n  7 loop\n",
        )
        (self.root / "dev").mkdir(exist_ok=True)

    def unload(self) -> None:
        shutil.rmtree(self.root / "proc/driver")

    def plug(self, *minors: int) -> None:
        """Put GPUs into the machine, as the bus and a loaded module show them."""
        for minor in minors:
            self.gpus.append(minor)
            device = f"sys/bus/pci/devices/{bus(minor)}"
            self.write(f"{device}/vendor", "0x10de\n")
            self.write(f"{device}/class", "0x030200\n")
            self.inform(minor)

    def inform(self, minor: int, *, gpu_uuid: str | None = None) -> None:
        self.write(
            f"proc/driver/nvidia/gpus/{bus(minor)}/information",
            f"Model: \t\t NVIDIA A100\nIRQ:   \t\t 24\nGPU UUID: \t {gpu_uuid or uuid(minor)}\n"
            f"Video BIOS: \t 92.00\nBus Type: \t PCIe\nBus Location: \t {bus(minor)}\n"
            f"Device Minor: \t {minor}\nGPU Excluded:\t No\n",
        )

    def unplug(self, minor: int) -> None:
        self.gpus.remove(minor)
        shutil.rmtree(self.root / f"proc/driver/nvidia/gpus/{bus(minor)}")
        shutil.rmtree(self.root / f"sys/bus/pci/devices/{bus(minor)}")

    def make_nodes(self) -> None:
        """The nodes of everything that is plugged in."""
        for name, major, minor in (
            ("nvidiactl", GPU_MAJOR, 255),
            ("nvidia-uvm", UVM_MAJOR, 0),
            ("nvidia-uvm-tools", UVM_MAJOR, 1),
            *((f"nvidia{gpu}", GPU_MAJOR, gpu) for gpu in self.gpus),
        ):
            path = self.root / "dev" / name
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            path.chmod(0o666)

    def split(self, minor: int, instances: dict[int, int]) -> None:
        """Cut GPU *minor* into slices, by GPU instance with its one compute instance."""
        lines, number = [], 3
        for gpu_instance, compute_instance in instances.items():
            lines.append(f"gpu{minor}/gi{gpu_instance}/access {number}")
            lines.append(f"gpu{minor}/gi{gpu_instance}/ci{compute_instance}/access {number + 1}")
            number += 2
        self.write("proc/driver/nvidia-caps/mig-minors", "config 1\nmonitor 2\n" + "\n".join(lines) + "\n")
        slices = tuple(
            NvmlSlice(index, f"MIG-{minor}-{gi}-{ci}", gi, ci, "NVIDIA A100 MIG 1g.10gb", 10 << 30)
            for index, (gi, ci) in enumerate(instances.items())
        )
        self.answers[minor] = told(minor, mig=True, slices=slices)

    def ask(self, library: Path) -> NvmlAnswer:
        self.asked.append(library)
        self.until()
        indices = {minor: index for index, minor in enumerate(sorted(self.gpus))}
        gpus = (
            self.answers.get(minor) or told(minor, index=index)
            for minor, index in indices.items()
            if index not in self.lost
        )
        return NvmlAnswer((12, 8), tuple(gpus), self.lost)


def told(minor: int, *, index: int | None = None, **changes: Any) -> NvmlGpu:
    """What NVML says of a GPU that is well, with *changes*."""
    usual = NvmlGpu(
        index=minor if index is None else index,
        bus=bus(minor),
        uuid=uuid(minor),
        name="NVIDIA A100-SXM4-80GB",
        memory_bytes=80 << 30,
        compute=(8, 0),
        error=None,
        recovery=0,
        memory_errors=0,
        worn_out=False,
        mig=False,
        slices=(),
    )
    return replace(usual, **changes)


Layout = Callable[[Machine, str], dict[str, str]]
"""Installs the driver of a version; the files that sessions get, path inside by path below the root."""


def _install(machine: Machine, version: str, libraries: str, programs: str) -> dict[str, str]:
    inside = {}
    for name, soname in SONAMES.items():
        real = f"{libraries}/{name}.so.{version}"
        machine.write(real, shared_object(soname))
        inside[f"{INSIDE}/{name}.so.{version}"] = f"/{real}"
        if soname:
            machine.link(f"{libraries}/{soname}", f"{name}.so.{version}")
            inside[f"{INSIDE}/{soname}"] = f"/{real}"
    inside[f"{INSIDE}/libcuda.so"] = inside[f"{INSIDE}/libcuda.so.1"]
    for name in NOT_FOR_SESSIONS:
        machine.write(f"{libraries}/{name}.so.{version}", shared_object(f"{name}.so.1"))
    for name in ("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced"):
        machine.write(f"{programs}/{name}", f"#!/bin/sh\necho {version}\n", program=True)
        inside[f"/usr/bin/{name}"] = f"/{programs}/{name}"
    del inside["/usr/bin/nvidia-persistenced"]
    # 32-bit libraries of the same driver lie beside on many machines.
    for folder in ("usr/lib/i386-linux-gnu", "usr/lib"):
        for name in SONAMES:
            machine.write(f"{folder}/{name}.so.{version}", shared_object("", machine=3, bits=32))
    return inside


def multiarch(machine: Machine, version: str) -> dict[str, str]:
    """Ubuntu's packages, and NVIDIA's installer on Debian and Ubuntu."""
    return _install(machine, version, f"usr/lib/{MULTIARCH}", "usr/bin")


def alternatives(machine: Machine, version: str) -> dict[str, str]:
    """Debian's packages: what is in use is chosen by links through /etc/alternatives."""
    inside = _install(machine, version, f"usr/lib/{MULTIARCH}/nvidia/current", "usr/lib/nvidia/current")
    for soname in filter(None, SONAMES.values()):
        chosen = f"glx--{soname}-{MULTIARCH}"
        machine.link(f"usr/lib/{MULTIARCH}/{soname}", f"/etc/alternatives/{chosen}")
        machine.link(f"etc/alternatives/{chosen}", f"/usr/lib/{MULTIARCH}/nvidia/current/{soname}")
    for name in ("nvidia-smi", "nvidia-debugdump"):
        machine.link(f"usr/bin/{name}", f"/etc/alternatives/nvidia--{name}")
        machine.link(f"etc/alternatives/nvidia--{name}", f"/usr/lib/nvidia/current/{name}")
    return inside


def lib64(machine: Machine, version: str) -> dict[str, str]:
    """Red Hat's, SUSE's, and NVIDIA's installer there."""
    return _install(machine, version, "usr/lib64", "usr/bin")


def local(machine: Machine, version: str) -> dict[str, str]:
    """Drivers that a cloud's installer keeps apart."""
    return _install(machine, version, "usr/local/nvidia/lib64", "usr/local/nvidia/bin")


LAYOUTS: dict[str, Layout] = {
    "multiarch": multiarch,
    "alternatives": alternatives,
    "lib64": lib64,
    "local": local,
}


def installed(root: Path, *minors: int, version: str = "570.86.15", nodes: bool = True) -> Machine:
    """A machine with a driver that works, and GPUs with *minors*."""
    root.mkdir(parents=True, exist_ok=True)
    machine = Machine(root)
    multiarch(machine, version)
    machine.load(version)
    machine.plug(*minors)
    if nodes:
        machine.make_nodes()
    return machine
