"""The other commands, as an administrator types them."""

from __future__ import annotations

import asyncio
import json

import pytest

from labdock.adapters.engine import Engine
from labdock.core.compose import PARTS
from tests.stack import Stack


def test_verify_proves_every_step_and_leaves_nobody_behind(stack: Stack) -> None:
    report = stack.facts("verify")
    assert report["ok"]
    assert len(report["steps"]) == 13
    assert all(step["ok"] and step["seconds"] >= 0 for step in report["steps"])
    assert not [user for user in stack.api.users() if user["name"].startswith("verify-")]


def test_verify_fails_with_the_cause_when_the_agent_is_down(stack: Stack) -> None:
    async def stop_agent() -> None:
        async with Engine(stack.engine_socket) as engine:
            await engine.stop(f"{stack.instance}-agent", grace_s=5)

    asyncio.run(stop_agent())
    try:
        done = stack.labdock("verify", "--json")
        assert done.returncode == 1
        failed = [step for step in json.loads(done.stdout)["steps"] if not step["ok"]]
        assert failed[0]["step"] == "Start a session"
        assert "makes containers does not answer" in failed[0]["cause"]
        assert stack.labdock("status").returncode == 1
    finally:
        assert stack.labdock("up").returncode == 0
        for user in stack.api.users():
            if user["name"].startswith("verify-"):
                stack.remove(user["name"])


def test_status_tells_parts_and_sessions(stack: Stack) -> None:
    found = stack.facts("status")
    assert found["ok"]
    assert [(part["part"], part["status"]) for part in found["parts"]] == [
        (part, "running") for part in PARTS
    ]
    assert stack.url in stack.labdock("status").stdout


def test_doctor_finds_nothing_wrong_here(stack: Stack) -> None:
    done = stack.labdock("doctor")
    assert done.returncode == 0, done.stdout
    assert "Nothing is wrong." in done.stdout


def test_doctor_names_what_is_wrong(stack: Stack) -> None:
    secret = stack.state / "secrets/api_token"
    secret.chmod(0o644)
    try:
        done = stack.labdock("doctor")
        assert done.returncode == 1
        assert "api_token" in done.stdout
    finally:
        secret.chmod(0o600)


def test_logs_tell_parts_apart_and_know_who_is_unknown(stack: Stack) -> None:
    assert "JupyterHub" in stack.labdock("logs", "hub", "-n", "500").stdout
    assert "hub      |" in stack.labdock("logs").stdout
    done = stack.labdock("logs", "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr


@pytest.mark.parametrize(
    "words",
    [("fly",), ("restart", "moon"), ("users", "add"), ("--instance", "A B", "status"), ("logs", "-n", "0")],
)
def test_wrong_usage_exits_with_2(stack: Stack, words: tuple[str, ...]) -> None:
    assert stack.labdock(*words).returncode == 2


def test_no_secret_is_ever_logged(stack: Stack) -> None:
    secrets = [path.read_text().strip() for path in (stack.state / "secrets").iterdir()]
    printed = stack.labdock("logs", "-n", "100000").stdout + stack.labdock("--verbose", "up").stderr
    assert len(printed) > 1000
    for secret in secrets:
        assert secret not in printed
    for text in (stack.state / "compose.yaml").read_text(), (stack.state / "parts/hub/hub.json").read_text():
        for secret in secrets:
            assert secret not in text
