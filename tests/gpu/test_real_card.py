"""What only a real card can show: the machine's own nvidia-smi and a CUDA program are the judges."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from labdock.adapters.nvidia import Nvml, read_inventory
from labdock.core.gpus import Card, Driver, Inventory, Node
from labdock.core.site import DriverPlaces

pytestmark = pytest.mark.gpu

HERE = DriverPlaces(files="", host_files="", proc="/proc", sys="/sys", dev="/dev", host_dev="/dev")
PROGRAM = Path(__file__).with_name("cuda_program.py")
HELD_BYTES = 256 << 20


@pytest.fixture(scope="module")
def inventory() -> Iterator[Inventory]:
    nvml = Nvml()
    yield read_inventory(HERE, nvml)
    nvml.close()


@pytest.fixture(scope="module")
def driver(inventory: Inventory) -> Driver:
    assert inventory.driver is not None
    return inventory.driver


@pytest.fixture(scope="module")
def root(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh root with the files that sessions are given, and the C library that they were linked with."""
    fresh = tmp_path_factory.mktemp("root")
    for file in driver.files:
        copy(file.host_path, fresh, file.path)
    ours = {file.host_path for file in driver.files}
    for file in driver.files:
        listed = printed("ldd", file.host_path)
        for needed in re.findall(r"(?:=> )?(/\S+) \(0x", listed):
            if str(Path(needed).resolve()) not in ours:
                copy(needed, fresh, needed)
    for folder in ("dev", "proc", "sys", "tmp"):
        (fresh / folder).mkdir(exist_ok=True)
    return fresh


def copy(source: str, root: Path, target: str) -> None:
    place = root / target.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


