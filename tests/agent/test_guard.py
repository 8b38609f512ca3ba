"""The guard: nothing passes but what a session is."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from labdock.agent.guard import (
    CARDS_MAX,
    ENV_MAX_CHARACTERS,
    GROUP_MAX_CHARACTERS,
    GROUPS_MAX,
    Call,
    Images,
    check_create,
    parse_call,
    parse_json,
)
from labdock.core.errors import HostError, RefusedError
from labdock.core.gpus import LABEL_DRIVER, LABEL_GPUS, LABEL_GROUPS
from labdock.core.people import NAME_PATTERN, RESERVED_NAMES, forget, register
from labdock.core.session import LABEL_IMAGE, SERVER_NAME_PATTERN, Limits
from labdock.core.site import package_cache
from tests.agent.builders import IMAGES, agent_rules, good_body, name_query, people

RULES = agent_rules()
REGISTRY = people("ada", "bob")
ADA, BOB = REGISTRY.people
GOOD = good_body(RULES, ADA)
QUERY = name_query(RULES, ADA)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
names = (
    st.lists(st.text("abcxyz0189", min_size=1, max_size=6), min_size=1, max_size=4)
    .flatmap(lambda words: st.sampled_from(".-_").map(lambda mark: "a" + mark.join(words)))
    .filter(lambda name: NAME_PATTERN.fullmatch(name) is not None and name not in RESERVED_NAMES)
)
servers = st.just("") | st.from_regex(SERVER_NAME_PATTERN, fullmatch=True)


def the_images() -> Images:
    return IMAGES


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in *value*, outermost first."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def put(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(body)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def refused(
    body: Any,
    query: dict[str, str] = QUERY,
    rules: Any = RULES,
    registry: Any = REGISTRY,
    images: Images = IMAGES,
) -> str:
    with pytest.raises(RefusedError) as caught:
        check_create(body, query, rules, registry, images)
    return caught.value.field


def same_json(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(
    st.lists(names, min_size=1, max_size=4, unique=True),
    servers,
    st.sampled_from(sorted(IMAGES)),
    st.builds(
        Limits,
        cpus=st.none() | st.floats(0.01, 512),
        memory_bytes=st.none() | st.integers(1, 2**42),
        shm_bytes=st.integers(1, 2**40),
        pids=st.integers(1, 2**22),
    ),
)
def test_a_good_body_of_anybody_is_passed_on_unchanged(
    everybody: list[str], server: str, image: str, limits: Limits
) -> None:
    rules, registry = agent_rules(limits=limits), people(*everybody)
    person = registry.people[-1]
    body = good_body(rules, person, server=server, image=image)
    before = copy.deepcopy(body)
    checked = check_create(body, name_query(rules, person, server), rules, registry, IMAGES)
    assert same_json(checked, before)
    assert checked is not body


@given(st.sampled_from([path for path in places(GOOD) if path[:1] != ("Env",)]), json_values)
def test_no_value_outside_the_environment_can_be_another(path: tuple[Any, ...], value: Any) -> None:
    limits = {("HostConfig", key) for key in ("PidsLimit", "ShmSize", "NanoCpus")}
    assume(not same_json(at(GOOD, path), value))
    # A smaller limit, another host name and a read-only scratch folder are allowed.
    assume(not (path in limits and type(value) is int and 1 <= value <= at(GOOD, path)))
    assume(not (path == ("Hostname",) and isinstance(value, str)))
    assume(not (path[-1:] == ("ReadOnly",) and isinstance(value, bool)))
    refused(put(GOOD, path, value))


@given(
    st.sampled_from([path for path in places(GOOD) if isinstance(at(GOOD, path), dict)]),
    st.text(max_size=20)
    | st.sampled_from(
        (
            "Privileged",
            "Binds",
            "Devices",
            "CapAdd",
            "PidMode",
            "IpcMode",
            "UsernsMode",
            "Healthcheck",
            "Volumes",
            "Init",
            "Runtime",
        )
    ),
    json_values,
)
def test_a_key_that_is_not_in_the_table_is_refused_wherever_it_stands(
    path: tuple[Any, ...], key: str, value: Any
) -> None:
    assume(key not in at(GOOD, path))
    refused(put(GOOD, (*path, key), value))


@given(st.sampled_from([path for path in places(GOOD) if path and path[:1] != ("Env",)]))
def test_nothing_may_be_missing(path: tuple[Any, ...]) -> None:
    body = copy.deepcopy(GOOD)
    del at(body, path[:-1])[path[-1]]
    refused(body)


def test_every_field_of_somebody_elses_body_is_refused_in_ones_own() -> None:
    others = good_body(RULES, BOB)
    differing = [path for path in places(GOOD) if path and isinstance(at(GOOD, path), str | list)]
    swapped = [path for path in differing if not same_json(at(GOOD, path), at(others, path))]
    assert len(swapped) > 8
    for path in swapped:
        if path != ("Hostname",):
            refused(put(GOOD, path, at(others, path)))


def test_nobody_is_given_a_container_under_somebody_elses_name() -> None:
    assert refused(GOOD, name_query(RULES, BOB)) == "name"
    assert refused(GOOD, {}) == "name"
    assert refused(GOOD, QUERY | {"platform": "linux/amd64"}) == "platform"


def test_somebody_removed_or_renamed_gets_no_session() -> None:
    assert refused(GOOD, registry=forget(REGISTRY, ADA.identity)) == "Labels.org.labdock.identity"
    renamed, _ = register(REGISTRY, ADA.identity, "lovelace")
    assert refused(GOOD, registry=renamed) == "Labels.org.labdock.person"


def test_a_shared_folder_is_writable_only_where_the_rules_say_so() -> None:
    by_target = {
        mount["Target"]: ("HostConfig", "Mounts", i) for i, mount in enumerate(GOOD["HostConfig"]["Mounts"])
    }
    allowed = []
    for target, path in by_target.items():
        for read_only in (True, False):
            try:
                check_create(put(GOOD, (*path, "ReadOnly"), read_only), QUERY, RULES, REGISTRY, IMAGES)
            except RefusedError:
                continue
            allowed.append((target, read_only))
    assert allowed == [
        ("/home/ada", False),
        ("/var/lib/extrausers", True),
        ("/shared/datasets", True),
        ("/shared/models", True),
        ("/shared/models", False),
        ("/shared/scratch", True),
        ("/shared/scratch", False),
    ]


def test_a_place_is_not_mounted_twice_in_place_of_another() -> None:
    mounts = GOOD["HostConfig"]["Mounts"]
    assert refused(put(GOOD, ("HostConfig", "Mounts"), [*mounts[:-1], mounts[0]])) == "HostConfig.Mounts"


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("Memory", 0),
        ("Memory", -1),
        ("Memory", 8 * 2**30 + 1),
        ("MemorySwap", -1),
        ("MemorySwap", 2**30),
        ("NanoCpus", 0),
        ("PidsLimit", -1),
        ("PidsLimit", True),
        ("ShmSize", 2.0),
    ],
)
def test_no_limit_can_be_left_off_or_raised(limit: str, value: object) -> None:
    assert refused(put(GOOD, ("HostConfig", limit), value)) == f"HostConfig.{limit}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("Memory",), float(8 * 2**30)),
        (("PidsLimit",), "64"),
        (("Mounts", 1, "ReadOnly"), 1),
        (("CapDrop",), "ALL"),
        (("CapDrop",), ["all"]),
    ],
)
def test_what_only_looks_alike_is_refused(path: tuple[Any, ...], value: object) -> None:
    assert refused(put(GOOD, ("HostConfig", *path), value)).startswith(f"HostConfig.{path[0]}")


def test_a_session_may_ask_for_less_than_the_limits() -> None:
    body = copy.deepcopy(GOOD)
    body["HostConfig"] |= {"Memory": 2**29, "MemorySwap": 2**29, "NanoCpus": 1, "PidsLimit": 1, "ShmSize": 1}
    assert same_json(check_create(body, QUERY, RULES, REGISTRY, IMAGES), body)


@given(st.text(max_size=30), st.text(max_size=30))
def test_only_listed_variables_pass(key: str, value: str) -> None:
    assume("=" not in key)
    listed = key.startswith(("JUPYTERHUB_", "JUPYTER_", "LC_")) or key in {"LANG", "TZ", "JPY_API_TOKEN"}
    assume(not listed)
    refused(put(GOOD, ("Env",), [*GOOD["Env"], f"{key}={value}"]))


@pytest.mark.parametrize(
    "item",
    [
        "LD_PRELOAD=/home/ada/evil.so",
        "PATH=/home/ada/bin",
        "PYTHONPATH=/home/ada",
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=all",
        "BASH_ENV=/home/ada/.env",
        "JUPYTERHUB_API_TOKEN=twice",
        "JUPYTERHUB_a=1",
        "JUPYTERHUB_X=one\ntwo",
        "JUPYTERHUB_X=one\0two",
        "JUPYTERHUB_X=" + (ENV_MAX_CHARACTERS + 1) * "x",
        "JUPYTERHUB_X",
        "=1",
        "",
        7,
        None,
    ],
)
def test_a_variable_that_could_do_harm_is_refused(item: object) -> None:
    last = len(GOOD["Env"])
    assert refused(put(GOOD, ("Env",), [*GOOD["Env"], item])) == f"Env[{last}]"


@pytest.mark.parametrize(
    "key", ["HOME", "USER", "LOGNAME", "SHELL", "LABDOCK_IMAGE", "NVIDIA_VISIBLE_DEVICES"]
)
def test_a_fixed_variable_has_one_value(key: str) -> None:
    index = next(i for i, item in enumerate(GOOD["Env"]) if item.startswith(f"{key}="))
    assert refused(put(GOOD, ("Env", index), f"{key}=other")) == f"Env[{index}]"


CACHE = package_cache("10.213.0.4", {"trusted-host": "mirror.lab.example"})


def with_variables(environment: Mapping[str, str]) -> Any:
    body = copy.deepcopy(GOOD)
    body["Env"] += [f"{key}={value}" for key, value in environment.items()]
    return body


def test_a_session_may_be_told_of_the_package_cache_that_is_in_the_rules_and_need_not() -> None:
    rules = replace(RULES, packages=CACHE)
    body = with_variables(CACHE.environment)
    assert same_json(check_create(body, QUERY, rules, REGISTRY, IMAGES), body)
    assert same_json(check_create(GOOD, QUERY, rules, REGISTRY, IMAGES), GOOD)


@pytest.mark.parametrize("key", sorted(CACHE.environment))
def test_no_session_is_told_to_take_packages_from_elsewhere(key: str) -> None:
    rules, last = replace(RULES, packages=CACHE), len(GOOD["Env"])
    for value in ("", "http://10.213.0.5:8082/index/", f"{CACHE.environment[key]} ", "https://evil.example/"):
        assert refused(with_variables({key: value}), rules=rules) == f"Env[{last}]"
    # Where the part is not run, not even the right value passes.
    assert refused(with_variables({key: CACHE.environment[key]})) == f"Env[{last}]"


@pytest.mark.parametrize(
    "key", ["PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT", "UV_INDEX", "PIP_PROXY"]
)
def test_nothing_else_of_pip_or_uv_can_be_set(key: str) -> None:
    body = with_variables({key: CACHE.environment["PIP_INDEX_URL"]})
    assert refused(body, rules=replace(RULES, packages=CACHE)) == f"Env[{len(GOOD['Env'])}]"


def test_a_session_is_told_its_own_image_and_no_other() -> None:
    index = next(i for i, item in enumerate(GOOD["Env"]) if item.startswith("LABDOCK_IMAGE="))
    assert GOOD["Env"][index] == f"LABDOCK_IMAGE={GOOD['Image']}"
    for other in ("labdock/cpu:1", "", "labdock/torch:7"):
        assert refused(put(GOOD, ("Env", index), f"LABDOCK_IMAGE={other}")) == f"Env[{index}]"


def test_cards_are_hidden_in_every_session() -> None:
    without = [item for item in GOOD["Env"] if not item.startswith("NVIDIA_")]
    assert refused(put(GOOD, ("Env",), without)) == "Env"


@pytest.mark.parametrize("path", [path for path in places(GOOD) if path])
def test_a_refusal_never_tells_a_value_of_the_request(path: tuple[Any, ...]) -> None:
    with pytest.raises(RefusedError) as caught:
        check_create(put(GOOD, path, "FOO=s3cret"), QUERY, RULES, REGISTRY, IMAGES)
    assert "s3cret" not in str(caught.value)


def test_the_image_must_be_one_of_those_that_the_label_names() -> None:
    assert refused(put(GOOD, ("Image",), "labdock/torch:7")) == "Image"
    for reference in IMAGES["cpu"]:
        body = good_body(RULES, ADA, images={"cpu": (reference,)})
        assert check_create(body, QUERY, RULES, REGISTRY, IMAGES)["Image"] == reference


@pytest.mark.parametrize("name", ["gone", "", "cpu|torch", "cpu ", "CPU", "cpu@new", None, ["cpu"], 1])
def test_an_image_that_is_not_known_is_refused(name: object) -> None:
    assert refused(put(GOOD, ("Labels", LABEL_IMAGE), name)) == f"Labels.{LABEL_IMAGE}"


def test_what_a_session_may_run_follows_what_is_published() -> None:
    body = good_body(RULES, ADA, images={"cpu": ("labdock/cpu:3",)})
    assert refused(body) == "Image"
    published = {"cpu": ("labdock/cpu:1", "labdock/cpu:2", "labdock/cpu:3")}
    assert same_json(check_create(body, QUERY, RULES, REGISTRY, published), body)
    assert refused(GOOD, images={}) == f"Labels.{LABEL_IMAGE}"
    assert refused(GOOD, images={"cpu": ()}) == "Image"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("Entrypoint",), None),
        (("Entrypoint",), []),
        (("Entrypoint",), ["/entrypoint.sh"]),
        (("Entrypoint",), ["tini", "-g"]),
        (("Entrypoint",), "tini -g --"),
        (("Cmd",), None),
        (("Cmd",), []),
        (("Cmd",), ["bash"]),
        (("StopSignal",), ""),
        (("StopSignal",), "SIGKILL"),
        (("User",), "root"),
        (("User",), ""),
        (("User",), "0:0"),
        (("WorkingDir",), "/root"),
    ],
)
def test_nothing_that_an_image_could_bring_is_left_to_it(path: tuple[str, ...], value: object) -> None:
    assert refused(put(GOOD, path, value)) == path[0]
    without = copy.deepcopy(GOOD)
    del without[path[0]]
    assert refused(without) == path[0]


@pytest.mark.parametrize("body", [None, [], "x", 1, {}, {"Labels": None}, {"Labels": []}])
def test_a_body_that_is_none_is_refused(body: object) -> None:
    refused(body)


# Cards

GPU = "GPU-5e1a8a0c-7d5b-11ee-b962-0242ac120002"
SLICE = "MIG-9d2c4a10-aaaa-bbbb-cccc-0242ac120002"


@pytest.mark.parametrize(
    "labels",
    [
        {LABEL_GPUS: GPU},
        {LABEL_GPUS: f"{GPU},{SLICE}"},
        {LABEL_GPUS: ",".join([GPU] * CARDS_MAX)},
        {LABEL_GPUS: GPU, LABEL_GROUPS: "[]"},
        {LABEL_GPUS: GPU, LABEL_GROUPS: json.dumps(["Vision Lab", "züge", "x" * GROUP_MAX_CHARACTERS])},
        {LABEL_GPUS: GPU, LABEL_GROUPS: json.dumps([f"g{n}" for n in range(GROUPS_MAX)])},
    ],
)
def test_a_session_may_be_labelled_with_cards_and_groups(labels: dict[str, str]) -> None:
    body = put(GOOD, ("Labels",), GOOD["Labels"] | labels)
    assert same_json(check_create(body, QUERY, RULES, REGISTRY, IMAGES), body)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        (LABEL_GPUS, ""),
        (LABEL_GPUS, "all"),
        (LABEL_GPUS, "0"),
        (LABEL_GPUS, "GPU-"),
        (LABEL_GPUS, f"{GPU},"),
        (LABEL_GPUS, f"{GPU}, {GPU}"),
        (LABEL_GPUS, f"{GPU}\n"),
        (LABEL_GPUS, f"{GPU}=nvidia.com/gpu"),
        (LABEL_GPUS, "GPU-" + 81 * "a"),
        (LABEL_GPUS, ",".join([GPU] * (CARDS_MAX + 1))),
        (LABEL_GPUS, [GPU]),
        (LABEL_GPUS, None),
        (LABEL_GROUPS, ""),
        (LABEL_GROUPS, "vision"),
        (LABEL_GROUPS, "{}"),
        (LABEL_GROUPS, "[1]"),
        (LABEL_GROUPS, '[""]'),
        (LABEL_GROUPS, '["a\\nb"]'),
        (LABEL_GROUPS, json.dumps(["x" * (GROUP_MAX_CHARACTERS + 1)])),
        (LABEL_GROUPS, json.dumps(["x"] * (GROUPS_MAX + 1))),
        (LABEL_GROUPS, ["vision"]),
        (LABEL_DRIVER, "570.86.15"),
        ("org.labdock.part", "agent"),
    ],
)
def test_a_label_that_is_none_of_the_hubs_is_refused(label: str, value: object) -> None:
    assert refused(put(GOOD, ("Labels", label), value)) == f"Labels.{label}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (
            "Devices",
            [
                {
                    "PathOnHost": "/dev/nvidia0",
                    "PathInContainer": "/dev/nvidia0",
                    "CgroupPermissions": "rw",
                }
            ],
        ),
        ("DeviceRequests", [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]),
        ("DeviceRequests", [{"Count": -1, "Capabilities": [["gpu"]]}]),
        ("DeviceCgroupRules", ["c 195:* rw"]),
        ("Runtime", "nvidia"),
    ],
)
def test_a_lease_brings_no_right_to_devices_from_outside(key: str, value: object) -> None:
    body = put(GOOD, ("Labels", LABEL_GPUS), GPU)
    assert refused(put(body, ("HostConfig", key), value)) == f"HostConfig.{key}"
    driver = {
        "Type": "bind",
        "Source": "/usr/lib/libcuda.so",
        "Target": "/usr/lib/libcuda.so",
        "ReadOnly": True,
    }
    mounts = put(body, ("HostConfig", "Mounts"), [*GOOD["HostConfig"]["Mounts"], driver])
    assert refused(mounts) == "HostConfig.Mounts"


# Calls

CALLS = {
    "ping": ("GET", "/_ping"),
    "version": ("GET", "/version"),
    "create": ("POST", "/containers/create?name=x"),
    "list": ("GET", "/containers/json?all=1"),
    "inspect": ("GET", "/containers/labdock-session-ada/json"),
    "logs": ("GET", "/containers/abc123/logs?stdout=1&stderr=1&follow=0&tail=20"),
    "start": ("POST", "/containers/abc123/start"),
    "stop": ("POST", "/containers/abc123/stop?t=10"),
    "remove": ("DELETE", "/containers/abc123?force=1"),
    "image": ("GET", "/images/labdock/cpu:1/json"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("version", ["", "/v1.41", "/v1.52"])
def test_what_sessions_need_is_allowed(name: str, version: str) -> None:
    method, target = CALLS[name]
    call = parse_call(method, version + target, RULES, the_images)
    assert (call.name, call.version) == (name, version)


@given(
    st.sampled_from(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT")),
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            (
                "containers",
                "images",
                "create",
                "json",
                "abc",
                "exec",
                "start",
                "..",
                "",
                "v1.41",
                "_ping",
                "%2e",
            )
        ),
        max_size=6,
    ).map("/".join),
)
def test_no_path_outside_the_table_passes(method: str, path: str) -> None:
    try:
        call = parse_call(method, path, RULES, the_images)
    except RefusedError:
        return
    listed_method, _ = CALLS[call.name]
    assert method in {listed_method, "HEAD"}
    assert path.partition("?")[0] == call.version + call.path.replace("{}", call.target)
    assert not set("/%?#\\ ") & set(call.target) or call.name == "image"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/containers/abc/exec"),
        ("POST", "/containers/abc/kill"),
        ("POST", "/containers/abc/attach"),
        ("POST", "/containers/abc/update"),
        ("POST", "/containers/abc/rename?name=x"),
        ("GET", "/containers/abc/archive?path=/etc"),
        ("PUT", "/containers/abc/archive?path=/etc"),
        ("GET", "/containers/abc/export"),
        ("GET", "/events"),
        ("GET", "/info"),
        ("GET", "/secrets"),
        ("POST", "/build"),
        ("POST", "/images/create?fromImage=x"),
        ("POST", "/networks/create"),
        ("POST", "/volumes/create"),
        ("POST", "/commit?container=abc"),
        ("POST", "/session"),
        ("POST", "/grpc"),
        ("POST", "/_ping"),
        ("GET", "/images/alpine/json"),
        ("GET", "/images/labdock/cpu:1/../../json"),
        ("GET", "/images/labdock%2Fcpu:1/json"),
        ("GET", "/containers/abc/../def/json"),
        ("GET", "/containers/%2e%2e/json"),
        ("GET", "/containers/abc%2Fjson"),
        ("GET", "//containers/json"),
        ("GET", "/containers//json"),
        ("GET", "/containers/json/"),
        ("GET", "http://engine/containers/json"),
        ("GET", "/v1.24/containers/json"),
        ("GET", "/v1.41/v1.41/containers/json"),
        ("GET", "/v1.41"),
        ("GET", "/containers/json#x"),
        ("GET", "containers/json"),
        ("GET", "*"),
        ("GET", ""),
        ("get", "/containers/json"),
    ],
)
def test_everything_else_is_refused(method: str, target: str) -> None:
    with pytest.raises(RefusedError):
        parse_call(method, target, RULES, the_images)


@pytest.mark.parametrize(
    ("method", "target", "field"),
    [
        ("GET", "/containers/abc/logs?follow=1", "follow"),
        ("GET", "/containers/abc/logs?tail=all", "tail"),
        ("GET", "/containers/abc/logs?tail=1001", "tail"),
        ("GET", "/containers/abc/logs?tail=5&tail=6", "tail"),
        ("GET", "/containers/abc/json?size=1", "size"),
        ("POST", "/containers/abc/stop?t=61", "t"),
        ("POST", "/containers/abc/stop?t=-1", "t"),
        ("POST", "/containers/abc/stop?signal=SIGKILL", "signal"),
        ("POST", "/containers/abc/start?detachKeys=x", "detachKeys"),
        ("DELETE", "/containers/abc?v=x", "v"),
        ("DELETE", "/containers/abc?link=1", "link"),
        ("GET", "/containers/json?limit=1", "limit"),
        ("GET", "/containers/json?filters=x", "filters"),
        ("GET", "/containers/json?filters=%7B%22name%22%3A%5B%22x%22%5D%7D", "filters.name"),
        ("GET", "/containers/json?filters=%7B%22label%22%3A%7B%22a%22%3Atrue%7D%7D", "filters.label"),
        ("GET", "/_ping?x", "query"),
        ("GET", "/_ping?x=%ff", "query"),
        ("GET", "/_ping?x=ä", "query"),
    ],
)
def test_a_parameter_that_is_not_listed_is_refused(method: str, target: str, field: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_call(method, target, RULES, the_images)
    assert caught.value.field == field


@pytest.mark.parametrize("name", [name for name in CALLS if name != "image"])
def test_only_a_call_about_an_image_needs_to_know_which_there_are(name: str) -> None:
    def unreadable() -> Images:
        raise HostError("images.json cannot be read.")

    method, target = CALLS[name]
    assert parse_call(method, target, RULES, unreadable).name == name
    with pytest.raises(HostError):
        parse_call(*CALLS["image"], RULES, unreadable)


@pytest.mark.parametrize("query", ["", "?force=1", "?v=0", "?v=false&force=1", "?v=1"])
def test_a_container_always_goes_with_the_volumes_that_its_image_declared(query: str) -> None:
    call = parse_call("DELETE", f"/containers/abc{query}", RULES, the_images)
    assert dict(call.query)["v"] == "1"


def listed_labels(call: Call) -> list[str]:
    labels: list[str] = json.loads(dict(call.query)["filters"])["label"]
    return labels


@given(st.lists(st.text(max_size=10), max_size=5))
def test_a_list_never_shows_more_than_the_sessions_of_this_instance(wanted: list[str]) -> None:
    query = urlencode({"all": "1", "filters": json.dumps({"label": wanted})})
    labels = listed_labels(parse_call("GET", f"/containers/json?{query}", RULES, the_images))
    assert labels == ["org.labdock.instance=labdock", "org.labdock.role=session", *wanted]
    bare = listed_labels(parse_call("GET", "/containers/json", RULES, the_images))
    assert bare == ["org.labdock.instance=labdock", "org.labdock.role=session"]


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, b"\xff", "1" * 10_000, "{'a': 1}"]
)
def test_what_is_not_strictly_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(RefusedError):
        parse_json(text, "body")
