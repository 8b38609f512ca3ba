"""Discovery, on machines laid out in a folder: what is found, what sessions get, how trouble is told."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labdock.adapters.nvidia import Nvml, read_inventory, resolve
from labdock.core.driver import LIBRARIES, PROGRAMS, NvmlAnswer
from labdock.core.errors import DriverError
from labdock.core.gpus import Inventory, Node
from tests.adapters.drivers import (
    CAPS_MAJOR,
    GPU_MAJOR,
    INSIDE,
    LAYOUTS,
    MACHINE,
    MULTIARCH,
    UVM_MAJOR,
    Machine,
    bus,
    installed,
    multiarch,
    shared_object,
    told,
    uuid,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices, which takes root")

OLD, NEW = "550.54.14", "570.86.15"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def read(machine: Machine) -> Inventory:
    return read_inventory(machine.places, machine)


def files(inventory: Inventory, machine: Machine) -> dict[str, str]:
    """Path inside by path below the machine's root."""
    assert inventory.driver is not None
    return {file.path: file.host_path.removeprefix(str(machine.root)) for file in inventory.driver.files}


def trouble(machine: Machine) -> DriverError:
    with pytest.raises(DriverError) as caught:
        read(machine)
    assert caught.value.fix
    return caught.value


# Files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exactly_what_sessions_need_is_found_wherever_a_system_has_it(machine: Machine, layout: str) -> None:
    machine.load(NEW)
    machine.plug(0)
    LAYOUTS[layout](machine, OLD)
    wanted = LAYOUTS[layout](machine, NEW)
    found = read(machine)
    assert files(found, machine) == wanted
    assert found.driver is not None
    assert (found.driver.version, found.driver.cuda, found.driver.library_dir) == (NEW, (12, 8), INSIDE)
    for file in found.driver.files:
        assert stat.S_ISREG(os.lstat(file.host_path).st_mode)
    assert machine.asked == [Path(str(machine.root) + wanted[f"{INSIDE}/libnvidia-ml.so.1"])]


def test_what_is_found_can_be_loaded_by_the_names_programs_use(machine: Machine) -> None:
    machine.load(NEW)
    machine.plug(0)
    for path in multiarch(machine, NEW).values():
        if ".so" in path:
            ctypes.CDLL(f"{machine.root}{path}")


def test_a_driver_that_is_upgraded_is_seen_at_the_next_reading(machine: Machine) -> None:
    machine.load(OLD)
    machine.plug(0)
    before = multiarch(machine, OLD)
    assert files(read(machine), machine) == before
    for path in set(before.values()):
        Path(f"{machine.root}{path}").unlink()
    after = multiarch(machine, NEW)
    machine.load(NEW)
    found = read(machine)
    assert files(found, machine) == after
    assert found.driver is not None
    assert found.driver.version == NEW


versions = st.sampled_from(
    ("470.256.02", "550.54.14", "550.54.140", "570.86.15", "570.86", "470.256", "615.36.01")
)


