"""``labdock gpus``: who is on which card, as a table, as JSON, and as flags for Docker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from labdock.core.gpus import GpuReport, Inventory, Trouble, Way
from tests.cli.agents import FakeAgent, report
from tests.cli.commands import Command, in_a_thread
from tests.core.gpu_builders import BEN, card, inventory, lease


@pytest.fixture
def agent(labdock: Command, tmp_path: Path) -> Iterator[FakeAgent]:
    fake = FakeAgent(tmp_path / "state/run/agent/agent.sock")
    with in_a_thread(fake.running()):
        yield fake


def test_the_table_has_a_line_for_each_card_with_its_holder(labdock: Command, agent: FakeAgent) -> None:
    done = labdock("gpus")
    assert done.code == 0, done.err
    first, second = [line for line in done.out.splitlines() if "GPU-" in line]
    assert "ben" in first
    assert "80 GiB" in first
    assert "free" in second
    assert "driver 570.86.15, CUDA up to 12.8" in done.out


def test_simulated_cards_are_called_simulated(labdock: Command, agent: FakeAgent) -> None:
    agent.report = replace(agent.report, inventory=replace(agent.report.inventory, simulated=True))
    assert "SIMULATED" in labdock("gpus").out
    assert labdock("gpus", "--json").facts["simulated"] is True


def test_json_has_every_card_and_holder_with_plain_values(labdock: Command, agent: FakeAgent) -> None:
    facts = labdock("gpus", "--json").facts
    assert [one["uuid"] for one in facts["cards"]] == ["GPU-0", "GPU-1"]
    (holder,) = facts["cards"][0]["holders"]
    assert holder == {
        "person": "ben",
        "container": "lab-session-ben",
        "instance": "lab",
        "cards": ["GPU-0"],
        "since": "2026-09-21T14:13:20+00:00",
        "restart_needed": False,
    }
    assert (facts["cards"][1]["memory_bytes"], facts["cards"][1]["share"]) == (80 * 2**30, "exclusive")
    assert facts["elsewhere"] == []


def test_a_card_that_vanished_under_somebody_is_told(labdock: Command, agent: FakeAgent) -> None:
    agent.report = report(replace(lease("GPU-9"), instance="labdock"))
    assert [one["person"] for one in labdock("gpus", "--json").facts["elsewhere"]] == ["ben"]
    assert "ben holds GPU-9, which is not there any more" in labdock("gpus").out


def test_a_faulty_card_is_told_with_its_fault(labdock: Command, agent: FakeAgent) -> None:
    cards = inventory(card(0, fault="It has fallen off the bus."), 80)
    agent.report = replace(report(), inventory=replace(cards, driver=report().inventory.driver))
    out = labdock("gpus").out
    assert "faulty" in out
    assert "GPU 0 is not given out: It has fallen off the bus." in out


def test_a_session_of_an_older_driver_is_told_to_start_anew(labdock: Command, agent: FakeAgent) -> None:
    agent.report = report(replace(lease("GPU-0"), driver="550.1"))
    assert "ben started under driver 550.1" in labdock("gpus").out
    assert labdock("gpus", "--json").facts["cards"][0]["holders"][0]["restart_needed"]


def test_a_broken_driver_is_an_error_with_the_way_out(labdock: Command, agent: FakeAgent) -> None:
    agent.report = GpuReport(
        Inventory(), (), None, Trouble("mismatch", "Library and module differ.", "Reboot.")
    )
    done = labdock("gpus")
    assert done.code == 1
    assert "Library and module differ." in done.out
    assert "Reboot." in done.out
    flags = labdock("gpus", "--docker-args")
    assert flags.code == 1
    assert "Library and module differ. Reboot." in flags.err


def test_a_machine_without_cards_is_fine_and_shown_what_it_could_be(
    labdock: Command, agent: FakeAgent
) -> None:
    agent.report = GpuReport(Inventory(), (), None)
    done = labdock("gpus")
    assert done.code == 0
    assert "no NVIDIA GPU" in done.out
    assert "--simulate-gpus" in done.out


def test_without_uuids_the_flags_give_what_is_free(labdock: Command, agent: FakeAgent) -> None:
    flags = labdock("gpus", "--docker-args").out
    assert "--device /dev/nvidia1:" in flags
    assert "nvidia0" not in flags
    assert "org.labdock.gpus=GPU-1" in flags
    assert labdock("gpus", "--docker-args", "--json").facts == flags.split()


def test_a_card_that_somebody_holds_is_given_with_a_warning(labdock: Command, agent: FakeAgent) -> None:
    done = labdock("gpus", "--docker-args", "GPU-0")
    assert "--device /dev/nvidia0:" in done.out
    assert "GPU-0 is held" in done.err


def test_a_card_goes_by_its_index_too(labdock: Command, agent: FakeAgent) -> None:
    assert "org.labdock.gpus=GPU-1" in labdock("gpus", "--docker-args", "1").out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("gpus", "--docker-args", "GPU-7"), 1, "There is no GPU GPU-7 here"),
        (("gpus", "--docker-args", "GPU"), 1, "2 GPUs begin with GPU"),
        (("gpus", "GPU-0"), 2, "--docker-args"),
        (("gpus", "--watch", "--docker-args"), 2, "do not go together"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    labdock: Command, agent: FakeAgent, words: tuple[str, ...], code: int, told: str
) -> None:
    done = labdock(*words)
    assert done.code == code
    assert told in done.err


def test_when_every_card_is_held_there_are_no_flags(labdock: Command, agent: FakeAgent) -> None:
    agent.report = report(lease("GPU-0", "GPU-1", holder=BEN))
    done = labdock("gpus", "--docker-args")
    assert done.code == 1
    assert "No GPU is free." in done.err


def test_where_sessions_use_cdi_the_flags_need_no_description(labdock: Command, agent: FakeAgent) -> None:
    by_devices = labdock("gpus", "--docker-args", "GPU-1").out
    agent.report = replace(agent.report, way=Way.CDI)
    assert labdock("gpus", "--docker-args", "GPU-1").out == by_devices


def test_a_card_that_is_kept_back_is_in_the_flags_only_by_name(
    labdock: Command, agent: FakeAgent, tmp_path: Path
) -> None:
    agent.report = report()
    Path("labdock.yaml").write_text('gpus: {cards: [{card: "0", use: false}]}\n')
    flags = labdock("gpus", "--docker-args").out
    assert "org.labdock.gpus=GPU-1 " in flags.replace("\n", " ")
    assert "org.labdock.gpus=GPU-0" in labdock("gpus", "--docker-args", "GPU-0").out


def test_the_flags_for_a_faulty_card_come_with_a_warning(labdock: Command, agent: FakeAgent) -> None:
    cards = inventory(card(0, fault="It has fallen off the bus."))
    agent.report = replace(report(), inventory=replace(cards, driver=report().inventory.driver))
    assert "GPU-0 has a fault. It has fallen off the bus." in labdock("gpus", "--docker-args", "GPU-0").err


def test_a_card_without_an_index_is_named_by_its_uuid(labdock: Command, agent: FakeAgent) -> None:
    gone = replace(card(0, fault="It is gone."), index="")
    agent.report = replace(report(), inventory=replace(inventory(gone), driver=report().inventory.driver))
    assert "GPU GPU-0 is not given out: It is gone." in labdock("gpus").out


def test_cards_of_another_instance_are_not_called_lost(labdock: Command, agent: FakeAgent) -> None:
    agent.report = report(replace(lease("GPU-9"), instance="second"))
    assert "GPU-9" not in labdock("gpus").out


def test_without_a_labdock_the_way_out_is_up(labdock: Command) -> None:
    done = labdock("gpus")
    assert done.code == 1
    assert "labdock up" in done.err
