"""The machine's files and nodes below the root, as NVIDIA's driver lays them out on a real one.

Every file is replaced by a rename, so that whoever has the old one open or mounted keeps it, and the text of
the machine comes last: whatever an interruption left behind, laying the same machine out again completes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from labdock.simulation.machine import (
    Machine,
    SimulatedCard,
    SimulationError,
    capabilities,
    changed,
    machine_text,
    parse_machine,
)

MAJOR_NVIDIA, MAJOR_UVM, MAJOR_CAPS = 120, 121, 122
"""Numbers that the kernel keeps for local use: on a machine with a real card too, a node opens nothing."""

VERSION_MARK = b"LABDOCK SIMULATED DRIVER VERSION "
VERSION_ROOM = 32
"""A compiled library has this mark and as many bytes for its version behind it, padded with zeros."""

LIBRARIES = ("libnvidia-ml.so", "libcuda.so")
PROGRAM = "nvidia-smi"


def read_machine(root: Path) -> Machine | None:
    """The machine that was laid out below *root*, or None if none was."""
    try:
        return parse_machine((root / "state/machine").read_text())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise SimulationError(
            f"The state of the simulated machine in {root} is damaged: it is no text.",
            fix="Remove the folder and start the simulation again.",
        ) from error


def lay_out(root: Path, wanted: Callable[[Machine | None], Machine], compiled: Path) -> Machine:
    """Make everything below *root* be as *wanted* makes it of the machine there is, and nothing else.

    *compiled* has the libraries and the program without a version, and the file ``multiarch`` with the name
    of the folder for libraries; they are kept below the root for later changes. Nodes need CAP_MKNOD.
    """
    with _alone(root):
        machine = wanted(read_machine(root))
        for name in (*LIBRARIES, PROGRAM, "multiarch"):
            replace_file(root / "compiled" / name, (compiled / name).read_bytes())
        _lay_out(root, machine)
    return machine


def change(root: Path, target: str, settings: Mapping[str, str]) -> Machine:
    """The machine below *root*, after :func:`machine.changed` on it.

    Raises:
        SimulationError: There is no machine, or it is damaged; a WordError when the words are wrong.
    """
    # A mistyped folder gets no lock.
    if not (root / "lock").exists():
        raise _none(root)
    with _alone(root):
        machine = read_machine(root)
        if machine is None:
            raise _none(root)
        machine = changed(machine, target, settings)
        _lay_out(root, machine)
    return machine


def _none(root: Path) -> SimulationError:
    return SimulationError(
        f"There is no simulated machine in {root}.", fix="Start the simulation there first."
    )


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lay_out(root: Path, machine: Machine) -> None:
    compiled = root / "compiled"
    multiarch = (compiled / "multiarch").read_text().strip()
    folder = root / "usr/lib" / multiarch
    libraries = {
        f"{name}.{machine.library}": _stamped((compiled / name).read_bytes(), machine.library)
        for name in LIBRARIES
    }
    for name, data in libraries.items():
        replace_file(folder / name, data, mode=0o755)
    for name in LIBRARIES:
        _replace_link(folder / f"{name}.1", f"{name}.{machine.library}")
    replace_file(
        root / "usr/bin" / PROGRAM, _stamped((compiled / PROGRAM).read_bytes(), machine.library), 0o755
    )
    _only(folder, {*libraries, *(f"{name}.1" for name in LIBRARIES)})
    texts = kernel_files(machine, multiarch.partition("-")[0])
    for path, text in texts.items():
        replace_file(root / path, text.encode())
    buses = {card.bus for card in machine.present}
    loaded = machine.fault != "not-loaded"
    _only(root / "proc", {"devices", *({"driver"} if loaded else ())})
    _only(root / "proc/driver/nvidia/gpus", buses)
    _only(root / "sys", {"bus", *({"module"} if loaded else ())})
    _only(root / "sys/bus/pci/devices", buses)
    _make_nodes(root / "dev", machine)
    replace_file(root / "state/machine", machine_text(machine).encode())


def kernel_files(machine: Machine, processor: str) -> dict[str, str]:
    """What the kernel says of *machine*, by path below the root: /proc and /sys."""
    files = {"proc/devices": "Character devices:\n  1 mem\n  5 /dev/tty\n\nBlock devices:\n  8 sd\n"}
    for card in machine.present:
        pci = f"sys/bus/pci/devices/{card.bus}"
        files |= {
            f"{pci}/vendor": "0x10de\n",
            f"{pci}/device": f"0x{card.kind.pci_id:04x}\n",
            f"{pci}/class": "0x030000\n" if card.kind.fan else "0x030200\n",
        }
    if machine.fault == "not-loaded":
        return files
    majors = f"{MAJOR_NVIDIA} nvidia\n{MAJOR_UVM} nvidia-uvm\n{MAJOR_CAPS} nvidia-caps\n"
    files["proc/devices"] = files["proc/devices"].replace("\n\nBlock", f"\n{majors}\nBlock")
    files["sys/module/nvidia/version"] = f"{machine.module}\n"
    files["proc/driver/nvidia/version"] = (
        f"NVRM version: NVIDIA UNIX {processor} Kernel Module  {machine.module}  simulated by Labdock\n"
    )
    files["proc/driver/nvidia-caps/mig-minors"] = _mig_minors(machine)
    for card in machine.present:
        files[f"proc/driver/nvidia/gpus/{card.bus}/information"] = _information(machine, card)
    return files


def _information(machine: Machine, card: SimulatedCard) -> str:
    rows = (
        ("Model:", card.kind.name),
        ("IRQ:", str(120 + card.number)),
        ("GPU UUID:", machine.uuid(card)),
        ("Video BIOS:", "00.00.00.00.00"),
        ("Bus Type:", "PCIe"),
        ("DMA Size:", "52 bits"),
        ("DMA Mask:", "0xfffffffffffff"),
        ("Bus Location:", card.bus),
        ("Device Minor:", str(card.number)),
        ("GPU Firmware:", machine.module),
        ("GPU Excluded:", "No"),
    )
    return "".join(f"{key:<8}\t {value}\n" for key, value in rows)


def _mig_minors(machine: Machine) -> str:
    """Every capability that could be, as the driver lists them, whether or not there is such a slice."""
    lines = ["config 1", "monitor 2"]
    for card in machine.present:
        for instance in range(15):
            name = f"gpu{card.number}/gi{instance}"
            lines.append(f"{name}/access {capabilities(card.number, instance, 0)[0]}")
            lines += [
                f"{name}/ci{part}/access {capabilities(card.number, instance, part)[1]}" for part in range(8)
            ]
    return "\n".join(lines) + "\n"


def _make_nodes(folder: Path, machine: Machine) -> None:
    nodes = {
        "nvidiactl": (MAJOR_NVIDIA, 255),
        "nvidia-uvm": (MAJOR_UVM, 0),
        "nvidia-uvm-tools": (MAJOR_UVM, 1),
        **{f"nvidia{card.number}": (MAJOR_NVIDIA, card.number) for card in machine.present},
    }
    minors = {
        minor
        for card in machine.present
        for part in card.slices or ()
        for minor in capabilities(card.number, part.gpu_instance, part.compute_instance)
    }
    caps = {f"nvidia-cap{minor}": (MAJOR_CAPS, minor) for minor in minors}
    for below, wanted in ((folder, nodes), (folder / "nvidia-caps", caps)):
        _make_folder(below)
        for name, (major, minor) in wanted.items():
            _make_node(below / name, os.makedev(major, minor))
    _only(folder, {*nodes, "nvidia-caps"})
    _only(folder / "nvidia-caps", set(caps))


def _make_node(path: Path, device: int) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    if found and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == device):
        _remove(path)
        found = None
    if found is None:
        os.mknod(path, stat.S_IFCHR, device)
    # The mode that mknod takes is cut by the umask.
    path.chmod(0o666)


def _stamped(data: bytes, version: str) -> bytes:
    """*data* with *version* written behind its mark."""
    before, mark, after = data.partition(VERSION_MARK)
    if not mark:
        raise SimulationError(
            "A compiled file has no room for the driver's version.", fix="Build the simulation image anew."
        )
    return before + mark + version.encode().ljust(VERSION_ROOM, b"\0") + after[VERSION_ROOM:]


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put *data* at *path* at once; a file that has it already stays the same one."""
    _make_folder(path.parent)
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        path.chmod(mode)
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(mode)
    new.replace(path)


def _replace_link(path: Path, target: str) -> None:
    if path.is_symlink() and str(path.readlink()) == target:
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)


def _make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(parents=True)
        # Sessions read what is here under other user ids, whatever the umask was.
        path.chmod(0o755)


def _only(folder: Path, names: set[str]) -> None:
    """Remove everything else from *folder*, also what an interruption left half made."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in names:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
