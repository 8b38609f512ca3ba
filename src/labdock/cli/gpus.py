"""``labdock gpus``: the cards, who holds them since when, and the flags for a plain ``docker run``."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import click

from labdock.adapters.agent_api import AgentClient
from labdock.cli.console import Console
from labdock.cli.instance import Instance
from labdock.core.allocation import is_kept
from labdock.core.errors import BadRequestError, DriverError, HostError
from labdock.core.gpus import Card, GpuReport, GpuRules, Lease, Sharing, Way
from labdock.core.injection import docker_arguments, inject

WATCH_EVERY_S = 2.0

UUID_BEGINNING = 12
WIDE_ENOUGH = 132
"""Columns of a terminal in which the table has room for whole UUIDs."""


async def read_report(instance: Instance) -> GpuReport:
    """What the agent says of the GPUs now.

    Raises:
        HostError: There is no Labdock here.
        EngineError: The agent does not answer.
    """
    if not instance.agent_socket.exists():
        raise HostError(f"There is no Labdock in {instance.state} yet.", fix="Run `labdock up`.")
    return await AgentClient(instance.agent_socket).gpus()


async def watch(instance: Instance, console: Console) -> None:
    """Show the cards again and again until somebody presses Ctrl-C."""
    while True:
        report = await read_report(instance)
        if not console.as_json and sys.stdout.isatty():
            click.clear()
        show_facts(report, instance, console)
        await asyncio.sleep(WATCH_EVERY_S)


def show_facts(report: GpuReport, instance: Instance, console: Console) -> None:
    """The cards, as JSON or for people."""
    rules = instance.config.gpus
    console.facts(facts(report, rules), lambda: show(report, instance.name, rules, console))


def facts(report: GpuReport, rules: GpuRules) -> dict[str, Any]:
    """*report* as plain values, a card with its holders each; times as RFC 3339 in UTC."""
    driver = report.inventory.driver
    return {
        "simulated": report.inventory.simulated,
        "driver": driver and driver.version,
        "cuda": driver and driver.cuda and ".".join(map(str, driver.cuda)),
        "way": report.way,
        "trouble": report.trouble and {"message": report.trouble.message, "fix": report.trouble.fix},
        "cards": [
            {
                "index": card.index,
                "uuid": card.uuid,
                "model": card.model,
                "profile": card.profile,
                "part_of": card.part_of,
                "memory_bytes": card.memory_bytes,
                "compute": card.compute and ".".join(map(str, card.compute)),
                "fault": card.fault,
                "kept": rules.keeps(card),
                "share": rules.share_of(card).kind.value,
                "seats": rules.share_of(card).seats,
                "holders": [_holder(lease, report) for lease in report.leases if card.uuid in lease.cards],
            }
            for card in report.inventory.cards
        ],
        "elsewhere": [
            _holder(lease, report)
            for lease in report.leases
            if not any(report.inventory.find(uuid) for uuid in lease.cards)
        ],
    }


def _holder(lease: Lease, report: GpuReport) -> dict[str, Any]:
    return {
        "person": lease.person,
        "container": lease.container,
        "instance": lease.instance,
        "cards": list(lease.cards),
        "since": datetime.fromtimestamp(lease.since_s, UTC).isoformat(timespec="seconds"),
        "restart_needed": report.outdated(lease),
    }


def show(report: GpuReport, instance: str, rules: GpuRules, console: Console) -> None:
    """The cards for people, a line each; *instance* is the one that shows them."""
    driver = report.inventory.driver
    if report.trouble is not None:
        console.say(f"The GPUs cannot be used: {report.trouble.message}")
        console.say(f"    {report.trouble.fix}")
    elif not report.inventory.cards:
        console.say(
            "This machine has no NVIDIA GPU. `labdock up --simulate-gpus 4` shows what it would be like."
        )
    if driver is not None:
        cuda = f", CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
        simulated = "SIMULATED GPUs, " if report.inventory.simulated else ""
        console.say(f"{simulated}driver {driver.version}{cuda}\n")
    if report.inventory.cards:
        console.table(
            ("GPU", "Model", "Memory", "Shared", "Held by", "Since", "UUID"),
            [_row(card, report, rules) for card in report.inventory.cards],
        )
    for card in report.inventory.cards:
        if card.fault:
            console.say(f"\nGPU {card.index or card.uuid} is not given out: {card.fault}")
    for lease in report.leases:
        if lease.instance not in {"", instance}:
            # Its cards may be simulated ones of its own.
            continue
        for uuid in lease.cards:
            if report.trouble is None and report.inventory.find(uuid) is None:
                console.say(f"\n{_name(lease)} holds {uuid}, which is not there any more.")
    old = [lease for lease in report.leases if report.outdated(lease)]
    for lease in old:
        console.say(
            f"\n{_name(lease)} started under driver {lease.driver}: that session needs a stop and a start."
        )


def in_words(report: GpuReport) -> str:
    """What cards there are, in a line: "4 GPUs: 4 x NVIDIA H100; 1 is not given out"."""
    if report.trouble is not None:
        return f"The GPUs cannot be used: {report.trouble.message} {report.trouble.fix}"
    cards = report.inventory.cards
    if not cards:
        return "No GPU: sessions run without."
    kinds = Counter(card.label for card in cards)
    number = "1 GPU" if len(cards) == 1 else f"{len(cards)} GPUs"
    faulty = sum(bool(card.fault) for card in cards)
    ill = f"; {faulty} {'is' if faulty == 1 else 'are'} not given out: `labdock gpus`" if faulty else ""
    return f"{number}: {', '.join(f'{count} x {label}' for label, count in kinds.items())}{ill}"


def _row(card: Card, report: GpuReport, rules: GpuRules) -> tuple[str, ...]:
    share = rules.share_of(card)
    leases = [lease for lease in report.leases if card.uuid in lease.cards]
    kept = is_kept(card, share, rules)
    held = ", ".join(_name(lease) for lease in leases)
    return (
        card.index,
        card.label,
        "unknown" if card.memory_bytes is None else f"{card.memory_bytes / 2**30:.0f} GiB",
        f"{share.seats} seats" if share.kind is Sharing.SEATS else share.kind.value,
        held or ("faulty" if card.fault else _why_kept(card, rules) if kept else "free"),
        ", ".join(_since(lease.since_s) for lease in leases),
        card.uuid[:UUID_BEGINNING] + "…" if _narrow() else card.uuid,
    )


def _narrow() -> bool:
    """Whether a whole UUID would be broken over lines; its beginning does for every command."""
    return sys.stdout.isatty() and shutil.get_terminal_size().columns < WIDE_ENOUGH


def _why_kept(card: Card, rules: GpuRules) -> str:
    return "kept back" if rules.keeps(card) else "not in MIG mode"


def _name(lease: Lease) -> str:
    return lease.person or f"container {lease.container}"


def _since(since_s: float) -> str:
    """The time of day on this machine, with the date when it was not today."""
    then, now = datetime.fromtimestamp(since_s).astimezone(), datetime.now().astimezone()
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def _card_called(name: str, report: GpuReport) -> Card:
    """The card whose UUID begins with *name*, or whose index it is.

    Raises:
        BadRequestError: There is none, or several.
    """
    cards = report.inventory.cards
    found = [card for card in cards if card.index == name] or [
        card for card in cards if card.uuid.startswith(name)
    ]
    if len(found) != 1:
        fact = f"There is no GPU {name} here." if not found else f"{len(found)} GPUs begin with {name}."
        raise BadRequestError(fact, field="uuid", fix="`labdock gpus` shows what there is.")
    return found[0]


def say_docker_arguments(
    report: GpuReport, uuids: tuple[str, ...], instance: Instance, console: Console
) -> None:
    """The flags that give a plain ``docker run`` the cards *uuids*; without them, all that are free.

    A card may also be named by the beginning of its UUID, or by its index.

    Where sessions get theirs by CDI the flags name devices all the same, which every engine takes: the
    description is as old as the last session that was started.

    Raises:
        DriverError: The driver does not work.
        HostError: There is no GPU.
        BadRequestError: There is no such card, or none is free.
    """
    if report.trouble is not None:
        raise DriverError(report.trouble.message, kind=report.trouble.kind, fix=report.trouble.fix)
    driver = report.inventory.driver
    if driver is None or report.way is None or not report.inventory.cards:
        raise HostError("This machine has no NVIDIA GPU.", fix="`labdock doctor` looks for one.")
    if report.inventory.simulated:
        console.note("These GPUs are simulated.")
    held = {uuid for lease in report.leases for uuid in lease.cards}
    rules = instance.config.gpus
    free = {
        card.uuid
        for card in report.inventory.cards
        if not (card.fault or card.uuid in held or is_kept(card, rules.share_of(card), rules))
    }
    asked = [_card_called(name, report) for name in uuids]
    cards = tuple(
        card for card in report.inventory.cards if card in asked or (not asked and card.uuid in free)
    )
    if not cards:
        raise BadRequestError("No GPU is free.", field="uuid", fix="`labdock gpus` shows who holds them.")
    for card in cards:
        if card.uuid in held:
            holders = ", ".join(_name(lease) for lease in report.leases if card.uuid in lease.cards)
            console.note(f"Careful: {card.uuid} is held by {holders}.")
        if card.fault:
            console.note(f"Careful: {card.uuid} has a fault. {card.fault}")
    way = Way.DEVICES if report.way is Way.CDI else report.way
    flags = docker_arguments(inject(way, driver, cards, instance=instance.name), cards)
    console.facts(list(flags), lambda: console.say(shlex.join(flags)))
