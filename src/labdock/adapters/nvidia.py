"""The NVIDIA driver of a machine: what it says of its cards, and the files and devices sessions need of it.

No toolkit of NVIDIA's is needed. Cards are those that the kernel module lists in /proc/driver/nvidia; the
driver's own library (NVML) adds what it knows. That library is asked in a process of its own.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Protocol

from labdock.core.driver import (
    ARCHITECTURES,
    LIBRARIES,
    NEEDED_LIBRARIES,
    PROGRAMS,
    SIMULATED_STATE,
    Architecture,
    KernelGpu,
    NvmlAnswer,
    cards_of,
    library_dirs,
    parse_information,
    parse_majors,
    parse_mig_minors,
    parse_module_version,
    program_dirs,
)
from labdock.core.elf import SharedObject, parse_shared_object
from labdock.core.errors import DriverError
from labdock.core.gpus import Driver, DriverFile, Inventory, Node
from labdock.core.site import DriverPlaces

PATIENCE_S = 10.0
"""How long NVML may take; a machine without persistence mode wakes each card first, in about a second."""

_DYING_S = 1.0

_DISPLAY, _NVIDIA = "0x03", "0x10de"
_VERSION_MISMATCH = 18
"""NVML_ERROR_LIB_RM_VERSION_MISMATCH."""

_MERGED = ("bin", "sbin", "lib", "lib64")
_MOST_LINKS = 40

_LOAD_AGAIN = (
    "Restart the machine. Or end everything that uses the GPUs, then: "
    "modprobe -r nvidia_drm nvidia_modeset nvidia_uvm nvidia; modprobe -a nvidia nvidia_uvm"
)


class AsksNvml(Protocol):
    """Something that puts the one question to NVML."""

    def ask(self, library: Path) -> NvmlAnswer:
        """What the NVML library in the file *library* says; raises DriverError when it does not answer."""


class Nvml:
    """NVML in a process of its own, which is started when it is first asked and lives on.

    *environment* is set for it on top of this process's own.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        patience_s: float = PATIENCE_S,
        command: Sequence[str] = (sys.executable, "-m", "labdock.adapters.nvml_child"),
    ) -> None:
        self._environment = dict(environment or {})
        self._patience_s = patience_s
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._stuck: subprocess.Popen[bytes] | None = None
        self._loaded: tuple[object, ...] = ()

    def ask(self, library: Path) -> NvmlAnswer:
        """What *library* says; a process that holds another, or the same before an upgrade, is replaced.

        Raises:
            DriverError: It hangs, fails, or is of another version than the kernel module ("mismatch").
        """
        # A process deep in the driver cannot be ended; another would only join it there.
        if self._stuck is not None and self._stuck.poll() is None:
            raise self._hangs()
        process = self._running(library)
        try:
            data = json.loads(self._line(process))
            if "failed" in data:
                raise _nvml_failed(*data["failed"])
            return NvmlAnswer.from_data(data)
        except BaseException:
            # Its state is unknown, or what it loaded is no use: the next question begins anew.
            self.close()
            raise

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            self._stuck = process

    def _running(self, library: Path) -> subprocess.Popen[bytes]:
        try:
            known = library.stat()
        except OSError as error:
            raise DriverError(
                f"The driver's library {library.name} went while it was looked at ({error.strerror}).",
                kind="broken",
                fix="Is the driver being installed? Wait until it is, then try again.",
            ) from error
        loaded = (library, known.st_dev, known.st_ino, known.st_mtime_ns)
        if self._loaded != loaded or (self._process is not None and self._process.poll() is not None):
            self.close()
        if self._process is None:
            self._loaded = loaded
            self._process = subprocess.Popen(  # noqa: S603  our own program, and a path we found
                (*self._command, str(library)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **self._environment},
            )
        return self._process

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """The answer to one question."""
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("NVML's process has no pipes")
        # When it has ended, reading says so.
        with suppress(BrokenPipeError):
            process.stdin.write(b"\n")
        until = time.monotonic() + self._patience_s
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise self._hangs()
            more = process.stdout.read(1 << 16)
            if not more:
                try:
                    status = process.wait(_DYING_S)
                except subprocess.TimeoutExpired:
                    # Its pipe is closed before the card's device, and closing that may hang.
                    raise self._hangs() from None
                raise _ended(status)
            answer += more
        return answer

    def _hangs(self) -> DriverError:
        return DriverError(
            f"The NVIDIA driver did not answer within {self._patience_s:g} s.",
            kind="broken",
            fix="See the kernel's log: dmesg | grep -i -e nvrm -e xid. A card that hangs needs a restart "
            "of the machine.",
        )


