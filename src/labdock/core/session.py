"""What a session is given, in nobody's vocabulary: image, user, mounts, limits, labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from labdock.core.errors import BadRequestError, StartError
from labdock.core.gpus import LABEL_DRIVER, LABEL_GPUS, LABEL_GROUPS, NO_GPU, GpuRequest
from labdock.core.people import LAB_GID, Person, session_home
from labdock.core.sizes import parse_size

LABEL_INSTANCE = "org.labdock.instance"
LABEL_ROLE = "org.labdock.role"
LABEL_PERSON = "org.labdock.person"
LABEL_IDENTITY = "org.labdock.identity"
LABEL_IMAGE = "org.labdock.image"
LABEL_SERVER = "org.labdock.server"
SESSION_LABELS = frozenset(
    {
        *(LABEL_INSTANCE, LABEL_ROLE, LABEL_PERSON, LABEL_IDENTITY, LABEL_IMAGE, LABEL_SERVER),
        *(LABEL_GPUS, LABEL_GROUPS, LABEL_DRIVER),
    }
)
"""What a session's labels say, and nothing else may."""

ROLE_SESSION = "session"
ROLE_PART = "part"

SESSION_PORT = 8888
"""The TCP port a session's notebook server listens on."""

ENTRYPOINT = ("tini", "-g", "--")
"""A session's first process, whatever its image would start: it collects orphans and passes signals on."""

STOP_SIGNAL = "SIGTERM"
"""What a session is first told to end with."""

NAMES_TARGET = "/var/lib/extrausers"
"""Where sessions see everybody's names (libnss-extrausers reads passwd and group there)."""

SHARED_TARGET = "/shared"

INSTANCE_PATTERN = re.compile(r"(?=.{1,30}$)(?!(?:.*-)?session(?:-|$))[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
"""What an instance may be called; never with the word "session", which ends it in a container's name."""

SERVER_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,29}")
"""JupyterHub's own rule for a further session's name; the default session has the empty name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most one session may use; None leaves a limit off. ``shm_bytes`` counts towards the memory."""

    cpus: float | None = 4.0
    memory_bytes: int | None = 8 * 2**30
    shm_bytes: int = 2 * 2**30
    pids: int = 4096


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the machine as a session sees it."""

    source: str
    target: str
    writable: bool


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A folder everybody sees at ``/shared/<name>``; ``write`` is nobody, admins or everybody."""

    name: str
    path: str
    write: str = "nobody"

    def mount_for(self, *, admin: bool) -> Mount:
        writable = self.write == "everybody" or (self.write == "admins" and admin)
        return Mount(self.path, f"{SHARED_TARGET}/{self.name}", writable)


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """An image to choose: short id, words for the page, the engine's reference, whether it is the default.

    *details* say what it holds, with versions and size; *published_at* (RFC 3339, UTC, "" when unknown) says
    since when. A *trial* is for administrators alone.
    """

    id: str
    label: str
    reference: str
    default: bool = False
    details: str = ""
    trial: bool = False
    published_at: str = ""


OPTIONS = ("image", "gpus", "gpu_model", "gpu_memory")
"""What can be chosen when a session is started, by the form and by the REST API alike."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a person asked for when starting a session."""

    image: str
    gpus: GpuRequest = NO_GPU


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """Everything one session's container is given."""

    name: str
    hostname: str
    image: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    uid: int
    gid: int
    groups: tuple[int, ...]
    working_dir: str
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    network: str
    limits: Limits
    labels: Mapping[str, str] = field(default_factory=dict)


def container_name(instance: str, person: str, server: str = "") -> str:
    """The name of the container of *person*'s session *server* in *instance*.

    Two instances, people or sessions never share one: no instance's name holds the word "session",
    and no person's name holds "--", which joins the two parts here.
    """
    return f"{instance}-session-{person}" + (f"--{server}" if server else "")


def session_hostname(person: str, server: str = "") -> str:
    """What a session calls itself; at most 63 characters.

    The engine also gives it out as a name on the network: the prefix keeps somebody called "hub" from
    being taken for the hub.
    """
    words = f"session-{person}" + (f"-{server}" if server else "")
    return re.sub(r"[^a-z0-9-]", "-", words)[:63].strip("-")


_COUNT = re.compile(r"[0-9]{1,4}")
_BYTES = re.compile(r"[0-9]{1,18}")


def no_image() -> StartError:
    """Why nobody can start a session while no image is offered."""
    return StartError(
        "No image is offered now, so no session can be started.",
        fix="An administrator can make and publish one with `labdock up`.",
    )


def offered_to(images: Iterable[ImageChoice], *, admin: bool) -> tuple[ImageChoice, ...]:
    """Those of *images* that a person may have, an administrator or not."""
    return tuple(image for image in images if admin or not image.trial)


def default_image(images: tuple[ImageChoice, ...]) -> ImageChoice:
    """What somebody gets who chose none; of *images* that hold no default, the first."""
    return next((image for image in images if image.default), images[0])


