"""What pip is about to do, told from its words: advice where it could only fail, nothing anywhere else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.places import LIBRARY

sys.path.insert(0, str(LIBRARY))
import labdock_pip


def change(command: str, **environment: str) -> str:
    """What the advice takes *command* for: install, uninstall or ""."""
    words = labdock_pip.pip_words(command.split())
    return labdock_pip.changes(words, environment) if words else ""


@pytest.mark.parametrize(
    "command",
    [
        "python /opt/env/bin/pip install einops",
        "python /opt/env/bin/pip3 install einops",
        "python /opt/env/bin/pip3.13 install einops",
        "/opt/env/bin/python -m pip install einops",
        "python -X utf8 -W ignore -m pip -q install einops",
        "python -m pip --no-cache-dir install --user einops",
        "python -m pip install -r list.txt",
        "python -m pip install --pre --upgrade einops",
        "python -m pip install",
    ],
)
def test_an_install_into_the_environment_itself_is_seen(command: str) -> None:
    assert change(command) == "install"


def test_an_uninstall_is_seen() -> None:
    assert change("python -m pip uninstall -y einops") == "uninstall"


@pytest.mark.parametrize(
    "command",
    [
        "python",
        "python script.py pip install einops",
        "python -c print() pip install",
        "python -m venv install",
        "python -m pip list",
        "python -m pip download install",
        "python -m pip help install",
        "python -m pip install --help",
        "python -m pip install -h",
        "python -m pip install --dry-run einops",
        "python -m pip install --target /tmp/x einops",
        "python -m pip install --target=/tmp/x einops",
        "python -m pip install -t /tmp/x einops",
        "python -m pip install --prefix /tmp/x einops",
        "python -m pip install --root /tmp/x einops",
        "python -m pip --python /tmp/env install einops",
        "python /opt/env/lib/pip/__pip-runner__.py install einops",
    ],
)
def test_what_changes_nothing_here_is_let_through(command: str) -> None:
    assert change(command) == ""


@pytest.mark.parametrize("name", ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_PYTHON"])
def test_a_setting_that_leads_elsewhere_is_let_through(name: str) -> None:
    assert change("python -m pip install einops", **{name: "1"}) == ""


@pytest.mark.parametrize(
    ("words", "there"),
    [
        ("install pytest", True),
        ("install -q pytest>=1 aiohttp", True),
        ("install pytest<1", False),
        ("install pytest nosuchpackage", False),
        ("install --upgrade pytest", False),
        ("install pytest[dev]", False),
        ("install -r list.txt", False),
        ("install ./folder", False),
        ("install", False),
    ],
)
def test_what_is_installed_already_is_left_to_pip(words: str, there: bool) -> None:
    pytest.importorskip("pip")
    assert labdock_pip.all_there(words.split()) is there


def test_the_advice_is_two_lines_with_the_command_to_type() -> None:
    words = ["install", "-q", "einops", "numpy>=2", "-r", "list.txt"]
    first, second = labdock_pip.advice("install", words, []).splitlines()
    assert "pip cannot install here" in first
    assert "labdock-env create mine einops 'numpy>=2' -r list.txt " in second


def test_the_advice_names_an_environment_that_is_there() -> None:
    assert 'labdock-env add ours einops  (then choose the kernel "ours")' in labdock_pip.advice(
        "install", ["install", "einops"], ["ours"]
    )


def test_the_advice_on_user_folders_says_that_nobody_looks_there() -> None:
    assert "--user" in labdock_pip.advice("install", ["install", "--user", "einops"], []).splitlines()[0]


def test_what_is_no_plain_name_is_not_repeated_as_a_command() -> None:
    assert "create mine PACKAGE" in labdock_pip.advice("install", ["install", "x; rm -r ~", "$(y)"], [])


def test_pip_is_hooked_once_however_often_an_image_is_built(tmp_path: Path) -> None:
    (tmp_path / "pip").mkdir()
    init = tmp_path / "pip/__init__.py"
    init.write_text('"""A stand-in."""\n')
    shutil.copytree(LIBRARY, tmp_path / "library", ignore=shutil.ignore_patterns("__pycache__"))
    program = tmp_path / "library/labdock_pip.py"
    for _ in range(2):
        subprocess.run([sys.executable, program], env={"PYTHONPATH": str(tmp_path)}, check=True)
    assert init.read_text().count("labdock_pip.look()") == 1
    assert list((tmp_path / "pip/__pycache__").iterdir())
    assert list((tmp_path / "library/__pycache__").glob("labdock_kernel.*"))
    subprocess.run([sys.executable, "-c", "import pip"], env={"PYTHONPATH": str(tmp_path)}, check=True)
