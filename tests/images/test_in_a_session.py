"""A person's own packages in the notebook image itself: real pip, real kernels, real packages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labdock.adapters.engine import Engine

pytestmark = pytest.mark.engine

UID = 200001
CELLS = Path(__file__).with_name("cells.py")
ANOTHER_PYTHON = """
sed -i 's/^version = .*/version = 3.9.2/' ~/.labdock/envs/mine/pyvenv.cfg
mv ~/.labdock/envs/mine/lib/python3.* ~/.labdock/envs/mine/lib/python3.9
"""


class Session:
    """Containers of the notebook image, one after another, with one home; as a session's, less its server."""

    def __init__(self, socket: Path, image: str, home: Path) -> None:
        self.socket = socket
        self.image = image
        self.home = home

    def run(self, script: str, *, home_bytes: int = 0, network: str = "bridge", status: int = 0) -> str:
        """What *script* of bash prints, errors among it; with *home_bytes*, in a home that is that small."""
        body = {
            "Image": self.image,
            "User": f"{UID}:{UID}",
            "WorkingDir": "/home/ada",
            "Env": ["HOME=/home/ada", "PYTHONNOUSERSITE=1", "LABDOCK_IMAGE=labdock/cpu:one"],
            "Entrypoint": ["bash", "-c"],
            "Cmd": [f"exec 2>&1\n{script}"],
            "HostConfig": {
                "NetworkMode": network,
                "Binds": [
                    f"{CELLS}:/cells.py:ro",
                    *([] if home_bytes else [f"{self.home}:/home/ada"]),
                ],
                "Tmpfs": {"/home/ada": f"size={home_bytes},uid={UID},gid={UID},exec"} if home_bytes else {},
            },
        }

        async def go() -> str:
            async with Engine(self.socket) as engine:
                ran = await engine.run(f"ldtest{os.getpid()}-packages", body, timeout_s=240)
            assert ran.exit_code == status, ran.output
            return ran.output

        return asyncio.run(go())


@pytest.fixture
def session(engine_socket: Path, notebook_image: str, tmp_path: Path) -> Iterator[Session]:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, UID, UID)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    yield Session(engine_socket, notebook_image, home)


@pytest.mark.parametrize(
    "command",
    [
        "pip install einops",
        "pip3 install -q einops",
        "python -m pip install einops",
        "pip install --user einops",
        "pip uninstall -y ipykernel",
    ],
)
def test_pip_into_the_image_is_two_lines_in_a_terminal(session: Session, command: str) -> None:
    first, second = session.run(command, status=1, network="none").splitlines()
    assert first.startswith("labdock: ")
    assert "labdock-env create mine" in second


def test_pip_into_the_image_is_two_lines_in_a_notebook(session: Session) -> None:
    said = session.run("python /cells.py python3 '!pip install einops' '%pip install einops' 2>/dev/null")
    assert said.count("labdock: the image's packages are the same for everybody") == 2
    assert said.count("labdock-env create mine einops") == 2
    assert "Errno" not in said


def test_what_pip_can_do_it_does(session: Session) -> None:
    """What is installed already, what goes elsewhere, what only looks."""
    session.run(
        "set -e; pip install ipykernel; pip list; pip download --no-deps -d /tmp/a einops; "
        "pip install --no-deps --target /tmp/b einops; pip install --dry-run einops"
    )


def test_a_package_of_ones_own_is_there_in_the_kernel_and_after_a_restart(session: Session) -> None:
    session.run("labdock-env create mine einops")
    said = session.run(
        "python /cells.py mine 'import einops; print(einops.__file__)' "
        "'import IPython; print(IPython.__file__)' '!pip install tqdm' 'import tqdm; print(tqdm.__file__)'"
    )
    assert "/home/ada/.labdock/envs/mine/lib/" in said.split("[import einops", 1)[1].splitlines()[1]
    assert "/opt/env/lib/" in said.split("[import IPython", 1)[1].splitlines()[1]
    assert "/home/ada/.labdock/envs/mine/lib/" in said.split("[import tqdm", 1)[1]
    assert "not in its lock: tqdm==" in session.run("labdock-env show mine")


def test_what_the_image_has_is_not_installed_again(session: Session) -> None:
    said = session.run("labdock-env create mine ipykernel && labdock-env show mine --json")
    assert "Requirement already satisfied: ipykernel" in said
    assert '"packages": []' in said


def test_after_an_image_with_another_python_a_notebook_lives_and_offers_the_rebuild(session: Session) -> None:
    session.run(f"labdock-env create mine einops && {ANOTHER_PYTHON}")
    lines = session.run("python /cells.py mine '40 + 2' '40 + 3' '!labdock-env rebuild mine' 2>/dev/null")
    shown = lines.splitlines()
    assert shown[0] == "[40 + 2]"
    assert shown[1].startswith('The environment "mine" was made for Python 3.9, and this image has Python 3.')
    assert "!labdock-env rebuild mine" in shown[2]
    assert shown[3:6] == ["42", "[40 + 3]", "43"]
    assert "Restart its kernels" in shown[-1]
    said = session.run("python /cells.py mine 'import einops; print(einops.__file__)' 2>/dev/null")
    assert "/home/ada/.labdock/envs/mine/lib/" in said
    assert "Python 3.9" not in said


def test_a_kernel_whose_environment_is_gone_still_runs(session: Session) -> None:
    said = session.run("labdock-env create mine && rm ~/.labdock/envs/mine && python /cells.py mine '6 * 7'")
    assert "is not there any more" in said
    assert said.splitlines()[-1] == "42"


def test_without_a_network_it_is_told_that_the_index_does_not_answer(session: Session) -> None:
    said = session.run("labdock-env create mine einops; ls ~/.labdock/envs", network="none")
    assert "labdock-env: the package index does not answer." in said.splitlines()[-1]


def test_a_full_home_is_told_in_words(session: Session) -> None:
    said = session.run(
        "labdock-env create mine sympy; ls ~/.labdock/envs; ls -d ~/.labdock/builds/mine.*/",
        home_bytes=8 * 2**20,
        status=2,
    )
    assert "labdock-env: no space is left" in said
    assert "No environment was made." in said


def test_the_lock_installs_with_pip_alone(session: Session) -> None:
    session.run("labdock-env create mine 'einops==0.8.0'")
    said = session.run("python -m pip install --no-deps --target /tmp/x -r ~/.labdock/envs/mine/labdock.lock")
    assert "einops-0.8.0" in said


def test_every_command_of_the_page_works_in_a_session(session: Session) -> None:
    page = Path(__file__).parents[2] / "docs/how-to/packages.md"
    blocks = page.read_text().split("```sh\n")[1:]
    commands = [block.split("```")[0] for block in blocks]
    # micromamba comes from conda's channels, which not every machine that tests can reach.
    script = "".join(block for block in commands if "micromamba" not in block)
    session.run(f"set -e\necho einops > requirements.txt\n{script}")
