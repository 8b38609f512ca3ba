"""The compiled driver as its users meet it: discovery, nvidia-ml-py, gpustat, nvitop, nvidia-smi, CUDA."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiodocker
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labdock.adapters.nvidia import Nvml, nvml_environment, read_inventory
from labdock.core.driver import SIMULATED_STATE
from labdock.core.errors import DriverError
from labdock.core.gpus import Inventory
from labdock.simulation.__main__ import load_text
from labdock.simulation.layout import change
from labdock.simulation.machine import GIB, Machine, machine_text, new_machine
from tests.simulation.builders import laid_out, needs_root, places
from tests.stack import PREFIX

pytestmark = [pytest.mark.engine, needs_root]

SOURCES = Path(__file__).parents[2] / "src/labdock/images/simulation"
GLIBC = (2, 17)
"""Of CentOS 7, on which the oldest images for CUDA stand."""


@pytest.fixture
def root(tmp_path: Path, compiled: Path) -> Path:
    """A machine with four H100."""
    laid_out(tmp_path / "root", compiled)
    return tmp_path / "root"


@contextmanager
def asking(root: Path, *, patience_s: float = 10.0) -> Iterator[Nvml]:
    nvml = Nvml(nvml_environment(places(root)), patience_s=patience_s)
    try:
        yield nvml
    finally:
        nvml.close()


def inventory(root: Path) -> Inventory:
    with asking(root) as nvml:
        return read_inventory(places(root), nvml)


def libraries(root: Path) -> Path:
    return next((root / "usr/lib").iterdir())


def run(root: Path, *command: str, dev: str = "", stdin: str = "") -> subprocess.CompletedProcess[str]:
    """*command* to its end, with the simulated libraries and the nodes in the folder *dev*."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
        env={
            "PATH": os.environ["PATH"],
            "TERM": "dumb",
            "LD_LIBRARY_PATH": str(libraries(root)),
            "LABDOCK_SIMULATED_STATE": str(root / "state"),
            "LABDOCK_SIMULATED_DEV": dev,
        },
    )