def read_inventory(places: DriverPlaces, nvml: AsksNvml, *, own_dev: Path | None = None) -> Inventory:
    """The cards and the driver that *places* show; nodes that are missing there are made.

    *own_dev* is this process's own /dev if that is another folder than ``places.dev``: NVML opens the
    nodes there, so copies are made of them. A machine without NVIDIA hardware has an empty inventory.

    Raises:
        DriverError: There is hardware and no working driver; *kind* is "no-driver", "broken" or "mismatch".
    """
    simulated = bool(places.state)
    version = _module_version(places)
    gpus = tuple(_kernel_gpus(places))
    hardware = _display_controllers(places)
    if not gpus and not hardware:
        return Inventory(simulated=simulated)
    if version is None:
        raise DriverError(
            f"The machine has NVIDIA hardware ({', '.join(hardware)}), and no NVIDIA driver is loaded.",
            kind="no-driver",
            fix="Install the driver of your distribution (Debian: nvidia-driver and nvidia-smi), or load it "
            "when it is installed: modprobe -a nvidia nvidia_uvm. Then nvidia-smi must list the cards.",
        )
    if not gpus:
        raise DriverError(
            f"The machine has NVIDIA hardware ({', '.join(hardware)}), and the driver {version} drives none.",
            kind="broken",
            fix="See why in the kernel's log: dmesg | grep -i nvrm. A newer or older driver may be needed.",
        )
    files = _Files(places)
    libraries = files.libraries(version)
    nodes = _Nodes(places, own_dev)
    control = nodes.control()
    gpu_nodes = nodes.of_gpus({gpu.minor for gpu in gpus if gpu.minor is not None})
    mig_minors = parse_mig_minors(_text(f"{places.proc}/driver/nvidia-caps/mig-minors") or "")
    mig_nodes = nodes.of_capabilities({n for (gpu, *_), n in mig_minors.items() if gpu in gpu_nodes})
    answer = nvml.ask(Path(places.files + libraries["libnvidia-ml"].real))
    if not answer.gpus and not answer.lost:
        raise DriverError(
            f"The NVIDIA kernel module lists {len(gpus)} GPU(s), and the driver's library none.",
            kind="broken",
            fix="If nvidia-smi lists them on this machine, write Labdock's parts anew: labdock up",
        )
    state = (DriverFile(SIMULATED_STATE, places.state),) if simulated else ()
    driver = Driver(
        version=version,
        cuda=answer.cuda,
        files=(*files.to_inject(libraries), *state),
        nodes=control,
        library_dir=files.architecture.library_dir,
    )
    return Inventory(driver, cards_of(gpus, answer, gpu_nodes, mig_minors, mig_nodes), simulated)


def nvml_environment(places: DriverPlaces) -> dict[str, str]:
    """What NVML's process is told besides: a simulated library, where its state is and to list all cards."""
    if not places.state:
        return {}
    return {"LABDOCK_SIMULATED_STATE": places.state, "LABDOCK_SIMULATED_DEV": ""}


def _nvml_failed(code: int, words: str) -> DriverError:
    if code == _VERSION_MISMATCH:
        return DriverError(
            "The driver's library and its kernel module are of different versions.",
            kind="mismatch",
            fix=_LOAD_AGAIN,
        )
    return DriverError(
        f"The NVIDIA driver's library fails: {words} (NVML error {code}).",
        kind="broken",
        fix="nvidia-smi on this machine must list the cards; when it does not, restart the machine "
        "or install the driver again.",
    )


def _ended(status: int) -> DriverError:
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return DriverError(
        f"The process that asks the NVIDIA driver ended {how}.",
        kind="broken",
        fix="nvidia-smi on this machine must list the cards; the agent's log says more: labdock logs agent",
    )


def _module_version(places: DriverPlaces) -> str | None:
    """The version of the kernel module that is loaded; None if none is."""
    told = _text(f"{places.proc}/driver/nvidia/version")
    if told is None:
        return None
    return parse_module_version(told) or (_text(f"{places.sys}/module/nvidia/version") or "").strip() or None


def _display_controllers(places: DriverPlaces) -> tuple[str, ...]:
    """The PCI addresses of NVIDIA's GPUs."""
    found = []
    for device in sorted(Path(places.sys, "bus/pci/devices").glob("*")):
        vendor, kind = _text(f"{device}/vendor"), _text(f"{device}/class")
        if (
            vendor is not None
            and kind is not None
            and vendor.strip() == _NVIDIA
            and kind.startswith(_DISPLAY)
        ):
            found.append(device.name)
    return tuple(found)