ELSEWHERE = f"usr/lib/{MULTIARCH}/elsewhere"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(
    running=versions,
    lies=st.lists(
        st.tuples(
            st.sampled_from((f"{MULTIARCH}/", f"{MULTIARCH}/nvidia/current/", f"{MULTIARCH}/nvidia/x/", "")),
            st.sampled_from((*LIBRARIES, "libnvidia-encode", "libGL", "libcuda-evil", "libc")),
            st.none() | versions,
            st.sampled_from(("library", "other machine", "32 bits", "text")),
            st.sampled_from(("", "../x", "/etc/x", "libcuda.so.1", "libodd.so.9")),
            st.none() | versions,
        ),
        max_size=12,
    ),
)
def test_nothing_of_another_version_or_beyond_the_drivers_set_is_ever_injected(
    tmp_path_factory: pytest.TempPathFactory,
    running: str,
    lies: list[tuple[str, str, str | None, str, str, str | None]],
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.load(running)
    machine.plug(0)
    # Where it is looked for last: whatever lies before it tempts.
    LAYOUTS["local"](machine, running)
    for folder, name, version, kind, soname, link_to in lies:
        path = f"usr/lib/{folder}{name}.so.{version or running}"
        content = {
            "library": shared_object(soname),
            "other machine": shared_object(soname, machine=3),
            "32 bits": shared_object(soname, bits=32),
            "text": b"GROUP ( libcuda.so.1 )",
        }[kind]
        (machine.root / path).unlink(missing_ok=True)
        if link_to is None:
            machine.write(path, content)
        else:
            machine.write(f"{ELSEWHERE}/{name}.so.{link_to}", content)
            machine.link(path, f"/{ELSEWHERE}/{name}.so.{link_to}")
    found = read(machine)
    for inside, real in files(found, machine).items():
        if ".so" not in real:
            assert real in {f"/usr/local/nvidia/bin/{name}" for name in PROGRAMS}
            continue
        name, _, version = Path(real).name.partition(".so.")
        assert name in LIBRARIES
        assert version == running
        assert Path(inside).parent == Path(INSIDE)
        assert resolve(str(machine.root), real) == real
        content = Path(f"{machine.root}{real}").read_bytes()
        assert (content[4], int.from_bytes(content[18:20], "little")) == (2, MACHINE)


def test_links_lead_where_they_would_if_the_folder_were_the_root(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("usr/lib/a/real", "")
    machine.link("usr/lib/absolute", "/usr/lib/a/real")
    machine.link("usr/lib/up", "../../../../usr/lib/absolute")
    machine.link("usr/lib/merged", "/lib/a/real")
    machine.link("usr/lib/round", "round")
    machine.link("usr/lib/outside", "/etc/passwd")
    for name in ("absolute", "up", "merged"):
        assert resolve(str(tmp_path), f"usr/lib/{name}") == "/usr/lib/a/real"
    assert resolve(str(tmp_path), "usr/lib/round") is None
    assert resolve(str(tmp_path), "usr/lib/outside") is None
    assert resolve("", sys.executable) == os.path.realpath(sys.executable)


# Devices


def test_missing_nodes_are_made_with_the_drivers_numbers(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, 3, nodes=False)
    found = read(machine)
    assert found.driver is not None
    assert found.driver.nodes == (
        Node("/dev/nvidiactl", f"{tmp_path}/dev/nvidiactl", GPU_MAJOR, 255),
        Node("/dev/nvidia-uvm", f"{tmp_path}/dev/nvidia-uvm", UVM_MAJOR, 0),
        Node("/dev/nvidia-uvm-tools", f"{tmp_path}/dev/nvidia-uvm-tools", UVM_MAJOR, 1),
    )
    assert [card.nodes for card in found.cards] == [
        (Node(f"/dev/nvidia{n}", f"{tmp_path}/dev/nvidia{n}", GPU_MAJOR, n),) for n in (0, 3)
    ]
    for name in ("nvidiactl", "nvidia0", "nvidia3", "nvidia-uvm"):
        assert (tmp_path / "dev" / name).stat().st_mode == stat.S_IFCHR | 0o666


def test_a_node_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0)
    odd = tmp_path / "dev/nvidia0"
    odd.unlink()
    os.mknod(odd, stat.S_IFCHR | 0o600, os.makedev(GPU_MAJOR, 77))
    before = odd.stat()
    (card,) = read(machine).cards
    assert (card.nodes[0].major, card.nodes[0].minor) == (GPU_MAJOR, 77)
    assert odd.stat() == before


def test_what_is_no_device_is_neither_given_nor_replaced(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, 1)
    (tmp_path / "dev/nvidia0").unlink()
    (tmp_path / "dev/nvidia0").write_text("a file")
    broken, well = read(machine).cards
    assert broken.nodes == ()
    assert "device node" in broken.fault
    assert well.fault == ""
    assert (tmp_path / "dev/nvidia0").read_text() == "a file"


def test_without_the_module_that_cuda_needs_no_card_is_given(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, nodes=False)
    machine.write("proc/devices", f"Character devices:\n{GPU_MAJOR} nvidia-frontend\n")
    error = trouble(machine)
    assert (error.kind, "nvidia-uvm" in error.message, "modprobe" in error.fix) == ("broken", True, True)


def test_the_asking_process_gets_nodes_of_its_own_and_no_stale_one(tmp_path: Path) -> None:
    machine = installed(tmp_path / "host", 0)
    own = tmp_path / "own"
    own.mkdir()
    os.mknod(own / "nvidia-uvm", stat.S_IFCHR | 0o666, os.makedev(UVM_MAJOR, 9))
    read_inventory(machine.places, machine, own_dev=own)
    for name in ("nvidiactl", "nvidia0", "nvidia-uvm"):
        assert (own / name).stat().st_rdev == (tmp_path / "host/dev" / name).stat().st_rdev


# Four different answers


def test_a_machine_without_nvidia_hardware_has_no_cards_and_no_trouble(machine: Machine) -> None:
    machine.write("sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n")
    machine.write("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n")
    machine.write("sys/bus/pci/devices/0000:00:03.0/vendor", "0x10de\n")
    machine.write("sys/bus/pci/devices/0000:00:03.0/class", "0x040300\n")
    assert read(machine) == Inventory()
    assert machine.asked == []


def test_hardware_without_a_driver_is_not_the_same_as_no_hardware(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0)
    machine.unload()
    error = trouble(machine)
    assert error.kind == "no-driver"
    assert bus(0) in error.message


def test_a_driver_that_drives_none_of_the_hardware_is_broken(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0)
    (tmp_path / f"proc/driver/nvidia/gpus/{bus(0)}/information").unlink()
    assert trouble(machine).kind == "broken"


def test_library_and_module_of_different_versions_are_said_with_both(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, version=NEW)
    machine.load(OLD)
    error = trouble(machine)
    assert error.kind == "mismatch"
    assert OLD in error.message
    assert NEW in error.message
    assert "Restart the machine" in error.fix
    assert machine.asked == []


def test_a_driver_without_its_library_is_broken(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, version=NEW)
    for file in (tmp_path / f"usr/lib/{MULTIARCH}").glob("libcuda.so*"):
        file.unlink()
    error = trouble(machine)
    assert (error.kind, "libcuda.so.570.86.15" in error.message) == ("broken", True)


def test_a_library_that_lists_no_card_at_all_is_no_empty_machine(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0)
    machine.gpus.clear()
    assert trouble(machine).kind == "broken"


def test_a_card_off_the_bus_has_a_fault_and_the_others_stay(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, 1, 2)
    machine.lost[1] = (15, "GPU is lost")
    first, lost, last = read(machine).cards
    assert (lost.uuid, lost.index) == (uuid(1), "1")
    assert "fallen off the bus" in lost.fault
    assert (first.fault, last.fault, last.index) == ("", "", "2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"error": (15, "GPU is lost")}, "fallen off the bus"),
        ({"error": (16, "Reset required")}, "must be reset"),
        ({"error": (999, "Unknown Error")}, "Unknown Error"),
        ({"recovery": 1}, "nvidia-smi --gpu-reset -i 0"),
        ({"recovery": 2}, "machine must be restarted"),
        ({"recovery": 99}, "dmesg"),
        ({"recovery": None, "memory_errors": 2}, "2 uncorrectable"),
        ({"worn_out": True}, "exchanged"),
        ({"uuid": ""}, "no UUID"),
        ({"uuid": "MIG-GPU-8f0c/1/0"}, "no UUID"),
    ],
)
def test_a_cards_fault_is_told_in_words(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    machine = installed(tmp_path, 0)
    machine.answers[0] = told(0, **changes)
    (card,) = read(machine).cards
    assert words in card.fault


def test_a_card_nobody_has_used_yet_is_known_by_its_bus(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, 1)
    machine.inform(0, gpu_uuid="GPU-????????-????-????-????-????????????")
    assert [card.uuid for card in read(machine).cards] == [uuid(0), uuid(1)]
    machine.lost[0] = (15, "GPU is lost")
    assert [card.uuid for card in read(machine).cards] == ["", uuid(1)]


def test_a_card_that_goes_while_the_driver_is_read_is_no_error(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, 1)
    (tmp_path / f"proc/driver/nvidia/gpus/{bus(1)}/information").unlink()
    assert [card.uuid for card in read(machine).cards] == [uuid(0)]


# MIG


def test_a_gpu_in_slices_is_given_out_slice_by_slice(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0, 5)
    machine.split(5, {1: 0, 7: 0})
    machine.answers[5] = told(5, index=1, mig=True, slices=machine.answers[5].slices)
    whole, first, second = read(machine).cards
    assert (whole.uuid, whole.part_of) == (uuid(0), "")
    assert (first.uuid, first.index, first.profile) == ("MIG-5-1-0", "1:0", "1g.10gb")
    assert (first.part_of, first.memory_bytes, first.fault) == (uuid(5), 10 << 30, "")
    assert [node.path for node in first.nodes] == [
        "/dev/nvidia5",
        "/dev/nvidia-caps/nvidia-cap3",
        "/dev/nvidia-caps/nvidia-cap4",
    ]
    assert [(node.major, node.minor) for node in second.nodes[1:]] == [(CAPS_MAJOR, 5), (CAPS_MAJOR, 6)]


def test_a_gpu_in_mig_mode_without_slices_is_said_to_have_none(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0)
    machine.answers[0] = told(0, mig=True)
    (card,) = read(machine).cards
    assert "nvidia-smi mig -i 0" in card.fault


def test_a_slice_without_its_capabilities_is_not_given_out(tmp_path: Path) -> None:
    machine = installed(tmp_path, 0)
    machine.split(0, {1: 0})
    machine.write("proc/driver/nvidia-caps/mig-minors", "config 1\n")
    (card,) = read(machine).cards
    assert card.fault


# NVML in a process of its own

TELLS_ITS_PID = """while read _; do echo '{"cuda": null, "gpus": [], "lost": [['$$', 1, ""]]}'; done"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    file = tmp_path / "libnvidia-ml.so.1"
    file.write_bytes(b"one")
    return file


@pytest.fixture
def opened() -> Iterator[list[Nvml]]:
    everything: list[Nvml] = []
    yield everything
    for one in everything:
        one.close()


def asking(opened: list[Nvml], script: str, patience_s: float = 10.0) -> Nvml:
    nvml = Nvml(patience_s=patience_s, command=("sh", "-c", script, "sh"))
    opened.append(nvml)
    return nvml


def test_one_process_answers_until_the_library_is_another(opened: list[Nvml], library: Path) -> None:
    nvml = asking(opened, TELLS_ITS_PID)
    first = nvml.ask(library)
    assert nvml.ask(library) == first
    library.unlink()
    library.write_bytes(b"two")
    assert nvml.ask(library) != first


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ("read _; exec sleep 100", "broken", "within 0.3 s"),
        ("read _; printf half; exec sleep 100", "broken", "within 0.3 s"),
        # As it is with a process that ends while a card's device does not let go of it.
        ("read _; exec sleep 100 >&-", "broken", "within 0.3 s"),
        ("read _; kill -SEGV $$", "broken", "SIGSEGV"),
        ("exit 3", "broken", "status 3"),
        ("""echo '{"failed": [9, "Driver Not Loaded"]}'""", "broken", "Driver Not Loaded"),
        ("""echo '{"failed": [18, "Driver/library version mismatch"]}'""", "mismatch", "different versions"),
    ],
)
def test_a_driver_that_does_not_answer_is_said_to_be_broken(
    opened: list[Nvml], library: Path, script: str, kind: str, words: str
) -> None:
    nvml = asking(opened, script, 0.3 if "sleep" in script else 10.0)
    with pytest.raises(DriverError) as caught:
        nvml.ask(library)
    assert caught.value.kind == kind
    assert words in caught.value.message


def test_after_a_failure_the_next_question_begins_anew(opened: list[Nvml], library: Path) -> None:
    flag = library.parent / "ill"
    flag.touch()
    nvml = asking(opened, f"[ -e {flag} ] && exec sleep 100; {TELLS_ITS_PID}", 1.0)
    with pytest.raises(DriverError):
        nvml.ask(library)
    flag.unlink()
    assert isinstance(nvml.ask(library), NvmlAnswer)


def test_a_process_that_cannot_be_ended_is_not_joined_by_another(
    opened: list[Nvml], library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = library.parent / "began"
    nvml = asking(
        opened, f"echo $$ >> {began}; [ $(wc -l < {began}) -gt 1 ] || exec sleep 100; {TELLS_ITS_PID}", 1.0
    )
    with monkeypatch.context() as patched:
        # As it is with a process that waits in the kernel.
        patched.setattr("subprocess.Popen.kill", lambda process: None)
        with pytest.raises(DriverError):
            nvml.ask(library)
    with pytest.raises(DriverError, match="did not answer"):
        nvml.ask(library)
    (first,) = began.read_text().split()
    os.kill(int(first), signal.SIGKILL)
    os.waitid(os.P_PID, int(first), os.WEXITED | os.WNOWAIT)
    assert isinstance(nvml.ask(library), NvmlAnswer)


def test_a_library_that_goes_while_a_driver_is_installed_is_said(opened: list[Nvml], library: Path) -> None:
    library.unlink()
    with pytest.raises(DriverError, match=r"libnvidia-ml\.so\.1 went") as caught:
        asking(opened, TELLS_ITS_PID).ask(library)
    assert caught.value.fix


CHATTERS = """
import os, sys
from labdock.adapters import nvml_child

def answer():
    os.write(1, b"a library's own words\\n")
    return {"failed": [9, "Driver Not Loaded"]}

nvml_child.answer = answer
nvml_child.main()
"""


def test_what_a_library_prints_is_no_answer(opened: list[Nvml]) -> None:
    # In the library's place one that can be loaded anywhere: this very program's.
    nvml = Nvml(command=(sys.executable, "-c", CHATTERS))
    opened.append(nvml)
    with pytest.raises(DriverError, match="Driver Not Loaded"):
        nvml.ask(Path(_ctypes.__file__))


def test_the_real_program_says_that_a_library_is_none(library: Path, opened: list[Nvml]) -> None:
    nvml = Nvml()
    opened.append(nvml)
    with pytest.raises(DriverError, match="status 1"):
        nvml.ask(library)
