"""What ``labdock doctor`` looks at where GPUs are concerned: from the driver to the engine to the images."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.agent_api import AgentClient
from labdock.adapters.engine import Engine, EngineFacts
from labdock.cli.instance import Instance
from labdock.cli.shelves import read_shelves
from labdock.core.errors import LabdockError
from labdock.core.finding import Finding
from labdock.core.gpus import GpuReport, Way

RUNC_KEEPS_RULES = (1, 1, 7)
"""From this version on, runc leaves it to systemd whether a device exists."""


async def examine_gpus(instance: Instance, engine: Engine, facts: EngineFacts) -> list[Finding]:
    """Driver, cards, nodes, the engine's abilities, systemd's trap, persistence mode, images' CUDA."""
    try:
        report = await AgentClient(instance.agent_socket).gpus()
    except LabdockError as error:
        return [Finding("GPUs", False, error.message, error.fix)]
    if report.trouble is not None:
        return [Finding("GPU driver", False, report.trouble.message, report.trouble.fix)]
    driver = report.inventory.driver
    if driver is None:
        return [_none(report, host.nvidia_folders())]
    simulated = "simulated, " if report.inventory.simulated else ""
    cuda = f", CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
    found = [
        Finding("GPU driver", True, f"{simulated}version {driver.version}{cuda}; library and module agree"),
        *_cards(report),
        _nodes(report),
        _way(report, facts),
    ]
    if not report.inventory.simulated:
        found += [*_daemon_reload(report, facts), *_persistence()]
    found += _rules_without_a_card(report, instance)
    found += [
        Finding(
            "session on a card that is gone",
            False,
            f"{lease.person or lease.container} holds {uuid}, which is not there any more",
            "That session cannot use it: stop it and start it again.",
        )
        for lease in report.leases
        if lease.instance in {"", instance.name}
        for uuid in lease.cards
        if report.inventory.find(uuid) is None
    ]
    found += [
        Finding(
            "session under the driver before",
            False,
            f"{lease.person or lease.container} started under driver {lease.driver}",
            "That session cannot use its card any more: stop it and start it again.",
        )
        for lease in report.leases
        if report.outdated(lease)
    ]
    found += [
        finding
        for name, shelf in read_shelves(instance).by_id.items()
        if shelf.release is not None
        for finding in _image(name, shelf.release.cuda, driver.cuda)
    ]
    return found


def _none(report: GpuReport, folders: tuple[str, ...]) -> Finding:
    if not folders:
        return Finding("GPUs", True, "this machine has none; sessions run without")
    return Finding(
        "GPUs",
        False,
        "there is NVIDIA hardware, and the agent was started without a way to it",
        "`labdock up`",
    )


def _cards(report: GpuReport) -> list[Finding]:
    return [
        Finding(
            f"GPU {card.index or card.uuid}",
            not card.fault,
            card.fault or f"{card.label}, {card.uuid}",
            "It is not given out until that is mended; `dmesg | grep -i xid` and a restart of the machine "
            "are where to begin.",
        )
        for card in report.inventory.cards
    ]


def _rules_without_a_card(report: GpuReport, instance: Instance) -> list[Finding]:
    """Lines of ``gpus.cards`` that fit no card here: a word is misspelt, or a card was taken out."""
    return [
        Finding(
            f"gpus.cards[{index}]",
            False,
            f"no card here is called {rule.card!r}",
            "`labdock gpus` shows models, indices and UUIDs.",
        )
        for index, rule in enumerate(instance.config.gpus.cards)
        if not any(rule.fits(card) for card in report.inventory.cards)
    ]


def _nodes(report: GpuReport) -> Finding:
    driver = report.inventory.driver
    nodes = {node.host_path for card in report.inventory.cards for node in card.nodes}
    nodes |= {node.host_path for node in driver.nodes} if driver else set()
    missing = sorted(path for path in nodes if not Path(path).is_char_device())
    return Finding(
        "GPU devices",
        not missing,
        f"missing: {', '.join(missing)}" if missing else f"{len(nodes)} are there",
        "`nvidia-modprobe -u -c=0` makes them; `labdock logs agent` says why the agent could not.",
    )


def _way(report: GpuReport, facts: EngineFacts) -> Finding:
    abilities = ["devices", *(["cdi"] if facts.cdi_folders else [])]
    abilities += ["nvidia"] if "nvidia" in facts.runtimes else []
    return Finding(
        "GPU injection",
        report.way is not None,
        f"by {report.way}; the engine can: {', '.join(abilities)}",
        "Write gpus.inject: auto, and run `labdock up`.",
    )


def _daemon_reload(report: GpuReport, facts: EngineFacts) -> list[Finding]:
    """Whether `systemctl daemon-reload` would take the cards from sessions that run (NVIDIA's known trap)."""
    if facts.cgroup_driver != "systemd":
        return []
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", facts.runc)
    keeps = numbers is not None and tuple(map(int, numbers.groups())) >= RUNC_KEEPS_RULES
    nodes = [node for card in report.inventory.cards for node in card.nodes]
    linked = all(Path(f"/dev/char/{node.major}:{node.minor}").exists() for node in nodes)
    safe = linked or (keeps and report.way is not Way.NVIDIA)
    return [
        Finding(
            "systemctl daemon-reload",
            safe,
            "takes no card from a session" if safe else "would take the cards from sessions that run",
            "As root, at each boot: nvidia-ctk system create-dev-char-symlinks --create-all "
            "(or ln -s ../nvidia0 /dev/char/195:0, and so on), or give Docker the cgroupfs driver.",
        )
    ]


def _persistence() -> list[Finding]:
    """Whether the driver stays loaded while nobody uses a card; without, each first use waits seconds."""
    if shutil.which("nvidia-smi") is None:
        return []
    lines: list[str] = []
    try:
        host.run(
            ("nvidia-smi", "--query-gpu=persistence_mode", "--format=csv,noheader"),
            on_line=lines.append,
            failure="nvidia-smi failed.",
        )
    except LabdockError as error:
        return [Finding("persistence mode", False, error.message, "`nvidia-smi` by hand shows more.")]
    off = sum(line.strip() != "Enabled" for line in lines)
    return [
        Finding(
            "persistence mode",
            not off,
            f"off on {off} of {len(lines)}" if off else "on",
            "systemctl enable --now nvidia-persistenced (or: nvidia-smi -pm 1)",
        )
    ]


def _image(name: str, text: str, cuda: tuple[int, int] | None) -> list[Finding]:
    """Whether the driver serves the CUDA version *text* of the image *name*."""
    version = re.match(r"\d+", text)
    if version is None or cuda is None:
        return []
    return [
        Finding(
            f"CUDA of the image {name}",
            # A driver serves every minor version of the CUDA releases it knows.
            int(version[0]) <= cuda[0],
            f"{text}; the driver serves up to {cuda[0]}.{cuda[1]}",
            "Take an image with an older CUDA, or install a newer driver.",
        )
    ]
