"""Engines of these tests' own: Docker 26 in a container, and a second one beside the machine's.

Each is named after the process of the test run, so that the next one finds what a killed one left.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pytest

from labdock.adapters.build_settings import read_build_settings
from labdock.adapters.engine import Engine
from labdock.core.image import DEBIAN_RELEASE, Recipe
from tests.agent.engines import DOCKER_SOCKET, docker
from tests.stack import PREFIX

RUNTIME = Path(__file__).parent / "nvidia_runtime.py"
LABEL = "org.labdock.test-engine"
"""On containers that hold an engine: the name of its folder."""

SESSION_IMAGES = "labdock/test-session"
"""The name of images that sessions run in; the tag is the number of the process whose they are."""

ENGINE_DOCKERFILE = b"""\
ARG BASE
FROM ${BASE}
RUN apt-get update \\
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends docker.io \\
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
"""

CAPABILITIES = tuple(
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    """.split()  # noqa: SIM905  a list would be forty lines
)
"""By the kernel's numbers, from 0 on, as far as the oldest engine knows them."""

NO_NESTING = re.compile(r"operation not permitted|permission denied|read-only file system", re.IGNORECASE)
"""What an engine says that is not allowed to do its work in a container."""


@dataclass(frozen=True)
class OwnEngine:
    """An engine that answers on *socket*; its process numbers are those below *processes*.

    It reads CDI specs in *cdi_dir*. A runtime called nvidia finds the driver behind the link *driver*.
    """

    socket: str
    processes: Path = Path("/proc")
    cdi_dir: str = ""
    driver: Path | None = None


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for one engine, with a path that is short enough for sockets; in the end all of it ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        clear(folder)


def sweep() -> None:
    """End and remove the engines of test runs that were killed, and their images for sessions."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = re.fullmatch(rf"{PREFIX}(\d+)-\w+", folder.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            clear(folder)
    filters = quote(json.dumps({"reference": [SESSION_IMAGES]}))
    for image in docker("GET", f"/images/json?filters={filters}"):
        for tag in image["RepoTags"]:
            if not Path("/proc", tag.rpartition(":")[2]).exists():
                docker("DELETE", f"/images/{tag}?force=1")


def clear(folder: Path) -> None:
    """End whatever runs for the engine in *folder*, it and its containers; then remove the folder."""
    filters = quote(json.dumps({"label": [f"{LABEL}={folder.name}"]}))
    for container in docker("GET", f"/containers/json?all=1&filters={filters}"):
        docker("DELETE", f"/containers/{container['Id']}?force=1&v=1")
    deadline = time.monotonic() + 20
    while (left := _contained(folder)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(folder)
    for group in reversed(_control_groups(folder)):
        group.rmdir()


def _control_groups(folder: Path) -> list[Path]:
    """Those of the engine in *folder* and of its containers, each before what is in it."""
    root = Path("/sys/fs/cgroup")
    own = (*root.glob(f"*/{folder.name}"), *root.glob(folder.name))
    return [path for group in own for path in (group, *sorted(group.rglob("*"))) if path.is_dir()]


def _contained(folder: Path) -> list[int]:
    files = (group / "cgroup.procs" for group in _control_groups(folder))
    return [int(pid) for file in files for pid in file.read_text().split()]


def engine_image(base: str) -> str:
    """The image with Docker 26 that stands on *base*; it is built once, and stays."""
    recipe = Recipe("test-engine", {"Dockerfile": ENGINE_DOCKERFILE}, base, "BASE")

    async def build() -> None:
        async with Engine(DOCKER_SOCKET) as engine:
            if await engine.has_image(recipe.tag):
                return
            settings = read_build_settings(os.environ, DEBIAN_RELEASE)
            arguments = {**settings.arguments, "BASE": base}
            await engine.build(
                recipe.tag, recipe.files, arguments=arguments, labels={}, on_line=lambda _: None
            )

    asyncio.run(build())
    return recipe.tag


@contextmanager
def nested_engine(image: str, shared: Path) -> Iterator[OwnEngine]:
    """The engine of *image*, with CDI turned on, in a container that has the folder *shared* in common."""
    with own_folder() as folder:
        (folder / "cdi").mkdir()
        settings = {"features": {"cdi": True}, "cdi-spec-dirs": [f"{folder}/cdi"]}
        made = docker(
            "POST",
            f"/containers/create?name={folder.name}",
            {
                "Image": image,
                "Cmd": ["dockerd", "--config-file", _configured(folder, settings)],
                "Labels": {LABEL: folder.name},
                "HostConfig": {
                    # Not "privileged": a kernel without one of them refuses that whole.
                    "CapDrop": ["ALL"],
                    "CapAdd": _own_capabilities(),
                    "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
                    "DeviceCgroupRules": ["a *:* rwm"],
                    "CgroupnsMode": "host",
                    "NetworkMode": "none",
                    "Mounts": [
                        *(
                            {"Type": "bind", "Source": str(path), "Target": str(path)}
                            for path in (folder, shared, Path("/sys/fs/cgroup"))
                        ),
                        {"Type": "volume", "Target": "/var/lib/docker"},
                    ],
                },
            },
        )["Id"]
        try:
            docker("POST", f"/containers/{made}/start")
        except RuntimeError as error:
            _give_up(str(error))

        def ended() -> bool:
            return not docker("GET", f"/containers/{made}/json")["State"]["Running"]

        if not _answers(folder, ended):
            _give_up(_last_line(docker("GET", f"/containers/{made}/logs?stdout=1&stderr=1&tail=1")[8:]))
        pid = docker("GET", f"/containers/{made}/json")["State"]["Pid"]
        yield OwnEngine(_socket(folder), Path(f"/proc/{pid}/root/proc"), cdi_dir=f"{folder}/cdi")


def _give_up(said: str) -> NoReturn:
    """Skip the test if *said* tells that an engine is not allowed in a container here; or fail."""
    if NO_NESTING.search(said):
        pytest.skip(f"an engine may not run in a container here: {said}")
    pytest.fail(f"the engine in a container did not start: {said}")


@contextmanager
def second_engine() -> Iterator[OwnEngine]:
    """The machine's engine once more, whose default runtime stands in for NVIDIA's."""
    with own_folder() as folder:
        driver = folder / "driver"
        settings = {
            "data-root": f"{folder}/data",
            "exec-root": f"{folder}/exec",
            "pidfile": f"{folder}/dockerd.pid",
            "containerd": f"{folder}/containerd.sock",
            "runtimes": {"nvidia": {"path": str(RUNTIME), "runtimeArgs": ["--driver", str(driver)]}},
            "default-runtime": "nvidia",
        }
        # Its own too: one of the system, where it runs, would mix up the containers of both engines.
        (folder / "containerd.toml").write_text(
            f"""\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
