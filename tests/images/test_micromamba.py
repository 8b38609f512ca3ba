"""The launcher of micromamba and labdock-conda, with a channel of the test's own and a stand-in program.

No real micromamba takes part: it is on conda's channels alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.images.places import LIBRARY, Place

sys.path.insert(0, str(LIBRARY))
import labdock_micromamba

STAND_IN = '#!/bin/sh\necho "stand-in {version}, root $MAMBA_ROOT_PREFIX, words $*"\n'
ARCHITECTURE = labdock_micromamba.ARCHITECTURES.get(platform.machine(), "none")

pytestmark = pytest.mark.skipif(
    ARCHITECTURE == "none", reason="conda-forge has no micromamba for this machine"
)


class Channel:
    """A conda channel on this machine, with what is put into it."""

    def __init__(self, root: Path, address: str) -> None:
        self.folder = root / "conda-forge" / ARCHITECTURE
        self.folder.mkdir(parents=True)
        self.address = address
        self.index: dict[str, dict[str, Any]] = {"packages": {}, "packages.conda": {}}
        self.write()

    def put(self, version: str, program: str = STAND_IN, *, member: str = "bin/micromamba") -> Path:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:bz2") as archive:
            text = program.replace("{version}", version).encode()
            info = tarfile.TarInfo(member)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
        path = self.folder / f"micromamba-{version}-0.tar.bz2"
        path.write_bytes(data.getvalue())
        self.index["packages"][path.name] = {
            "name": "micromamba",
            "version": version,
            "build_number": 0,
            "size": len(data.getvalue()),
            "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
        }
        self.write()
        return path

    def write(self, name: str = "current_repodata.json") -> None:
        (self.folder / name).write_text(json.dumps(self.index))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    root = tmp_path / "channel"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield Channel(root, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Where root keeps programs for everybody; here root is whoever runs the test."""
    return tmp_path / "shared"


def kept(place: Place, shared: Path) -> list[Path]:
    return [*shared.glob("*"), *shared.glob(".*"), *place.home.glob(".local/share/labdock/bin/*")]


def run(
    place: Place, shared: Path, alias: str, *words: str, program: str = "micromamba", **more: str
) -> subprocess.CompletedProcess[str]:
    return place.run(program, *words, CONDA_CHANNEL_ALIAS=alias, LABDOCK_BIN=str(shared), **more)


def test_the_first_use_fetches_the_newest_and_the_next_needs_no_channel(
    place: Place, channel: Channel, shared: Path
) -> None:
    for version in ("1.9.1", "2.10.0", "2.9.3", "2.10.0rc1"):
        channel.put(version)
    done = run(place, shared, channel.address, "create", "-n", "bio")
    root = place.home / ".local/share/labdock/mamba"
    assert done.stdout == f"stand-in 2.10.0, root {root}, words create -n bio\n"
    assert done.stderr.count("\n") == 1
    (program,) = kept(place, shared)
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    again = run(place, shared, "http://127.0.0.1:9", "--version")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_root_prefix_that_is_set_stays(place: Place, channel: Channel, shared: Path) -> None:
    channel.put("2.0")
    done = run(place, shared, channel.address, MAMBA_ROOT_PREFIX="/elsewhere")
    assert "root /elsewhere," in done.stdout


def test_the_address_of_the_channel_is_the_persons_to_say(tmp_path: Path) -> None:
    mine, image = tmp_path / ".condarc", tmp_path / "condarc"
    image.write_text("channels: [a]\nchannel_alias: 'https://mirror.example/conda/'  # ours\n")
    files = (mine, image)
    assert labdock_micromamba.channel_alias({}, files) == "https://mirror.example/conda"
    mine.write_text("channel_alias: https://mine.example\n")
    assert labdock_micromamba.channel_alias({}, files) == "https://mine.example"
    told = {"CONDA_CHANNEL_ALIAS": "https://told.example/"}
    assert labdock_micromamba.channel_alias(told, files) == "https://told.example"
    assert labdock_micromamba.channel_alias({}, ()) == labdock_micromamba.DEFAULT_ALIAS


def test_the_long_list_will_do_where_there_is_no_short_one(
    place: Place, channel: Channel, shared: Path
) -> None:
    channel.put("2.0")
    (channel.folder / "current_repodata.json").rename(channel.folder / "repodata.json")
    assert run(place, shared, channel.address).stdout.startswith("stand-in 2.0")


def refused(place: Place, shared: Path, alias: str) -> str:
    """The one line that a use without success says; nothing is kept."""
    done = run(place, shared, alias, "create")
    assert (done.returncode, done.stdout) == (1, "")
    _, line = done.stderr.splitlines()
    assert kept(place, shared) == []
    return line


def test_a_channel_that_does_not_answer_is_told_with_the_way_out(place: Place, shared: Path) -> None:
    line = refused(place, shared, "http://127.0.0.1:9")
    assert "does not answer" in line
    assert "channel_alias" in line


def test_an_address_that_is_no_channel_is_told(place: Place, channel: Channel, shared: Path) -> None:
    assert "there is no conda channel" in refused(place, shared, f"{channel.address}/elsewhere")
    (channel.folder / "current_repodata.json").write_text("<html>")
    assert "is damaged" in refused(place, shared, channel.address)


