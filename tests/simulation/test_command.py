"""The simulation's command line: it runs until it is told to end, and is changed while it runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labdock.simulation.__main__ import load_text, main
from labdock.simulation.layout import read_machine
from labdock.simulation.machine import changed, new_machine
from tests.simulation.builders import laid_out, needs_root, stand_ins

STARTS = "import sys, pathlib, labdock.simulation.__main__ as m; m.COMPILED = pathlib.Path(sys.argv.pop(1)); "


@contextmanager
def running(root: Path, compiled: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The simulation on *root*, with its first measures written."""
    (root / "state/load").unlink(missing_ok=True)
    command = [sys.executable, "-c", f"{STARTS}sys.exit(m.main())", str(compiled)]
    with subprocess.Popen([*command, "--root", str(root), "--cards", "2", "--name", "lab"]) as process:
        try:
            while not (root / "state/load").exists():
                assert process.poll() is None
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@needs_root
def test_it_runs_until_it_is_told_to_end_and_keeps_what_was_set(tmp_path: Path) -> None:
    root, compiled = tmp_path / "root", stand_ins(tmp_path / "compiled")
    with running(root, compiled) as process:
        assert main(["--root", str(root), "set", "card", "0", "fault=lost", "utilization=3"]) == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    with running(root, compiled):
        machine = read_machine(root)
        assert machine is not None
        assert (machine.cards[0].fault, machine.cards[0].held) == ("lost", {"utilization": 3})


@needs_root
def test_two_who_change_it_at_once_both_do(tmp_path: Path) -> None:
    root = tmp_path / "root"
    laid_out(root, stand_ins(tmp_path / "compiled"))
    threads = [
        threading.Thread(target=main, args=(["--root", str(root), "set", "card", str(number), "fault=ecc"],))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    machine = read_machine(root)
    assert machine is not None
    assert [card.fault for card in machine.cards] == ["ecc"] * 4


@needs_root
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["card", "9", "fault=lost"], "card 0 to card 3"),
        (["card", "0", "fault=odd"], "lost, ecc, remap, gone"),
        (["card", "0"], "NAME=VALUE"),
        (["fault=lost"], "card 0 to card 3"),
    ],
)
def test_wrong_words_exit_2_with_what_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    laid_out(tmp_path / "root", stand_ins(tmp_path / "compiled"))
    assert main(["--root", str(tmp_path / "root"), "set", *words]) == 2
    assert says in capsys.readouterr().err


def test_where_nothing_runs_nothing_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path), "set", "card", "0", "fault=lost"]) == 1
    assert "no simulated machine" in capsys.readouterr().err


def test_a_start_without_cards_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--root", str(tmp_path)])
    assert caught.value.code == 2


def test_a_card_in_slices_or_told_to_rest_does_nothing() -> None:
    machine = changed(new_machine("lab", 3), "card 0", {"mig": "1g.10gb"})
    machine = changed(machine, "card 1", {"load": "idle"})
    machine = changed(machine, "card 2", {"fault": "gone"})
    energy: dict[int, int] = {}
    text = load_text(machine, 1.8e9, energy)
    assert re.findall(r"^utilization = (\d+)", text, re.MULTILINE) == ["0", "0"]
    assert "[card 2]" not in text


def test_energy_only_grows() -> None:
    machine, energy = new_machine("lab", 1), dict[int, int]()
    told = []
    for second in range(0, 600, 2):
        (value,) = re.findall(r"^energy = (\d+)", load_text(machine, 1.8e9 + second, energy), re.MULTILINE)
        told.append(int(value))
    assert told == sorted(set(told))
