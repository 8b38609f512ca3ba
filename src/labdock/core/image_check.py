"""What was seen inside an image → whether people may be given it, in findings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from labdock.core.finding import Finding
from labdock.core.session import SESSION_LABELS
from labdock.core.shelf import format_gb

LEAST_DRIVER: Mapping[int, tuple[int, ...]] = {
    11: (450, 80, 2),
    12: (525, 60, 13),
    13: (580, 65, 6),
}
"""The oldest Linux driver that serves a CUDA release, by its major version: NVIDIA's table of minor version
compatibility in the release notes of the CUDA toolkit."""

START_COSTS: Mapping[str, str] = {
    "rfc3987_syntax": "rfc3987-syntax",
    "lark": "lark",
}
"""Modules that no notebook server needs and that cost much at each start, and the package to leave out."""

MOST_START_CPU_S = 4.0
"""Several times what a built-in image takes, and twice the stock server: something is imported needlessly."""

NAMES = {
    "torch": "PyTorch",
    "tensorflow": "TensorFlow",
    "tensorflow-cpu": "TensorFlow",
    "keras": "Keras",
    "numpy": "NumPy",
    "scipy": "SciPy",
    "matplotlib": "Matplotlib",
    "scikit-learn": "scikit-learn",
    "opencv-python-headless": "OpenCV",
    "jupyterlab": "JupyterLab",
    "nvidia-cuda-nvcc": "nvcc",
}
"""How people write what the distributions are called."""


@dataclass(frozen=True, slots=True)
class Clash:
    """Distributions that own files of one name with different contents: how many, and one of them."""

    owners: tuple[str, ...]
    files: int
    example: str


@dataclass(frozen=True, slots=True)
class Import:
    """A module that was imported: its seconds, and why it could not be, "" when it could."""

    module: str
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """The notebook server's own start, and the packages that took longest to import, in milliseconds."""

    seconds: float
    cpu_seconds: float
    error: str
    slowest: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look into an image found.

    *packages* maps a distribution to its version, and *installed_bytes* is what all of them take; *cuda* are
    the CUDA releases it carries or says it needs, lowest first; *broken* are pip's own words.
    """

    python: str
    packages: Mapping[str, str]
    clashes: tuple[Clash, ...]
    imports: tuple[Import, ...]
    start: Start
    broken: tuple[str, ...]
    cuda: tuple[str, ...]
    installed_bytes: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Seen:
        """What ``images/check/look`` printed, or ``to_json`` wrote.

        Raises:
            ValueError, TypeError, KeyError: It is something else.
        """
        data: dict[str, Any] = json.loads(text)
        start = data["start"]
        slowest = tuple(
            (one["package"], int(one["ms"])) if isinstance(one, dict) else (str(one[0]), int(one[1]))
            for one in start["slowest"]
        )
        return Seen(
            python=data["python"],
            packages=dict(data["packages"]),
            clashes=tuple(
                Clash(tuple(one["owners"]), one["files"], one["example"]) for one in data["clashes"]
            ),
            imports=tuple(Import(one["module"], one["error"], one["seconds"]) for one in data["imports"]),
            start=Start(start["seconds"], start["cpu_seconds"], start["error"], slowest),
            broken=tuple(data["broken"]),
            cuda=tuple(sorted(data["cuda"], key=_numbers)),
            installed_bytes=data["installed_bytes"],
        )


def judge(
    seen: Seen,
    *,
    size_bytes: int,
    hub_version: str,
    labels: Mapping[str, str],
    driver: str | None,
    oldest_compute: tuple[int, int] | None = None,
    trouble: str = "",
    before: Mapping[str, str] | None = None,
    size_before_bytes: int | None = None,
) -> tuple[Finding, ...]:
    """What speaks for and against publishing the image.

    *labels* are the image's own. *driver* is the version of this machine's driver, None without one;
    *oldest_compute* is the lowest compute capability among its cards, None where it is not known; *trouble*
    is why neither is known though it should be. *before* are the packages of the image that people use now,
    with its size.
    """
    findings = (
        _hub(seen, hub_version),
        _labels(labels),
        _clashes(seen),
        _no_driver(seen, trouble) if trouble and seen.cuda else _cuda(seen, driver, oldest_compute),
        *(_import(one) for one in seen.imports),
        _start(seen.start),
        _together(seen),
        _size(size_bytes, size_before_bytes),
        *([] if before is None else [_news(seen.packages, before)]),
    )
    return tuple(replace(finding, fix="") if finding.ok else finding for finding in findings)


def _hub(seen: Seen, hub_version: str) -> Finding:
    here = seen.packages.get("jupyterhub", "")
    fits = here.partition(".")[0] == hub_version.partition(".")[0]
    return Finding(
        "jupyterhub",
        fits,
        f"{here or 'not there'}; the hub is {hub_version}",
        f"Take jupyterhub out of what is installed, or write jupyterhub=={hub_version}: "
        "both must have one major version.",
    )


def _labels(labels: Mapping[str, str]) -> Finding:
    """A container has its image's labels too: one that says what a session holds would be believed."""
    own = sorted(set(labels) & SESSION_LABELS)
    return Finding(
        "labels",
        not own,
        f"it sets {', '.join(own)} itself" if own else "none that Labdock reads off a session",
        "Take these labels out of its Dockerfile: Labdock sets them on each session.",
    )


