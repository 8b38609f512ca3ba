"""The layers, read from the source: ``cli, hub, agent → adapters → core``, one direction.

The core is where the rules are, so it must be possible to try them for all inputs: no file, clock, network
or process is reached from there. An adapter knows one outside system; what several of them do together is
decided above. The command line, the hub and the agent run in three processes with different rights and
different packages installed: none may need another's code.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import labdock

PACKAGE = Path(labdock.__file__).parent

PURE = {
    "collections",
    "collections.abc",
    "csv",
    "dataclasses",
    "decimal",
    "difflib",
    "enum",
    "hashlib",
    "heapq",
    "ipaddress",
    "json",
    "math",
    "re",
    "textwrap",
    "typing",
    "unicodedata",
    "urllib.parse",
}
"""Of the standard library, what computes and nothing else. Whoever adds one makes sure of that."""

IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}

MAY_IMPORT = {
    "core": {"core"},
    "adapters": {"core"},
    "agent": {"core", "adapters", "agent"},
    # parts: where a container finds its files; one list for what runs in the server image.
    "hub": {"core", "adapters", "hub", "parts"},
    "cli": {"core", "adapters", "cli", "__version__"},
    # The driver's stand-in knows nothing of Labdock but how errors look.
    "simulation": {"core", "simulation"},
    # What fetches from outside for everybody has nothing of the others with it.
    "packages": {"core", "packages"},
    # It starts the part that a container is told to be.
    "parts": {"agent", "core", "packages"},
}

PACKAGES = {
    "core": set[str](),
    "adapters": {"aiodocker", "aiohttp", "ldap3", "cryptography", "pynvml", "ruamel", "yarl"},
    "agent": {"aiohttp", "yarl"},
    "hub": {
        "aiohttp",
        "argon2",
        "jinja2",
        "jupyterhub",
        "jwt",
        "ldap3",
        "ldapauthenticator",
        "oauthenticator",
        "pyotp",
        "segno",
        "sqlalchemy",
        "tornado",
        "traitlets",
        "zxcvbn",
    },
    "cli": {"click", "rich"},
    "simulation": set[str](),
    "packages": {"proxpi", "requests", "waitress", "werkzeug"},
    "parts": set[str](),
}
"""What each layer may use of what others made. One outside system is met in one place."""

# What images carry runs in sessions, beside nothing of Labdock.
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py" and not path.is_relative_to(PACKAGE / "images")
)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> set[str]:
    """Every module that *path* imports, at the top or inside a function, as an absolute dotted name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            # "from labdock import x" and "from labdock.adapters import x" name modules too.
            whole = node.module in {"labdock", *(f"labdock.{layer}" for layer in MAY_IMPORT)}
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if whole else {node.module}
    return found - {"__future__"}


def own(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "labdock"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    wrong = {name for name in own(path) if name.split(".")[1] not in MAY_IMPORT[layer_of(path)]}
    assert not wrong, f"{name_of(path)} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", [path for path in MODULES if layer_of(path) == "adapters"], ids=name_of)
def test_no_adapter_imports_another(path: Path) -> None:
    assert not [name for name in own(path) if name.startswith("labdock.adapters.")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_layer_uses_only_the_packages_that_are_its_business(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)} - {"labdock"} - sys.stdlib_module_names
    assert roots <= PACKAGES[layer_of(path)]


@pytest.mark.parametrize("path", [path for path in MODULES if layer_of(path) == "core"], ids=name_of)
def test_the_core_computes_and_nothing_else(path: Path) -> None:
    assert imports(path) - own(path) <= PURE
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & IMPURE_BUILTINS


def test_the_layers_are_all_there() -> None:
    assert {layer_of(path) for path in MODULES} == set(MAY_IMPORT)
