"""What may be asked of the engine: listed calls, and containers that are sessions and nothing else.

Everything is refused that is not named here. Nothing of a caller's object is passed on: what goes
to the engine is built anew from fields that were checked. No refusal quotes a value from the
request, which may hold a token; keys and numbers are quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from labdock.core.errors import RefusedError
from labdock.core.gpus import LABEL_GPUS, LABEL_GROUPS, UUID_PATTERN
from labdock.core.people import LAB_GID, Person, Registry, session_home
from labdock.core.session import (
    ENTRYPOINT,
    LABEL_IDENTITY,
    LABEL_IMAGE,
    LABEL_INSTANCE,
    LABEL_PERSON,
    LABEL_ROLE,
    LABEL_SERVER,
    NAMES_TARGET,
    ROLE_SESSION,
    SERVER_NAME_PATTERN,
    SESSION_PORT,
    SHARED_TARGET,
    STOP_SIGNAL,
    Limits,
    container_name,
    session_hostname,
)
from labdock.core.site import AgentRules

Check = Callable[[object, str], Any]
"""(value, where it stands) → the value to pass on; raises RefusedError."""

Images = Mapping[str, tuple[str, ...]]
"""An image's id to the references that a session labelled with it may run."""

ENV_MAX_ENTRIES = 200
ENV_MAX_CHARACTERS = 16_384
"""The longest value of one variable; a person with many sessions has long OAuth scopes."""

GROUPS_MAX = 50
GROUP_MAX_CHARACTERS = 100
CARDS_MAX = 64
"""Of one session; how many it may really have, the rules for sharing say."""

LOG_MAX_LINES = 1000
STOP_MAX_S = 60


def _refuse(field: str, reason: str) -> RefusedError:
    return RefusedError(f"{field}: {reason}", field=field)


def _key(key: object) -> str:
    return repr(key)[:60]


def _exactly(wanted: Any) -> Check:
    """Only *wanted*, type and all: True is not 1, and 1 is not 1.0."""

    def same(value: object, expected: object) -> bool:
        if type(value) is not type(expected):
            return False
        if isinstance(value, list) and isinstance(expected, list):
            return len(value) == len(expected) and all(map(same, value, expected))
        if isinstance(value, dict) and isinstance(expected, dict):
            return value.keys() == expected.keys() and all(same(value[key], expected[key]) for key in value)
        return value == expected

    def check(value: object, where: str) -> Any:
        if not same(value, wanted):
            raise _refuse(where, f"must be {json.dumps(wanted)}.")
        return wanted

    return check


def _text(pattern: re.Pattern[str]) -> Check:
    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _refuse(where, f"must match {pattern.pattern}.")
        return value

    return check


def _whole(least: int, most: int | None) -> Check:
    """A whole number from *least* to *most* (None: no upper end)."""
    upto = "more" if most is None else str(most)

    def check(value: object, where: str) -> int:
        if type(value) is not int:
            raise _refuse(where, f"must be a whole number from {least} to {upto}.")
        if value < least or (most is not None and value > most):
            raise _refuse(where, f"is {str(value)[:40]}, allowed is {least} to {upto}.")
        return value

    return check


