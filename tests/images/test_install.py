"""``labdock-install``: what of a lock is installed, and what an image is spared without breaking anything."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import shutil
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import labdock

IMAGES = Path(labdock.__file__).parent / "images"
LOCK = """\
alpha==1.0 \\
    --hash=sha256:aa
Beta_x==2.0 ; python_version < '3' \\
    --hash=sha256:bb \\
    --hash=sha256:cc
"""


@pytest.fixture
def install(tmp_path: Path) -> ModuleType:
    """The script as a module, with an empty environment to look at."""
    loader = SourceFileLoader("labdock_install", str(IMAGES / "notebook/root/usr/local/bin/labdock-install"))
    spec = importlib.util.spec_from_loader("labdock_install", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    module.SITE = tmp_path  # type: ignore[attr-defined]  # a script's own name
    return module


def distribution(site: Path, name: str, files: dict[str, str], version: str = "1.0") -> Any:
    """An installed distribution with *files* (path to text) in *site*."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "RECORD").write_text(
        "".join(f"{path},sha256=x,1\n" for path in files) + f"{info.name}/RECORD,,\n"
    )
    return importlib.metadata.PathDistribution(info)


def test_a_lock_is_read_entry_by_entry(install: ModuleType) -> None:
    found = [(name, version, marker) for name, version, marker, _ in install.entries(LOCK)]
    assert found == [("alpha", "1.0", ""), ("beta-x", "2.0", "python_version < '3'")]


def test_what_is_there_at_its_version_is_not_installed_again(install: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.write_text(LOCK)
    assert [entry.split()[0] for entry in install.chosen([lock])] == ["alpha==1.0"]
    distribution(tmp_path, "alpha", {"alpha.py": ""})
    assert install.chosen([lock]) == []


def test_another_version_in_a_lower_layer_is_refused(install: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.write_text(LOCK)
    distribution(tmp_path, "alpha", {"alpha.py": ""}, version="0.9")
    with pytest.raises(SystemExit, match=r"a\.lock wants alpha 1\.0, and the image below has 0\.9"):
        install.chosen([lock])


def test_tests_go_unless_the_package_itself_imports_them(install: ModuleType, tmp_path: Path) -> None:
    found = distribution(
        tmp_path,
        "alpha",
        {
            "alpha/__init__.py": "def run():\n    from alpha.used.tests import helper\n",
            "alpha/used/tests/helper.py": "",
            "alpha/other/tests/test_it.py": "from alpha.other.tests import more",
            "alpha/other/tests/more.py": "",
            "alpha/app.js.map": "",
        },
    )
    assert install.unneeded(found) == {
        "alpha/other/tests/test_it.py",
        "alpha/other/tests/more.py",
        "alpha/app.js.map",
    }


def test_c_text_goes_only_beside_what_was_made_from_it(install: ModuleType, tmp_path: Path) -> None:
    files = {"a/fast.c": "", "a/fast.cpython-313-x86_64-linux-gnu.so": "", "a/template.c": ""}
    assert install.unneeded(distribution(tmp_path, "alpha", files)) == {"a/fast.c"}


def test_a_trimmed_distribution_says_what_it_still_has(install: ModuleType, tmp_path: Path) -> None:
    distribution(tmp_path, "alpha", {"alpha/__init__.py": "", "alpha/tests/test_it.py": ""})
    install.trim({"alpha"})
    assert not (tmp_path / "alpha/tests").exists()
    assert "tests" not in (tmp_path / "alpha-1.0.dist-info/RECORD").read_text()
    assert (tmp_path / "alpha/__init__.py").exists()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="makes a library with gcc")
def test_a_stripped_library_works_and_keeps_its_sections(install: ModuleType, tmp_path: Path) -> None:
    source, library = tmp_path / "add.c", tmp_path / "add.so"
    source.write_text("static int hidden(int a) { return a + 1; }\nint add(int a) { return hidden(a); }\n")
    subprocess.run(["gcc", "-g3", "-O0", "-shared", "-fPIC", "-o", library, source], check=True)
    whole = library.read_bytes()
    new = install.stripped(whole)
    assert new is not None
    assert len(new) < len(whole)
    library.write_bytes(new)
    assert ctypes.CDLL(str(library)).add(41) == 42
    shown = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    assert ".dynsym" in shown.stdout
    assert ".debug_info" not in shown.stdout
    # Others can still link with it.
    program = tmp_path / "main.c"
    program.write_text("int add(int);\nint main(void) { return add(41) - 42; }\n")
    linked = tmp_path / "main"
    subprocess.run(["gcc", "-o", linked, program, library, f"-Wl,-rpath,{tmp_path}"], check=True)
    assert subprocess.run([linked], check=False).returncode == 0


def test_what_is_no_elf_file_or_has_nothing_to_strip_stays(install: ModuleType) -> None:
    assert install.stripped(b"#!/bin/sh\n") is None
    assert install.stripped(b"\x7fELF\x01\x01" + bytes(200)) is None


def test_what_is_left_out_is_in_no_lock_of_the_notebook() -> None:
    left_out = (IMAGES / "notebook/root/opt/labdock/left-out.txt").read_text().split()
    lock = (IMAGES / "notebook/requirements.lock").read_text()
    assert left_out == sorted(left_out)
    assert not [name for name in left_out if f"\n{name}==" in f"\n{lock}"]


def test_no_package_is_locked_at_another_version_than_in_a_layer_below(install: ModuleType) -> None:
    def versions(name: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for package, version, _, _ in install.entries((IMAGES / name / "requirements.lock").read_text()):
            found.setdefault(package, set()).add(version)
        return found

    below = {**versions("notebook"), **versions("cpu")}
    for name in ("cpu", "cuda", "torch", "torch-cu12", "tensorflow", "tensorflow-cpu", "deeptools"):
        mine = versions(name)
        assert {p: v for p, v in mine.items() if p in below and not v <= below[p]} == {}, name