def test_a_damaged_package_is_not_kept(place: Place, channel: Channel, shared: Path) -> None:
    path = channel.put("2.0")
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:-1] + b"x"):
        path.write_bytes(data)
        assert "is damaged" in refused(place, shared, channel.address)
    path.unlink()
    assert "is not there" in refused(place, shared, channel.address)


def test_a_package_without_the_program_is_told(place: Place, channel: Channel, shared: Path) -> None:
    channel.put("2.0", member="../../bin/micromamba")
    assert "cannot be unpacked" in refused(place, shared, channel.address)


def test_a_channel_without_micromamba_is_told(place: Place, channel: Channel, shared: Path) -> None:
    assert "has no micromamba" in refused(place, shared, channel.address)
    channel.index["packages.conda"]["micromamba-2.0-0.conda"] = {"name": "micromamba", "version": "2.0"}
    channel.write()
    assert "as .conda only" in refused(place, shared, channel.address)


def test_a_program_that_does_not_run_here_is_told(place: Place, channel: Channel, shared: Path) -> None:
    channel.put("2.0", "\x7fELF of another machine")
    done = run(place, shared, channel.address)
    assert done.returncode == 1
    assert "does not run" in done.stderr
    assert "Delete it" in done.stderr


def test_many_at_once_all_get_it(place: Place, channel: Channel, shared: Path) -> None:
    channel.put("2.0")
    environment = place.environment({"CONDA_CHANNEL_ALIAS": channel.address, "LABDOCK_BIN": str(shared)})
    runs = [
        subprocess.Popen(
            place.command("micromamba", "info"),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(8)
    ]
    assert {one.communicate()[0].partition(",")[0] for one in runs} == {"stand-in 2.0"}
    assert len(kept(place, shared)) == 1


# labdock-conda ---------------------------------------------------------------------------------------------

INSTALLER = """#!/bin/sh
echo "$*" >> "$LOG"
mkdir -p "$MAMBA_ROOT_PREFIX/pkgs"
while [ "$1" != -p ]; do word=${word:-$1}; shift; done
mkdir -p "$2/conda-meta" "$2/bin"
case "$*" in *nosuch*) echo nothing provides nosuch >&2; exit 1;; esac
case "$*" in *python*|*yml*) touch "$2/bin/python";; esac
"""


@pytest.fixture
def conda(place: Place, channel: Channel, shared: Path, tmp_path: Path) -> Iterator[Any]:
    """Runs labdock-conda with a prefix of the test's own; gives the run and what micromamba was told."""
    channel.put("2.0", INSTALLER)
    log, prefix = tmp_path / "log", tmp_path / "opt/conda"
    prefix.parent.mkdir()

    def go(*words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        done = run(
            place,
            shared,
            channel.address,
            *words,
            program="labdock-conda",
            LABDOCK_CONDA=str(prefix),
            LOG=str(log),
        )
        assert not prefix.parent.exists() or not list(prefix.parent.glob("labdock-conda-*")), (
            "a cache is left"
        )
        told = log.read_text().replace(str(prefix), "PREFIX").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return done, told

    yield go
    for path in (place.base / "share/jupyter/kernels/conda").glob("*"):
        path.unlink()


def kernel_of_conda(place: Place) -> Path:
    return place.base / "share/jupyter/kernels/conda/kernel.json"


def test_packages_make_the_conda_environment_and_later_ones_add_to_it(place: Place, conda: Any) -> None:
    done, told = conda("samtools", "bwa>=0.7")
    assert (done.returncode, told) == (0, ["create -y -p PREFIX -c conda-forge samtools bwa>=0.7"])
    assert not kernel_of_conda(place).exists()
    done, told = conda("python=3.12")
    assert told == [
        "install -y -p PREFIX -c conda-forge python=3.12",
        "install -y -p PREFIX -c conda-forge ipykernel",
    ]
    spec = json.loads(kernel_of_conda(place).read_text())
    assert spec["display_name"] == "Python (conda)"
    assert spec["argv"][0].endswith("opt/conda/bin/python")


def test_a_file_is_installed_as_it_says(place: Place, conda: Any) -> None:
    file = place.home / "environment.yml"
    file.write_text("channels: [bioconda]\ndependencies: [python]\n")
    _, told = conda("environment.yml")
    assert told[0] == "create -y -p PREFIX -f environment.yml"
    file.write_text("dependencies: [python]\n")
    _, told = conda("environment.yml")
    assert told[0] == "install -y -p PREFIX -f environment.yml -c conda-forge"


def test_a_list_of_packages_is_read_and_an_explicit_one_is_micromambas_to_read(
    place: Place, conda: Any
) -> None:
    file = place.home / "list.txt"
    file.write_text("# ours\nsamtools\nbwa>=0.7  # new\n")
    assert conda("list.txt", "curl")[1] == ["create -y -p PREFIX -c conda-forge samtools bwa>=0.7 curl"]
    file.write_text("@EXPLICIT\nhttps://conda.example/a.tar.bz2\n")
    assert conda("list.txt")[1] == ["install -y -p PREFIX -f list.txt"]


def test_a_missing_file_and_wrong_words_are_told_before_anything(conda: Any) -> None:
    done, told = conda("enviroment.yml")
    assert (done.returncode, told) == (1, [])
    assert "there is no file enviroment.yml" in done.stderr
    assert conda("--frob")[0].returncode == 2
    assert conda()[0].returncode == 2


def test_a_failed_conda_install_fails_the_build(conda: Any) -> None:
    done, _ = conda("nosuch")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "labdock-conda: micromamba create failed; above it says why."
