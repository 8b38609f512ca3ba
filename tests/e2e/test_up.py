"""``up`` again, interrupted, refused, from a wheel; ``down``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labdock.adapters import host
from labdock.core.compose import PARTS, bridge_name
from tests.stack import Stack, make_stack, running_stack, take_down

ROOT = Path(__file__).parents[2]


def test_a_second_up_changes_nothing_and_says_so(stack: Stack) -> None:
    ids = [stack.container_id(f"{stack.instance}-{part}") for part in PARTS]
    files = {path: path.stat().st_mtime_ns for path in stack.state.rglob("*.json")}
    done = stack.labdock("up")
    assert done.returncode == 0, done.stderr
    assert "nothing changed" in done.stdout
    assert [stack.container_id(f"{stack.instance}-{p}") for p in PARTS] == ids
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert json.loads(stack.labdock("up", "--dry-run", "--json").stdout) == []


def test_a_changed_setting_replaces_only_the_part_that_reads_it(stack: Stack) -> None:
    before = stack.config.read_text()
    edge, hub = (stack.container_id(f"{stack.instance}-{part}") for part in ("edge", "hub"))
    try:
        stack.config.write_text(before.replace("Test Lab", "Other Lab"))
        plan = json.loads(stack.labdock("up", "--dry-run", "--json").stdout)
        assert [step["subject"] for step in plan if step["act"] == "start-parts"] == ["hub"]
        assert stack.labdock("up").returncode == 0
        assert stack.container_id(f"{stack.instance}-edge") == edge
        assert stack.container_id(f"{stack.instance}-hub") != hub
    finally:
        stack.config.write_text(before)
        assert stack.labdock("up").returncode == 0


def test_a_broken_configuration_changes_nothing(stack: Stack) -> None:
    before = stack.config.read_text()
    hub = stack.container_id(f"{stack.instance}-hub")
    try:
        stack.config.write_text(before + "stopp: {idle: 2h}\nlimits: {cpus: many}\n")
        done = stack.labdock("up")
        assert done.returncode == 1
        assert "stopp" in done.stderr
        assert stack.container_id(f"{stack.instance}-hub") == hub
    finally:
        stack.config.write_text(before)


def test_the_compose_file_works_by_hand(stack: Stack) -> None:
    compose = str(Path(sys.executable).parent / "docker-compose")
    done = subprocess.run(
        [compose, "-f", str(stack.state / "compose.yaml"), "ps", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DOCKER_HOST": f"unix://{stack.engine_socket}"},
    )
    names = {json.loads(line)["Name"] for line in done.stdout.splitlines()}
    assert names == {f"{stack.instance}-{part}" for part in PARTS}


def test_a_taken_port_is_one_clear_message_and_nothing_is_left(
    tmp_path: Path, engine_socket: Path, stack: Stack
) -> None:
    other = make_stack(tmp_path, engine_socket, "port")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port))
        taken.listen()
        try:
            done = other.labdock("up")
            assert done.returncode == 1
            assert f"Port {other.port}" in done.stderr
            assert other.container_id(f"{other.instance}-hub") is None
            assert not (other.state / "compose.yaml").exists()
        finally:
            take_down(other)


def test_an_engine_that_refuses_is_one_clear_message(tmp_path: Path, engine_socket: Path) -> None:
    other = make_stack(tmp_path, engine_socket, "engine")
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
        listener.listen()
        listener.close()
    done = other.labdock("status", DOCKER_HOST=f"unix://{dead}")
    assert done.returncode == 1
    assert "engine" in done.stderr
    assert "Traceback" not in done.stderr
    done = other.labdock("up", DOCKER_HOST="tcp://10.0.0.1:2375")
    assert done.returncode == 1
    assert "DOCKER_HOST" in done.stderr


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("when", ["Start agent", "Wait until"])
def test_an_up_that_was_ended_anywhere_is_completed_by_the_next(
    tmp_path: Path, engine_socket: Path, stack: Stack, when: str, sign: signal.Signals
) -> None:
    other = make_stack(tmp_path, engine_socket, "cut")
    try:
        with subprocess.Popen(
            other.command("up"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if when in line:
                    break
            time.sleep(0.3)
            process.send_signal(sign)
            process.communicate(timeout=60)
        done = other.labdock("up")
        assert done.returncode == 0, done.stderr
        assert other.api.healthy()
    finally:
        take_down(other)


def test_two_ups_at_once_do_not_meet(stack: Stack) -> None:
    with host.lock(stack.state / ".lock"):
        done = stack.labdock("up")
    assert done.returncode == 1
    assert f"process {os.getpid()}" in done.stderr


def test_down_keeps_what_is_worth_keeping_and_all_leaves_nothing_on_the_engine(
    tmp_path: Path, engine_socket: Path, stack: Stack
) -> None:
    with running_stack(tmp_path, engine_socket, "down") as other:
        other.invite("ada")
        assert other.labdock("down", "--yes").returncode == 0
        assert other.container_id(f"{other.instance}-hub") is None
        assert other.labdock("up").returncode == 0
        assert [user["name"] for user in other.api.users()] == ["ada", "mia"]
        assert other.labdock("down", "--all", "--yes").returncode == 0
        rules = subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=True).stdout
        assert bridge_name(other.instance) not in rules


def test_the_wheel_carries_all_that_up_needs(tmp_path: Path, engine_socket: Path, stack: Stack) -> None:
    # From a copy: what an older build left in the clone would get into the wheel.
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("labdock-*.whl")
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    subprocess.run([place / "bin/pip", "install", "-q", str(wheel)], check=True)
    other = make_stack(tmp_path, engine_socket, "wheel")
    words = [str(place / "bin/labdock"), *other.command()[1:]]
    try:
        plan = subprocess.run(
            [*words, "up", "--dry-run", "--json"], capture_output=True, text=True, check=True
        )
        # The images are the clone's: nothing to build again, nothing missing in the wheel.
        assert not [step for step in json.loads(plan.stdout) if step["act"] == "build"]
        done = subprocess.run([*words, "up"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert other.api.healthy()
    finally:
        take_down(other)
