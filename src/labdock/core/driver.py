"""What the NVIDIA driver's files and its library say, made into cards; which of its files sessions need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from labdock.core.gpus import UUID_PATTERN, Card, Node

LIBRARIES = (
    "libcuda",
    "libcudadebugger",
    "libnvidia-allocator",
    "libnvidia-cfg",
    "libnvidia-compiler",
    "libnvidia-fatbinaryloader",
    "libnvidia-gpucomp",
    "libnvidia-ml",
    "libnvidia-nscq",
    "libnvidia-nvvm",
    "libnvidia-opencl",
    "libnvidia-pkcs11",
    "libnvidia-pkcs11-openssl3",
    "libnvidia-ptxjitcompiler",
    "libnvidia-tileiras",
)
"""What computing and asking take: nothing for displays and video. No driver has all of them."""

NEEDED_LIBRARIES = ("libnvidia-ml", "libcuda")

PROGRAMS = ("nvidia-smi", "nvidia-debugdump")

SIMULATED_STATE = "/run/nvidia-simulated"
"""Where a session's simulated library looks for what it is to tell."""

_GPU_LOST, _RESET_REQUIRED = 15, 16
"""NVML_ERROR_GPU_IS_LOST and NVML_ERROR_RESET_REQUIRED, from nvml.h."""

_RECOVERY = {
    1: "it must be reset: nvidia-smi --gpu-reset -i {index}",
    2: "the machine must be restarted",
    3: "it must be emptied, then reset",
    4: "it must be emptied, then reset",
    5: "its domain of machines must be recovered",
    6: "its bus must be reset",
    7: "the machine must be restarted",
}
"""What nvmlDeviceGetFieldValues says of NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, from nvml.h."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of processor: its folder of libraries in Debian, and its number in ELF files."""

    multiarch: str
    elf_machine: int

    @property
    def library_dir(self) -> str:
        """Where libraries lie in a session, whose images are Debian's."""
        return f"/usr/lib/{self.multiarch}"


ARCHITECTURES = {
    "x86_64": Architecture("x86_64-linux-gnu", 62),
    "aarch64": Architecture("aarch64-linux-gnu", 183),
}
"""By the kernel's name for the machine."""


def library_dirs(multiarch: str) -> tuple[str, ...]:
    """Where drivers put their libraries, as patterns below the root, the likeliest first."""
    return (
        f"usr/lib/{multiarch}",
        f"usr/lib/{multiarch}/nvidia/*",
        "usr/lib64",
        "usr/lib64/nvidia*",
        "usr/lib/nvidia*",
        "usr/lib",
        "usr/local/nvidia/lib64",
        "usr/local/nvidia/lib",
    )


def program_dirs(library_dir: str) -> tuple[str, ...]:
    """Where the programs lie that came with the libraries in *library_dir*, the likeliest first."""
    beside = re.sub(r"^usr/lib/[^/]+/nvidia/", "usr/lib/nvidia/", library_dir)
    if library_dir.startswith("usr/local/nvidia/"):
        return ("usr/local/nvidia/bin",)
    return (beside, f"{beside}/bin", "usr/bin") if beside != library_dir else ("usr/bin",)


@dataclass(frozen=True, slots=True)
class KernelGpu:
    """A GPU as the kernel module lists it; *uuid* is empty while nobody has used it, *minor* its node's."""

    bus: str
    model: str
    uuid: str
    minor: int | None


def parse_module_version(text: str) -> str | None:
    """The version in /proc/driver/nvidia/version: "… Kernel Module [for x86_64]  570.86.15 …"."""
    found = re.search(r"^NVRM version:.*?Kernel Module(?: for \S+)?\s+([0-9]+(?:\.[0-9]+)+)", text, re.M)
    return found[1] if found else None


