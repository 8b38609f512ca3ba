"""This machine's files, locks, ports and programs."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from labdock.adapters import host
from labdock.core.errors import HostError

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def program(folder: Path, name: str, text: str) -> None:
    """A program of the test's own called *name* in *folder*."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is searched for programs before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_the_fields_of_os_release_come_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text("PRETTY_NAME=\"Debian 12\"\nID=debian\n\n# x\nVERSION_CODENAME='bookworm'\n")
    assert host.read_os_release(path) == {
        "PRETTY_NAME": "Debian 12",
        "ID": "debian",
        "VERSION_CODENAME": "bookworm",
    }
    assert host.read_os_release(tmp_path / "none") == {}


def test_a_file_that_is_not_there_reads_as_none(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x")
    assert host.read_text(tmp_path / "there") == "x"
    assert host.read_text(tmp_path / "none") is None
    (tmp_path / "spreadsheet").write_bytes("name\n".encode("utf-16"))
    with pytest.raises(HostError, match="no text in UTF-8: byte 1 is 0xff"):
        host.read_text(tmp_path / "spreadsheet")


def test_a_file_is_written_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        host.write_file(tmp_path / "open", "x", mode=0o644)
        os.umask(0)
        host.write_file(tmp_path / "secret", "x", mode=0o600)
    finally:
        os.umask(before)
    assert (mode_of(tmp_path / "open"), mode_of(tmp_path / "secret")) == (0o644, 0o600)


@ROOT
def test_a_file_and_a_folder_get_their_owner(tmp_path: Path) -> None:
    host.write_file(tmp_path / "file", "x", mode=0o600, uid=61_000)
    host.make_folder(tmp_path / "a/b", mode=0o700, uid=61_000)
    assert (tmp_path / "file").stat().st_uid == (tmp_path / "a/b").stat().st_gid == 61_000
    assert (tmp_path / "a").stat().st_uid == 0


def test_whoever_reads_meanwhile_sees_the_old_text_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {letter * 100_000 for letter in "ab"}
    host.write_file(path, "a" * 100_000, mode=0o600)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for text in sorted(texts):
            host.write_file(path, text, mode=0o600)
    done.set()
    reader.join()
    assert seen <= texts


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HostError, match="No space left on device"):
        host.write_file(path, "new", mode=0o600)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_in_a_folder_that_is_not_there_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="none/file cannot be written: No such file"):
        host.write_file(tmp_path / "none/file", "x", mode=0o600)


def test_a_folder_gets_its_mode_also_when_it_is_there(tmp_path: Path) -> None:
    for mode in (0o755, 0o700):
        host.make_folder(tmp_path / "a/b", mode=mode)
        assert mode_of(tmp_path / "a/b") == mode
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="file cannot be made: File exists"):
        host.make_folder(tmp_path / "file", mode=0o700)


def test_a_lock_is_held_by_one_and_names_the_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        host.lock(path),
        pytest.raises(HostError, match=rf"at work here \(process {os.getpid()}\)"),
        host.lock(path),
    ):
        pass
    with host.lock(path):
        assert path.read_text() == str(os.getpid())


def test_a_killed_holder_leaves_the_lock_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time, pathlib; from labdock.adapters import host\n"
        "with host.lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HostError, match=f"process {holder.pid}"), host.lock(path):
            pass
        holder.kill()
    with host.lock(path):
        pass


def test_a_lock_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be opened"), host.lock(tmp_path / "none/lock"):
        pass


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_port_is_free_until_somebody_listens(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        listener.listen()
        assert not host.port_is_free(address, port)
    assert host.port_is_free(address, port)


def test_an_address_of_another_machine_is_not_free() -> None:
    assert not host.port_is_free("192.0.2.1", 8000)


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert host.free_bytes(tmp_path / "a/b/c") > 0


def test_routes_are_networks_in_plain_notation_without_the_default(tmp_path: Path) -> None:
    path = tmp_path / "route"
    path.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "tun0\t0010D50A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n"
    )
    assert host.routed_subnets(path) == ("192.168.0.0/24", "10.213.16.0/20")
    assert host.routed_subnets(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("vendor", "kind", "is_nvidia"),
    [("0x10de", "0x030200", True), ("0x10de", "0x040300", False), ("0x1002", "0x030000", False)],
    ids=["gpu", "sound-of-a-gpu", "somebody-else's"],
)
def test_nvidia_hardware_is_a_display_controller_of_nvidia_s(
    tmp_path: Path, vendor: str, kind: str, is_nvidia: bool
) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:3b:00.0"
    device.mkdir(parents=True)
    (tmp_path / "usr").mkdir()
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    assert host.nvidia_folders(tmp_path) == (("/usr",) if is_nvidia else ())


def test_a_driver_that_runs_is_hardware_too_and_nothing_at_all_is_none(tmp_path: Path) -> None:
    assert host.nvidia_folders(tmp_path) == ()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "usr").mkdir()
    (tmp_path / "etc/alternatives").mkdir(parents=True)
    assert host.nvidia_folders(tmp_path) == ("/usr", "/etc/alternatives")


def test_every_line_of_a_program_is_handed_on_also_from_standard_error() -> None:
    lines: list[str] = []
    host.run(("sh", "-c", "echo a; echo b >&2; printf '\\377c'"), on_line=lines.append, failure="")
    assert lines == ["a", "b", "\ufffdc"]


def test_a_program_gets_its_settings_and_no_input() -> None:
    lines: list[str] = []
    host.run(("sh", "-c", "cat; echo $OWN $HOME"), on_line=lines.append, environment={"OWN": "1"}, failure="")
    assert lines == [f"1 {os.environ['HOME']}"]


