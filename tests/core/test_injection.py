"""What is added to a container for its cards, by each way."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.adapters.engine_body import with_injection
from labdock.core.errors import HostError
from labdock.core.gpus import LABEL_DRIVER, LABEL_GPUS, Card, Driver, DriverFile, Node, Way
from labdock.core.injection import (
    EngineAbilities,
    Injection,
    cdi_file,
    cdi_spec,
    choose_way,
    docker_arguments,
    inject,
)

DIR = "/usr/lib/x86_64-linux-gnu"
DRIVER = Driver(
    version="570.86.15",
    cuda=(12, 8),
    files=(
        DriverFile("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
        DriverFile(f"{DIR}/libcuda.so.1", f"{DIR}/nvidia/current/libcuda.so.570.86.15"),
    ),
    nodes=(
        Node("/dev/nvidiactl", "/dev/nvidiactl", 195, 255),
        Node("/dev/nvidia-uvm", "/dev/nvidia-uvm", 511, 0),
    ),
    library_dir=DIR,
)


def node(minor: int) -> Node:
    return Node(f"/dev/nvidia{minor}", f"/dev/nvidia{minor}", 195, minor)


def cap(minor: int) -> Node:
    return Node(f"/dev/nvidia-caps/nvidia-cap{minor}", f"/dev/nvidia-caps/nvidia-cap{minor}", 237, minor)


ONE, TWO = (Card(f"GPU-{n}", str(n), "A100", f"0000:0{n}:00.0", (node(n),)) for n in (1, 2))
SLICES = tuple(
    Card(f"MIG-{n}", f"3:{n}", "A100", "0000:03:00.0", (node(3), cap(n), cap(n + 1)), part_of="GPU-3")
    for n in (10, 20)
)
BODY = {
    "Env": ["NVIDIA_VISIBLE_DEVICES=void", "LANG=C.UTF-8"],
    "Labels": {LABEL_GPUS: "GPU-1"},
    "HostConfig": {"Mounts": [{"Target": "/home/ada"}], "Init": True},
}


def given_by(way: Way, *cards: Card) -> Injection:
    return inject(way, DRIVER, cards, instance="lab")


@given(st.sets(st.sampled_from((ONE, TWO, *SLICES)), min_size=1))
def test_devices_are_the_control_nodes_and_exactly_those_of_the_cards(cards: set[Card]) -> None:
    injection = given_by(Way.DEVICES, *cards)
    assert set(injection.devices) == {*DRIVER.nodes, *(one for card in cards for one in card.nodes)}
    assert len(set(injection.devices)) == len(injection.devices)
    assert (injection.mounts, injection.runtime, injection.cdi) == (DRIVER.files, "", ())


@pytest.mark.parametrize("way", Way)
def test_every_way_sets_what_cuda_and_triton_need_and_lets_no_runtime_add_cards(way: Way) -> None:
    injection = given_by(way, ONE, TWO)
    visible = injection.environment["NVIDIA_VISIBLE_DEVICES"]
    assert visible == ("GPU-1,GPU-2" if way is Way.NVIDIA else "void")
    assert injection.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert injection.environment["TRITON_LIBCUDA_PATH"] == DIR
    assert "CUDA_VISIBLE_DEVICES" not in injection.environment
    assert injection.driver == "570.86.15"


def test_with_cdi_the_engine_is_told_names_that_the_spec_has() -> None:
    injection = given_by(Way.CDI, TWO, SLICES[0])
    spec = cdi_spec(DRIVER, (ONE, TWO, *SLICES), instance="lab")
    names = {f"{spec['kind']}={device['name']}" for device in spec["devices"]}
    assert set(injection.cdi) == {"labdock.org/gpu-lab=GPU-2", "labdock.org/gpu-lab=MIG-10"}
    assert names >= set(injection.cdi)
    assert (injection.devices, injection.mounts) == ((), ())


def test_a_cdi_spec_gives_what_the_devices_way_gives() -> None:
    spec = cdi_spec(DRIVER, (ONE, *SLICES), instance="lab")
    by_name = {device["name"]: device["containerEdits"]["deviceNodes"] for device in spec["devices"]}
    for card in (ONE, *SLICES):
        wanted = given_by(Way.DEVICES, card)
        nodes = spec["containerEdits"]["deviceNodes"] + by_name[card.uuid]
        assert {(one["path"], one["hostPath"], one["major"], one["minor"]) for one in nodes} == {
            (one.path, one.host_path, one.major, one.minor) for one in wanted.devices
        }
        assert {one["permissions"] for one in nodes} == {"rw"}
    mounts = spec["containerEdits"]["mounts"]
    assert [(one["containerPath"], one["hostPath"]) for one in mounts] == [
        (file.path, file.host_path) for file in DRIVER.files
    ]
    assert all("ro" in one["options"] for one in mounts)
    assert spec["cdiVersion"] == "0.5.0"


def test_two_instances_never_name_a_card_alike() -> None:
    specs = [cdi_spec(DRIVER, (ONE,), instance=name) for name in ("lab", "test")]
    assert len({spec["kind"] for spec in specs}) == 2
    assert cdi_file("lab") != cdi_file("test")


def test_a_card_that_cannot_be_named_is_in_no_spec() -> None:
    lost = Card("", "", "A100", "0000:09:00.0", (node(9),), fault="lost")
    gone = Card("GPU-8", "", "A100", "0000:08:00.0", (), fault="gone")
    assert cdi_spec(DRIVER, (lost, gone), instance="lab")["devices"] == []


def test_the_engines_body_gets_all_of_an_injection_and_loses_nothing() -> None:
    body = with_injection(BODY, given_by(Way.DEVICES, ONE))
    assert body["HostConfig"]["Mounts"] == [
        {"Target": "/home/ada"},
        *(
            {"Type": "bind", "Source": file.host_path, "Target": file.path, "ReadOnly": True}
            for file in DRIVER.files
        ),
    ]
    assert [device["PathInContainer"] for device in body["HostConfig"]["Devices"]] == [
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/nvidia1",
    ]
    assert body["HostConfig"]["Init"] is True
    assert body["Labels"] == {LABEL_GPUS: "GPU-1", LABEL_DRIVER: "570.86.15"}
    assert set(BODY["Env"]) < set(body["Env"])
    runtime = with_injection(BODY, given_by(Way.NVIDIA, ONE))
    assert runtime["HostConfig"]["Runtime"] == "nvidia"
    assert [item for item in runtime["Env"] if "VISIBLE" in item] == ["NVIDIA_VISIBLE_DEVICES=GPU-1"]


@pytest.mark.parametrize("way", Way)
def test_a_plain_docker_run_gets_the_same_and_counts_as_holding_the_cards(way: Way) -> None:
    injection = given_by(way, ONE, TWO)
    words = docker_arguments(injection, (ONE, TWO))
    options = list(zip(words[::2], words[1::2], strict=True))
    assert ("--label", f"{LABEL_GPUS}=GPU-1,GPU-2") in options
    assert ("--label", f"{LABEL_DRIVER}=570.86.15") in options
    devices = [value for option, value in options if option == "--device"]
    assert devices == [
        *(f"{one.host_path}:{one.path}:rw" for one in injection.devices),
        *injection.cdi,
    ]
    assert (("--runtime", "nvidia") in options) == (way is Way.NVIDIA)
    variables = [value for option, value in options if option == "--env"]
    assert variables == [f"{key}={value}" for key, value in injection.environment.items()]
    assert len([option for option, _ in options if option == "--mount"]) == len(injection.mounts)


def test_a_place_with_a_comma_stays_one_field_of_a_mount() -> None:
    injection = Injection(mounts=(DriverFile("/usr/bin/nvidia-smi", "/srv/a,b/nvidia-smi"),))
    words = docker_arguments(injection, ())
    (fields,) = csv.reader(io.StringIO(words[words.index("--mount") + 1]))
    assert fields == ["type=bind", "source=/srv/a,b/nvidia-smi", "target=/usr/bin/nvidia-smi", "readonly"]


OLD = EngineAbilities(runtimes=("runc",), cdi_dirs=())
NEW = EngineAbilities(runtimes=("runc", "nvidia"), cdi_dirs=("/etc/cdi", "/var/run/cdi"))


@pytest.mark.parametrize(
    ("setting", "engine", "cdi_dir", "way"),
    [
        ("auto", OLD, "/etc/cdi", Way.DEVICES),
        ("auto", NEW, "/etc/cdi", Way.CDI),
        ("auto", NEW, "", Way.DEVICES),
        ("auto", NEW, "/elsewhere", Way.DEVICES),
        ("devices", NEW, "/etc/cdi", Way.DEVICES),
        ("cdi", NEW, "/etc/cdi", Way.CDI),
        ("nvidia", NEW, "/etc/cdi", Way.NVIDIA),
    ],
)
def test_the_way_is_the_one_asked_for_or_the_best_there_is(
    setting: str, engine: EngineAbilities, cdi_dir: str, way: Way
) -> None:
    assert choose_way(setting, engine, cdi_dir) is way


@pytest.mark.parametrize(
    ("setting", "engine", "cdi_dir", "words"),
    [
        ("cdi", OLD, "/etc/cdi", "has no CDI"),
        ("cdi", NEW, "/elsewhere", "/etc/cdi, /var/run/cdi"),
        ("nvidia", OLD, "/etc/cdi", "it has runc"),
    ],
)
def test_a_way_that_the_engine_has_not_is_refused_with_the_way_out(
    setting: str, engine: EngineAbilities, cdi_dir: str, words: str
) -> None:
    with pytest.raises(HostError, match=words) as caught:
        choose_way(setting, engine, cdi_dir)
    assert "gpus.inject to auto" in caught.value.fix