def parse_start_request(
    options: Mapping[str, object], images: tuple[ImageChoice, ...], *, remembered: bool = False
) -> StartRequest:
    """The request in *options* (of the start form or the REST API), checked against *images*.

    *images* are those that the person may have. Options that are *remembered* from an earlier start may
    name one that is not offered any more: the default takes its place.

    ``gpus`` is a whole number, as such or in digits, 0 when not given; ``gpu_model`` a model, any when it
    is empty; ``gpu_memory`` a size ("40G") or whole bytes, any when it is empty. Whether there are such
    cards is for :func:`labdock.core.allocation.check_request` to say.

    Raises:
        BadRequestError: An unknown key, an image that is not offered, or a wish that makes no sense.
        StartError: No image is offered at all.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise BadRequestError(
            f"Unknown option {unknown[0][:60]!r}.", field=unknown[0][:60], fix=f"Known: {', '.join(OPTIONS)}."
        )
    if not images:
        raise no_image()
    offered = [choice.id for choice in images]
    default = default_image(images).id
    wanted = options.get("image", default)
    if remembered and wanted not in offered:
        wanted = default
    if not isinstance(wanted, str) or wanted not in offered:
        raise BadRequestError(
            f"There is no image {str(wanted)[:60]!r}.",
            field="image",
            fix=f"Choose one of: {', '.join(offered)}.",
        )
    return StartRequest(image=wanted, gpus=_parse_gpus(options))


def _parse_gpus(options: Mapping[str, object]) -> GpuRequest:
    count = _parse_count(options.get("gpus", 0))
    model = options.get("gpu_model", "")
    if not isinstance(model, str):
        raise BadRequestError("The model of a GPU is text.", field="gpu_model")
    memory_bytes = _parse_memory(options.get("gpu_memory", ""))
    for name, given in (("gpu_model", model), ("gpu_memory", memory_bytes)):
        if given and not count:
            raise BadRequestError(
                f"{name} is given, and no GPU is asked for.", field=name, fix="Add gpus, or leave it out."
            )
    return GpuRequest(count, model, memory_bytes)


def _parse_count(value: object) -> int:
    if isinstance(value, str) and _COUNT.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10_000:
        return value
    raise BadRequestError(
        f"The number of GPUs is {_shown(value)}.", field="gpus", fix="Give a whole number, 0 for none."
    )


def _parse_memory(value: object) -> int | None:
    """The bytes in *value*, None when it is empty."""
    if value == "":
        return None
    size = parse_size(value) if isinstance(value, str) else None
    memory_bytes = 0
    if size is not None:
        memory_bytes = size
    elif isinstance(value, int) and not isinstance(value, bool):
        memory_bytes = value
    elif isinstance(value, str) and _BYTES.fullmatch(value):
        memory_bytes = int(value)
    if not 0 < memory_bytes <= 2**60:
        raise BadRequestError(
            f"The least memory of a GPU is {_shown(value)}.",
            field="gpu_memory",
            fix="Give a size such as 40G, or whole bytes.",
        )
    return memory_bytes


def _shown(value: object) -> str:
    """*value* of somebody's JSON for a sentence; a number of any length in few digits."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return "a number too large"
    return repr(value)[:60]


def session_spec(
    *,
    instance: str,
    person: Person,
    server: str,
    admin: bool,
    image: ImageChoice,
    environment: Mapping[str, str],
    homes_root: str,
    names_dir: str,
    shared: tuple[SharedFolder, ...],
    network: str,
    limits: Limits,
    cards: tuple[str, ...] = (),
    groups: tuple[str, ...] = (),
) -> SessionSpec:
    """What *person*'s session *server* is given on this instance.

    *cards* are the UUIDs of its lease, and *groups* the person's groups, whose limits count it.
    """
    home = session_home(person.name)
    return SessionSpec(
        name=container_name(instance, person.name, server),
        hostname=session_hostname(person.name, server),
        image=image.reference,
        # Both, since an image may bring others or none.
        entrypoint=ENTRYPOINT,
        command=("labdock-session",),
        uid=person.uid,
        gid=person.gid,
        groups=(LAB_GID,),
        working_dir=home,
        environment={
            **environment,
            "HOME": home,
            "USER": person.name,
            "LOGNAME": person.name,
            "SHELL": "/bin/bash",
            # What an environment of a person's own was made over.
            "LABDOCK_IMAGE": image.reference,
            # "void" also hides the cards that an image's own settings ask for.
            "NVIDIA_VISIBLE_DEVICES": "void",
        },
        mounts=(
            Mount(f"{homes_root}/{person.home}", home, writable=True),
            Mount(names_dir, NAMES_TARGET, writable=False),
            *(folder.mount_for(admin=admin) for folder in shared),
        ),
        network=network,
        limits=limits,
        labels={
            LABEL_INSTANCE: instance,
            LABEL_ROLE: ROLE_SESSION,
            LABEL_PERSON: person.name,
            LABEL_IDENTITY: person.identity,
            LABEL_IMAGE: image.id,
            LABEL_SERVER: server,
            **({LABEL_GPUS: ",".join(cards), LABEL_GROUPS: json.dumps(sorted(groups))} if cards else {}),
        },
    )
