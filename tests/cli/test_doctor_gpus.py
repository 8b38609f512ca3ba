"""What doctor finds where GPUs are concerned, each with the way out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from labdock.adapters import host
from labdock.adapters.engine import Engine, EngineFacts
from labdock.cli.doctor_gpus import examine_gpus
from labdock.cli.instance import Instance
from labdock.core.config import Config
from labdock.core.finding import Finding
from labdock.core.gpus import ALL, CardRule, GpuReport, GpuRules, Inventory, Trouble, Way
from labdock.core.shelf import Release, Shelf, Shelves
from tests.adapters.engines import WholeFakeEngine
from tests.cli.agents import FakeAgent, report
from tests.core.gpu_builders import card, inventory, lease

FACTS = EngineFacts("26.1.5", (1, 45), 4, 2**33, "/var/lib/docker", rootless=False)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[FakeAgent]:
    async with FakeAgent(tmp_path / "run/agent/agent.sock").running() as fake:
        yield fake


async def found(
    tmp_path: Path, facts: EngineFacts = FACTS, config: Config | None = None
) -> dict[str, Finding]:
    """The findings by what was looked at."""
    instance = Instance("lab", tmp_path, config or Config(), None, None, tmp_path / "engine.sock")
    async with (
        WholeFakeEngine(str(instance.engine_socket)).running(),
        Engine(instance.engine_socket) as engine,
    ):
        return {finding.check: finding for finding in await examine_gpus(instance, engine, facts)}


async def test_cards_and_driver_that_are_well_are_told(agent: FakeAgent, tmp_path: Path) -> None:
    findings = await found(tmp_path)
    assert findings["GPU driver"].ok
    assert "570.86.15, CUDA up to 12.8" in findings["GPU driver"].seen
    assert findings["GPU 0"].ok
    assert findings["GPU injection"].seen == "by devices; the engine can: devices"


async def test_a_faulty_card_and_a_missing_device_are_told(agent: FakeAgent, tmp_path: Path) -> None:
    cards = inventory(card(0, fault="It has fallen off the bus."))
    agent.report = replace(report(), inventory=replace(cards, driver=report().inventory.driver))
    findings = await found(tmp_path)
    assert not findings["GPU 0"].ok
    assert "fallen off the bus" in findings["GPU 0"].seen
    assert "missing: /dev/nvidia0" in findings["GPU devices"].seen
    assert "nvidia-modprobe" in findings["GPU devices"].fix


async def test_a_broken_driver_is_the_one_thing_told(agent: FakeAgent, tmp_path: Path) -> None:
    agent.report = GpuReport(Inventory(), (), None, Trouble("mismatch", "They differ.", "Reboot."))
    assert list((await found(tmp_path)).values()) == [Finding("GPU driver", False, "They differ.", "Reboot.")]


@pytest.mark.parametrize("hardware", [True, False])
async def test_no_driver_is_fine_without_hardware_only(
    agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardware: bool
) -> None:
    agent.report = GpuReport(Inventory(), (), None)
    monkeypatch.setattr(host, "nvidia_folders", lambda: ("/usr",) if hardware else ())
    assert (await found(tmp_path))["GPUs"].ok is not hardware


async def test_a_session_of_an_older_driver_must_start_anew(agent: FakeAgent, tmp_path: Path) -> None:
    agent.report = report(replace(lease("GPU-0"), driver="550.1"))
    finding = (await found(tmp_path))["session under the driver before"]
    assert "ben started under driver 550.1" in finding.seen
    assert not finding.ok


async def test_a_session_on_a_card_that_is_gone_must_start_anew(agent: FakeAgent, tmp_path: Path) -> None:
    agent.report = report(lease("GPU-9"))
    finding = (await found(tmp_path))["session on a card that is gone"]
    assert finding.seen == "ben holds GPU-9, which is not there any more"


async def test_a_line_of_the_configuration_that_fits_no_card_is_told(
    agent: FakeAgent, tmp_path: Path
) -> None:
    rules = GpuRules(cards=(CardRule("H100", use=False), CardRule("RTX", ALL)))
    findings = await found(tmp_path, config=replace(Config(), gpus=rules))
    assert "gpus.cards[0]" not in findings
    assert findings["gpus.cards[1]"].seen == "no card here is called 'RTX'"


@pytest.mark.parametrize(
    ("facts", "way", "safe"),
    [
        (replace(FACTS, cgroup_driver="systemd", runc="1.1.5+ds1"), Way.DEVICES, False),
        (replace(FACTS, cgroup_driver="systemd", runc="1.1.7"), Way.DEVICES, True),
        (replace(FACTS, cgroup_driver="systemd", runc="1.2.0"), Way.NVIDIA, False),
    ],
    ids=["runc-that-drops-rules", "runc-that-keeps-them", "a-hook-behind-runc's-back"],
)
async def test_the_trap_of_a_daemon_reload_is_told_where_it_is(
    agent: FakeAgent, tmp_path: Path, facts: EngineFacts, way: Way, safe: bool
) -> None:
    agent.report = replace(report(), way=way)
    finding = (await found(tmp_path, facts))["systemctl daemon-reload"]
    assert finding.ok is safe
    assert "create-dev-char-symlinks" in finding.fix


async def test_simulated_cards_have_no_such_trap(agent: FakeAgent, tmp_path: Path) -> None:
    agent.report = replace(report(), inventory=replace(report().inventory, simulated=True))
    findings = await found(tmp_path, replace(FACTS, cgroup_driver="systemd", runc="1.1.5"))
    assert "systemctl daemon-reload" not in findings
    assert "simulated" in findings["GPU driver"].seen


@pytest.mark.parametrize(("version", "ok"), [("12.8.1", True), ("12.9", True), ("13.0.2", False)])
async def test_an_image_for_a_newer_cuda_than_the_driver_serves_is_told(
    agent: FakeAgent, tmp_path: Path, version: str, ok: bool
) -> None:
    release = Release("labdock-lab/cpu:0123456789ab", "2026-11-25T12:00:00+00:00", 1, cuda=version)
    (tmp_path / "images.json").write_text(Shelves({"cpu": Shelf().publish(release)}).to_json())
    assert (await found(tmp_path))["CUDA of the image cpu"].ok is ok


@pytest.mark.parametrize(
    ("script", "ok", "seen"),
    [
        ("printf 'Enabled\\nEnabled\\n'", True, "on"),
        ("printf 'Enabled\\nDisabled\\n'", False, "off on 1 of 2"),
        ("echo broken; exit 9", False, "nvidia-smi failed."),
    ],
)
async def test_persistence_mode_is_what_nvidia_smi_says(
    agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, ok: bool, seen: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    real = host.run
    monkeypatch.setattr(host, "run", lambda command, **how: real((str(program),), **how))
    finding = (await found(tmp_path))["persistence mode"]
    assert finding.ok is ok
    assert seen in finding.seen