def printed(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def smi(*fields: str) -> list[list[str]]:
    """What the machine's own nvidia-smi says, a row for each GPU."""
    text = printed("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    return [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]


def with_only(root: Path, nodes: tuple[Node, ...], *command: str) -> str:
    """What *command* prints where only *nodes* are to be seen, in namespaces of its own.

    Root of a user namespace makes no devices, so that nobody helps themselves to more.
    """
    script = ['set -e; root="$1"; shift; for d in proc sys; do mount --rbind /$d "$root/$d"; done']
    script.append('mount -t tmpfs none "$root/dev"; mkdir -p "$root/dev/nvidia-caps"')
    for node in nodes:
        script.append(f': > "$root{node.path}"; mount --bind {node.host_path} "$root{node.path}"')
    script.append('exec "$@"')
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run((*unshare, "true"), check=False, capture_output=True).returncode != 0:
        pytest.skip("user namespaces are closed on this machine")
    return printed(*unshare, "sh", "-c", "\n".join(script), "sh", str(root), *command)


def whole(cards: tuple[Card, ...]) -> list[Card]:
    return [card for card in cards if not card.part_of]


def test_discovery_says_what_nvidia_smi_says(inventory: Inventory, driver: Driver) -> None:
    rows = smi("uuid", "name", "index", "memory.total", "compute_cap", "driver_version", "mig.mode.current")
    for uuid, name, index, memory, compute, version, mig in rows:
        assert driver.version == version
        if mig == "Enabled":
            continue
        card = inventory.find(uuid)
        assert card is not None
        assert (card.model, card.index, card.fault) == (name, index, "")
        assert card.compute == tuple(map(int, compute.split(".")))
        assert card.memory_bytes is not None
        assert card.memory_bytes / 2**20 == pytest.approx(float(memory), rel=0.02)
    listed = re.findall(r"UUID: ((?:GPU|MIG)-[0-9a-f-]+)", printed("nvidia-smi", "-L"))
    assert {card.uuid for card in inventory.cards} <= set(listed)
    assert {card.uuid for card in whole(inventory.cards)} | {
        c.part_of for c in inventory.cards if c.part_of
    } == {row[0] for row in rows}
    shown = re.search(r"CUDA (?:UMD )?Version:\s*([0-9]+)\.([0-9]+)", printed("nvidia-smi"))
    assert shown is not None
    assert driver.cuda == (int(shown[1]), int(shown[2]))


def test_nodes_have_the_numbers_that_the_machines_have(inventory: Inventory, driver: Driver) -> None:
    assert [node.path for node in driver.nodes[:2]] == ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    for node in (*driver.nodes, *(node for card in inventory.cards for node in card.nodes)):
        with Path(node.host_path).open("rb"):
            pass
    assert all(card.nodes for card in inventory.cards)


def test_a_program_uses_nothing_of_the_driver_but_what_sessions_are_given(driver: Driver, root: Path) -> None:
    where = f"{root}{driver.library_dir}"
    run = subprocess.run(
        (sys.executable, str(PROGRAM)),
        env={"LD_LIBRARY_PATH": where},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    used = run.stdout.splitlines()[1].split()
    assert used
    assert all(file.startswith((where, "/dev/nvidia")) for file in used)


def test_nvidia_smi_and_cuda_run_in_a_fresh_root_with_what_sessions_are_given(
    inventory: Inventory, driver: Driver, root: Path
) -> None:
    for card in inventory.cards:
        nodes = (*driver.nodes, *card.nodes)
        listed = with_only(root, nodes, "chroot", str(root), "/usr/bin/nvidia-smi", "-L")
        assert re.findall(r"UUID: ((?:GPU|MIG)-[0-9a-f-]+)", listed)[-1] == card.uuid
        said = with_only(root, nodes, sys.executable, str(PROGRAM), str(root)).split()
        assert said[0] == "1"
        assert card.part_of or said[1] == card.uuid


def test_a_card_whose_node_is_not_there_is_not_to_be_had(
    inventory: Inventory, driver: Driver, root: Path
) -> None:
    for kept in whole(inventory.cards):
        others = tuple(node for card in inventory.cards if card.bus != kept.bus for node in card.nodes)
        nodes = tuple(dict.fromkeys((*driver.nodes, *others)))
        # It fails when it finds no card at all.
        listed = with_only(root, nodes, "sh", "-c", f"chroot {root} /usr/bin/nvidia-smi -L || true")
        assert kept.uuid not in listed


def test_cuda_knows_the_cards_by_the_same_uuids(inventory: Inventory) -> None:
    for card in whole(inventory.cards):
        run = subprocess.run(
            (sys.executable, str(PROGRAM)),
            env={"CUDA_VISIBLE_DEVICES": card.uuid},
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.stdout.split()[:2] == ["1", card.uuid]


def test_what_a_program_holds_is_told_with_the_program(inventory: Inventory) -> None:
    card = whole(inventory.cards)[0]
    program = subprocess.Popen(
        (sys.executable, str(PROGRAM), "", str(HELD_BYTES)),
        env={"CUDA_VISIBLE_DEVICES": card.uuid},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    pynvml.nvmlInit()
    try:
        assert program.stdout is not None
        assert card.uuid.encode() in program.stdout.readline()
        handle = pynvml.nvmlDeviceGetHandleByUUID(card.uuid)
        held = {
            process.pid: process.usedGpuMemory
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        }
        assert held[program.pid] >= HELD_BYTES
        assert pynvml.nvmlDeviceGetMemoryInfo(handle).used >= HELD_BYTES
        assert 0 <= pynvml.nvmlDeviceGetUtilizationRates(handle).gpu <= 100
        assert 10 < pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU) < 110
        ((watts,),) = [row for row in smi("power.draw") if row[0] != "[N/A]"][:1]
        assert pynvml.nvmlDeviceGetPowerUsage(handle) / 1000 == pytest.approx(float(watts), rel=0.5)
    finally:
        pynvml.nvmlShutdown()
        program.communicate()


def test_a_second_question_is_answered_as_the_first(inventory: Inventory) -> None:
    nvml = Nvml()
    assert read_inventory(HERE, nvml) == read_inventory(HERE, nvml) == inventory
    nvml.close()
