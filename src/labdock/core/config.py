"""Every setting of ``labdock.yaml``, declared once: unit, default, help, example and rule.

The same declaration feeds the parser here and the reference page, the JSON Schema and the
commented sample of ``config_docs``, so they cannot drift apart.

``parse`` takes a tree of nodes that know where they stand and returns a ``Config``, or refuses
with every problem at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from labdock.core.errors import ConfigError
from labdock.core.gpu_settings import GPU_SECTION
from labdock.core.gpus import GpuRules
from labdock.core.image import BUILTINS
from labdock.core.login import LOGIN_SECTION, Login
from labdock.core.session import Limits
from labdock.core.settings import (
    Findings,
    Items,
    ListOf,
    Node,
    Plain,
    Problem,
    Reading,
    Record,
    Traits,
    Value,
    Wrong,
    choice,
    describe,
    flag,
    join,
    line_of_text,
    settings_of,
    text_value,
    value_of,
    whole_number,
)
from labdock.core.site_settings import LABEL, PORT, SITE_SECTION, Site
from labdock.core.sizes import SIZE_PATTERN, format_size, parse_size

# The rules for single values. Each is a JSON Schema too; what that cannot say is checked in code.

_SYSTEM_FOLDERS = (
    r"/(?:(?:proc|sys|dev|run|boot|etc|root|var/run|var/lib/docker)(?:/|$)|var/?$|var/lib/?$|usr/?$)"
)
_FOLDER = rf"(?!{_SYSTEM_FOLDERS})(?:/(?!\.{{1,2}}(?:/|$))[^/\u0000-\u001f\u007f\ud800-\udfff]+)+/?"
_ANY_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt])(?:i?b)?\s*", re.IGNORECASE)
_MOST_BYTES = 2**60
_SHORT_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_IMAGE_ID = r"[a-z0-9](?:[a-z0-9-]{0,28}[a-z0-9])?"
_IMAGE_PART = r"[a-z0-9]+(?:(?:[.]|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = (
    # What comes before the first slash is a registry only if it looks like one, as the engine has it.
    rf"(?:(?:(?:{LABEL}\.)+{LABEL}(?::{PORT})?|{LABEL}:{PORT}|localhost)/)?"
    rf"{_IMAGE_PART}(?:/{_IMAGE_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_APT = r"[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?"
_PIP_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PIP_VERSIONS = r"(?:===?|[<>!~]=|[<>]) ?[A-Za-z0-9.*+!_-]+"
_PIP = (
    rf"{_PIP_NAME}(?:\[{_PIP_NAME}(?:, ?{_PIP_NAME})*\])?"
    rf"(?: ?{_PIP_VERSIONS}(?: ?, ?{_PIP_VERSIONS})*| @ (?:https|git\+https)://[^ \u0000-\u001f]+)?"
    r"(?: ?; ?[A-Za-z0-9_.<>=!~'\" ()]+)?"
)
_CONDA = r"(?:[A-Za-z0-9._/-]+::)?[A-Za-z0-9_][A-Za-z0-9_.-]*(?: ?[=<>!~|,]{1,2} ?[A-Za-z0-9.*+!_-]+){0,6}"

_SIZE_UNIT = "bytes, or K, M, G, T in powers of 1024 (1G is 1,073,741,824 bytes)"
_LEAST_MEMORY = 128 * 2**20
_LEAST_SHM = 2**20
_LEAST_CACHE = 2**30

_RESERVED: tuple[tuple[str, str], ...] = (
    (
        "spawner_class authenticator_class proxy_class",
        "Labdock brings its own; set traits of the parts instead.",
    ),
    (
        "cleanup_servers cleanup_proxy should_start http_timeout shutdown_on_logout",
        "Labdock sets it so that sessions go on when the hub restarts.",
    ),
    (
        "auth_token proxy_auth_token cookie_secret cookie_secret_file api_tokens service_tokens",
        "Labdock keeps the secrets in its state directory.",
    ),
    (
        "api_url bind_url hub_bind_url hub_connect_url hub_connect_ip hub_connect_port hub_ip hub_port "
        "hub_routespec proxy_api_ip proxy_api_port proxy_cmd ip port base_url public_url",
        "Labdock wires the parts together; the public address is site.url, the port is in site.listen.",
    ),
    (
        "subdomain_host subdomain_hook cookie_host_prefix_enabled",
        "A host name for each person is site.isolate_pages.",
    ),
    (
        "ssl_key ssl_cert internal_ssl",
        "The hub is behind the edge; certificates are in site.https.",
    ),
    (
        "admin_users allowed_users whitelist allow_all allow_existing_users auto_login admin_access",
        "Administrators are in login.admins; people are added with: labdock users add NAME",
    ),
    (
        "extra_handlers template_paths template_vars services load_roles",
        "Labdock adds its own there, which this would replace.",
    ),
    ("cmd notebook_dir", "Labdock fixes what a session runs, and where."),
    ("cpu_limit mem_limit", "Use the section limits."),
    ("options_form", "What people choose from is in the section images."),
    ("reset_db", "It would delete everybody's account at each start."),
)

RESERVED_TRAITS: Mapping[str, str] = {trait: way for traits, way in _RESERVED for trait in traits.split()}
"""Traits that the escape hatch may not touch, in any class, and the way out for each."""


def _size(least_bytes: int, *, or_none: bool) -> Value:
    """A kind that takes a size, as text with a unit or as whole bytes."""
    words = 'a size such as 8G, or "none"' if or_none else "a size such as 8G"

    def read(value: Plain) -> object | Wrong:
        if or_none and value == "none":
            return None
        if isinstance(value, str) and (size := parse_size(value)) is not None:
            size_bytes = size
        elif isinstance(value, int) and not isinstance(value, bool):
            size_bytes = value
        else:
            loose = _ANY_SIZE.fullmatch(value) if isinstance(value, str) else None
            near = f"{loose[1]}{loose[2].upper()}" if loose else ""
            hint = f"Write {near}." if parse_size(near) is not None else "K, M, G and T are powers of 1024."
            return Wrong(f"is not {words}", hint)
        if size_bytes < least_bytes:
            hint = f"A plain number is bytes; did you mean {value}G?" if isinstance(value, int) else ""
            return Wrong(f"is less than {format_size(least_bytes)}, the least that works", hint)
        if size_bytes > _MOST_BYTES:
            return Wrong(f"is more than {format_size(_MOST_BYTES)}")
        return size_bytes

    text = {"type": "string", "pattern": f"^(?:{SIZE_PATTERN}{'|none' if or_none else ''})$"}
    number = {"type": "integer", "minimum": least_bytes, "maximum": _MOST_BYTES}
    return Value(
        words,
        {"anyOf": [text, number]},
        read,
        lambda size: "none" if size is None else format_size(size),
    )


def _cpus(least: float, most: float) -> Value:
    words = f'a number of cores from {least} to {most}, or "none"'

    def read(value: Plain) -> object | Wrong:
        if value == "none":
            return None
        # The comparison is also false for "not a number".
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            return Wrong(f"is not {words}")
        return float(value)

    schema = {"anyOf": [{"type": "number", "minimum": least, "maximum": most}, {"const": "none"}]}
    return Value(words, schema, read, _plain_cpus)


def _plain_cpus(cpus: float | None) -> Plain:
    if cpus is None:
        return "none"
    return int(cpus) if cpus.is_integer() else cpus


_FOLDER_VALUE = text_value(
    "the absolute path of a folder that may be used",
    _FOLDER,
    hint="Write a path that begins with /, without . or .. in it, and outside the folders of the system.",
    convert=lambda path: path.rstrip("/"),
    optional=True,
)
_PATH_VALUE = text_value(
    "a path",
    r"[^\u0000-\u001f\u007f\ud800-\udfff]{1,400}",
    hint="Write it as seen from the folder of this file.",
    optional=True,
)


def _read_base(value: Plain) -> object | Wrong:
    if isinstance(value, str) and value in _BUILTIN_BASES:
        return value
    if isinstance(value, str) and (value.startswith("builtin/") or value in BUILTINS):
        near = get_close_matches(value.removeprefix("builtin/"), BUILTINS, 1)
        known = f"Known: {', '.join(_BUILTIN_BASES)}."
        return Wrong("is no image of Labdock's", f"Did you mean builtin/{near[0]}?" if near else known)
    if isinstance(value, str) and re.fullmatch(_REFERENCE, value):
        return value
    return Wrong(
        "is not the name of an image",
        f"Write {_BUILTIN_BASES[0]}, or a name that `docker pull` takes, such as nvidia/cuda:13.0.1-devel.",
    )


_BUILTIN_BASES = tuple(f"builtin/{name}" for name in BUILTINS)
_BASE_VALUE = Value(
    "the name of an image",
    {
        "anyOf": [
            {"enum": list(_BUILTIN_BASES)},
            {
                "type": "string",
                "pattern": f"^(?:{_REFERENCE})$",
                "not": {"anyOf": [{"pattern": "^builtin/"}, {"enum": list(BUILTINS)}]},
            },
        ]
    },
    _read_base,
)
_APT_VALUE = text_value("the name of a Debian or Ubuntu package, such as ffmpeg", _APT)
_PIP_VALUE = text_value(
    "a requirement as pip knows it, such as einops or einops>=0.8",
    _PIP,
    hint="One package an item; options of pip belong into a requirements.txt in the folder that files names.",
)
_CONDA_VALUE = text_value("a package as conda knows it, such as r-base or gdal=3.10", _CONDA)


def _normal_package(requirement: str) -> str:
    """The package that *requirement* names, as PEP 503 writes it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else requirement


