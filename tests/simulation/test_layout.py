"""The machine's files below its root: the same each time, whole after an interruption, kept across starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from labdock.simulation.layout import change, kernel_files, lay_out, read_machine
from labdock.simulation.machine import SimulationError, changed, new_machine, with_cards
from tests.simulation.builders import everything, laid_out, needs_root, stand_ins

pytestmark = needs_root

LIB = "usr/lib/x86_64-linux-gnu"


class InterruptedHereError(Exception):
    """What a kill at this point would be."""


def interrupted_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let whatever changes a folder fail from the *step*-th time on."""
    done = 0

    def limited(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal done
            done += 1
            if done > step:
                raise InterruptedHereError
            return real(*arguments, **named)

        return call

    for name in ("write_bytes", "replace", "unlink", "symlink_to", "mkdir", "chmod"):
        patch.setattr(Path, name, limited(getattr(Path, name)))
    patch.setattr(os, "mknod", limited(os.mknod))


def test_laying_out_again_changes_nothing(tmp_path: Path) -> None:
    compiled = stand_ins(tmp_path / "compiled")
    laid_out(tmp_path / "root", compiled)
    before = everything(tmp_path / "root")
    times = {path: path.lstat().st_mtime_ns for path in (tmp_path / "root").rglob("*") if path.is_file()}
    laid_out(tmp_path / "root", compiled)
    assert everything(tmp_path / "root") == before
    del times[tmp_path / "root/lock"]
    assert {path: path.lstat().st_mtime_ns for path in times} == times


def test_an_interruption_at_any_point_is_made_good_by_the_next_time(tmp_path: Path) -> None:
    compiled = stand_ins(tmp_path / "compiled")
    first = changed(new_machine("lab", 2), "card 0", {"mig": "1g.10gb"})
    second = changed(with_cards(first, 3, ("h100",)), "driver", {"version": "580.65.06"})
    second = changed(changed(second, "card 0", {"mig": "off"}), "card 1", {"fault": "gone"})
    laid_out(tmp_path / "wanted", compiled, second)
    wanted = everything(tmp_path / "wanted")
    for step in range(10_000):
        root = tmp_path / f"root{step}"
        laid_out(root, compiled, first)
        with pytest.MonkeyPatch.context() as patch:
            interrupted_at(step, patch)
            try:
                laid_out(root, compiled, second)
            except InterruptedHereError:
                done = False
            else:
                done = True
        # The state is told last: until then the machine is the old one.
        assert read_machine(root) == (second if done else first)
        laid_out(root, compiled, second)
        assert everything(root) == wanted, f"interrupted at step {step}"
        if done:
            assert step > 30
            return
    pytest.fail("it never came to an end")


def test_a_new_start_keeps_what_was_set(tmp_path: Path) -> None:
    compiled = stand_ins(tmp_path / "compiled")
    laid_out(tmp_path / "root", compiled)
    change(tmp_path / "root", "card 2", {"fault": "ecc", "utilization": "17"})
    found = lay_out(tmp_path / "root", lambda old: old or new_machine("other", 1), compiled)
    assert found.cards[2].fault == "ecc"
    assert found.cards[2].held == {"utilization": 17}


def test_nodes_are_open_to_all_and_none_is_a_real_cards(tmp_path: Path) -> None:
    machine = changed(new_machine("lab", 4), "card 1", {"mig": "1g.10gb,2g.20gb"})
    laid_out(tmp_path / "root", stand_ins(tmp_path / "compiled"), machine)
    nodes = [path for path in (tmp_path / "root/dev").rglob("*") if not path.is_dir()]
    assert len(nodes) == 3 + 4 + 4
    for node in nodes:
        status = node.stat()
        assert stat.S_ISCHR(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o666
        # What the kernel's devices.txt keeps for local use.
        assert os.major(status.st_rdev) in {120, 121, 122}


def test_an_upgrade_leaves_nothing_of_the_old_driver(tmp_path: Path) -> None:
    root = tmp_path / "root"
    laid_out(root, stand_ins(tmp_path / "compiled"))
    old = (root / f"{LIB}/libnvidia-ml.so.615.36.01").open("rb")
    change(root, "driver", {"version": "580.65.06"})
    assert {path.name for path in (root / LIB).iterdir()} == {
        "libnvidia-ml.so.1",
        "libnvidia-ml.so.580.65.06",
        "libcuda.so.1",
        "libcuda.so.580.65.06",
    }
    assert (root / f"{LIB}/libcuda.so.1").resolve().name == "libcuda.so.580.65.06"
    assert b"580.65.06" in (root / "usr/bin/nvidia-smi").read_bytes()
    assert "580.65.06" in (root / "proc/driver/nvidia/version").read_text()
    assert (root / "sys/module/nvidia/version").read_text() == "580.65.06\n"
    # Whoever has the old one open or mounted keeps it.
    assert b"615.36.01" in old.read()


def test_half_an_upgrade_changes_one_half(tmp_path: Path) -> None:
    root = tmp_path / "root"
    laid_out(root, stand_ins(tmp_path / "compiled"))
    change(root, "driver", {"module": "580.65.06"})
    assert (root / "sys/module/nvidia/version").read_text() == "580.65.06\n"
    assert (root / f"{LIB}/libcuda.so.615.36.01").exists()


def test_a_card_that_is_gone_leaves_nothing_behind_and_comes_back(tmp_path: Path) -> None:
    root = tmp_path / "root"
    laid_out(root, stand_ins(tmp_path / "compiled"))
    before = everything(root)
    machine = change(root, "card 3", {"fault": "gone"})
    bus = machine.cards[3].bus
    assert not (root / "dev/nvidia3").exists()
    assert not (root / f"proc/driver/nvidia/gpus/{bus}").exists()
    assert not (root / f"sys/bus/pci/devices/{bus}").exists()
    change(root, "card 3", {"fault": "none"})
    assert everything(root) == before


def test_a_driver_that_is_not_loaded_leaves_the_hardware(tmp_path: Path) -> None:
    machine = changed(new_machine("lab", 2), "machine", {"fault": "not-loaded"})
    files = kernel_files(machine, "x86_64")
    assert not [path for path in files if "driver/nvidia" in path or "module" in path]
    assert "nvidia" not in files["proc/devices"]
    assert len([path for path in files if path.endswith("vendor")]) == 2


def test_a_damaged_state_is_said(tmp_path: Path) -> None:
    laid_out(tmp_path / "root", stand_ins(tmp_path / "compiled"))
    (tmp_path / "root/state/machine").write_bytes(b"\xff\xfe")
    with pytest.raises(SimulationError, match="damaged"):
        change(tmp_path / "root", "card 0", {"fault": "lost"})


def test_a_folder_without_a_machine_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="no simulated machine"):
        change(tmp_path, "card 0", {"fault": "lost"})
    assert not list(tmp_path.iterdir())


def test_a_file_without_room_for_a_version_is_said(tmp_path: Path) -> None:
    compiled = stand_ins(tmp_path / "compiled")
    (compiled / "libcuda.so").write_bytes(b"something else")
    with pytest.raises(SimulationError, match="no room"):
        laid_out(tmp_path / "root", compiled)