def test_a_program_that_fails_is_told_with_its_last_lines() -> None:
    with pytest.raises(HostError, match=r"^It failed\. sh ended with 3\.") as failed:
        host.run(("sh", "-c", "seq 1 30; exit 3"), on_line=lambda line: None, failure="It failed.")
    assert failed.value.details == tuple(str(number) for number in range(11, 31))


def test_a_program_that_is_missing_is_told_by_its_name() -> None:
    with pytest.raises(HostError, match=r"It failed\. no-such-program: No such file"):
        host.run(("no-such-program",), on_line=lambda line: None, failure="It failed.")


@ROOT
def test_packages_are_installed_without_questions_and_without_extras(programs: Path) -> None:
    program(programs, "apt-get", 'echo "$DEBIAN_FRONTEND $*"')
    lines: list[str] = []
    host.install_packages(("docker.io", "iptables"), on_line=lines.append)
    assert lines == [
        "noninteractive update",
        "noninteractive install -y --no-install-recommends docker.io iptables",
    ]


@ROOT
def test_a_download_that_fails_is_told_with_the_packages_and_the_lines(programs: Path) -> None:
    program(programs, "apt-get", '[ "$1" = update ] || { echo "E: no mirror"; exit 100; }')
    with pytest.raises(
        HostError, match=r"docker\.io could not be installed\. apt-get ended with 100"
    ) as failed:
        host.install_packages(("docker.io",), on_line=lambda line: None)
    assert failed.value.details == ("E: no mirror",)


@ROOT
def test_without_apt_get_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="no apt-get"):
        host.install_packages(("docker.io",), on_line=lambda line: None)


def test_somebody_else_than_root_is_told_what_to_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError) as install:
        host.install_packages(("docker.io",), on_line=lambda line: None)
    assert install.value.fix == "As root: apt-get install docker.io"
    with pytest.raises(HostError, match="systemctl start docker"):
        host.start_engine(tmp_path / "log")


def test_debian_is_made_whole_or_not_at_all(programs: Path, tmp_path: Path) -> None:
    target = tmp_path / "debian.tar"
    arguments = tmp_path / "arguments"
    program(
        programs,
        "mmdebstrap",
        f'echo "$@" > {arguments}; for word; do case "$word" in *.partial) echo tar > "$word";; esac; done; '
        f"[ ! -e {tmp_path}/fail ]",
    )
    (tmp_path / "fail").touch()
    with pytest.raises(HostError, match="Debian trixie could not be made"):
        host.bootstrap_debian("trixie", "http://mirror.lab.example/debian", target, on_line=lambda line: None)
    assert not target.exists()
    (tmp_path / "fail").unlink()
    host.bootstrap_debian("trixie", "http://mirror.lab.example/debian", target, on_line=lambda line: None)
    assert target.read_text() == "tar\n"
    words = arguments.read_text().split()
    assert words[-3] == "trixie"
    assert words[-1] == "http://mirror.lab.example/debian"
    host.bootstrap_debian("trixie", "", target, on_line=lambda line: None)
    assert arguments.read_text().split()[-2] == "trixie"


def test_a_socket_answers_once_somebody_listens(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    assert not host.socket_answers(path)
    assert not host.wait_for_socket(path, timeout_s=0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert not host.socket_answers(path)
        threading.Timer(0.2, listener.listen).start()
        begun = time.monotonic()
        assert host.wait_for_socket(path, timeout_s=10)
        assert time.monotonic() - begun < 5


def test_a_socket_that_one_may_not_use_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: str) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(HostError, match="You may not use") as refused:
        host.socket_answers(tmp_path / "a.sock")
    assert "usermod -aG docker" in refused.value.fix


def test_a_folder_is_filled_for_its_owner_whole_or_not_at_all(tmp_path: Path) -> None:
    source, home = tmp_path / "old", tmp_path / "home"
    (source / "work").mkdir(parents=True)
    (source / "work/a b.ipynb").write_text("{}")
    (source / ".hidden").write_text("x")
    (source / "link").symlink_to("/etc/passwd")
    home.mkdir(mode=0o700)
    uid = os.geteuid()
    host.fill_folder(home, source, uid=uid, on_line=lambda line: None)
    assert (home / "work/a b.ipynb").read_text() == "{}"
    assert (home / "link").is_symlink()
    assert home.stat().st_mode & 0o777 == 0o700
    with pytest.raises(HostError, match="is not empty"):
        host.fill_folder(home, source, uid=uid, on_line=lambda line: None)
    with pytest.raises(HostError, match="is no folder"):
        host.fill_folder(home, tmp_path / "none", uid=uid, on_line=lambda line: None)


def test_a_copy_that_fails_leaves_the_folder_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, home = tmp_path / "old", tmp_path / "home"
    source.mkdir()
    (source / "file").write_text("x")
    home.mkdir()
    (tmp_path / "bin").mkdir()
    chown = tmp_path / "bin/chown"
    chown.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    chown.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(HostError, match="chown failed"):
        host.fill_folder(home, source, uid=1, on_line=lambda line: None)
    assert list(home.iterdir()) == []


def test_a_linked_folder_on_the_way_is_found(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/cert.pem").write_text("x")
    (tmp_path / "current").symlink_to("real")
    assert host.linked_folder(tmp_path / "current/cert.pem") == tmp_path / "current"
    (tmp_path / "real/link.pem").symlink_to("cert.pem")
    assert host.linked_folder(tmp_path.resolve() / "real/link.pem") is None
