"""The simulated machine as a value (its driver, its cards, what is wrong with them), and as a file's text.

The simulated libraries read the same text, so everything they need is written out, also what follows from
the model; :func:`parse_machine` takes only what cannot be derived.
"""

from __future__ import annotations

import configparser
import io
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from labdock.core.errors import LabdockError

DEFAULT_DRIVER = "615.36.01"
DEFAULT_CUDA = (13, 4)
MOST_CARDS = 32

MACHINE_FAULTS = ("not-loaded", "hung")
CARD_FAULTS = ("lost", "ecc", "remap", "gone")
"""lost: fallen off the bus. ecc: an uncorrectable memory error, mended by a reset. remap: memory that cannot
be mended. gone: not in the machine any more."""

LOADS = ("lifelike", "idle")

VALUES: Mapping[str, int] = {
    "utilization": 100,
    "memory_utilization": 100,
    "memory_used": 1 << 50,
    "temperature": 150,
    "power": 2_000_000,
    "fan": 100,
}
"""What a card can be held at, with the highest number taken: percent, percent, bytes, °C, mW, percent."""

_NAMESPACE = uuid.UUID("6c616264-6f63-4b00-8000-73696d756c61")
_PROFILES = {1: (7, 1, 7), 2: (3, 2, 3), 3: (1, 4, 2), 4: (1, 4, 2), 7: (0, 8, 1)}
"""MIG slices by compute slices: the first id of such an instance, eighths of the memory, how many fit."""


class SimulationError(LabdockError):
    """The simulated machine cannot be as somebody wants it, or its state cannot be read."""

    label = "simulation"


class WordError(SimulationError):
    """Somebody asks for what no simulated machine has; the way out lists what there is."""


@dataclass(frozen=True, slots=True)
class Model:
    """A kind of card. Power in mW (idle, limit), clocks in MHz (cores, memory).

    *mig_gb* are the sizes in the names of its MIG slices, for 1, 2, 3, 4 and 7 compute slices, empty where
    the model has no MIG. *fan*: it blows itself; a card of a data centre does not.
    """

    name: str
    memory_bytes: int
    compute: tuple[int, int]
    power_mw: tuple[int, int]
    clock_mhz: tuple[int, int]
    processors: int
    architecture: int
    pci_id: int
    mig_gb: tuple[int, ...] = ()
    fan: bool = False


GIB = 1 << 30

MODELS: Mapping[str, Model] = {
    "h200": Model(
        "NVIDIA H200 (simulated)", 141 * GIB, (9, 0), (76_000, 700_000), (1980, 3201), 132, 9, 0x2335,
        (18, 35, 71, 71, 141),
    ),
    "h100": Model(
        "NVIDIA H100 80GB (simulated)", 80 * GIB, (9, 0), (69_000, 700_000), (1980, 2619), 132, 9, 0x2330,
        (10, 20, 40, 40, 80),
    ),
    "a100": Model(
        "NVIDIA A100 80GB (simulated)", 80 * GIB, (8, 0), (61_000, 400_000), (1410, 1593), 108, 7, 0x20B2,
        (10, 20, 40, 40, 80),
    ),
    "a100-40": Model(
        "NVIDIA A100 40GB (simulated)", 40 * GIB, (8, 0), (52_000, 400_000), (1410, 1215), 108, 7, 0x20B0,
        (5, 10, 20, 20, 40),
    ),
    "l40s": Model(
        "NVIDIA L40S (simulated)", 48 * GIB, (8, 9), (34_000, 350_000), (2520, 9001), 142, 8, 0x26B9
    ),
    "l4": Model("NVIDIA L4 (simulated)", 24 * GIB, (8, 9), (16_000, 72_000), (2040, 6251), 58, 8, 0x27B8),
    "t4": Model("NVIDIA T4 (simulated)", 16 * GIB, (7, 5), (10_000, 70_000), (1590, 5001), 40, 6, 0x1EB8),
    "v100": Model("NVIDIA V100 (simulated)", 32 * GIB, (7, 0), (42_000, 300_000), (1530, 877), 80, 5, 0x1DB5),
    "rtx4090": Model(
        "NVIDIA GeForce RTX 4090 (simulated)", 24 * GIB, (8, 9), (21_000, 450_000), (3105, 10501), 128, 8,
        0x2684, fan=True,
    ),
}  # fmt: skip
"""The known models by the word that asks for them."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A MIG slice: its size ("1g.10gb"), and the ids of its two instances as NVML has them."""

    profile: str
    gpu_instance: int
    compute_instance: int = 0

    @property
    def compute_slices(self) -> int:
        return int(self.profile.partition("g")[0])

    @property
    def memory_eighths(self) -> int:
        return _PROFILES[self.compute_slices][1]


