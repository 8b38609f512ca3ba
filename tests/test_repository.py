"""What holds for the files of the repository themselves."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import labdock

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRACKED = [
    ROOT / name
    for name in subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    if name and (ROOT / name).is_file()
]
TEXTS = [path for path in TRACKED if path.suffix not in {".png", ".jpg", ".webp", ".ico"}]
LOCKS = [path for path in TRACKED if path.suffix == ".lock" or path.name == "package-lock.json"]

# Spelt in pieces, or this file would be the first to hold them.
MACHINE_PATHS = re.compile("/wo" r"rk/|/home/(?:runner|user|ubuntu|debian)/|" + re.escape(f"{ROOT}/"))
REGISTRIES = re.compile(
    "py" r"pi\.org|python" r"hosted\.org|npm" r"js\.(?:org|com)|deb" r"\.debian\.org|gh" r"cr\.io"
)
SECRETS = re.compile(
    "-----BEGIN [A-Z ]*PRIVATE " r"KEY-----|\bgh[pousr]_[A-Za-z0-9]{30,}|\bAKIA[A-Z0-9]{16}\b"
)


IMAGE_LISTS = [
    str(path.relative_to(ROOT).with_suffix("")) for path in LOCKS if path.name == "requirements.lock"
]


def normal(package: str) -> str:
    """A package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def requirements(path: Path) -> list[str]:
    """The lines of a requirements file that ask for something."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("path", [path for path in LOCKS if path.suffix == ".lock"], ids=name_of)
def test_a_lock_file_pins_every_package_with_hashes(path: Path) -> None:
    entries = re.split(r"\n(?=\S)", path.read_text().replace("\\\n", " ").strip())
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert entries
    for entry in entries:
        assert re.fullmatch(
            r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+(?: ; [^#]+?)?(?:\s+--hash=sha256:[0-9a-f]{64})+", entry
        )


@pytest.mark.parametrize("path", [path for path in LOCKS if path.name == "package-lock.json"], ids=name_of)
def test_a_lock_of_node_s_packages_pins_every_one_with_a_hash(path: Path) -> None:
    packages = {name: one for name, one in json.loads(path.read_text())["packages"].items() if name}
    assert packages
    assert all(one["version"] and one["integrity"].startswith("sha512-") for one in packages.values())


@pytest.mark.parametrize("path", LOCKS, ids=name_of)
def test_a_lock_file_names_no_address(path: Path) -> None:
    """Each machine has its own mirror; an address here would override it."""
    assert not re.search(r"\bgit\+|file:|index-url|find-links|\"resolved\"| @ ", path.read_text())


def holding(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """The texts in which *pattern* is found, and what it found."""
    found = {name_of(path): pattern.findall(path.read_text()) for path in TEXTS}
    return {name: hits for name, hits in found.items() if hits}


def test_no_file_names_a_machines_own_path() -> None:
    assert holding(MACHINE_PATHS) == {}


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the machine's to say."""
    assert holding(REGISTRIES) == {}


def test_no_file_holds_a_secret() -> None:
    assert holding(SECRETS) == {}


def test_every_module_says_what_it_is_for() -> None:
    modules = {path: path.read_text() for path in TRACKED if path.suffix == ".py"}
    assert [
        name_of(path) for path, text in modules.items() if text and not ast.get_docstring(ast.parse(text))
    ] == []


def test_the_version_is_told_once() -> None:
    assert PROJECT["version"] == labdock.__version__


def test_what_the_command_line_needs_is_told_once() -> None:
    """The wheel's dependencies and the lock file of a clone come from one list."""
    assert sorted(PROJECT["dependencies"]) == sorted(
        line for line in requirements(ROOT / "requirements/host.in") if not line.startswith("setuptools")
    )


def test_what_builds_the_wheel_is_in_the_lock_of_the_host() -> None:
    """The editable install of a clone runs without build isolation: nothing is fetched unpinned."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(whole["build-system"]["requires"]) <= set(requirements(ROOT / "requirements/host.in"))


@pytest.mark.parametrize("name", ["requirements/host", "requirements/dev", *IMAGE_LISTS])
def test_a_lock_holds_everything_that_its_list_asks_for(name: str) -> None:
    locked = {normal(line.partition("==")[0]) for line in requirements(ROOT / f"{name}.lock") if "==" in line}
    asked = {normal(re.split(r"[<>=\[ ;]", line)[0]) for line in requirements(ROOT / f"{name}.in")}
    assert asked
    assert asked <= locked
