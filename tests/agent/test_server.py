"""The agent in front of an engine, the fake one and the machine's own: one contract."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiodocker
import pytest

from labdock.agent.main import bind_socket
from labdock.core.errors import BadRequestError, EngineError, HostError
from labdock.core.people import FIRST_UID
from labdock.core.shelf import allowed_to_json
from tests.agent.builders import good_body
from tests.agent.engines import EngineUnderTest, FakeEngine, RealEngine
from tests.agent.harness import RunningAgent, running_agent, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to other users")


@pytest.fixture
async def fake_agent(fake_engine: FakeEngine, tmp_path: Path) -> AsyncIterator[RunningAgent]:
    if os.geteuid() != 0:
        pytest.skip("the agent gives homes to people, which takes root")
    async with running_agent(fake_engine, tmp_path) as running:
        yield running


# On both engines


async def test_a_session_runs_and_is_stopped_through_the_guard(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    person = await agent.client.person("local:ada", "ada")
    name = await agent.create(person)
    await agent.start(name)
    session = agent.docker.containers.container(name)
    shown = await session.show()
    assert shown["State"]["Status"] == "running"
    assert shown["Config"]["User"] == f"{FIRST_UID}:{FIRST_UID}"
    lines: list[str] = []
    async with asyncio.timeout(10):
        while not lines:
            lines = list(await session.log(stdout=True, stderr=True, tail=20))
    assert "".join(lines) == f"hello from {FIRST_UID}\n"
    await session.stop(t=0)
    await until(lambda: not engine.containers())


async def test_only_sessions_of_this_instance_are_seen_or_touched(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    stranger = engine.add_stranger()
    person = await agent.client.person("local:ada", "ada")
    name = await agent.create(person)
    listed = await agent.docker.containers.list(all=True, filters=json.dumps({}))
    assert [(await one.show())["Name"] for one in listed] == [f"/{name}"]
    for method, call in (
        ("GET", f"/containers/{stranger}/json"),
        ("GET", f"/containers/{stranger}/logs?stdout=1"),
        ("POST", f"/containers/{stranger}/start"),
        ("POST", f"/containers/{stranger}/stop"),
        ("DELETE", f"/containers/{stranger[:12]}?force=1"),
    ):
        status, answer = await agent.ask(method, call)
        assert (status, answer["field"]) == (403, "container"), call
    status, answer = await agent.ask("GET", "/containers/nobody/json")
    assert status == 404
    assert "nobody" in answer["message"]


async def test_a_container_that_is_no_session_is_not_made(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    person = await agent.client.person("local:ada", "ada")
    body = good_body(agent.rules, person, images=agent.images())
    body["HostConfig"]["Privileged"] = True
    with pytest.raises(aiodocker.DockerError) as caught:
        await agent.docker.containers.create(body, name=f"{agent.rules.instance}-session-ada")
    assert caught.value.status == 403
    assert "HostConfig.Privileged" in caught.value.message
    assert engine.containers() == []


async def test_a_session_that_ends_leaves_its_last_words_and_no_container(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    person = await agent.client.person("local:ada", "ada")
    before = datetime.now(UTC)
    name = await agent.create(person, "JUPYTER_TEST_EXIT=3")
    assert await agent.client.ended(name) is None
    await agent.start(name)
    ended = await until(lambda: agent.last_words.read(name))
    assert ended == await agent.client.ended(name)
    assert (ended.name, ended.exit_code, ended.out_of_memory) == (name, 3, False)
    # The engine reads output and errors through two pipes: which line comes first is its choice.
    assert sorted(ended.last_lines) == [f"hello from {FIRST_UID}", "no such file"]
    assert before < ended.ended_at < datetime.now(UTC)
    await until(lambda: not engine.containers())
    # What was said last time is no news of a session that begins anew.
    await agent.create(person)
    assert await agent.client.ended(name) is None


async def test_a_session_that_is_left_goes_with_its_person(
    agent: RunningAgent, engine: EngineUnderTest
) -> None:
    person = await agent.client.person("local:ada", "ada")
    await agent.start(await agent.create(person))
    assert len(engine.containers()) == 1
    assert await agent.client.remove_person("local:ada", delete_home=False) == (
        f"{Path(agent.rules.homes_root).parent}/removed/ada-{FIRST_UID}"
    )
    assert await agent.client.people() == ()
    await until(lambda: not engine.containers())


async def test_the_engines_version_and_images_can_be_asked(agent: RunningAgent) -> None:
    assert (await agent.docker.version())["ApiVersion"]
    reference = agent.images()["cpu"][0]
    assert reference in (await agent.docker.images.inspect(reference))["RepoTags"]
    assert await agent.ask("GET", "/_ping") == (200, b"OK")


def volumes(engine: RealEngine, container: str) -> dict[str, str]:
    """Where *container* sees volumes, and what the engine calls each."""
    mounts = engine.ask("GET", f"/containers/{container}/json")["Mounts"]
    return {mount["Destination"]: mount["Name"] for mount in mounts if mount["Type"] == "volume"}


@pytest.mark.engine
async def test_nothing_that_an_image_brings_decides_what_a_session_is(
    willful_image: str, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("the agent gives homes to people, which takes root")
    with RealEngine(willful_image).running() as engine:
        async with running_agent(engine, tmp_path) as agent:
            person = await agent.client.person("local:ada", "ada")
            name = await agent.create(person)
            await agent.start(name)
            lines = engine.run(name, "sh", "-c", "id -u; id -g; echo $NVIDIA_VISIBLE_DEVICES; pwd").split()
            assert lines == [str(person.uid), str(person.uid), "void", "/home/ada"]
            first = engine.run(name, "cat", "/proc/1/cmdline").replace("\0", " ")
            assert "tini -g -- labdock-session" in first
            assert "CapEff:\t0000000000000000" in engine.run(name, "cat", "/proc/1/status")
            ends = await agent.create(person, "JUPYTER_TEST_EXIT=3", server="two")
            # The home is the person's own; for the other place the engine makes a volume.
            made = [volumes(engine, one) for one in (name, ends)]
            assert [list(places) for places in made] == [["/data"], ["/data"]]
            began = time.monotonic()
            await agent.docker.containers.container(name).stop(t=30)
            # At the signal that sessions are sent, and not at the image's own.
            assert time.monotonic() - began < 20
            await agent.start(ends)
            await until(lambda: not engine.containers(), within_s=30)
        left = {volume["Name"] for volume in engine.ask("GET", "/volumes")["Volumes"] or ()}
        assert not left & {volume for places in made for volume in places.values()}


# On the fake one


async def test_volumes_of_an_image_go_with_each_container_however_it_goes(
    fake_agent: RunningAgent, fake_engine: FakeEngine
) -> None:
    ada = await fake_agent.client.person("local:ada", "ada")
    by_hub = await fake_agent.create(ada)
    await fake_agent.docker.containers.container(by_hub).delete(force=True)
    by_watch = await fake_agent.create(ada, "JUPYTER_TEST_EXIT=3")
    await fake_agent.start(by_watch)
    await until(lambda: not fake_engine.containers())
    with_person = await fake_agent.create(ada)
    await fake_agent.start(with_person)
    await fake_agent.client.remove_person("local:ada", delete_home=False)
    await until(lambda: not fake_engine.containers())
    assert fake_engine.volumes_kept == []


async def test_what_is_published_while_the_agent_runs_can_be_started(fake_agent: RunningAgent) -> None:
    ada = await fake_agent.client.person("local:ada", "ada")
    body = good_body(fake_agent.rules, ada, images={"cpu": ("labdock/cpu:9",)})
    target = "/containers/create?name=labdock-session-ada"
    assert (await fake_agent.ask("POST", f"/v1.41{target}", body))[0] == 403
    assert (await fake_agent.ask("GET", "/v1.41/images/labdock/cpu:9/json"))[0] == 403
    fake_agent.images_file.write_text(allowed_to_json({"cpu": ("labdock/cpu:1", "labdock/cpu:9")}))
    assert (await fake_agent.ask("GET", "/v1.41/images/labdock/cpu:9/json"))[0] == 200
    assert (await fake_agent.ask("POST", f"/v1.41{target}", body))[0] == 201


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"allowed": []}', "null"])
async def test_a_list_of_images_that_cannot_be_read_refuses_starts_and_nothing_else(
    fake_agent: RunningAgent, text: str | None
) -> None:
    ada = await fake_agent.client.person("local:ada", "ada")
    name = await fake_agent.create(ada)
    body = good_body(fake_agent.rules, ada, server="two")
    if text is None:
        fake_agent.images_file.unlink()
    else:
        fake_agent.images_file.write_text(text)
    for method, target, sent in (
        ("POST", "/v1.41/containers/create?name=labdock-session-ada--two", body),
        ("GET", "/v1.41/images/labdock/cpu:1/json", None),
    ):
        status, answer = await fake_agent.ask(method, target, sent)
        assert (status, answer["label"]) == (500, HostError.label)
        assert "images.json cannot be read" in answer["message"]
        assert answer["fix"] == "Write it anew with: labdock up"
    status, health = await fake_agent.ask("GET", "/labdock/health")
    assert status == 503
    assert "images.json cannot be read" in health["problems"][0]
    await fake_agent.start(name)
    await fake_agent.docker.containers.container(name).stop(t=0)
    fake_agent.images_file.write_text(allowed_to_json({"cpu": ("labdock/cpu:2",)}))
    assert (await fake_agent.ask("GET", "/labdock/health"))[0] == 200
    assert (await fake_agent.ask("POST", "/v1.41/containers/create?name=labdock-session-ada--two", body))[
        0
    ] == 201


async def test_one_persons_slow_stop_delays_nobody(fake_agent: RunningAgent, fake_engine: FakeEngine) -> None:
    ada = await fake_agent.client.person("local:ada", "ada")
    bob = await fake_agent.client.person("local:bob", "bob")
    slow = await fake_agent.create(ada)
    await fake_agent.start(slow)
    fake_engine.hold[slow] = asyncio.Event()
    stopping = asyncio.create_task(fake_agent.docker.containers.container(slow).stop(t=10))
    async with asyncio.timeout(5):
        await fake_agent.start(await fake_agent.create(bob))
    assert not stopping.done()
    fake_engine.hold[slow].set()
    await stopping


async def test_a_refusal_is_logged_with_the_reason_and_without_tokens(
    fake_agent: RunningAgent, fake_engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    person = await fake_agent.client.person("local:ada", "ada")
    body = good_body(fake_agent.rules, person)
    body["Env"] += ["LD_PRELOAD=s3cret-token"]
    with caplog.at_level(logging.DEBUG):
        status, answer = await fake_agent.ask("POST", "/containers/create?name=labdock-session-ada", body)
    assert status == 403
    assert answer["field"] == f"Env[{len(body['Env']) - 1}]"
    (warning,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warning.startswith(f"refused POST /containers/create to uid 0 pid {os.getpid()}: Env[")
    assert "LD_PRELOAD" in warning
    assert "s3cret" not in caplog.text + json.dumps(answer)
    assert fake_engine.calls == []


async def test_a_path_is_taken_as_it_came(fake_agent: RunningAgent) -> None:
    async def status_of(target: str) -> int:
        reader, writer = await asyncio.open_unix_connection(str(fake_agent.socket))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.split(b" ", 2)[1])

    assert await status_of("/v1.41/containers/json") == 200
    for trick in (
        "//v1.41/containers/json",
        "/v1.41//containers/json",
        "/v1.41/./containers/json",
        "/v1.41/x/../containers/json",
        "/v1.41/containers%2Fjson",
        "/v1.41/%63ontainers/json",
        "/labdock/../containers/json",
        "http://engine/v1.41/containers/json",
        "/labdock/people/",
        "/labdock/people?all=1",
        "/labdock/ended/..%2Fpeople",
        "/labdock/ended/.hidden",
    ):
        assert await status_of(trick) == 403, trick


async def test_a_call_without_a_body_is_refused_one(fake_agent: RunningAgent) -> None:
    person = await fake_agent.client.person("local:ada", "ada")
    name = await fake_agent.create(person)
    status, answer = await fake_agent.ask("POST", f"/containers/{name}/start", {"Privileged": True})
    assert (status, answer["field"]) == (403, "body")


async def test_a_body_larger_than_a_mebibyte_is_refused(fake_agent: RunningAgent) -> None:
    for target in ("/containers/create?name=x", "/labdock/people"):
        status, answer = await fake_agent.ask("POST", target, raw=b"[" * (2**20 + 1))
        assert (status, answer["field"]) == (413, "body")


async def test_an_engine_that_is_down_is_said_to_be(fake_agent: RunningAgent, tmp_path: Path) -> None:
    (tmp_path / "engine.sock").unlink()
    status, answer = await fake_agent.ask("GET", "/containers/json")
    assert (status, answer["label"]) == (502, "engine")
    with pytest.raises(EngineError, match="does not answer"):
        await fake_agent.client.remove_person("local:ada", delete_home=False)


@pytest.mark.parametrize(
    ("target", "body", "field"),
    [
        ("/labdock/people", None, "body"),
        ("/labdock/people", [], "body"),
        ("/labdock/people", {"identity": "local:ada"}, "name"),
        ("/labdock/people", {"identity": 7, "name": "ada"}, "identity"),
        ("/labdock/people", {"identity": "", "name": "ada"}, "identity"),
        ("/labdock/people", {"identity": "a b", "name": "ada"}, "identity"),
        ("/labdock/people", {"identity": "a\nb", "name": "ada"}, "identity"),
        ("/labdock/people", {"identity": "x" * 201, "name": "ada"}, "identity"),
        ("/labdock/people", {"identity": "local:ada", "name": "ada", "uid": 0}, "uid"),
        ("/labdock/people/remove", {"identity": "local:ada"}, "home"),
        ("/labdock/people/remove", {"identity": "local:ada", "home": "burn"}, "home"),
    ],
)
async def test_input_that_makes_no_sense_is_refused_with_its_field(
    fake_agent: RunningAgent, target: str, body: object, field: str
) -> None:
    status, answer = await fake_agent.ask("POST", target, body)
    assert (status, answer["field"], answer["label"]) == (400, field, BadRequestError.label)


async def test_health_lists_what_is_wrong(fake_agent: RunningAgent) -> None:
    assert await fake_agent.ask("GET", "/labdock/health") == (200, {"ok": True, "problems": []})
    fake_agent.problems.append("The network is open.")
    assert await fake_agent.ask("GET", "/labdock/health") == (
        503,
        {"ok": False, "problems": ["The network is open."]},
    )


# The socket


@needs_root
def test_the_socket_is_its_owners_alone_and_takes_the_place_of_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    bind_socket(path, 0).close()
    listener = bind_socket(path, 4711)
    found = path.lstat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (4711, 0o600)
    listener.close()


def test_a_socket_that_is_in_use_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(HostError, match="already"):
            bind_socket(path, os.geteuid())


def test_a_file_in_place_of_the_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    with pytest.raises(HostError, match="no socket"):
        bind_socket(path, os.geteuid())
    assert path.read_text() == "precious"


def test_the_folder_of_the_socket_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        bind_socket(tmp_path / "missing" / "agent.sock", os.geteuid())
    assert not (tmp_path / "missing").exists()