@dataclass(frozen=True, slots=True)
class SimulatedCard:
    """A card by its number, which is also its minor, and what was done to it.

    *slices* is None when MIG is off. *held* are values of :data:`VALUES` that stay as they are whatever the
    load is; *processes* (process id, bytes of memory) are none unless somebody says so.
    """

    number: int
    model: str
    fault: str = ""
    load: str = "lifelike"
    slices: tuple[Slice, ...] | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    processes: tuple[tuple[int, int], ...] = ()

    @property
    def kind(self) -> Model:
        return MODELS[self.model]

    @property
    def bus(self) -> str:
        """The PCI address, in order of the number, as the kernel writes it."""
        return f"0000:{0x17 + 7 * self.number:02x}:00.0"

    @property
    def present(self) -> bool:
        return self.fault != "gone"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine with simulated cards.

    *module* and *library* are the versions of the driver's two halves, different after half an upgrade.
    *cuda* is the highest CUDA version it serves. *fault* is one of :data:`MACHINE_FAULTS`, or empty.
    """

    instance: str
    cards: tuple[SimulatedCard, ...]
    module: str = DEFAULT_DRIVER
    library: str = DEFAULT_DRIVER
    cuda: tuple[int, int] = DEFAULT_CUDA
    fault: str = ""

    @property
    def present(self) -> tuple[SimulatedCard, ...]:
        return tuple(card for card in self.cards if card.present)

    def uuid(self, card: SimulatedCard) -> str:
        """The same for the same instance and number, and for no other."""
        return f"GPU-{uuid.uuid5(_NAMESPACE, f'{self.instance}/{card.number}')}"

    def slice_uuid(self, card: SimulatedCard, part: Slice) -> str:
        name = f"{self.instance}/{card.number}/{part.gpu_instance}/{part.compute_instance}"
        return f"MIG-{uuid.uuid5(_NAMESPACE, name)}"


def new_machine(
    instance: str, cards: int, models: tuple[str, ...] = ("h100",), *, driver: str = DEFAULT_DRIVER
) -> Machine:
    """A machine as it leaves the shop; *models* is one for all cards, or one for each."""
    if not 1 <= cards <= MOST_CARDS:
        raise WordError(f"A simulated machine cannot have {cards} cards.", fix=f"Ask for 1 to {MOST_CARDS}.")
    if len(models) not in {1, cards}:
        raise WordError(
            f"There are {cards} cards and {len(models)} models.",
            fix="Name one model for all cards, or one for each.",
        )
    for model in models:
        _one_of(model, tuple(MODELS), "simulated model")
    every = models * cards if len(models) == 1 else models
    numbered = tuple(SimulatedCard(number, model) for number, model in enumerate(every))
    return Machine(instance, numbered, _version(driver), driver)


def with_cards(machine: Machine, cards: int, models: tuple[str, ...]) -> Machine:
    """*machine* with so many cards: those it has stay as they are, the last ones go, new ones come behind."""
    kept = machine.cards[:cards]
    return replace(machine, cards=kept + new_machine(machine.instance, cards, models).cards[len(kept) :])


def capabilities(number: int, gpu_instance: int, compute_instance: int) -> tuple[int, int]:
    """The minors of a slice's two capability nodes, counted as NVIDIA's driver counts them."""
    first = 3 + 135 * number + 9 * gpu_instance
    return first, first + 1 + compute_instance


def changed(machine: Machine, target: str, settings: Mapping[str, str]) -> Machine:
    """*machine* with *settings* made on *target*, which is "machine", "driver" or "card N".

    Of the machine: ``fault`` (not-loaded, hung). Of the driver: ``version`` (an upgrade), ``module`` or
    ``library`` (half of one), ``cuda`` (13.4). Of a card: ``fault``, ``load`` (lifelike, idle), ``mig`` (on,
    or slices as in 1g.10gb,2g.20gb), ``processes`` (pid:bytes,...), and every one of :data:`VALUES`. "none"
    takes back.

    Raises:
        WordError: Not a target, a setting or a value; says what there is.
    """
    cards = {f"card {card.number}": card for card in machine.cards}
    for name, word in settings.items():
        value = "" if word == "none" else word
        if target == "machine":
            machine = _machine_with(machine, name, value)
        elif target == "driver":
            machine = _driver_with(machine, name, value)
        elif target in cards:
            cards[target] = _card_with(cards[target], name, value)
        else:
            raise WordError(
                f"There is no {target!r} here.",
                fix=f"Name machine, driver, or card 0 to card {len(cards) - 1}.",
            )
    return replace(machine, cards=tuple(cards.values()))


def _machine_with(machine: Machine, name: str, value: str) -> Machine:
    if name != "fault":
        raise _unknown(name, ("fault",))
    return replace(machine, fault=_one_of(value, ("", *MACHINE_FAULTS), "fault of a machine"))


def _driver_with(machine: Machine, name: str, value: str) -> Machine:
    match name:
        case "version":
            return replace(machine, module=_version(value), library=value)
        case "module":
            return replace(machine, module=_version(value))
        case "library":
            return replace(machine, library=_version(value))
        case "cuda":
            return replace(machine, cuda=_cuda(value))
    raise _unknown(name, ("version", "module", "library", "cuda"))


def _card_with(card: SimulatedCard, name: str, value: str) -> SimulatedCard:
    match name:
        case "fault":
            return replace(card, fault=_one_of(value, ("", *CARD_FAULTS), "fault of a card"))
        case "load":
            return replace(card, load=_one_of(value or "lifelike", LOADS, "load"))
        case "mig":
            return replace(card, slices=_slices(card.kind, value))
        case "processes":
            return replace(card, processes=_processes(value))
    if name not in VALUES:
        raise _unknown(name, ("fault", "load", "mig", "processes", *VALUES))
    others = {key: number for key, number in card.held.items() if key != name}
    return replace(card, held={**others, name: _number(name, value)} if value else others)


def _slices(model: Model, value: str) -> tuple[Slice, ...] | None:
    """The slices that *value* asks for, if they fit on one card together."""
    if value in {"", "off"}:
        return None
    if not model.mig_gb:
        raise WordError(f"{model.name} has no MIG.", fix="Simulate an h100, an h200 or an a100.")
    names = [f"{size}g.{gb}gb" for size, gb in zip(_PROFILES, model.mig_gb, strict=True)]
    wanted = [] if value == "on" else value.split(",")
    found: list[Slice] = []
    for word in wanted:
        size = int(_one_of(word, tuple(names), "size of a slice").partition("g")[0])
        first, _, most = _PROFILES[size]
        taken = {part.gpu_instance for part in found}
        free = [number for number in range(first, first + most) if number not in taken]
        found.append(Slice(word, free[0] if free else -1))
    fits = sum(part.compute_slices for part in found) <= 7 and sum(part.memory_eighths for part in found) <= 8
    if not fits or any(part.gpu_instance < 0 for part in found):
        raise WordError(
            f"The slices {value} do not fit on one card.",
            fix="A card has 7 compute slices and 8 parts of memory; 3g and 4g take 4 parts, 7g takes all.",
        )
    return tuple(found)


def _processes(value: str) -> tuple[tuple[int, int], ...]:
    pairs = []
    for word in filter(None, value.split(",")):
        if not re.fullmatch(r"[0-9]{1,10}:[0-9]{1,15}", word, re.ASCII):
            raise WordError(f"{word!r} is no process.", fix="Write pid:bytes,pid:bytes.")
        pid, _, size = word.partition(":")
        pairs.append((int(pid), int(size)))
    return tuple(pairs)


def _number(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,16}", value, re.ASCII) or int(value) > VALUES[name]:
        raise WordError(
            f"{value!r} cannot be the {name} of a card.", fix=f"Give a whole number from 0 to {VALUES[name]}."
        )
    return int(value)


def _version(value: str) -> str:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}", value, re.ASCII):
        raise WordError(f"{value!r} is no driver version.", fix="Write one as 615.36.01.")
    return value


def _cuda(value: str) -> tuple[int, int]:
    if not re.fullmatch(r"[0-9]{1,3}\.[0-9]", value, re.ASCII):
        raise WordError(f"{value!r} is no CUDA version.", fix="Write one as 13.4.")
    major, _, minor = value.partition(".")
    return int(major), int(minor)


def _one_of(value: str, known: tuple[str, ...], what: str) -> str:
    if value not in known:
        raise WordError(f"{value!r} is no {what}.", fix=f"There are: {', '.join(filter(None, known))}.")
    return value


def _unknown(name: str, known: tuple[str, ...]) -> WordError:
    return WordError(f"There is no setting {name!r}.", fix=f"There are: {', '.join(known)}.")


def machine_text(machine: Machine) -> str:
    """The file of *machine*: one section for it, one for each card and each slice."""
    sections: dict[str, dict[str, object]] = {
        "machine": {
            "instance": machine.instance,
            "module": machine.module,
            "library": machine.library,
            "cuda": f"{machine.cuda[0]}.{machine.cuda[1]}",
            "fault": machine.fault,
        }
    }
    for card in machine.cards:
        model = card.kind
        sections[f"card {card.number}"] = {
            "model": card.model,
            "fault": card.fault,
            "load": card.load,
            "mig": _mig_word(card),
            "processes": ",".join(f"{pid}:{size}" for pid, size in card.processes),
            **card.held,
            "name": model.name,
            "uuid": machine.uuid(card),
            "bus": card.bus,
            "serial": f"16{card.number:011d}",
            "memory": model.memory_bytes,
            "compute": f"{model.compute[0]}.{model.compute[1]}",
            "power_limit": model.power_mw[1],
            "clock": model.clock_mhz[0],
            "memory_clock": model.clock_mhz[1],
            "processors": model.processors,
            "architecture": model.architecture,
            "pci_id": model.pci_id,
            "mig_most": 7 if model.mig_gb else 0,
            "has_fan": int(model.fan),
        }
        for index, part in enumerate(card.slices or ()):
            minors = capabilities(card.number, part.gpu_instance, part.compute_instance)
            sections[f"slice {card.number} {index}"] = {
                "uuid": machine.slice_uuid(card, part),
                "profile": part.profile,
                "gpu_instance": part.gpu_instance,
                "compute_instance": part.compute_instance,
                "memory": model.memory_bytes * part.memory_eighths // 8,
                "processors": model.processors * part.compute_slices // 8,
                "slices": part.compute_slices,
                "gpu_capability": minors[0],
                "compute_capability": minors[1],
            }
    return sections_text(sections)


def sections_text(sections: Mapping[str, Mapping[str, object]]) -> str:
    """*sections* as text, in the form that the simulated libraries read."""
    return "\n".join(
        "".join([f"[{name}]\n", *(f"{key} = {value}".rstrip() + "\n" for key, value in section.items())])
        for name, section in sections.items()
    )


def parse_machine(text: str) -> Machine:
    """The machine in *text*, as :func:`machine_text` wrote it.

    Raises:
        SimulationError: The text was damaged.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_file(io.StringIO(text))
        head = parser["machine"]
        models = tuple(parser[name]["model"] for name in parser.sections() if name.startswith("card "))
        machine = new_machine(head["instance"], len(models), models)
        machine = changed(machine, "machine", {"fault": head["fault"]})
        machine = changed(machine, "driver", {name: head[name] for name in ("module", "library", "cuda")})
        for card in machine.cards:
            section = parser[f"card {card.number}"]
            names = ("fault", "load", "mig", "processes", *VALUES)
            settings = {name: section[name] for name in names if name in section}
            machine = changed(machine, f"card {card.number}", settings)
    except (configparser.Error, KeyError, SimulationError) as error:
        raise SimulationError(
            f"The state of the simulated machine is damaged: {error}.",
            fix="Remove the folder of the simulation and start it again.",
        ) from error
    return machine


def _mig_word(card: SimulatedCard) -> str:
    if card.slices is None:
        return "off"
    return ",".join(part.profile for part in card.slices) or "on"
