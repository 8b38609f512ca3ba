"""How a container is given cards: what is added to it, by each of the three ways.

``devices`` names every device node and mounts the driver's files, and needs nothing but an engine. ``cdi``
has the engine do the same from a description that Labdock writes. ``nvidia`` leaves it to NVIDIA's runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from labdock.core.errors import HostError
from labdock.core.gpus import LABEL_DRIVER, LABEL_GPUS, Card, Driver, DriverFile, Node, Way

NVIDIA_RUNTIME = "nvidia"

_CDI_VERSION = "0.5.0"
"""The oldest that knows where the host has a node: every engine with CDI reads it."""


@dataclass(frozen=True, slots=True)
class Injection:
    """What a container with cards is given on top: devices, read-only mounts, variables, runtime, CDI names.

    *driver* is the driver's version, which the container's label LABEL_DRIVER keeps.
    """

    devices: tuple[Node, ...] = ()
    mounts: tuple[DriverFile, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""
    cdi: tuple[str, ...] = ()
    driver: str = ""


@dataclass(frozen=True, slots=True)
class EngineAbilities:
    """What an engine says of itself: its runtimes' names, and where it reads CDI specs (nowhere: no CDI)."""

    runtimes: tuple[str, ...]
    cdi_dirs: tuple[str, ...]


def choose_way(setting: str, engine: EngineAbilities, cdi_dir: str) -> Way:
    """The way that ``gpus.inject`` (*setting*) means on *engine*; *cdi_dir* is where Labdock writes its spec.

    Raises:
        HostError: The engine cannot do what the configuration asks for.
    """
    has_cdi = bool(cdi_dir) and cdi_dir in engine.cdi_dirs
    if setting == "auto":
        # Never NVIDIA's runtime unasked: with it, cards may be lost when systemd reloads its units.
        return Way.CDI if has_cdi else Way.DEVICES
    way = Way(setting)
    if way is Way.CDI and not has_cdi:
        where = f"reads CDI specs in {', '.join(engine.cdi_dirs)}" if engine.cdi_dirs else "has no CDI"
        raise HostError(
            f"gpus.inject is cdi, and the Docker engine {where}.",
            fix='Use Docker 25 or newer with {"features": {"cdi": true}} in /etc/docker/daemon.json '
            "(28.2 needs no setting), then: labdock up. Or set gpus.inject to auto.",
        )
    if way is Way.NVIDIA and NVIDIA_RUNTIME not in engine.runtimes:
        raise HostError(
            f"gpus.inject is nvidia, and the Docker engine has no runtime of that name "
            f"(it has {', '.join(sorted(engine.runtimes))}).",
            fix="Install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker; "
            "systemctl restart docker. Or set gpus.inject to auto.",
        )
    return way


def inject(way: Way, driver: Driver, cards: tuple[Card, ...], *, instance: str) -> Injection:
    """What gives a container of *instance* exactly *cards*."""
    environment = {
        # So that NVIDIA's runtime, where it is everybody's, adds nothing of its own.
        "NVIDIA_VISIBLE_DEVICES": "void",
        # CUDA counts the fastest first otherwise, and nvidia-smi by the bus.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # It asks ldconfig, which knows nothing of files that were mounted.
        "TRITON_LIBCUDA_PATH": driver.library_dir,
    }
    uuids = tuple(card.uuid for card in cards)
    match way:
        case Way.DEVICES:
            # Slices of one GPU share its node.
            nodes = dict.fromkeys((*driver.nodes, *(node for card in cards for node in card.nodes)))
            return Injection(tuple(nodes), driver.files, environment, driver=driver.version)
        case Way.CDI:
            names = tuple(f"{cdi_kind(instance)}={uuid}" for uuid in uuids)
            return Injection(environment=environment, cdi=names, driver=driver.version)
        case Way.NVIDIA:
            asked = {
                "NVIDIA_VISIBLE_DEVICES": ",".join(uuids),
                "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
            }
            return Injection(environment=environment | asked, runtime=NVIDIA_RUNTIME, driver=driver.version)


def cdi_kind(instance: str) -> str:
    """What *instance*'s cards are called in CDI; two specs with the same names would cancel each other."""
    return f"labdock.org/gpu-{instance}"


def cdi_file(instance: str) -> str:
    """The name of the file with *instance*'s spec."""
    return f"labdock-{instance}.json"


def cdi_spec(driver: Driver, cards: tuple[Card, ...], *, instance: str) -> dict[str, Any]:
    """The CDI spec with *cards*, each named by its UUID; see https://github.com/cncf-tags/container-device-interface.

    A card that has a fault is in it too as far as it has nodes: giving it out is decided elsewhere.
    """
    return {
        "cdiVersion": _CDI_VERSION,
        "kind": cdi_kind(instance),
        "devices": [
            {"name": card.uuid, "containerEdits": {"deviceNodes": [_cdi_node(node) for node in card.nodes]}}
            for card in cards
            if card.uuid and card.nodes
        ],
        "containerEdits": {
            "deviceNodes": [_cdi_node(node) for node in driver.nodes],
            "mounts": [
                {
                    "hostPath": file.host_path,
                    "containerPath": file.path,
                    "options": ["ro", "nosuid", "nodev", "bind"],
                }
                for file in driver.files
            ],
        },
    }


def _cdi_node(node: Node) -> dict[str, Any]:
    return {
        "path": node.path,
        "hostPath": node.host_path,
        "type": "c",
        "major": node.major,
        "minor": node.minor,
        "permissions": "rw",
    }


def docker_arguments(injection: Injection, cards: tuple[Card, ...]) -> tuple[str, ...]:
    """The arguments for a plain ``docker run`` that give a container *cards*, as *injection* says.

    The labels among them make it count as holding the cards until it is removed.
    """
    labels = {LABEL_GPUS: ",".join(card.uuid for card in cards), LABEL_DRIVER: injection.driver}
    return (
        *(("--runtime", injection.runtime) if injection.runtime else ()),
        *_options("--device", (f"{node.host_path}:{node.path}:rw" for node in injection.devices)),
        *_options("--device", injection.cdi),
        *_options("--mount", (_mount(file) for file in injection.mounts)),
        *_options("--env", (f"{key}={value}" for key, value in injection.environment.items())),
        *_options("--label", (f"{key}={value}" for key, value in labels.items())),
    )


def _options(name: str, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (name, value))


def _mount(file: DriverFile) -> str:
    """The value of ``--mount``: one line of CSV."""
    fields = ("type=bind", f"source={file.host_path}", f"target={file.path}", "readonly")
    return ",".join(f'"{one}"' if "," in one else one for one in fields)