def smi(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run(root, str(root / "usr/bin/nvidia-smi"), *options)


def python(root: Path, program: str, stdin: str = "") -> str:
    done = run(root, sys.executable, "-c", program, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Discovery


def test_discovery_finds_what_was_laid_out(tmp_path: Path, compiled: Path) -> None:
    machine = laid_out(tmp_path / "root", compiled, new_machine("lab", 4, ("h200", "l40s", "t4", "rtx4090")))
    found = inventory(tmp_path / "root")
    assert found.simulated
    assert found.driver is not None
    assert (found.driver.version, found.driver.cuda) == (machine.module, machine.cuda)
    assert [card.uuid for card in found.cards] == [machine.uuid(card) for card in machine.cards]
    assert [card.index for card in found.cards] == ["0", "1", "2", "3"]
    assert [card.memory_bytes for card in found.cards] == [gib * GIB for gib in (141, 48, 16, 24)]
    assert [card.compute for card in found.cards] == [(9, 0), (8, 9), (7, 5), (8, 9)]
    assert all("simulated" in card.model and not card.fault for card in found.cards)
    assert [card.nodes[0].minor for card in found.cards] == [0, 1, 2, 3]
    inside = {file.path for file in found.driver.files}
    assert {"/usr/bin/nvidia-smi", SIMULATED_STATE} < inside
    assert {Path(path).name for path in inside} > {"libnvidia-ml.so.1", "libcuda.so.1", "libcuda.so"}


@pytest.mark.parametrize(
    ("fault", "says"), [("lost", "fallen off the bus"), ("ecc", "must be reset"), ("remap", "broken rows")]
)
def test_discovery_tells_a_cards_fault_and_the_others_are_well(root: Path, fault: str, says: str) -> None:
    change(root, "card 1", {"fault": fault})
    faults = [card.fault for card in inventory(root).cards]
    assert says in faults[1]
    assert [faults[0], *faults[2:]] == [""] * 3
    change(root, "card 1", {"fault": "none"})
    assert not any(card.fault for card in inventory(root).cards)


def test_discovery_misses_a_card_that_is_gone(root: Path) -> None:
    before = [card.uuid for card in inventory(root).cards]
    change(root, "card 2", {"fault": "gone"})
    assert [card.uuid for card in inventory(root).cards] == [*before[:2], before[3]]


def test_discovery_finds_slices(root: Path) -> None:
    machine = change(root, "card 1", {"mig": "1g.10gb,3g.40gb"})
    cards = inventory(root).cards
    assert [card.index for card in cards] == ["0", "1:0", "1:1", "2", "3"]
    slices = cards[1:3]
    assert [card.uuid for card in slices] == [
        machine.slice_uuid(machine.cards[1], part) for part in machine.cards[1].slices or ()
    ]
    assert [card.profile for card in slices] == ["1g.10gb", "3g.40gb"]
    assert [card.memory_bytes for card in slices] == [10 * GIB, 40 * GIB]
    assert not any(card.fault for card in slices)
    assert all(len(card.nodes) == 3 for card in slices)


@pytest.mark.parametrize(
    ("target", "words", "kind"),
    [
        ("driver", {"module": "580.65.06"}, "mismatch"),
        ("driver", {"library": "580.65.06"}, "mismatch"),
        ("machine", {"fault": "not-loaded"}, "no-driver"),
    ],
)
def test_a_broken_driver_is_told_by_its_kind(
    root: Path, target: str, words: dict[str, str], kind: str
) -> None:
    change(root, target, words)
    with pytest.raises(DriverError) as caught:
        inventory(root)
    assert caught.value.kind == kind


def test_discovery_follows_a_driver_upgrade(root: Path) -> None:
    with asking(root) as nvml:
        read_inventory(places(root), nvml)
        change(root, "driver", {"version": "580.65.06", "cuda": "13.0"})
        found = read_inventory(places(root), nvml)
    assert found.driver is not None
    assert (found.driver.version, found.driver.cuda) == ("580.65.06", (13, 0))
    assert len(found.cards) == 4


def test_a_driver_that_hangs_is_given_up_on(root: Path) -> None:
    change(root, "machine", {"fault": "hung"})
    with asking(root, patience_s=1.0) as nvml, pytest.raises(DriverError, match="did not answer"):
        read_inventory(places(root), nvml)


# Other people's programs


def test_nvidia_ml_py_reads_what_is_held(root: Path) -> None:
    change(
        root,
        "card 0",
        {"utilization": "42", "memory_used": str(7 * GIB), "temperature": "66", "power": "321000"},
    )
    program = """
import pynvml as n
n.nvmlInit()
card = n.nvmlDeviceGetHandleByIndex(0)
rates = n.nvmlDeviceGetUtilizationRates(card)
memory = n.nvmlDeviceGetMemoryInfo(card, version=n.nvmlMemory_v2)
print(n.nvmlSystemGetDriverVersion(), n.nvmlDeviceGetCount(), rates.gpu, memory.used,
      n.nvmlDeviceGetTemperature(card, 0), n.nvmlDeviceGetPowerUsage(card), n.nvmlDeviceGetName(card))
"""
    assert python(root, program).strip() == (
        f"615.36.01 4 42 {7 * GIB} 66 321000 NVIDIA H100 80GB (simulated)"
    )


@pytest.mark.parametrize("command", [("gpustat", "--no-color"), ("nvitop", "-1", "--colorful")])
def test_the_fields_programs_show_every_card_and_no_error(root: Path, command: tuple[str, ...]) -> None:
    change(root, "card 1", {"processes": f"{os.getpid()}:{3 * GIB}"})
    change(root, "card 2", {"mig": "1g.10gb,2g.20gb"})
    name, *options = command
    done = run(root, str(Path(sys.executable).parent / name), *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not re.search(r"error|not found|traceback", done.stdout, re.IGNORECASE), done.stdout
    assert done.stdout.count("(simulated)") == 4, done.stdout


def test_cuda_says_that_there_is_no_card_to_compute_on(root: Path) -> None:
    program = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
version, text = ctypes.c_int(), ctypes.c_char_p()
assert cuda.cuDriverGetVersion(ctypes.byref(version)) == 0
code = cuda.cuInit(0)
cuda.cuGetErrorString(code, ctypes.byref(text))
print(version.value, code, text.value.decode())
"""
    assert re.fullmatch(r"13040 100 no CUDA-capable device: .*simulates.*\n", python(root, program))


# The binaries


def test_every_symbol_of_nvml_exists(root: Path) -> None:
    program = """
import ctypes, sys
library = ctypes.CDLL("libnvidia-ml.so.1")
print(*[name for name in sys.stdin.read().split() if not hasattr(library, name)])
"""
    symbols = (SOURCES / "symbols.txt").read_text()
    assert len(symbols.split()) > 400
    assert python(root, program, symbols).strip() == ""


def test_nothing_answers_before_init_and_no_pointer_to_nowhere_is_followed(root: Path) -> None:
    program = """
import ctypes, sys
library = ctypes.CDLL("libnvidia-ml.so.1")
# Counting takes no handle: it would be the place to write to.
devices = [name for name in sys.stdin.read().split()
           if name.startswith("nvmlDevice") and not name.startswith("nvmlDeviceGetCount")]
def codes(handle):
    return sorted({getattr(library, name)(handle, None, None, None, None, None) for name in devices})
before = codes(None)
library.nvmlInit_v2()
handle = ctypes.c_void_p()
library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
print(before, codes(None), codes(handle))
"""
    # Uninitialized; then invalid argument, or not supported where a function has no meaning here.
    assert python(root, program, (SOURCES / "symbols.txt").read_text()).strip() == "[1] [2, 3] [2, 3]"


def test_a_limit_of_memory_is_kept_for_a_cgroup_until_it_is_cleared(root: Path, tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "cgroup.procs").write_text("70\n71\n")
    change(root, "card 0", {"processes": f"71:{3 * GIB},80:{GIB}"})
    program = f"""
import pynvml as n
n.nvmlInit()
card, other = n.nvmlDeviceGetHandleByIndex(0), n.nvmlDeviceGetHandleByIndex(1)
def set_limits(path, soft, hard):
    limits = n.c_nvmlSetMemoryLimits_v1_t()
    limits.nameSpace, limits.softLimit, limits.hardLimit = path, soft, hard
    return outcome(n.nvmlDeviceSetMemoryLimits_v1, card, limits)
def get_limits(device):
    limits = n.c_nvmlGetMemoryLimits_v1_t()
    limits.nameSpace = path
    return outcome(n.nvmlDeviceGetMemoryLimits_v1, device, limits) or (
        limits.softLimit, limits.hardLimit, limits.currentUsed)
def outcome(function, device, limits):
    try:
        function(device, limits)
    except n.NVMLError as error:
        return type(error).__name__.removeprefix("NVMLError_")
path, gib = {str(cgroup).encode()!r}, 1 << 30
print(get_limits(card), set_limits(path, 0, 8 * gib), get_limits(card), get_limits(other))
print(set_limits(path, 2, 1), set_limits(path, 0, 81 * gib), set_limits(path + b"/none", 0, 1))
print(set_limits(path, 0, 2**64 - 1), get_limits(card))
"""
    assert python(root, program).splitlines() == [
        f"NotFound None (0, {8 * GIB}, {3 * GIB}) NotFound",
        "InvalidArgument InvalidArgument OperatingSystem",
        "None NotFound",
    ]


@pytest.mark.parametrize("name", ["libnvidia-ml.so", "libcuda.so", "nvidia-smi"])
def test_nothing_compiled_needs_a_newer_glibc_than_the_oldest_image_has(compiled: Path, name: str) -> None:
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", (compiled / name).read_bytes())
    assert versions
    assert max((int(major), int(minor)) for major, minor in versions) <= GLIBC


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_state_never_crashes_the_program(root: Path, data: st.DataObject) -> None:
    machine = change(root, "card 1", {"mig": "1g.10gb", "processes": "7:8"})
    texts = {"machine": machine_text(machine), "load": load_text(machine, 1.8e9, {})}
    name = data.draw(st.sampled_from(sorted(texts)))
    whole = bytearray(texts[name].encode())
    at = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, 300))
    whole[at : at + length] = data.draw(st.binary(max_size=300))
    (root / "state/load").write_text(texts["load"])
    (root / "state" / name).write_bytes(whole)
    assert smi(root).returncode >= 0
    assert smi(root, "-L").returncode >= 0
    (root / "state/machine").write_text(texts["machine"])


def test_a_damaged_state_never_crashes_cuda(root: Path) -> None:
    program = """
import ctypes, os, pathlib, random
cuda, version, chance = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), random.Random(1)
state = pathlib.Path(os.environ["LABDOCK_SIMULATED_STATE"], "machine")
whole = state.read_bytes()
for _ in range(500):
    at, length = chance.randrange(len(whole)), chance.randrange(200)
    state.write_bytes(whole[:at] + chance.randbytes(chance.randrange(200)) + whole[at + length:])
    assert cuda.cuDriverGetVersion(ctypes.byref(version)) == 0
print("alive")
"""
    assert python(root, program) == "alive\n"


# nvidia-smi


def test_the_list_is_as_the_real_one_writes_it(root: Path) -> None:
    machine = change(root, "card 1", {"mig": "1g.10gb"})
    part = (machine.cards[1].slices or ())[0]
    expected = [f"GPU {card.number}: {card.kind.name} (UUID: {machine.uuid(card)})" for card in machine.cards]
    mig = f"  MIG 1g.10gb      Device  0: (UUID: {machine.slice_uuid(machine.cards[1], part)})"
    assert smi(root, "-L").stdout.splitlines() == [*expected[:2], mig, *expected[2:]]


def test_the_table_says_that_it_is_simulated_and_is_straight(root: Path) -> None:
    change(root, "card 0", {"processes": f"{os.getpid()}:{GIB}"})
    done = smi(root)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert "SIMULATED" in lines[2]
    assert "615.36.01" in lines[2]
    assert "CUDA Version: 13.4" in lines[2]
    assert {len(line) for line in lines[1:] if line} == {91}
    assert re.search(rf"\| +0 +N/A +N/A +{os.getpid()} .*1024MiB \|", done.stdout)


def test_every_field_of_the_usage_can_be_asked(root: Path) -> None:
    change(root, "card 0", {"processes": f"{os.getpid()}:{GIB}"})
    usage = smi(root, "-h").stdout
    of_gpus, of_processes = usage.split("Fields of GPUs:")[1].split("Fields of processes:")
    for option, words, rows in (("--query-gpu", of_gpus, 4), ("--query-compute-apps", of_processes, 1)):
        names = words.split()
        done = smi(root, f"{option}={','.join(names)}", "--format=csv")
        assert done.returncode == 0, done.stderr
        table = list(csv.reader(io.StringIO(done.stdout), skipinitialspace=True))
        assert [head.split(" ")[0] for head in table[0]] == names
        assert len(table) == 1 + rows
        assert all(len(row) == len(names) for row in table)


def test_a_query_can_be_of_one_card_without_head_and_units(root: Path) -> None:
    machine = change(root, "card 2", {"memory_used": str(5 * GIB), "power": "250500", "utilization": "9"})
    uuid = machine.uuid(machine.cards[2])
    fields = "--query-gpu=index,uuid,memory.total,power.draw,utilization.gpu,mig.mode.current"
    for card in ("2", uuid, "0000:25:00.0"):
        done = smi(root, "-i", card, fields, "--format=csv,noheader,nounits")
        assert done.stdout == f"2, {uuid}, 81920, 250.50, 9, Disabled\n"
    assert "81920 MiB, 250.50 W, 9 %" in smi(root, "--id=2", fields, "--format=csv,noheader").stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--frobnicate",),
        ("-i",),
        ("--query-gpu=name",),
        ("--query-gpu=colour", "--format=csv"),
        ("--query-gpu=name", "--format=xml"),
        ("--query-gpu=name", "--format=noheader"),
        ("--format=csv",),
        ("-L", "--query-gpu=name", "--format=csv"),
    ],
)
def test_wrong_usage_is_refused_with_a_message(root: Path, options: tuple[str, ...]) -> None:
    done = smi(root, *options)
    assert done.returncode == 2
    assert "nvidia-smi -h" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("target", "words", "says"),
    [
        ("machine", {"fault": "not-loaded"}, "couldn't communicate with the NVIDIA driver"),
        ("driver", {"module": "580.65.06"}, "Driver/library version mismatch"),
        ("card 0", {"fault": "lost"}, "GPU is lost"),
    ],
)
def test_what_is_wrong_is_said_in_the_real_ones_words(
    root: Path, target: str, words: dict[str, str], says: str
) -> None:
    change(root, target, words)
    for options in ((), ("-L",)):
        done = smi(root, *options)
        assert done.returncode != 0
        assert says in done.stdout


def test_a_card_that_is_not_there_is_said(root: Path) -> None:
    for card in ("4", "GPU-none", "0000:99:00.0", "x"):
        done = smi(root, "-i", card)
        assert done.returncode == 6
        assert "No devices were found" in done.stdout


# In a container


def in_container(
    engine_socket: Path,
    image: str,
    root: Path,
    minors: tuple[int, ...],
    command: list[str],
    *,
    control: bool,
) -> tuple[int, str]:
    """The status and output of *command* in a container with the driver's files and the nodes of *minors*."""
    driver = inventory(root).driver
    assert driver is not None
    nodes = [(node.host_path, node.path) for node in driver.nodes] if control else []
    nodes += [(f"{root}/dev/nvidia{minor}", f"/dev/nvidia{minor}") for minor in minors]
    devices = [
        {"PathOnHost": host, "PathInContainer": path, "CgroupPermissions": "rw"} for host, path in nodes
    ]
    body: dict[str, Any] = {
        "Image": image,
        "Cmd": command,
        "User": "200001:200001",
        "NetworkDisabled": True,
        "HostConfig": {
            "CapDrop": ["ALL"],
            "Devices": devices,
            "Binds": [f"{file.host_path}:{file.path}:ro" for file in driver.files],
        },
    }

    async def go() -> tuple[int, str]:
        async with aiodocker.Docker(f"unix://{engine_socket}") as docker:
            container = await docker.containers.create(body, name=f"{PREFIX}-sim-{secrets.token_hex(4)}")
            try:
                await container.start()
                status = (await container.wait())["StatusCode"]
                return int(status), "".join(await container.log(stdout=True, stderr=True))
            finally:
                await container.delete(force=True)

    return asyncio.run(go())


@pytest.fixture
def open_root(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> tuple[Path, Machine]:
    """A machine with four cards where the people of a container may read it."""
    root = tmp_path_factory.mktemp("machine") / "root"
    return root, laid_out(root, compiled)


def test_a_container_sees_exactly_the_cards_it_was_given(
    open_root: tuple[Path, Machine], engine_socket: Path, small_image: str
) -> None:
    root, machine = open_root
    status, shown = in_container(engine_socket, small_image, root, (1, 3), ["nvidia-smi", "-L"], control=True)
    assert status == 0, shown
    assert re.findall(r"UUID: (\S+)\)", shown) == [machine.uuid(machine.cards[n]) for n in (1, 3)]
    status, shown = in_container(engine_socket, small_image, root, (1, 3), ["nvidia-smi"], control=True)
    assert status == 0, shown
    assert shown.count("H100") == 2


def test_a_container_without_a_card_is_told_that_there_is_none(
    open_root: tuple[Path, Machine], engine_socket: Path, small_image: str
) -> None:
    status, shown = in_container(engine_socket, small_image, open_root[0], (), ["nvidia-smi"], control=False)
    assert status != 0
    assert "was given no GPU" in shown


def test_a_container_with_the_control_nodes_alone_has_no_devices(
    open_root: tuple[Path, Machine], engine_socket: Path, small_image: str
) -> None:
    status, shown = in_container(
        engine_socket, small_image, open_root[0], (), ["nvidia-smi", "-L"], control=True
    )
    assert (status, shown.strip()) == (6, "No devices were found")