# The sections.


@dataclass(frozen=True, slots=True)
class Shared:
    """A folder that everybody sees at ``/shared/<name>``; *path* is None when Labdock makes it."""

    name: str = field(
        metadata=describe(
            text_value(
                "a folder's name: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
                _SHORT_NAME,
            ),
            help="Name of the folder below /shared, as sessions see it.",
            example="datasets",
        )
    )
    path: str | None = field(
        default=None,
        metadata=describe(
            _FOLDER_VALUE,
            help="Absolute path of a folder of this machine that exists already.",
            example="/data",
            derived="a folder that Labdock makes below the storage root",
        ),
    )
    write: str = field(
        default="nobody",
        metadata=describe(
            choice("nobody", "admins", "everybody"),
            help="Who may write into it: nobody, admins or everybody. All may read.",
            example="admins",
        ),
    )


@dataclass(frozen=True, slots=True)
class Storage:
    """Where files live: people's, and what they download.

    *root* is None for a folder inside the state directory; *package_cache* is in bytes, None for no cache.
    """

    root: str | None = field(
        default=None,
        metadata=describe(
            _FOLDER_VALUE,
            help="Absolute path of the folder that holds everybody's home. "
            "Put it on the disk with the space.",
            example="/srv/labdock",
            derived="a folder inside the state directory",
        ),
    )
    shared: tuple[Shared, ...] = field(
        default=(),
        metadata=describe(
            ListOf(Record(settings_of(Shared), Shared), named="name", unique=lambda folder: folder.name),
            help="Folders that everybody sees below /shared.",
            example=[{"name": "datasets", "path": "/data", "write": "admins"}],
        ),
    )
    package_cache: int | None = field(
        default=20 * 2**30,
        metadata=describe(
            _size(_LEAST_CACHE, or_none=True),
            unit=_SIZE_UNIT,
            help="The most disk that downloaded Python packages may take, which are kept once for everybody "
            "in the state directory; they never take more than a tenth of what is free there. "
            "With none, sessions download from the package index themselves.",
            example="50G",
        ),
    )