"""
        )
        # In namespaces of their own: an engine without a bridge takes the machine's away where it finds one,
        # and with the last process of these everything it started and mounted is gone.
        apart = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        both = 'containerd --config "$1" >"$1.log" 2>&1 & exec dockerd --config-file "$2"'
        files = (f"{folder}/containerd.toml", _configured(folder, settings))
        log = folder / "log"
        with log.open("wb") as output:
            running = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *apart, "sh", "-c", both, "sh", *files),
                stdout=output,
                stderr=output,
            )
        try:
            if not _answers(folder, lambda: running.poll() is not None):
                pytest.fail(f"the second engine did not start: {_last_line(log.read_bytes())}")
            (first,) = _children(running.pid)
            yield OwnEngine(_socket(folder), Path(f"/proc/{first}/root/proc"), driver=driver)
        finally:
            # The first of its namespace takes all others with it, before its parent sees it end.
            if running.poll() is None:
                for pid in _children(running.pid) or [running.pid]:
                    os.kill(pid, signal.SIGKILL)
                running.wait()


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()]


def _configured(folder: Path, settings: dict[str, Any]) -> str:
    """The engine's configuration file with *settings* on top of what is the same for all of them."""
    file = folder / "daemon.json"
    common = {
        "hosts": [f"unix://{_socket(folder)}"],
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{folder.name}",
    }
    file.write_text(json.dumps(common | settings))
    return str(file)


def _socket(folder: Path) -> str:
    return f"{folder}/engine.sock"


def _answers(folder: Path, ended: Callable[[], bool]) -> bool:
    """Whether the engine in *folder* comes to answer, before it has *ended* and within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ended():
        with suppress(OSError):
            docker("GET", "/_ping", socket_path=_socket(folder))
            return True
        time.sleep(0.05)
    return False


def _own_capabilities() -> list[str]:
    """Those of CAPABILITIES that the kernel lets anybody have."""
    bounding = re.search(r"^CapBnd:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    allowed = int(bounding[1], 16) if bounding else 0
    return [name for number, name in enumerate(CAPABILITIES) if allowed >> number & 1]


def _last_line(output: bytes) -> str:
    return output.decode(errors="replace").strip().rpartition("\n")[2]