def _fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with all keys of *required*, perhaps those of *optional*, and no other."""
    optional = optional or {}

    def check(value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _refuse(where or "body", "must be an object.")
        prefix = f"{where}." if where else ""
        for key in value:
            if key not in required and key not in optional:
                raise _refuse(f"{prefix}{_key(key)[1:-1]}", "is nothing a session may be given.")
        for key in required:
            if key not in value:
                raise _refuse(f"{prefix}{key}", "is missing.")
        return {key: (required.get(key) or optional[key])(value[key], f"{prefix}{key}") for key in value}

    return check


def _one_of(wanted: Iterable[str], what: str) -> Check:
    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or value not in wanted:
            raise _refuse(where, f"is none of {what}.")
        return value

    return check


def check_create(
    body: object, query: Mapping[str, str], rules: AgentRules, registry: Registry, images: Images
) -> dict[str, Any]:
    """The body to send to ``POST /containers/create``, built from the checked fields of *body*.

    It equals *body*, which must be what ``adapters.engine_body.container_body`` makes of a session
    that *rules* allow for somebody in *registry*, of one of *images*; *query* is the call's query (the
    name alone).
    Cards are a label and no device: whether they are free is for the agent to see, and its to add.

    Raises:
        RefusedError: Anything else; ``field`` is the first field that is wrong, such as
            ``HostConfig.Mounts[0].Source``.
    """
    labels = _check_labels(body, rules, images)
    person = check_person(labels, registry)
    server = labels[LABEL_SERVER]
    for key in query:
        if key != "name":
            raise _refuse(_key(key)[1:-1], "is no parameter a session may be made with.")
    _exactly(container_name(rules.instance, person.name, server))(query.get("name"), "name")
    home = session_home(person.name)
    result: dict[str, Any] = _fields(
        {
            "Image": _one_of(images[labels[LABEL_IMAGE]], "the references of the image that the label names"),
            "Entrypoint": _exactly(list(ENTRYPOINT)),
            "Cmd": _exactly(["labdock-session"]),
            "StopSignal": _exactly(STOP_SIGNAL),
            "User": _exactly(f"{person.uid}:{person.gid}"),
            "Hostname": _exactly(session_hostname(person.name, server)),
            "WorkingDir": _exactly(home),
            "Env": _environment(person, rules, body),
            "Labels": _exactly(labels),
            "ExposedPorts": _exactly({f"{SESSION_PORT}/tcp": {}}),
            "HostConfig": _host_config(person, rules),
        }
    )(body, "")
    return result


def _check_labels(body: object, rules: AgentRules, images: Images) -> dict[str, str]:
    """The labels of *body*; whom they name is still to be checked."""
    raw = body.get("Labels") if isinstance(body, dict) else None
    labels: dict[str, str] = _fields(
        {
            LABEL_INSTANCE: _exactly(rules.instance),
            LABEL_ROLE: _exactly(ROLE_SESSION),
            LABEL_PERSON: _text(re.compile(r".{1,64}")),
            LABEL_IDENTITY: _text(re.compile(r".{1,256}")),
            LABEL_IMAGE: _one_of(images, "the images that a session may be made of"),
            LABEL_SERVER: _text(re.compile(rf"|{SERVER_NAME_PATTERN.pattern}")),
        },
        {LABEL_GPUS: _text(_CARDS), LABEL_GROUPS: _groups},
    )(raw, "Labels")
    return labels


_CARDS = re.compile(rf"{UUID_PATTERN.pattern}(?:,{UUID_PATTERN.pattern}){{0,{CARDS_MAX - 1}}}")


def _groups(value: object, where: str) -> str:
    listed = parse_json(value, where) if isinstance(value, str) else None
    if not isinstance(listed, list) or len(listed) > GROUPS_MAX:
        raise _refuse(where, f"must be a JSON list of at most {GROUPS_MAX}.")
    for name in listed:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= GROUP_MAX_CHARACTERS:
            raise _refuse(where, f"each name must be 1 to {GROUP_MAX_CHARACTERS} printable characters.")
    return str(value)


def check_person(labels: Mapping[str, str], registry: Registry) -> Person:
    """Whose session *labels* say it is.

    Raises:
        RefusedError: Nobody in *registry*, or somebody of another name.
    """
    person = registry.find(labels[LABEL_IDENTITY])
    if person is None:
        raise _refuse(f"Labels.{LABEL_IDENTITY}", "is nobody that is registered here.")
    if person.name != labels[LABEL_PERSON]:
        raise _refuse(f"Labels.{LABEL_PERSON}", "is not the name of that identity.")
    return person


def _host_config(person: Person, rules: AgentRules) -> Check:
    required: dict[str, Check] = {
        "CapDrop": _exactly(["ALL"]),
        "SecurityOpt": _exactly(["no-new-privileges"]),
        "Mounts": _mounts(person, rules),
        "NetworkMode": _exactly(rules.network),
        "GroupAdd": _exactly([str(LAB_GID)]),
        "PidsLimit": _whole(1, rules.limits.pids),
        "ShmSize": _whole(1, rules.limits.shm_bytes),
        "LogConfig": _exactly({"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}}),
    }
    needed, allowed = _memory_and_cpu(rules.limits)
    fields = _fields(required | needed, allowed)

    def check(value: object, where: str) -> dict[str, Any]:
        checked: dict[str, Any] = fields(value, where)
        # More than the memory would be swap.
        if checked.get("MemorySwap") != checked.get("Memory"):
            raise _refuse(f"{where}.MemorySwap", "must equal Memory.")
        return checked

    return check


def _memory_and_cpu(limits: Limits) -> tuple[dict[str, Check], dict[str, Check]]:
    """The checks a body must pass, and those it must pass if it sets that limit at all."""
    needed: dict[str, Check] = {}
    allowed: dict[str, Check] = {}
    memory = {key: _whole(1, limits.memory_bytes) for key in ("Memory", "MemorySwap")}
    (allowed if limits.memory_bytes is None else needed).update(memory)
    if limits.cpus is None:
        allowed["NanoCpus"] = _whole(1, None)
    else:
        needed["NanoCpus"] = _whole(1, round(limits.cpus * 1e9))
    return needed, allowed


def _mounts(person: Person, rules: AgentRules) -> Check:
    """Own home, everybody's names, the shared folders: each once, from its place, to its place."""
    places: dict[str, tuple[str, tuple[bool, ...]]] = {
        session_home(person.name): (f"{rules.homes_root}/{person.home}", (False,)),
        NAMES_TARGET: (rules.names_dir, (True,)),
    }
    for folder in rules.shared:
        # Who is an admin is the hub's to know, so "admins" may be mounted either way.
        read_only = (True,) if folder.write == "nobody" else (True, False)
        places[f"{SHARED_TARGET}/{folder.name}"] = (folder.path, read_only)

    def one(value: object, where: str) -> dict[str, Any]:
        target = value.get("Target") if isinstance(value, dict) else None
        if not isinstance(target, str) or target not in places:
            raise _refuse(f"{where}.Target", "is no place a session mounts anything at.")
        source, allowed = places[target]

        def read_only(value: object, where: str) -> bool:
            if not isinstance(value, bool) or value not in allowed:
                raise _refuse(where, f"must be {' or '.join(json.dumps(choice) for choice in allowed)}.")
            return value

        mount: dict[str, Any] = _fields(
            {
                "Type": _exactly("bind"),
                "Source": _exactly(source),
                "Target": _exactly(target),
                "ReadOnly": read_only,
            }
        )(value, where)
        return mount

    def check(value: object, where: str) -> list[dict[str, Any]]:
        if not isinstance(value, list) or len(value) != len(places):
            raise _refuse(where, f"must be a list of {len(places)} mounts.")
        mounts = [one(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if len({mount["Target"] for mount in mounts}) != len(places):
            raise _refuse(where, "must hold each place once.")
        return mounts

    return check


_PLAIN = re.compile(rf"[^\x00-\x1f\x7f]{{0,{ENV_MAX_CHARACTERS}}}")
_FREE_VARIABLES = re.compile(r"JUPYTERHUB_[A-Z0-9_]+|JUPYTER_[A-Z0-9_]+|JPY_API_TOKEN|LANG|LC_[A-Z]+|TZ")


def _environment(person: Person, rules: AgentRules, body: object) -> Check:
    """``KEY=value`` each; a variable outside the list could change what runs before the session does.

    What says where packages come from is what the rules say, or is not there.
    """
    fixed = {
        **(rules.packages.environment if rules.packages else {}),
        # So that a session knows what it runs; the field itself is checked as such.
        "LABDOCK_IMAGE": body.get("Image") if isinstance(body, dict) else None,
        "HOME": session_home(person.name),
        "USER": person.name,
        "LOGNAME": person.name,
        "SHELL": "/bin/bash",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }

    def check(value: object, where: str) -> list[str]:
        if not isinstance(value, list) or len(value) > ENV_MAX_ENTRIES:
            raise _refuse(where, f"must be a list of at most {ENV_MAX_ENTRIES}.")
        seen: set[str] = set()
        for index, item in enumerate(value):
            here = f"{where}[{index}]"
            if not isinstance(item, str) or "=" not in item:
                raise _refuse(here, "must be text of the form KEY=value.")
            key, _, content = item.partition("=")
            if key not in fixed and not _FREE_VARIABLES.fullmatch(key):
                raise _refuse(here, f"the variable {_key(key)} is none a session may be given.")
            if key in seen:
                raise _refuse(here, f"the variable {key} is there twice.")
            seen.add(key)
            if key == "LABDOCK_IMAGE" and content != fixed[key]:
                raise _refuse(here, f"the variable {key} must be the image itself.")
            if key in fixed and content != fixed[key]:
                raise _refuse(here, f"the variable {key} must be {fixed[key]!r}.")
            if not _PLAIN.fullmatch(content):
                raise _refuse(
                    here,
                    f"the value of {key} must be one line of at most {ENV_MAX_CHARACTERS} characters.",
                )
        # Without it an image could ask for cards by a setting of its own.
        if "NVIDIA_VISIBLE_DEVICES" not in seen:
            raise _refuse(where, "the variable NVIDIA_VISIBLE_DEVICES is missing.")
        return list(value)

    return check


@dataclass(frozen=True, slots=True)
class Call:
    """One allowed call to the engine, with its checked query.

    ``path`` has ``{}`` where ``target`` stands: a container (id or name, not yet known to be ours)
    or an image. ``version`` is the prefix the caller chose, such as "/v1.41", or empty.
    """

    name: str
    method: str
    version: str
    path: str
    target: str
    query: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """``path`` has one ``{}`` at most; ``query`` maps each known parameter to what it may be."""

    name: str
    methods: tuple[str, ...]
    path: str
    query: Mapping[str, Callable[[str, str], str]]


def _flag(value: str, where: str) -> str:
    if value not in ("0", "1", "true", "false"):
        raise _refuse(where, "must be 0, 1, true or false.")
    return value


def _only_off(value: str, where: str) -> str:
    if value not in ("0", "false"):
        raise _refuse(where, "must be 0.")
    return value


def _number_up_to(most: int) -> Callable[[str, str], str]:
    def check(value: str, where: str) -> str:
        if not re.fullmatch(r"[0-9]{1,6}", value) or int(value) > most:
            raise _refuse(where, f"must be 0 to {most}.")
        return value

    return check


def _as_given(value: str, where: str) -> str:
    return value


_ENDPOINTS = (
    _Endpoint("ping", ("GET", "HEAD"), "/_ping", {}),
    _Endpoint("version", ("GET",), "/version", {}),
    # check_create looks at the name, and _filters at the filters.
    _Endpoint("create", ("POST",), "/containers/create", {"name": _as_given}),
    _Endpoint("list", ("GET",), "/containers/json", {"all": _flag, "filters": _as_given}),
    _Endpoint("inspect", ("GET",), "/containers/{}/json", {}),
    _Endpoint(
        "logs",
        ("GET",),
        "/containers/{}/logs",
        {
            "stdout": _flag,
            "stderr": _flag,
            "timestamps": _flag,
            "follow": _only_off,
            "tail": _number_up_to(LOG_MAX_LINES),
        },
    ),
    _Endpoint("start", ("POST",), "/containers/{}/start", {}),
    _Endpoint("stop", ("POST",), "/containers/{}/stop", {"t": _number_up_to(STOP_MAX_S)}),
    _Endpoint("remove", ("DELETE",), "/containers/{}", {"force": _flag, "v": _flag, "link": _only_off}),
    _Endpoint("image", ("GET",), "/images/{}/json", {}),
)

# Older versions give some fields of a container another meaning.
_VERSION = r"(?P<version>/v1\.(?:4[1-9]|[5-9][0-9]))?"
_CONTAINER = r"(?P<target>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})"
_IMAGE = r"(?P<target>[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,255})"
_QUERY = re.compile(r"[!-~]{0,4096}")


def _pattern(endpoint: _Endpoint) -> re.Pattern[str]:
    before, _, after = endpoint.path.partition("{}")
    place = "" if "{}" not in endpoint.path else _IMAGE if endpoint.name == "image" else _CONTAINER
    return re.compile(_VERSION + re.escape(before) + place + re.escape(after))


_TABLE = tuple((endpoint, _pattern(endpoint)) for endpoint in _ENDPOINTS)


def parse_call(method: str, target: str, rules: AgentRules, images: Callable[[], Images]) -> Call:
    """The call that a request's *method* and raw *target* (path and query as they came) make.

    A path is compared as it came: nothing is decoded, so ``%2e``, ``//``, ``..`` and a target with
    a host in it match nothing. *images* is asked only by a call that is about one.

    Raises:
        RefusedError: The table has no such call, or its query is not allowed.
    """
    path, _, query = target.partition("?")
    for endpoint, pattern in _TABLE:
        match = pattern.fullmatch(path)
        if match is None or method not in endpoint.methods:
            continue
        found = match.groupdict()
        call = Call(
            endpoint.name,
            method,
            found["version"] or "",
            endpoint.path,
            found.get("target") or "",
            _check_query(query, endpoint, rules),
        )
        if call.name == "image" and not any(call.target in known for known in images().values()):
            raise _refuse("image", "is none that a session may be made of.")
        return call
    raise RefusedError("This call to the engine is none that sessions need.", field="path")


def _check_query(query: str, endpoint: _Endpoint, rules: AgentRules) -> tuple[tuple[str, str], ...]:
    if not _QUERY.fullmatch(query):
        raise _refuse("query", "must be at most 4096 plain characters.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as error:
        raise _refuse("query", "must be of the form key=value&key=value.") from error
    checked: dict[str, str] = {}
    for key, value in pairs:
        if key not in endpoint.query:
            raise _refuse(_key(key)[1:-1], "is no parameter of this call.")
        if key in checked:
            raise _refuse(key, "is there twice.")
        checked[key] = endpoint.query[key](value, key)
    if endpoint.name == "list":
        checked["filters"] = _filters(checked.get("filters", "{}"), rules.instance)
    if endpoint.name == "remove":
        # An image may declare volumes; the engine makes one for each container, and keeps it unless told.
        checked["v"] = "1"
    return tuple(checked.items())


def _filters(text: str, instance: str) -> str:
    """*text*'s label filters, narrowed to the sessions of *instance*; labels are joined by "and"."""
    filters: dict[str, Any] = _fields({}, {"label": _label_list})(parse_json(text, "filters"), "filters")
    return json.dumps({"label": [*session_filter(instance), *filters.get("label", ())]})


def _label_list(value: object, where: str) -> list[str]:
    if not isinstance(value, list) or len(value) > 20 or not all(isinstance(item, str) for item in value):
        raise _refuse(where, "must be a list of at most 20 texts.")
    return list(value)


def session_filter(instance: str) -> tuple[str, str]:
    """The label filters that find the sessions of *instance* and no other container."""
    return f"{LABEL_INSTANCE}={instance}", f"{LABEL_ROLE}={ROLE_SESSION}"


def is_session(labels: Mapping[str, str], instance: str) -> bool:
    """Whether a container with *labels* is a session of *instance*."""
    return labels.get(LABEL_INSTANCE) == instance and labels.get(LABEL_ROLE) == ROLE_SESSION


def parse_json(text: str | bytes, field: str) -> object:
    """The value in *text*, strictly JSON (no NaN, no key twice).

    Raises:
        RefusedError: It is not; *field* is the one named.
    """

    def pairs(items: Iterable[tuple[str, object]]) -> dict[str, object]:
        listed = list(items)
        known = dict(listed)
        if len(known) != len(listed):
            raise ValueError("a key is there twice")
        return known

    def constant(name: str) -> object:
        raise ValueError(f"{name} is not JSON")

    try:
        value: object = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise _refuse(field, "must be JSON.") from error
    return value
