"""This machine: its distribution, files, locks, ports, disk, and the programs Labdock may install."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from labdock.core.errors import HostError

LAST_LINES = 20
_MOST_LINKS = 40
"""As many as the kernel follows."""


def read_os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """The fields of os-release(5), such as ``ID`` and ``VERSION_CODENAME``; empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: value.strip().strip("\"'") for key, value in pairs}


def read_text(path: Path) -> str | None:
    """What *path* holds, or None if it is not there.

    Raises:
        HostError: It is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise HostError(
            f"{path} is no text in UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}.",
            fix="Save it as UTF-8.",
        ) from error


def is_file(path: Path) -> bool:
    """Whether *path* is a file that is there."""
    return path.is_file()


def write_file(path: Path, text: str, *, mode: int, uid: int | None = None) -> None:
    """Put *text* at *path* in one step: whoever reads sees the old text or the new one, never half of it.

    Raises:
        HostError: The disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            os.fchmod(descriptor, mode)
            if uid is not None:
                os.fchown(descriptor, uid, uid)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HostError(
            f"{path} cannot be written: {error.strerror}.", fix="Nothing was changed there."
        ) from error


def make_folder(path: Path, *, mode: int, uid: int | None = None) -> None:
    """Make *path* with its parents; the last one gets *mode* and, if given, the owner *uid*."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if uid is not None and path.stat().st_uid != uid:
            os.chown(path, uid, uid)
    except OSError as error:
        raise HostError(f"The folder {path} cannot be made: {error.strerror}.") from error


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold *path* for one command at a time; the kernel lets go of it when the process ends.

    Raises:
        HostError: Somebody else holds it; says which process.
    """
    try:
        stream = path.open("a+")
    except OSError as error:
        raise HostError(f"{path} cannot be opened: {error.strerror}.") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise HostError(
                f"Another labdock command is at work here (process {stream.read().strip() or 'unknown'}).",
                fix="Wait until it has finished.",
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def port_is_free(address: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def own_addresses() -> tuple[str, ...]:
    """The IPv4 addresses of this machine's networks; empty where the kernel does not tell."""
    found = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/fib_trie").read_text().splitlines()
        for before, line in itertools.pairwise(lines):
            if "/32 host LOCAL" in line:
                found.append(before.split()[-1])
    return tuple(dict.fromkeys(found))


def linked_folder(path: Path) -> Path | None:
    """The first folder on the way to *path* that is a link; None if none is."""
    return next((folder for folder in reversed(path.parents) if folder.is_symlink()), None)


def folders_to(path: Path) -> tuple[str, ...]:
    """The folders that lead to *path*: its own and, if it is a link, those that the link leads to."""
    folders: list[str] = []
    while str(path.parent) not in folders or path.is_symlink():
        folders.append(str(path.parent))
        if not path.is_symlink() or len(folders) > _MOST_LINKS:
            break
        path = Path(os.path.normpath(path.parent / path.readlink()))
    return tuple(dict.fromkeys(folders))


def free_bytes(path: Path) -> int:
    """Bytes that may still be written below *path*, or below its nearest folder that exists."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def routed_subnets(path: Path = Path("/proc/net/route")) -> tuple[str, ...]:
    """The IPv4 networks this machine has a route to, as ``a.b.c.d/n``, without the default route."""
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[7] != "00000000":
                address = socket.inet_ntoa(int(fields[1], 16).to_bytes(4, "little"))
                found.append(f"{address}/{int(fields[7], 16).bit_count()}")
    return tuple(found)


def run(
    command: tuple[str, ...],
    *,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    failure: str,
) -> None:
    """Run *command* and hand each line it prints to *on_line*.

    Raises:
        HostError: *failure*, with the last lines, when it is missing or exits with an error.
    """
    lines: list[str] = []
    try:
        with subprocess.Popen(  # noqa: S603  a tuple of words, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
        ) as process:
            assert process.stdout is not None  # noqa: S101  asked for above
            for line in process.stdout:
                lines.append(line.rstrip())
                on_line(lines[-1])
    except OSError as error:
        raise HostError(f"{failure} {command[0]}: {error.strerror}.") from error
    if process.returncode:
        raise HostError(
            f"{failure} {command[0]} ended with {process.returncode}.", details=tuple(lines[-LAST_LINES:])
        )


def fill_folder(target: Path, source: Path, *, uid: int, on_line: Callable[[str], None]) -> None:
    """Copy what is in the folder *source* into the empty folder *target*, for the user and group *uid*.

    Raises:
        HostError: *source* is no folder, *target* is not empty, or the copy failed; then it is empty again.
    """
    if not source.is_dir():
        raise HostError(f"{source} is no folder.")
    try:
        if any(target.iterdir()):
            # Root would follow a link that its owner has put there.
            raise HostError(f"{target} is not empty.", fix="Copy into it from inside a session.")
        owner = target.stat()
    except PermissionError as error:
        raise HostError(f"{target} may not be read.", fix="Run as root.") from error
    try:
        # Never through a link that appeared meanwhile.
        copy = ("cp", "--archive", "--remove-destination", "--", f"{source}/.", str(target))
        run(copy, on_line=on_line, failure="cp failed.")
        run(
            ("chown", "--recursive", "--no-dereference", f"{uid}:{uid}", "--", str(target)),
            on_line=on_line,
            failure="chown failed.",
        )
    except BaseException:
        for path in target.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        raise
    finally:
        target.chmod(owner.st_mode & 0o7777)


def install_packages(names: tuple[str, ...], *, on_line: Callable[[str], None]) -> None:
    """Install Debian packages with apt-get; root only.

    Raises:
        HostError: Not root, no apt-get, or a download failed.
    """
    wanted = " ".join(names)
    if os.geteuid() != 0:
        raise HostError(f"{wanted} must be installed first.", fix=f"As root: apt-get install {wanted}")
    if shutil.which("apt-get") is None:
        raise HostError(f"{wanted} must be installed first, and this machine has no apt-get.")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    failure = f"{wanted} could not be installed."
    run(("apt-get", "update"), on_line=on_line, environment=quiet, failure=failure)
    run(
        ("apt-get", "install", "-y", "--no-install-recommends", *names),
        on_line=on_line,
        environment=quiet,
        failure=failure,
    )


def start_engine(log: Path) -> None:
    """Start the installed Docker engine: by systemd where that runs, otherwise as a process of its own.

    Raises:
        HostError: Not root, or it cannot be started.
    """
    if os.geteuid() != 0:
        raise HostError("The Docker engine is not running.", fix="As root: systemctl start docker")
    if Path("/run/systemd/system").exists():
        run(("systemctl", "start", "docker"), on_line=lambda line: None, failure="Docker did not start.")
        return
    # After a crash these name processes that are gone, or are somebody else's by now.
    _drop_stale_pid(Path("/var/run/docker.pid"), "dockerd")
    _drop_stale_pid(Path("/var/run/docker/containerd/containerd.pid"), "containerd")
    with log.open("ab") as output:
        subprocess.Popen(  # noqa: S603  a fixed word, no shell
            (shutil.which("dockerd") or "dockerd",),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _drop_stale_pid(path: Path, program: str) -> None:
    text = read_text(path)
    if text is None:
        return
    if read_text(Path("/proc") / text.strip() / "comm") != f"{program}\n":
        path.unlink(missing_ok=True)


def wait_for_socket(path: Path, *, timeout_s: float) -> bool:
    """Whether somebody listens at *path* within *timeout_s* seconds."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if socket_answers(path):
            return True
        time.sleep(0.1)
    return False


def socket_answers(path: Path) -> bool:
    """Whether somebody listens at *path* now.

    Raises:
        HostError: This person may not use it.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except PermissionError as error:
            raise HostError(
                f"You may not use the Docker engine's socket {path}.",
                fix="Run as root, or as root: usermod -aG docker YOUR-NAME, and sign in again.",
            ) from error
        except OSError:
            return False
    return True


def nvidia_folders(root: Path = Path("/")) -> tuple[str, ...]:
    """The folders that an NVIDIA driver's files lie in; empty on a machine without NVIDIA hardware.

    Hardware is a display controller of NVIDIA's on the PCI bus, or a driver that runs.
    """
    devices = root / "sys/bus/pci/devices"
    found = (root / "proc/driver/nvidia").exists() or any(
        (read_text(device / "vendor") or "").strip() == "0x10de"
        and (read_text(device / "class") or "").startswith("0x03")
        for device in (devices.iterdir() if devices.is_dir() else ())
    )
    folders = ("/usr", "/etc/alternatives")
    return tuple(folder for folder in folders if found and (root / folder[1:]).is_dir())


def bootstrap_debian(release: str, mirror: str, target: Path, *, on_line: Callable[[str], None]) -> None:
    """Make a minimal Debian *release* from packages, as a tar at *target*.

    *mirror* is the machine's own, or "" for the tool's default.

    Raises:
        HostError: mmdebstrap is missing and cannot be installed, or a download failed.
    """
    if shutil.which("mmdebstrap") is None:
        install_packages(("mmdebstrap", "debian-archive-keyring"), on_line=on_line)
    unneeded = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*")
    partial = target.with_suffix(".partial")
    run(
        (
            "mmdebstrap",
            "--variant=apt",
            "--include=ca-certificates",
            *(f"--dpkgopt=path-exclude={path}" for path in unneeded),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            "--format=tar",
            release,
            str(partial),
            *((mirror,) if mirror else ()),
        ),
        on_line=on_line,
        failure=f"Debian {release} could not be made from packages.",
    )
    partial.replace(target)
