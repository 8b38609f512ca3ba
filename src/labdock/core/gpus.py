"""The GPUs of a machine as values: cards, driver, inventory, leases, and the rules for sharing them.

A *card* is what a lease is on: a whole GPU, or a MIG slice of one. A GPU in MIG mode is no card itself;
its slices are. Cards are named by UUID, never by index or count, which change from boot to boot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

LABEL_GPUS = "org.labdock.gpus"
"""The cards a container holds, as UUIDs with commas between: this label is the lease."""

LABEL_DRIVER = "org.labdock.driver"
"""The driver's version when the container was made; one made under another needs a new start."""

LABEL_GROUPS = "org.labdock.groups"
"""The groups whose limits count the lease, as JSON."""

UUID_PATTERN = re.compile(r"(?:GPU|MIG)-[A-Za-z0-9-]{1,80}")


@dataclass(frozen=True, slots=True)
class Node:
    """A character device: its path in a session, where the host has it, and its numbers."""

    path: str
    host_path: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class DriverFile:
    """A library or program of the driver: its path in a session, and where the host has it (no link)."""

    path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU or a MIG slice that a session can be given.

    *index* is what NVML counts, in order of the bus: "0", or "0:1" for slice 1 of GPU 0. *memory_bytes*
    and *compute* (major, minor) are None when unknown; *bus* is the PCI address. *nodes* are its own
    devices: the GPU's, and for a slice also the two of its capabilities. *part_of* is the UUID of a
    slice's GPU and *profile* the slice's size ("1g.10gb"), both empty for a whole GPU. *fault* says in a
    sentence why the card is not given out, empty when it is well.
    """

    uuid: str
    index: str
    model: str
    bus: str
    nodes: tuple[Node, ...]
    memory_bytes: int | None = None
    compute: tuple[int, int] | None = None
    part_of: str = ""
    profile: str = ""
    fault: str = ""

    @property
    def label(self) -> str:
        """For people: the model, and the slice's size if it is one."""
        return f"{self.model} ({self.profile})" if self.profile else self.model


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver on the host: its version, the highest CUDA version it serves, and what sessions need of it.

    *files* are what a session needs of it, links among libraries written out as further files; *nodes* are
    the control devices that go with every card; *library_dir* is where the libraries lie in a session.
    """

    version: str
    cuda: tuple[int, int] | None
    files: tuple[DriverFile, ...]
    nodes: tuple[Node, ...]
    library_dir: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """The machine's cards in order of index. No driver and no cards: a machine without NVIDIA GPUs.

    *simulated* cards are none of NVIDIA's: everything that shows them says so.
    """

    driver: Driver | None = None
    cards: tuple[Card, ...] = ()
    simulated: bool = False

    def find(self, uuid: str) -> Card | None:
        return next((card for card in self.cards if card.uuid == uuid), None)

    def models(self) -> tuple[str, ...]:
        """Each model once, in order of index."""
        return tuple(dict.fromkeys(card.label for card in self.cards))


class Way(StrEnum):
    """How a session's container gets its cards; see docs/explanation/gpus.md."""

    DEVICES = "devices"
    CDI = "cdi"
    NVIDIA = "nvidia"


