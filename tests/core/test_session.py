"""What a session is given, and what it is called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from labdock.core.compose import PARTS, part_container
from labdock.core.errors import AccountError, BadRequestError, StartError
from labdock.core.gpus import LABEL_GPUS, LABEL_GROUPS, GpuRequest
from labdock.core.people import LAB_GID, Person, check_name
from labdock.core.session import (
    INSTANCE_PATTERN,
    OPTIONS,
    SERVER_NAME_PATTERN,
    ImageChoice,
    Limits,
    Mount,
    SessionSpec,
    SharedFolder,
    StartRequest,
    container_name,
    offered_to,
    parse_start_request,
    session_spec,
)

ADA = Person("local:1", "ada.l", 200_007, "ada.l-200007")
IMAGES = (
    ImageChoice("cpu", "Python", "labdock/cpu:1"),
    ImageChoice("torch", "PyTorch", "labdock/torch:7", True),
)
FOLDERS = (
    SharedFolder("datasets", "/data"),
    SharedFolder("models", "/models", "admins"),
    SharedFolder("pool", "/pool", "everybody"),
)

# Few words, so that the same ones meet in different places.
words = st.lists(st.sampled_from(["session", "hub", "a", "b1", "edge"]), min_size=1, max_size=4)
instances = words.map("-".join).filter(INSTANCE_PATTERN.fullmatch)
people = words.map("-".join)
servers = st.just("") | words.map("-".join).filter(SERVER_NAME_PATTERN.fullmatch) | st.just("a--b")
sessions = st.tuples(instances, people, servers)


def spec(**changes: Any) -> SessionSpec:
    given: dict[str, Any] = {
        "instance": "lab",
        "person": ADA,
        "server": "",
        "admin": False,
        "image": IMAGES[0],
        "environment": {"LANG": "C.UTF-8"},
        "homes_root": "/srv/homes",
        "names_dir": "/srv/names",
        "shared": FOLDERS,
        "network": "lab-sessions",
        "limits": Limits(),
    }
    return session_spec(**given | changes)


@given(sessions)
def test_a_containers_name_tells_whose_it_is_so_that_no_two_sessions_share_one(
    session: tuple[str, str, str],
) -> None:
    name = container_name(*session)
    instance, _, rest = f"-{name}".partition("-session-")
    person, _, server = rest.partition("--")
    assert (instance.removeprefix("-"), person, server) == session


@given(sessions, instances, st.sampled_from(PARTS))
def test_no_session_has_the_name_of_a_part(session: tuple[str, str, str], instance: str, part: str) -> None:
    assert container_name(*session) != part_container(instance, part)


@given(st.text("ab-_./:1 ", max_size=35))
def test_no_persons_name_holds_what_joins_it_with_a_servers(name: str) -> None:
    try:
        check_name(name)
    except AccountError:
        return
    assert "--" not in name
    assert not name.endswith("-")


@pytest.mark.parametrize("name", ["labdock", "lab-2", "a", "a" * 30, "sessions", "my-sessions"])
def test_an_instance_may_have_a_plain_name(name: str) -> None:
    assert INSTANCE_PATTERN.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Lab",
        "1a",
        "a--b",
        "-a",
        "a-",
        "a_b",
        "a" * 31,
        "session",
        "my-session",
        "session-2",
        "a-session-b",
    ],
)
def test_a_name_that_could_be_read_in_two_ways_is_no_instances(name: str) -> None:
    assert not INSTANCE_PATTERN.fullmatch(name)


def test_the_chosen_image_is_started_and_the_default_when_none_is_chosen() -> None:
    assert parse_start_request({"image": "cpu"}, IMAGES) == StartRequest("cpu")
    assert parse_start_request({}, IMAGES) == StartRequest("torch")
    assert parse_start_request({}, IMAGES[:1]) == StartRequest("cpu")


def test_an_image_of_an_earlier_start_that_is_gone_gives_way_to_the_default() -> None:
    assert parse_start_request({"image": "gone"}, IMAGES, remembered=True) == StartRequest("torch")
    assert parse_start_request({"image": ["x"]}, IMAGES, remembered=True) == StartRequest("torch")
    assert parse_start_request({"image": "cpu"}, IMAGES, remembered=True) == StartRequest("cpu")


@pytest.mark.parametrize("options", [{}, {"image": "cpu"}])
@pytest.mark.parametrize("remembered", [True, False])
def test_without_any_image_nothing_can_be_started(options: dict[str, str], remembered: bool) -> None:
    with pytest.raises(StartError, match="No image is offered now"):
        parse_start_request(options, (), remembered=remembered)


def test_an_administrator_alone_is_offered_what_is_tried() -> None:
    trial = ImageChoice("cpu@new", "New", "labdock/cpu:2", trial=True)
    assert offered_to((*IMAGES, trial), admin=True) == (*IMAGES, trial)
    assert offered_to((*IMAGES, trial), admin=False) == IMAGES


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_an_image_that_is_not_offered_is_refused_with_what_is(wanted: object) -> None:
    assume(wanted not in ("cpu", "torch"))
    with pytest.raises(BadRequestError) as refused:
        parse_start_request({"image": wanted}, IMAGES)
    assert refused.value.field == "image"
    assert refused.value.fix == "Choose one of: cpu, torch."
    assert len(refused.value.message) < 500


@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda key: key not in OPTIONS), st.text(max_size=5), min_size=1
    )
)
def test_an_unknown_option_is_refused_by_its_name(options: dict[str, str]) -> None:
    with pytest.raises(BadRequestError, match="Unknown option") as refused:
        parse_start_request({**options, "image": "cpu"}, IMAGES)
    assert refused.value.field == min(options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, GpuRequest()),
        ({"gpus": 0}, GpuRequest()),
        ({"gpus": "0", "gpu_model": "", "gpu_memory": ""}, GpuRequest()),
        ({"gpus": 2}, GpuRequest(2)),
        ({"gpus": "2"}, GpuRequest(2)),
        ({"gpus": 1, "gpu_model": "NVIDIA H100"}, GpuRequest(1, "NVIDIA H100")),
        ({"gpus": 1, "gpu_memory": "40G"}, GpuRequest(1, "", 40 * 2**30)),
        ({"gpus": 1, "gpu_memory": "1.5T"}, GpuRequest(1, "", 3 * 2**39)),
        ({"gpus": 1, "gpu_memory": 1000}, GpuRequest(1, "", 1000)),
        ({"gpus": 1, "gpu_memory": "1000"}, GpuRequest(1, "", 1000)),
    ],
)
def test_gpus_are_asked_for_by_number_model_and_memory(options: dict[str, Any], expected: GpuRequest) -> None:
    assert parse_start_request(options, IMAGES).gpus == expected


NO_NUMBER: list[object] = [
    -1,
    1e9,
    1.0,
    True,
    False,
    None,
    "",
    "-1",
    "+1",
    "1e9",
    "1.0",
    " 1",
    "1\n",
    "١",
    "0x1",
]
NO_NUMBER += ["1; rm -rf /", "all", [1], ["1", "2"], {"count": 1}, 10**9, 10**5000, "9" * 5000]


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda value: repr(type(value)))
def test_a_number_of_gpus_that_makes_no_sense_is_refused_by_its_field(value: object) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse_start_request({"gpus": value}, IMAGES)
    assert refused.value.field == "gpus"
    assert len(refused.value.message) < 200


NO_MEMORY: list[object] = [
    0,
    -1,
    "0",
    "0G",
    "-1G",
    "40g",
    "40 G",
    "40GB",
    "1e9",
    "G",
    True,
    None,
    1.5,
    ["40G"],
    2**60 + 1,
]
NO_MEMORY += ["1" * 30, "40G; rm -rf /"]


@pytest.mark.parametrize("value", NO_MEMORY, ids=lambda value: repr(type(value)))
def test_a_memory_that_makes_no_sense_is_refused_by_its_field(value: object) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse_start_request({"gpus": 1, "gpu_memory": value}, IMAGES)
    assert refused.value.field == "gpu_memory"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gpus": 1, "gpu_model": ["NVIDIA H100"]}, "gpu_model"),
        ({"gpus": 1, "gpu_model": None}, "gpu_model"),
        ({"gpu_model": "NVIDIA H100"}, "gpu_model"),
        ({"gpus": 0, "gpu_memory": "40G"}, "gpu_memory"),
    ],
)
def test_a_wish_that_contradicts_itself_is_refused_by_its_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse_start_request(options, IMAGES)
    assert refused.value.field == field


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(OPTIONS), any_json))
def test_any_options_are_a_request_or_a_bad_one(options: dict[str, Any]) -> None:
    try:
        request = parse_start_request(options, IMAGES)
    except BadRequestError as error:
        assert error.field in OPTIONS
        assert len(error.message) < 500
        return
    assert request.gpus.count >= 0
    assert request.gpus.memory_bytes is None or request.gpus.memory_bytes > 0


def test_a_session_runs_as_its_person_in_their_home() -> None:
    made = spec()
    assert (made.uid, made.gid, made.groups) == (200_007, 200_007, (LAB_GID,))
    assert made.working_dir == "/home/ada.l"
    assert made.mounts[0] == Mount("/srv/homes/ada.l-200007", "/home/ada.l", writable=True)
    assert made.environment["HOME"] == "/home/ada.l"
    assert made.environment["USER"] == made.environment["LOGNAME"] == "ada.l"


def test_a_session_sees_everybodys_names_and_cannot_change_them() -> None:
    assert Mount("/srv/names", "/var/lib/extrausers", writable=False) in spec().mounts


@pytest.mark.parametrize(("admin", "writable"), [(False, ["pool"]), (True, ["models", "pool"])])
def test_a_shared_folder_is_writable_for_those_it_says(admin: bool, writable: list[str]) -> None:
    shared = [mount for mount in spec(admin=admin).mounts if mount.target.startswith("/shared/")]
    assert [mount.target for mount in shared] == ["/shared/datasets", "/shared/models", "/shared/pool"]
    assert [mount.target.removeprefix("/shared/") for mount in shared if mount.writable] == writable


def test_the_hubs_environment_does_not_override_who_the_person_is_or_show_cards() -> None:
    made = spec(environment={"HOME": "/root", "USER": "root", "NVIDIA_VISIBLE_DEVICES": "all", "LANG": "C"})
    assert made.environment["HOME"] == "/home/ada.l"
    assert made.environment["USER"] == "ada.l"
    assert made.environment["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert made.environment["LANG"] == "C"


def test_the_labels_tell_what_the_container_is() -> None:
    assert spec(server="gpu").labels == {
        "org.labdock.instance": "lab",
        "org.labdock.role": "session",
        "org.labdock.person": "ada.l",
        "org.labdock.identity": "local:1",
        "org.labdock.image": "cpu",
        "org.labdock.server": "gpu",
    }


def test_a_lease_is_written_on_the_container_with_the_groups_that_it_counts_for() -> None:
    labels = spec(cards=("GPU-2", "GPU-0"), groups=("vision", 'a "b", c')).labels
    assert labels[LABEL_GPUS] == "GPU-2,GPU-0"
    assert json.loads(labels[LABEL_GROUPS]) == ['a "b", c', "vision"]


def test_a_session_without_a_card_has_no_label_of_a_lease_and_still_sees_none() -> None:
    made = spec(groups=("vision",))
    assert not {LABEL_GPUS, LABEL_GROUPS} & set(made.labels)
    assert made.environment["NVIDIA_VISIBLE_DEVICES"] == "void"


@pytest.mark.parametrize(
    ("name", "server", "hostname"),
    [
        ("ada.l", "", "session-ada-l"),
        ("a_b", "x", "session-a-b-x"),
        ("a" * 32, "b" * 30, "session-" + "a" * 32 + "-" + "b" * 22),
    ],
)
def test_a_hostname_is_one_that_dns_allows(name: str, server: str, hostname: str) -> None:
    made = spec(person=Person("local:1", name, 200_007, f"{name}-200007"), server=server)
    assert made.hostname == hostname
    assert len(made.hostname) <= 63


@pytest.mark.parametrize("part", PARTS)
def test_no_session_takes_the_name_of_a_part_on_the_network(part: str) -> None:
    made = spec(person=Person("local:1", part, 200_007, f"{part}-200007"))
    assert made.hostname == f"session-{part}"
