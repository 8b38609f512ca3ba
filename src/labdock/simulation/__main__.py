"""The simulated driver's part of the stack: lays the machine out, then keeps its cards lively until SIGTERM.

``python3 -m labdock.simulation --root R --cards 4 --name NAME`` does that. While it runs, and from wherever
the root can be seen, ``python3 -m labdock.simulation --root R set TARGET SETTING=VALUE...`` changes the
machine: ``set card 0 fault=lost``, ``set driver version=580.65.06``.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from labdock.simulation.layout import change, lay_out, read_machine, replace_file
from labdock.simulation.load import Load, idle, load_at
from labdock.simulation.machine import (
    Machine,
    SimulatedCard,
    SimulationError,
    WordError,
    new_machine,
    sections_text,
    with_cards,
)

PERIOD_S = 2
"""How often the cards' measures are written."""

COMPILED = Path("/opt/labdock/simulated")
"""Where the image has what was compiled."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, or change what runs; the exit status: 0, 1 when it cannot be done, 2 for wrong words."""
    parser = argparse.ArgumentParser(prog="python3 -m labdock.simulation", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder of the simulated machine")
    parser.add_argument("--cards", type=int, help="how many cards it has")
    parser.add_argument("--name", help="whose cards they are: their UUIDs follow from it")
    parser.add_argument("--models", default="h100", help="one for all cards, or one for each: h100,a100,...")
    commands = parser.add_subparsers(dest="command")
    setting = commands.add_parser("set", help="change the machine that runs below the root")
    setting.add_argument("words", nargs="+", metavar="WORD", help="machine, driver or card N; NAME=VALUE...")
    given = parser.parse_args(arguments)
    try:
        if given.command == "set":
            _set(given.root, given.words)
        elif given.cards is None or given.name is None:
            parser.error("give --cards and --name, or the command set")
        else:
            _run(given.root, given.cards, given.name, tuple(given.models.split(",")))
    except SimulationError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, WordError) else 1
    except PermissionError as error:
        print(f"{error.filename} cannot be written, or no device be made: run as root.", file=sys.stderr)
        return 1
    return 0


def _set(root: Path, words: Sequence[str]) -> None:
    target = " ".join(word for word in words if "=" not in word)
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    if not settings:
        raise WordError("Nothing is set.", fix="Write what to set as NAME=VALUE: set card 0 fault=lost")
    change(root, target, settings)


def _run(root: Path, cards: int, name: str, models: tuple[str, ...]) -> None:
    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked, so that one that comes between two waits is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)

    def wanted(found: Machine | None) -> Machine:
        if found is None or found.instance != name:
            return new_machine(name, cards, models)
        return with_cards(found, cards, models)

    machine = lay_out(root, wanted, COMPILED)
    print(f"{len(machine.cards)} simulated cards in {root}, driver {machine.module}")
    energy_mj: dict[int, int] = {}
    changed_ns = -1
    while True:
        found_ns = (root / "state/machine").stat().st_mtime_ns
        if found_ns != changed_ns:
            machine, changed_ns = read_machine(root) or machine, found_ns
        replace_file(root / "state/load", load_text(machine, time.time(), energy_mj).encode())
        if signal.sigtimedwait(ends, PERIOD_S):
            return


def load_text(machine: Machine, time_s: float, energy_mj: dict[int, int]) -> str:
    """What all cards measure at *time_s*, as the file has it; *energy_mj*, by card, goes on to grow."""
    sections = {}
    for card in machine.present:
        load = _load(machine, card, time_s)
        energy_mj[card.number] = energy_mj.get(card.number, 0) + load.power * PERIOD_S
        sections[f"card {card.number}"] = {**asdict(load), "energy": energy_mj[card.number]}
    return sections_text(sections)


def _load(machine: Machine, card: SimulatedCard, time_s: float) -> Load:
    if card.load == "idle" or card.slices is not None:
        return idle(card.kind)
    return load_at(card.kind, card.number, machine.instance, time_s)


if __name__ == "__main__":
    sys.exit(main())