def _finish_storage(reading: Reading) -> None:
    root = reading.values.get("root")
    for index, folder in enumerate(reading.values.get("shared", ())):
        if root is None or folder.path is None:
            continue
        if f"{root}/".startswith(f"{folder.path}/") or f"{folder.path}/".startswith(f"{root}/"):
            shared = reading.given["shared"]
            assert isinstance(shared, Items)  # noqa: S101  # folders were read, so it was a list
            wrong = Wrong(
                f"and storage.root {root} lie one inside the other, so people would see each other's homes",
                "Leave path out, and Labdock makes the folder; or give one outside the root.",
            )
            path = f"{join(reading.path, 'shared')}[{index}].path"
            reading.findings.add(value_of(shared.nodes[index], "path"), path, wrong, show=True)


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Declares the section ``limits``; what is read is ``core.session.Limits``, with its defaults."""

    cpus: float | None = field(
        default=Limits().cpus,
        metadata=describe(
            _cpus(0.1, 4096),
            unit="cores",
            help="The most processor time one session may use at a time; none takes the limit off.",
            example=8,
        ),
    )
    memory: int | None = field(
        default=Limits().memory_bytes,
        metadata=describe(
            _size(_LEAST_MEMORY, or_none=True),
            unit=_SIZE_UNIT,
            help="The most memory one session may use; none takes the limit off.",
            example="64G",
            attribute="memory_bytes",
        ),
    )
    shm: int = field(
        default=Limits().shm_bytes,
        metadata=describe(
            _size(_LEAST_SHM, or_none=False),
            unit=_SIZE_UNIT,
            help="Size of /dev/shm, through which the worker processes of PyTorch's DataLoader "
            "pass their data. It counts towards memory, and cannot be more.",
            example="16G",
            attribute="shm_bytes",
        ),
    )
    pids: int = field(
        default=Limits().pids,
        metadata=describe(
            whole_number(64, 4_194_304),
            unit="processes and threads",
            help="The most processes and threads one session may have.",
            example=4096,
        ),
    )


def _finish_limits(reading: Reading) -> None:
    memory, shm = reading.values.get("memory"), reading.values.get("shm")
    if memory is None or shm is None or shm <= memory:
        return
    size = format_size(memory)
    if "shm" in reading.given:
        reading.refuse("shm", f"is more than limits.memory, {size}", f"Write shm: {size} or less.")
    else:
        fact = f"is less than limits.shm, {format_size(shm)} by default"
        reading.refuse("memory", fact, f"Add shm: {size} or less.")


@dataclass(frozen=True, slots=True)
class Image:
    """A notebook image that people may choose; of the images in a ``Config`` exactly one is the default."""

    id: str = field(
        metadata=describe(
            text_value("an id: 1 to 30 of a-z, 0-9 and '-', the first and last a letter or digit", _IMAGE_ID),
            help="Short name of the image: in addresses, in the engine's image names and in logs.",
            example="cpu",
        )
    )
    label: str = field(
        default="",
        metadata=describe(
            line_of_text(80),
            help="What people read when they choose.",
            example="Python (CPU)",
            derived="the id",
        ),
    )
    base: str = field(
        default="builtin/cpu",
        metadata=describe(
            _BASE_VALUE,
            help="What the image is built from: one of Labdock's own images "
            f"({', '.join(_BUILTIN_BASES)}), or any image by the name that `docker pull` takes, "
            "if Debian or Ubuntu is in it. With dockerfile, what its argument BASE receives.",
            example="builtin/torch",
        ),
    )
    apt: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(_APT_VALUE, named="package", unique=_normal_package),
            help="Debian or Ubuntu packages to add.",
            example=["ffmpeg"],
        ),
    )
    conda: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(_CONDA_VALUE, named="package"),
            help="Packages to add from conda-forge, by micromamba, into an environment of their own in "
            "/opt/conda; if Python is among them, it is a further kernel.",
            example=["r-base"],
        ),
    )
    pip: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(_PIP_VALUE, named="package", unique=_normal_package),
            help="Python packages to add, as pip knows them.",
            example=["einops", "lightning>=2.5"],
        ),
    )
    files: str | None = field(
        default=None,
        metadata=describe(
            _PATH_VALUE,
            help="Folder, as seen from this file, with any of apt.txt, environment.yml, requirements.txt and "
            "postBuild: what to add, and a script to run at last as root, in that folder.",
            example="images/vision",
            derived="no folder",
        ),
    )
    dockerfile: str | None = field(
        default=None,
        metadata=describe(
            _PATH_VALUE,
            help="A Dockerfile, as seen from this file, built with its folder as context; what the other "
            "settings name is added on top of it.",
            example="images/robot/Dockerfile",
            derived="none",
        ),
    )
    default: bool = field(
        default=False,
        metadata=describe(
            flag(),
            help="Whether it is the one chosen until somebody chooses another. "
            "At most one image is; if none is, it is the first.",
            example=True,
        ),
    )


def _finish_images(
    node: Items, path: str, images: tuple[Image, ...], findings: Findings
) -> tuple[Image, ...]:
    chosen = [index for index, image in enumerate(images) if image.default]
    for index in chosen[1:]:
        wrong = Wrong(f"is a second default, beside {path}[{chosen[0]}]", "Keep it with one image.")
        findings.add(value_of(node.nodes[index], "default"), f"{path}[{index}].default", wrong)
    default = chosen[0] if chosen else 0
    return tuple(
        replace(image, label=image.label or image.id, default=index == default)
        for index, image in enumerate(images)
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that ``labdock.yaml`` can say; ``Config()`` is what holds without a file."""

    site: Site = field(
        default=Site(),
        metadata=describe(
            SITE_SECTION,
            help="What the site is called and where it is reached.",
            example={"name": "Vision Lab"},
        ),
    )
    login: Login = field(
        default=Login(),
        metadata=describe(
            LOGIN_SECTION,
            help="How people sign in, who administers, and who may come in.",
            example={"admins": ["mia"]},
        ),
    )
    storage: Storage = field(
        default=Storage(),
        metadata=describe(
            Record(settings_of(Storage), Storage, _finish_storage),
            help="Where people's files live.",
            example={"root": "/srv/labdock"},
        ),
    )
    gpus: GpuRules = field(
        default=GpuRules(),
        metadata=describe(
            GPU_SECTION,
            help="How the machine's GPUs are shared. On a machine without one, nothing here matters.",
            example={"share": "exclusive", "per_session": 2},
        ),
    )
    limits: Limits = field(
        default=Limits(),
        metadata=describe(
            Record(settings_of(LimitSettings), Limits, _finish_limits),
            help="The most one session may use.",
            example={"memory": "64G"},
        ),
    )
    images: tuple[Image, ...] = field(
        default=(Image(id="cpu", label="Python (CPU)", default=True),),
        metadata=describe(
            ListOf(
                Record(settings_of(Image), Image),
                named="id",
                unique=lambda image: image.id,
                at_least=1,
                finish=_finish_images,
            ),
            help="Images that people may choose from when they start a session.",
            example=[{"id": "cpu", "label": "Python (CPU)", "default": True}],
        ),
    )
    jupyterhub: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict,
        metadata=describe(
            Traits(RESERVED_TRAITS),
            help="Escape hatch: plain JupyterHub configuration, class name to trait to value. "
            "What Labdock needs for itself is refused. Labdock cannot check the rest.",
            example={"JupyterHub": {"active_server_limit": 20}},
        ),
    )