def _kernel_gpus(places: DriverPlaces) -> Iterable[KernelGpu]:
    for folder in sorted(Path(places.proc, "driver/nvidia/gpus").glob("*")):
        text = _text(f"{folder}/information")
        # A card that goes while it is looked at is no card.
        gpu = None if text is None else parse_information(text)
        if gpu is not None:
            yield gpu


def _text(path: str) -> str | None:
    """What the file *path* holds; None if it is not there, or gone before it was read."""
    try:
        return Path(path).read_text("utf-8", errors="replace")
    except OSError:
        return None


class _Library:
    """A library of the driver: the file without links, below the root, and the name programs call it by."""

    __slots__ = ("real", "soname")

    def __init__(self, real: str, soname: str) -> None:
        self.real = real
        self.soname = soname


class _Files:
    """The driver's files on the host."""

    def __init__(self, places: DriverPlaces) -> None:
        machine = os.uname().machine
        if machine not in ARCHITECTURES:
            raise DriverError(
                f"Labdock knows no NVIDIA driver for {machine} machines.",
                kind="broken",
                fix=f"It knows those of {' and '.join(ARCHITECTURES)}.",
            )
        self.architecture: Architecture = ARCHITECTURES[machine]
        self._root = places.files
        self._host_root = places.host_files

    def libraries(self, version: str) -> dict[str, _Library]:
        """The libraries of exactly *version*, by name.

        Raises:
            DriverError: One that cannot be done without is not there.
        """
        dirs = self._dirs()
        found = {}
        for name in LIBRARIES:
            for folder in dirs:
                library = self._library(f"{folder}/{name}.so.{version}")
                if library is not None:
                    found[name] = library
                    break
        for name in NEEDED_LIBRARIES:
            if name not in found:
                raise self._missing(name, version, dirs)
        return found

    def to_inject(self, libraries: Mapping[str, _Library]) -> tuple[DriverFile, ...]:
        """Each library under its own name and under those that programs call it by; and the programs."""
        inside = self.architecture.library_dir
        files: dict[str, str] = {}
        for name, library in libraries.items():
            names = {PurePosixPath(library.real).name, library.soname}
            if name == "libcuda":
                names.add("libcuda.so")
            files |= {f"{inside}/{one}": library.real for one in sorted(names) if one}
        for program in PROGRAMS:
            for folder in program_dirs(str(PurePosixPath(libraries["libnvidia-ml"].real).parent)[1:]):
                real = resolve(self._root, f"{folder}/{program}")
                if real is not None and _is_program(f"{self._root}{real}"):
                    files[f"/usr/bin/{program}"] = real
                    break
        return tuple(DriverFile(path, self._host_root + real) for path, real in sorted(files.items()))

    def _dirs(self) -> tuple[str, ...]:
        found: list[str] = []
        for pattern in library_dirs(self.architecture.multiarch):
            # Debian calls the driver in use "current".
            found.extend(
                sorted(self._matches(pattern), key=lambda match: (not match.endswith("/current"), match))
            )
        return tuple(found)

    def _matches(self, pattern: str) -> Iterable[str]:
        root = Path(self._root or "/")
        return (str(match.relative_to(root)) for match in root.glob(pattern))

    def _library(self, path: str) -> _Library | None:
        """The library *path*; None if it is none of this machine's kind, or a link to one of another name."""
        real = resolve(self._root, path)
        if real is None or PurePosixPath(real).name != PurePosixPath(path).name:
            return None
        parsed = _shared_object(f"{self._root}{real}")
        if parsed is None or parsed.machine != self.architecture.elf_machine:
            return None
        # A name with a slash would be a place of its own.
        return _Library(real, "" if "/" in parsed.soname else parsed.soname)

    def _missing(self, name: str, version: str, dirs: Iterable[str]) -> DriverError:
        others = {
            match.rpartition(".so.")[2]
            for folder in dirs
            for match in self._matches(f"{folder}/{name}.so.[0-9]*.*")
            if self._library(match) is not None
        }
        if others:
            return DriverError(
                f"The NVIDIA kernel module is {version}, and the driver's library {name} is "
                f"{' and '.join(sorted(others))}: the driver was changed, and the old module still runs.",
                kind="mismatch",
                fix=_LOAD_AGAIN,
            )
        return DriverError(
            f"The NVIDIA kernel module is {version}, and its library {name}.so.{version} is nowhere.",
            kind="broken",
            fix="Install all of the driver (Debian: nvidia-smi, libcuda1); nvidia-smi must list the cards.",
        )