@dataclass(frozen=True, slots=True)
class Lease:
    """What one container holds: the UUIDs of its cards, whose session it is, and since when (Unix time).

    Read from the container's labels and from nowhere else. *person* is empty for a container that somebody
    started by hand with ``labdock gpus --docker-args``.
    """

    container: str
    cards: tuple[str, ...]
    instance: str
    person: str
    identity: str
    groups: tuple[str, ...]
    since_s: float
    driver: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why no card can be given at all: what happened and the way out; the kind is an error's label."""

    kind: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What the agent says of the GPUs: what there is, who holds it, how it is given, and what is wrong."""

    inventory: Inventory
    leases: tuple[Lease, ...]
    way: Way | None
    trouble: Trouble | None = None

    def outdated(self, lease: Lease) -> bool:
        """Whether the driver was changed since the lease's container was made.

        Of a lease on none of these cards nothing is known: another instance's simulated ones have a driver
        of their own.
        """
        driver = self.inventory.driver
        if driver is None or not any(self.inventory.find(uuid) for uuid in lease.cards):
            return False
        return lease.driver not in {"", driver.version}

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def from_json(text: str) -> GpuReport:
        """The report in *text*, as ``to_json`` wrote it."""
        data = json.loads(text)
        inventory, trouble = data["inventory"], data["trouble"]
        return GpuReport(
            inventory=Inventory(
                driver=None if inventory["driver"] is None else _driver(inventory["driver"]),
                cards=tuple(_card(card) for card in inventory["cards"]),
                simulated=inventory["simulated"],
            ),
            leases=tuple(
                Lease(
                    **{
                        **lease,
                        "cards": tuple(lease["cards"]),
                        "groups": tuple(lease["groups"]),
                    }
                )
                for lease in data["leases"]
            ),
            way=None if data["way"] is None else Way(data["way"]),
            trouble=None if trouble is None else Trouble(**trouble),
        )


def _nodes(data: list[dict[str, Any]]) -> tuple[Node, ...]:
    return tuple(Node(**node) for node in data)


def _card(data: Mapping[str, Any]) -> Card:
    compute = data["compute"]
    return Card(
        **{**data, "nodes": _nodes(data["nodes"]), "compute": None if compute is None else tuple(compute)}
    )


def _driver(data: Mapping[str, Any]) -> Driver:
    cuda = data["cuda"]
    return Driver(
        version=data["version"],
        cuda=None if cuda is None else (cuda[0], cuda[1]),
        files=tuple(DriverFile(**file) for file in data["files"]),
        nodes=_nodes(data["nodes"]),
        library_dir=data["library_dir"],
    )


class Sharing(StrEnum):
    """Who may be on a card at the same time."""

    EXCLUSIVE = "exclusive"
    SEATS = "seats"
    ALL = "all"
    MIG = "mig"


@dataclass(frozen=True, slots=True)
class Share:
    """How a card is shared; *seats* is how many sessions may hold it at once, None for any number.

    ``mig`` gives out MIG slices, one session each, and no whole GPU. ``all`` is the old way: a session
    that asks for a card gets every card that is shared so.
    """

    kind: Sharing = Sharing.EXCLUSIVE
    seats: int | None = 1


EXCLUSIVE = Share()
ALL = Share(Sharing.ALL, None)
MIG = Share(Sharing.MIG)


@dataclass(frozen=True, slots=True)
class CardRule:
    """An exception for the cards that *card* names: a UUID, the beginning of one, an index, or a model.

    *share* None keeps the machine's; *use* False keeps the card from everybody.
    """

    card: str
    share: Share | None = None
    use: bool = True

    def fits(self, card: Card) -> bool:
        index = card.index.partition(":")[0]
        if self.card.isdigit():
            return self.card == index
        if self.card.startswith(("GPU-", "MIG-")):
            return card.uuid.startswith(self.card) or card.part_of.startswith(self.card)
        return self.card.casefold() in card.model.casefold()


@dataclass(frozen=True, slots=True)
class HolderLimit:
    """The most cards that each of *people*, and each member of *groups*, may hold at once.

    *together* is the most that the members of any one of *groups* may hold at once between them.
    """

    people: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    cards: int | None = None
    together: int | None = None


@dataclass(frozen=True, slots=True)
class GpuRules:
    """The section ``gpus``: how cards are shared, chosen and injected, and who may hold how many.

    *per_session* is the most cards one session may ask for, *per_person* the most one person may hold in
    all their sessions (None: no limit of its own). The first of *cards* that names a card holds for it.
    """

    share: Share = EXCLUSIVE
    cards: tuple[CardRule, ...] = ()
    per_session: int = 1
    per_person: int | None = None
    limits: tuple[HolderLimit, ...] = ()
    place: str = "spread"
    inject: str = "auto"

    def share_of(self, card: Card) -> Share:
        """How *card* is shared."""
        if not self.cards:
            return self.share
        rule = next((rule for rule in self.cards if rule.fits(card)), None)
        return rule.share if rule is not None and rule.share is not None else self.share

    def keeps(self, card: Card) -> bool:
        """Whether *card* is kept from everybody."""
        return any(rule.fits(card) and not rule.use for rule in self.cards)

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> GpuRules:
        """The rules in *data*, as ``dataclasses.asdict`` made it."""

        def share(value: Mapping[str, Any]) -> Share:
            return Share(Sharing(value["kind"]), value["seats"])

        return GpuRules(
            **{
                **data,
                "share": share(data["share"]),
                "cards": tuple(
                    CardRule(rule["card"], share(rule["share"]) if rule["share"] else None, rule["use"])
                    for rule in data["cards"]
                ),
                "limits": tuple(
                    HolderLimit(tuple(one["people"]), tuple(one["groups"]), one["cards"], one["together"])
                    for one in data["limits"]
                ),
            }
        )


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What somebody wants: *count* cards (0 for none), of *model* if given, with *memory_bytes* at least."""

    count: int = 0
    model: str = ""
    memory_bytes: int | None = None


NO_GPU = GpuRequest()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asks: instance, identity and name of a person, and the groups they are in."""

    instance: str
    identity: str
    person: str
    groups: tuple[str, ...] = ()
