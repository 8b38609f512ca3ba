"""What the kernel's files and NVML say, as cards."""

from __future__ import annotations

import pytest

from labdock.core.driver import (
    KernelGpu,
    parse_information,
    parse_majors,
    parse_mig_minors,
    parse_module_version,
    plain_bus,
    program_dirs,
    with_vanished,
)
from labdock.core.gpus import Card


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan  9 2025", "570.86.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)",
            "580.65.06",
        ),
        ("NVRM version: NVIDIA UNIX aarch64 Kernel Module  390.157  x", "390.157"),
        ("NVRM version: something else", None),
        ("", None),
    ],
)
def test_the_modules_version_is_read_in_every_form(line: str, version: str | None) -> None:
    assert parse_module_version(f"{line}\nGCC version:  gcc version 12.2.0 (Debian)\n") == version


def test_a_gpu_nobody_has_used_has_no_uuid_yet() -> None:
    text = (
        "Model: \t\t NVIDIA L4\nGPU UUID: \t GPU-????????-????-????-????-????????????\n"
        "Bus Location: \t 0000:0A:00.0\nDevice Minor: \t 2\n"
    )
    assert parse_information(text) == KernelGpu("0000:0a:00.0", "NVIDIA L4", "", 2)
    assert parse_information("Model: NVIDIA L4\n") is None


def test_numbers_of_character_devices_are_not_mixed_with_those_of_blocks() -> None:
    characters = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n"
    text = f"{characters}\nBlock devices:\n  7 nvidia\n"
    assert parse_majors(text) == {"mem": 1, "nvidia": 195, "nvidiactl": 195, "nvidia-uvm": 511}


def test_only_the_capabilities_of_slices_are_read() -> None:
    text = "config 1\nmonitor 2\ngpu0/gi1/access 12\ngpu0/gi1/ci0/access 13\ngpu10/gi2/access 200\n"
    assert parse_mig_minors(text) == {(0, 1, None): 12, (0, 1, 0): 13, (10, 2, None): 200}


@pytest.mark.parametrize("bus", ["00000000:3B:00.0", "0000:3b:00.0", "0000:3B:00.0"])
def test_a_bus_is_the_same_however_it_is_written(bus: str) -> None:
    assert plain_bus(bus) == "0000:3b:00.0"


def test_programs_are_taken_from_beside_their_libraries() -> None:
    assert program_dirs("usr/lib/x86_64-linux-gnu/nvidia/current")[0] == "usr/lib/nvidia/current"
    assert program_dirs("usr/local/nvidia/lib64") == ("usr/local/nvidia/bin",)
    assert program_dirs("usr/lib64") == ("usr/bin",)


def card(uuid: str, bus: str, part_of: str = "") -> Card:
    return Card(uuid, "0", "A100", bus, (), part_of=part_of)


def test_a_card_that_was_there_and_is_not_is_kept_with_a_fault_until_it_is_back() -> None:
    one, two = card("GPU-1", "0000:01:00.0"), card("GPU-2", "0000:02:00.0")
    without = with_vanished((one, two), (one,))
    assert [(known.uuid, bool(known.fault)) for known in without] == [("GPU-1", False), ("GPU-2", True)]
    assert with_vanished(without, (one,)) == without
    assert with_vanished(without, (one, two)) == (one, two)


def test_slices_that_were_cut_anew_have_not_vanished_but_their_gpu_can() -> None:
    before = card("MIG-1", "0000:01:00.0", "GPU-1"), card("MIG-2", "0000:01:00.0", "GPU-1")
    now = (card("MIG-3", "0000:01:00.0", "GPU-1"),)
    assert with_vanished(before, now) == now
    assert [(known.uuid, known.part_of) for known in with_vanished(before, ())] == [("GPU-1", "")]