def _clashes(seen: Seen) -> Finding:
    if not seen.clashes:
        return Finding("files", True, "each belongs to one package")
    first = seen.clashes[0]
    names = " and ".join(first.owners)
    more = f"; {len(seen.clashes) - 1} more such groups" if len(seen.clashes) > 1 else ""
    count = "1 file" if first.files == 1 else f"{first.files} files"
    of_cuda = any(owner.startswith("nvidia-") for owner in first.owners)
    agreed = ": PyTorch and TensorFlow do so in builtin/deeptools" if of_cuda else ""
    return Finding(
        "files",
        False,
        f"{names} both bring {count} with different contents, such as {first.example}{more}",
        "Whichever was installed last breaks the other. Leave one out, or choose versions that agree"
        f"{agreed}.",
    )


def _no_driver(seen: Seen, trouble: str) -> Finding:
    """A driver that fails is not "no GPU": nobody knows whether it serves the image."""
    return Finding(
        "CUDA",
        False,
        f"{cuda_of(seen)}, and it is not known whether this machine serves it: {trouble}",
        "`labdock doctor` says what is wrong with the driver; check the image again when it works.",
    )


_OLDER_CUDA = "Take a base on an older CUDA: builtin/torch-cu12, builtin/tensorflow, builtin/deeptools."


def cuda_of(seen: Seen) -> str:
    """The newest CUDA release in the image, "" for none."""
    return seen.cuda[-1] if seen.cuda else ""


LEAST_COMPUTE: Mapping[int, tuple[int, int]] = {13: (7, 5)}
"""The lowest compute capability that a CUDA release still serves: Turing for 13 (NVIDIA's release notes)."""


def _cuda(seen: Seen, driver: str | None, oldest_compute: tuple[int, int] | None) -> Finding:
    newest = cuda_of(seen)
    if not newest:
        return Finding("CUDA", True, "none in it")
    floor = LEAST_COMPUTE.get(int(newest.partition(".")[0]), (0, 0))
    if oldest_compute is not None and oldest_compute < floor:
        return Finding(
            "CUDA",
            False,
            f"{newest} serves cards from compute capability {floor[0]}.{floor[1]} on; "
            f"here is one of {oldest_compute[0]}.{oldest_compute[1]}",
            _OLDER_CUDA,
        )
    if driver is None:
        return Finding("CUDA", True, f"{newest}; no driver here to compare with")
    least = LEAST_DRIVER.get(int(newest.partition(".")[0]))
    if least is None:
        return Finding("CUDA", True, f"{newest}; not known which driver that needs, and here is {driver}")
    words = ".".join(f"{part:02}" if index else str(part) for index, part in enumerate(least))
    return Finding(
        "CUDA",
        _numbers(driver) >= least,
        f"{newest} needs driver {words} or newer; here is {driver}",
        f"Install a newer driver. Otherwise: {_OLDER_CUDA}",
    )


def _import(one: Import) -> Finding:
    return Finding(
        f"import {one.module}",
        not one.error,
        one.error or f"{one.seconds:.1f} s",
        "A package it needs is missing, or has another version.",
    )


def _start(start: Start) -> Finding:
    if start.error:
        return Finding("start", False, start.error, "A session of this image would not start.")
    costly = [package for package, _ in start.slowest if package in START_COSTS]
    slowest = ", ".join(f"{package} {ms} ms" for package, ms in start.slowest[:3])
    seen = f"{start.cpu_seconds:.2f} CPU seconds, {start.seconds:.2f} s; slowest to import: {slowest}"
    if start.cpu_seconds > MOST_START_CPU_S:
        fix = f"More than {MOST_START_CPU_S:.0f} CPU seconds, and everybody waits: leave out what takes them."
        return Finding("start", False, seen, fix)
    names = " and ".join(START_COSTS[package] for package in costly)
    return Finding(
        "start",
        not costly,
        seen,
        f"Everybody waits for this at each start. Leave out {names}: pip uninstall in postBuild does it.",
    )


def _together(seen: Seen) -> Finding:
    if not seen.broken:
        return Finding("requirements", True, "what packages ask of each other is there")
    more = f" ({len(seen.broken)} such lines)" if len(seen.broken) > 1 else ""
    # pip's resolver is stricter than what works: told, and not held against the image.
    return Finding("requirements", True, f"pip is not content: {seen.broken[0]}{more}")


def _size(size_bytes: int, before_bytes: int | None) -> Finding:
    if before_bytes is None:
        return Finding("size", True, format_gb(size_bytes))
    difference = size_bytes - before_bytes
    sign = "+" if difference >= 0 else "-"
    return Finding("size", True, f"{format_gb(size_bytes)} ({sign}{format_gb(abs(difference))})")


def _news(packages: Mapping[str, str], before: Mapping[str, str]) -> Finding:
    """What is new since the image that people use now."""
    new = [f"{name} {packages[name]}" for name in sorted(packages) if name not in before]
    other = [
        f"{name} {before[name]} → {packages[name]}"
        for name in sorted(packages)
        if name in before and before[name] != packages[name]
    ]
    gone = [f"without {name}" for name in sorted(before) if name not in packages]
    words = [*new, *other, *gone]
    most = 12
    text = ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
    return Finding("new", True, text or "no package changed")


def headline(seen: Seen, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Python and those of the distributions *names* that are there, with versions, as people write them."""
    python = ".".join(seen.python.split(".")[:2])
    wanted = dict.fromkeys(re.sub(r"[-_.]+", "-", name).lower() for name in names)
    found = [(NAMES.get(name, name), seen.packages[name]) for name in wanted if name in seen.packages]
    # A local version such as +cu130 says what the CUDA version says already.
    return (("Python", python), *((name, version.partition("+")[0]) for name, version in found))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])