def parse_information(text: str) -> KernelGpu | None:
    """The GPU in /proc/driver/nvidia/gpus/<bus>/information; None if it names no bus."""
    lines = (line.partition(":") for line in text.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    if "Bus Location" not in fields:
        return None
    # Question marks stand for an identifier that was not read yet.
    uuid, minor = fields.get("GPU UUID", ""), fields.get("Device Minor", "")
    return KernelGpu(
        bus=plain_bus(fields["Bus Location"]),
        model=fields.get("Model", "NVIDIA GPU"),
        uuid="" if "?" in uuid else uuid,
        minor=int(minor) if re.fullmatch("[0-9]{1,3}", minor) else None,
    )


def parse_majors(text: str) -> dict[str, int]:
    """The numbers of character devices in /proc/devices, by the driver's name."""
    characters = text.partition("Block devices:")[0]
    return {name: int(number) for number, name in re.findall(r"^ *([0-9]+) (\S+)$", characters, re.M)}


def parse_mig_minors(text: str) -> dict[tuple[int, int, int | None], int]:
    """The capabilities of MIG slices by (GPU's minor, GPU instance, compute instance or None)."""
    found = re.findall(r"^gpu([0-9]+)/gi([0-9]+)(?:/ci([0-9]+))?/access ([0-9]+)$", text, re.M)
    return {
        (int(gpu), int(instance), int(compute) if compute else None): int(minor)
        for gpu, instance, compute, minor in found
    }


def plain_bus(bus: str) -> str:
    """A PCI address as the kernel writes it; NVML gives the domain eight digits."""
    domain, _, rest = bus.partition(":")
    return f"{int(domain, 16):04x}:{rest.lower()}" if re.fullmatch("[0-9a-fA-F]+", domain) else bus.lower()


@dataclass(frozen=True, slots=True)
class NvmlSlice:
    """A MIG slice as NVML tells of it: its place among its GPU's, and the two instances it is made of."""

    index: int
    uuid: str
    gpu_instance: int
    compute_instance: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class NvmlGpu:
    """A GPU as NVML tells of it. *error* is a code and the words for it, if it could not tell all.

    *recovery* is the action that NVML recommends (0: none), None where it cannot say; *memory_errors* is how
    many uncorrectable ones there were since its last reset, None where it has no such memory; *worn_out*
    says that it has no rows left to replace broken ones; *mig* that it is split.
    """

    index: int
    bus: str
    uuid: str
    name: str
    memory_bytes: int | None
    compute: tuple[int, int] | None
    error: tuple[int, str] | None
    recovery: int | None
    memory_errors: int | None
    worn_out: bool
    mig: bool
    slices: tuple[NvmlSlice, ...]


@dataclass(frozen=True, slots=True)
class NvmlAnswer:
    """What NVML says of the machine. *lost* are the GPUs it counts and tells nothing of, with code and words.

    *cuda* is the highest CUDA version.
    """

    cuda: tuple[int, int] | None
    gpus: tuple[NvmlGpu, ...]
    lost: Mapping[int, tuple[int, str]]

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> NvmlAnswer:
        """The answer in *data*, as ``labdock.adapters.nvml_child`` prints it.

        Raises:
            KeyError, TypeError, ValueError: *data* is something else.
        """
        cuda = data["cuda"]
        return NvmlAnswer(
            cuda=None if cuda is None else (cuda // 1000, cuda % 1000 // 10),
            gpus=tuple(_nvml_gpu(gpu) for gpu in data["gpus"]),
            lost={int(index): (int(code), str(words)) for index, code, words in data["lost"]},
        )


def _nvml_gpu(data: Mapping[str, Any]) -> NvmlGpu:
    compute, error = data["compute"], data["error"]
    return NvmlGpu(
        **{
            **data,
            "bus": plain_bus(data["bus"]),
            "compute": None if compute is None else (compute[0], compute[1]),
            "error": None if error is None else (error[0], error[1]),
            "slices": tuple(NvmlSlice(**one) for one in data["slices"]),
        }
    )


def cards_of(
    gpus: Iterable[KernelGpu],
    answer: NvmlAnswer,
    nodes: Mapping[int, Node],
    mig_minors: Mapping[tuple[int, int, int | None], int],
    mig_nodes: Mapping[int, Node],
) -> tuple[Card, ...]:
    """The cards in order of index: what the kernel module lists, with what NVML knows of each.

    *nodes* are the GPUs' nodes by minor, *mig_nodes* those of MIG capabilities by minor. A GPU that NVML
    says nothing of, or whose node or UUID is missing, is a card with a fault.
    """
    told = {gpu.bus: gpu for gpu in answer.gpus}
    # NVML counts in order of the bus, so the ones it lost are the ones it does not name, in that order.
    lost = iter(sorted(answer.lost.items()))
    found: list[tuple[int, Card]] = []
    for gpu in sorted(gpus, key=lambda gpu: gpu.bus):
        node = None if gpu.minor is None else nodes.get(gpu.minor)
        known = told.get(gpu.bus)
        if known is None:
            index, error = next(lost, (None, None))
            card = Card(
                uuid=gpu.uuid,
                index="" if index is None else str(index),
                model=gpu.model,
                bus=gpu.bus,
                nodes=(node,) if node else (),
                fault=_silent(error),
            )
            found.append((len(told) + len(answer.lost) if index is None else index, card))
        else:
            cards = _split(known, gpu, node, mig_minors, mig_nodes) if known.mig else (_whole(known, node),)
            found.extend((known.index, card) for card in cards)
    return tuple(_named(card) for _, card in sorted(found, key=lambda one: one[0]))


def _named(card: Card) -> Card:
    """*card*, with a fault if no lease could name it."""
    if UUID_PATTERN.fullmatch(card.uuid):
        return card
    nameless = "The driver tells no UUID of it that a session could be given; a newer driver may."
    return replace(card, fault=card.fault or nameless)


def _whole(gpu: NvmlGpu, node: Node | None) -> Card:
    return Card(
        uuid=gpu.uuid,
        index=str(gpu.index),
        model=gpu.name,
        bus=gpu.bus,
        nodes=(node,) if node else (),
        memory_bytes=gpu.memory_bytes,
        compute=gpu.compute,
        fault=_fault(gpu) or ("" if node else "Its device node is missing and cannot be made."),
    )


def _split(
    gpu: NvmlGpu,
    listed: KernelGpu,
    node: Node | None,
    minors: Mapping[tuple[int, int, int | None], int],
    nodes: Mapping[int, Node],
) -> tuple[Card, ...]:
    """The slices of *gpu*; the GPU itself with a fault, when it has none."""
    if not gpu.slices:
        whole = _whole(gpu, node)
        without = f"It is in MIG mode and has no slices; make some: nvidia-smi mig -i {gpu.index} -cgi … -C"
        return (replace(whole, fault=whole.fault or without),)
    cards = []
    for one in gpu.slices:
        capabilities = [
            nodes.get(minors.get((listed.minor if listed.minor is not None else -1, *key), -1))
            for key in ((one.gpu_instance, None), (one.gpu_instance, one.compute_instance))
        ]
        own = [found for found in (node, *capabilities) if found is not None]
        fault = "" if len(own) == 3 else "Device nodes of the slice are missing and cannot be made."
        cards.append(
            Card(
                uuid=one.uuid,
                index=f"{gpu.index}:{one.index}",
                model=gpu.name,
                bus=gpu.bus,
                nodes=tuple(own),
                memory_bytes=one.memory_bytes,
                compute=gpu.compute,
                part_of=gpu.uuid,
                profile=one.name.rpartition("MIG ")[2],
                fault=_fault(gpu) or fault,
            )
        )
    return tuple(cards)


def _silent(error: tuple[int, str] | None) -> str:
    """The fault of a GPU that NVML tells nothing of."""
    if error is None:
        return "The driver's library does not list it; nvidia-smi and the kernel's log (dmesg) may say why."
    return _words(*error)


def _words(code: int, words: str) -> str:
    if code == _GPU_LOST:
        return (
            "It has fallen off the bus. Restart the machine; "
            "if it happens again, look at the card's seat, power and heat."
        )
    if code == _RESET_REQUIRED:
        return "It must be reset before it can be used again: nvidia-smi --gpu-reset."
    return f"The driver says of it: {words} (NVML error {code})."


def _fault(gpu: NvmlGpu) -> str:
    """Why *gpu* is not given out, empty when it is well."""
    if gpu.error is not None:
        return _words(*gpu.error)
    if gpu.worn_out:
        return "Its memory has broken rows and none left to replace them: have the card exchanged."
    if gpu.recovery:
        action = _RECOVERY.get(gpu.recovery, "see the kernel's log (dmesg)")
        return f"The driver says that {action.format(index=gpu.index)}."
    if gpu.recovery is None and gpu.memory_errors:
        return (
            f"Its memory had {gpu.memory_errors} uncorrectable error(s) since the last reset: "
            f"nvidia-smi --gpu-reset -i {gpu.index}"
        )
    return ""


def with_vanished(before: Iterable[Card], now: tuple[Card, ...]) -> tuple[Card, ...]:
    """*now*, and the cards of *before* whose bus nothing of *now* is on, with that as their fault.

    A slice of another day is no vanished card as long as its GPU is there.
    """
    there = {card.bus for card in now}
    gone = {card.bus: card for card in before if card.bus not in there}
    return (
        *now,
        *(
            Card(
                uuid=card.part_of or card.uuid,
                index="",
                model=card.model,
                bus=card.bus,
                nodes=(),
                fault="It is gone: the driver no longer lists it. Look at the kernel's log (dmesg), "
                "and restart the machine.",
            )
            for card in gone.values()
        ),
    )