def resolve(root: str, path: str) -> str | None:
    """The file that *path* below *root* leads to, as an absolute path below *root* without links.

    Links lead where they would if *root* were the root of all. Of a root of which only /usr is shown,
    /lib and the like are those in /usr. None if it leads nowhere.
    """
    ahead, done, links = deque(path.split("/")), list[str](), 0
    while ahead:
        part = ahead.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        try:
            target = str(Path("/".join([root, *done, part])).readlink())
        except OSError as error:
            if error.errno == errno.EINVAL:
                done.append(part)
            elif error.errno == errno.ENOENT and not done and part in _MERGED:
                ahead.extendleft((part, "usr"))
            else:
                return None
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.startswith("/"):
            done.clear()
        ahead.extendleft(reversed(target.split("/")))
    return "/" + "/".join(done)


def _shared_object(path: str) -> SharedObject | None:
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None

            def read(offset: int, size: int) -> bytes:
                return os.pread(file.fileno(), size, offset) if offset < status.st_size else b""

            return parse_shared_object(read)
    except OSError:
        return None


def _is_program(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.X_OK)


class _Nodes:
    """The driver's devices; what is there is taken as it is, what is missing is made."""

    def __init__(self, places: DriverPlaces, own_dev: Path | None) -> None:
        self._dev = Path(places.dev)
        self._host_dev = places.host_dev
        self._own_dev = own_dev
        majors = parse_majors(_text(f"{places.proc}/devices") or "")
        self._uvm, self._caps = majors.get("nvidia-uvm"), majors.get("nvidia-caps")
        names = ("nvidia", "nvidia-frontend", "nvidiactl")
        self._gpus = next((majors[name] for name in names if name in majors), None)

    def control(self) -> tuple[Node, ...]:
        """The devices that go with every card.

        Raises:
            DriverError: One that CUDA needs is missing.
        """
        ctl = self._node("nvidiactl", self._gpus, 255)
        uvm = self._node("nvidia-uvm", self._uvm, 0)
        if ctl is None or uvm is None:
            name = "nvidiactl" if ctl is None else "nvidia-uvm"
            raise DriverError(
                f"The NVIDIA driver's device /dev/{name} is missing and cannot be made.",
                kind="broken",
                fix="As root: modprobe -a nvidia nvidia_uvm, then nvidia-modprobe -u -c=0",
            )
        tools = self._node("nvidia-uvm-tools", self._uvm, 1)
        return (ctl, uvm) if tools is None else (ctl, uvm, tools)

    def of_gpus(self, minors: Iterable[int]) -> dict[int, Node]:
        """The nodes of GPUs that are there or could be made, by minor."""
        found = {minor: self._node(f"nvidia{minor}", self._gpus, minor) for minor in sorted(minors)}
        return {minor: node for minor, node in found.items() if node is not None}

    def of_capabilities(self, minors: Iterable[int]) -> dict[int, Node]:
        """The nodes of MIG capabilities that are there or could be made, by minor."""
        found = {n: self._node(f"nvidia-caps/nvidia-cap{n}", self._caps, n, 0o444) for n in sorted(minors)}
        return {minor: node for minor, node in found.items() if node is not None}

    def _node(self, name: str, major: int | None, minor: int, mode: int = 0o666) -> Node | None:
        path = self._dev / name
        numbers = _numbers(path)
        if numbers is None and major is not None:
            _make(path, (major, minor), mode)
            numbers = _numbers(path)
        if numbers is None:
            return None
        if self._own_dev is not None:
            own = self._own_dev / name
            if _numbers(own) not in (None, numbers):
                # From before the module was loaded anew with other numbers.
                own.unlink(missing_ok=True)
            _make(own, numbers, mode)
        return Node(f"/dev/{name}", f"{self._host_dev}/{name}", *numbers)


def _numbers(path: Path) -> tuple[int, int] | None:
    """Major and minor of the character device *path*; None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISCHR(status.st_mode):
        return None
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def _make(path: Path, numbers: tuple[int, int], mode: int) -> None:
    """Make a character device if nothing is at *path*; who may not is told by its absence."""
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(*numbers))
        # Whatever this process's mask took away.
        path.chmod(mode)