DECLARATION = Record(settings_of(Config), Config)
"""The whole file as one record: what ``config_docs`` describes."""


def find_problems(node: Node) -> tuple[Problem, ...]:
    """Everything that is wrong in the file whose top level is *node*, in the order of the file."""
    findings = Findings()
    DECLARATION.read(node, "", findings)
    return findings.in_order()


def parse(node: Node, *, file: str = "labdock.yaml") -> Config:
    """The configuration in the file whose top level is *node*; what is not given has its default.

    *file* is the file's name as the messages show it. An empty file is ``Scalar(None)``.

    Raises:
        ConfigError: Something is wrong; *details* has every problem, one a line, in the order of the file.
    """
    findings = Findings()
    config = DECLARATION.read(node, "", findings)
    if isinstance(config, Config):
        return config
    raise refusal(file, findings.in_order())


def refusal(file: str, problems: tuple[Problem, ...]) -> ConfigError:
    """The error that tells of *problems* in *file*."""
    number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError(
        f"{file} has {number}.",
        fix="Nothing was changed.",
        details=tuple(problem.text(file) for problem in problems),
    )


def dump(config: Config) -> dict[str, Any]:
    """*config* as plain nested values, every setting written out; ``parse(node_of(dump(c))) == c``."""
    plain: dict[str, Any] = DECLARATION.plain(config)
    return plain
