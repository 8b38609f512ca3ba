"""The Docker engine: one contract, held by an engine in memory and by the machine's own."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from labdock.adapters.engine import LAST_LINES, Engine
from labdock.core.compose import choose_network
from labdock.core.errors import BuildError, EngineError
from labdock.core.session import LABEL_INSTANCE
from tests.adapters.engines import SLEEPS, WholeFakeEngine
from tests.agent.engines import DOCKER_SOCKET, docker
from tests.stack import PREFIX

LABEL = {LABEL_INSTANCE: f"{PREFIX}{os.getpid()}engine"}
"""The mark by which what a killed run leaves behind is found and removed."""


class MachinesEngine:
    """The engine of this machine; what tests make on it is marked, and gone afterwards."""

    socket = DOCKER_SOCKET

    def __init__(self, image: str) -> None:
        self.image = image

    def make_network(self, name: str, subnet: str) -> None:
        docker("POST", "/networks/create", {"Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}})

    def clean(self) -> None:
        marked = quote(json.dumps({"label": [f"{key}={value}" for key, value in LABEL.items()]}))
        for container in docker("GET", f"/containers/json?all=1&filters={marked}"):
            docker("DELETE", f"/containers/{container['Id']}?force=1")
        for tag in ("built", "broken", "tagged", "told", "gone", "used", "saved"):
            with suppress(RuntimeError):
                docker("DELETE", f"/images/{name(tag)}:1")
        with suppress(RuntimeError):
            docker("DELETE", f"/networks/{name('sessions')}")


Bed = WholeFakeEngine | MachinesEngine


def name(what: str) -> str:
    """A name of this run's own."""
    return f"{LABEL[LABEL_INSTANCE]}-{what}"


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[WholeFakeEngine]:
    engine = WholeFakeEngine(str(tmp_path / "engine.sock"))
    async with engine.running():
        yield engine


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.engine)])
def machines_image(request: pytest.FixtureRequest) -> str | None:
    """An image of the machine's engine, or None for the fake one; made outside of any event loop."""
    return str(request.getfixturevalue("small_image")) if request.param == "real" else None


@pytest.fixture
async def bed(machines_image: str | None, tmp_path: Path) -> AsyncIterator[Bed]:
    """Both engines, one after the other."""
    if machines_image is None:
        engine = WholeFakeEngine(str(tmp_path / "engine.sock"))
        async with engine.running():
            yield engine
    else:
        machines = MachinesEngine(machines_image)
        try:
            yield machines
        finally:
            machines.clean()


@pytest.fixture
async def engine(bed: Bed) -> AsyncIterator[Engine]:
    async with Engine(bed.socket) as engine:
        yield engine


def body(bed: Bed, *command: str, **labels: str) -> dict[str, Any]:
    return {"Image": bed.image, "Cmd": list(command), "Labels": {**LABEL, **labels}, "Env": [], "User": "0:0"}


async def run_to_its_end(engine: Engine, container: str) -> None:
    await engine.start(container)
    async with asyncio.timeout(30):
        while (await engine.inspect(container) or {})["State"]["Status"] != "exited":
            await asyncio.sleep(0.05)


async def build(engine: Engine, tag: str, dockerfile: str) -> None:
    files = {"Dockerfile": dockerfile.encode()}
    await engine.build(tag, files, arguments={}, labels=LABEL, on_line=lambda line: None)


async def test_the_engine_says_what_it_is(engine: Engine) -> None:
    facts = await engine.facts()
    assert facts.version
    assert facts.api >= (1, 41)
    assert facts.cpus >= 1
    assert facts.memory_bytes > 2**20
    assert facts.root_dir.startswith("/")
    assert not facts.rootless


async def test_an_image_is_there_or_not(engine: Engine, bed: Bed) -> None:
    assert await engine.has_image(bed.image)
    assert (await engine.image_size_bytes(bed.image) or 0) > 0
    assert not await engine.has_image("labdock/none:1")
    assert await engine.image_size_bytes("labdock/none:1") is None


async def test_an_image_gets_a_second_name(engine: Engine, bed: Bed) -> None:
    await engine.tag(bed.image, f"{name('tagged')}:1")
    assert await engine.has_image(f"{name('tagged')}:1")


async def test_an_image_tells_what_it_is(engine: Engine, bed: Bed) -> None:
    await engine.tag(bed.image, f"{name('told')}:1")
    found = await engine.image(f"{name('told')}:1")
    assert found is not None
    assert found.size_bytes > 0
    assert f"{name('told')}:1" in found.references
    assert await engine.image("labdock/none:1") is None
    assert (await engine.image_references())[f"{name('told')}:1"] == found.id


async def test_a_reference_that_is_taken_away_leaves_the_others(engine: Engine, bed: Bed) -> None:
    await engine.tag(bed.image, f"{name('gone')}:1")
    for _ in range(2):
        await engine.untag(f"{name('gone')}:1")
        assert not await engine.has_image(f"{name('gone')}:1")
    assert await engine.has_image(bed.image)


async def test_an_image_that_a_container_uses_is_kept(engine: Engine, bed: Bed) -> None:
    """It has another reference here, so only its last one is refused: a container by that name keeps it."""
    tag = f"{name('used')}:1"
    dockerfile = f"FROM {bed.image}\nRUN true\n"
    await build(engine, tag, dockerfile)
    await engine.create(name("a"), {**body(bed, *SLEEPS), "Image": tag})
    with pytest.raises(EngineError, match="keeps"):
        await engine.untag(tag)
    assert await engine.has_image(tag)
    await engine.remove(name("a"))
    await engine.untag(tag)
    assert not await engine.has_image(tag)


async def test_images_go_into_a_file_and_come_back(engine: Engine, bed: Bed, tmp_path: Path) -> None:
    tag, file = f"{name('saved')}:1", tmp_path / "images.tar"
    await build(engine, tag, f"FROM {bed.image}\nRUN true\n")
    told: list[int] = []
    assert await engine.save([tag], file, on_bytes=told.append) == file.stat().st_size > 0
    assert told[-1] == file.stat().st_size
    await engine.untag(tag)
    assert await engine.load(file) == (tag,)
    assert await engine.has_image(tag)


async def test_a_file_that_holds_no_images_is_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all")
    with pytest.raises(EngineError):
        await engine.load(tmp_path / "x.tar")
    with pytest.raises(EngineError, match=r"No such image|does not exist"):
        await engine.save(["labdock/none:1"], tmp_path / "y.tar", on_bytes=lambda size: None)


async def test_a_container_that_runs_to_its_end_tells_all_it_printed_and_is_gone(
    engine: Engine, bed: Bed
) -> None:
    ran = await engine.run(name("once"), body(bed, "sh", "-c", "seq 1 500; exit 3"), timeout_s=30)
    assert (ran.exit_code, ran.output) == (3, "".join(f"{number}\n" for number in range(1, 501)))
    assert await engine.inspect(name("once")) is None


async def test_a_container_that_does_not_end_in_time_is_ended(engine: Engine, bed: Bed) -> None:
    with pytest.raises(EngineError, match="did not end within 1 s"):
        await engine.run(name("once"), body(bed, *SLEEPS), timeout_s=1)
    assert await engine.inspect(name("once")) is None


async def test_a_build_shows_its_lines_and_leaves_the_image(engine: Engine, bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "large").write_text("from a file\n")
    dockerfile = (
        f"FROM {bed.image}\nWORKDIR /context\nCOPY . .\n"
        "RUN cat data large\nRUN printf 'two ' >&2; sleep 0.2; echo pieces >&2\n"
        "RUN test -x labdock-session -a ! -x data\n"
    )
    lines: list[str] = []
    await engine.build(
        f"{name('built')}:1",
        {
            "Dockerfile": dockerfile.encode(),
            "data": b"from bytes\n",
            "large": tmp_path / "large",
            "labdock-session": b"#!/bin/sh\n",
        },
        arguments={},
        labels=LABEL,
        on_line=lines.append,
    )
    assert {"from bytes", "from a file"} <= set(lines)
    # The fake engine keeps what a build writes to standard error to itself.
    assert "two pieces" in lines or bed.image == WholeFakeEngine.image
    assert all(line.strip() for line in lines)
    assert await engine.has_image(f"{name('built')}:1")


async def test_a_build_that_fails_says_why_with_its_last_lines(engine: Engine, bed: Bed) -> None:
    dockerfile = f"FROM {bed.image}\nRUN seq 1 40; echo no such package; exit 3\n"
    with pytest.raises(BuildError, match="non-zero code: 3") as failed:
        await engine.build(
            f"{name('broken')}:1",
            {"Dockerfile": dockerfile.encode()},
            arguments={},
            labels=LABEL,
            on_line=lambda line: None,
        )
    assert "no such package" in failed.value.details
    assert failed.value.step == "RUN seq 1 40; echo no such package; exit 3"
    assert len(failed.value.details) == LAST_LINES
    assert not await engine.has_image(f"{name('broken')}:1")


async def test_a_build_from_a_file_that_is_gone_fails_as_a_build(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="No such file"):
        await engine.build(
            f"{name('broken')}:1",
            {"Dockerfile": tmp_path / "gone"},
            arguments={},
            labels={},
            on_line=lambda line: None,
        )


async def test_a_container_lives_through_its_whole_life(engine: Engine, bed: Bed) -> None:
    assert await engine.inspect(name("a")) is None
    await engine.create(name("a"), body(bed, *SLEEPS))
    assert (await engine.inspect(name("a")) or {})["State"]["Status"] == "created"
    await engine.start(name("a"))
    assert (await engine.inspect(name("a")) or {})["State"]["Status"] == "running"
    await engine.restart(name("a"), grace_s=0)
    assert (await engine.inspect(name("a")) or {})["State"]["Status"] == "running"
    await engine.stop(name("a"), grace_s=0)
    assert (await engine.inspect(name("a")) or {})["State"]["Status"] == "exited"
    await engine.remove(name("a"))
    assert await engine.inspect(name("a")) is None


async def test_stopping_or_removing_twice_is_as_good_as_once(engine: Engine, bed: Bed) -> None:
    await engine.create(name("a"), body(bed, *SLEEPS))
    await engine.start(name("a"))
    for _ in range(2):
        await engine.stop(name("a"), grace_s=0)
    for _ in range(2):
        await engine.remove(name("a"))
    await engine.stop(name("a"), grace_s=0)


async def test_a_running_container_is_removed_too(engine: Engine, bed: Bed) -> None:
    await engine.create(name("a"), body(bed, *SLEEPS))
    await engine.start(name("a"))
    await engine.remove(name("a"))
    assert await engine.inspect(name("a")) is None


async def test_whoever_removes_at_the_same_time_finds_the_name_free_afterwards(
    engine: Engine, bed: Bed
) -> None:
    await engine.create(name("a"), body(bed, *SLEEPS))
    await engine.start(name("a"))

    async def remove_and_look() -> dict[str, Any] | None:
        await engine.remove(name("a"))
        return await engine.inspect(name("a"))

    assert await asyncio.gather(*(remove_and_look() for _ in range(5))) == [None] * 5
    await engine.create(name("a"), body(bed, *SLEEPS))


async def test_the_last_lines_come_in_order_and_no_more_than_asked_for(engine: Engine, bed: Bed) -> None:
    await engine.create(name("a"), body(bed, "seq", "1", "30"))
    await run_to_its_end(engine, name("a"))
    assert await engine.last_lines(name("a"), 3) == ("28", "29", "30")
    assert len(await engine.last_lines(name("a"))) == LAST_LINES
    assert await engine.last_lines(name("a"), 100) == tuple(str(number) for number in range(1, 31))


async def test_a_container_that_is_not_there_printed_nothing(engine: Engine) -> None:
    assert await engine.last_lines(name("ghost")) == ()


async def test_following_lines_ends_with_the_container(engine: Engine, bed: Bed) -> None:
    await engine.create(name("a"), body(bed, "seq", "1", "30"))
    await run_to_its_end(engine, name("a"))
    assert [line async for line in engine.follow_lines(name("a"), 2)] == ["29", "30"]


async def test_containers_are_found_by_all_of_their_labels_in_order_of_name(engine: Engine, bed: Bed) -> None:
    for container, role in (("b", "part"), ("a", "part"), ("c", "session")):
        await engine.create(name(container), body(bed, *SLEEPS, role=role))
    await engine.start(name("b"))
    found = await engine.containers({**LABEL, "role": "part"})
    assert [one.name for one in found] == [name("a"), name("b")]
    assert [one.status for one in found] == ["created", "running"]
    assert all(one.image == bed.image and one.health == "" for one in found)
    assert all(one.labels.items() >= LABEL.items() for one in found)
    assert await engine.containers({**LABEL, "role": "nobody"}) == ()


async def test_networks_are_listed_with_their_subnets_and_removed(engine: Engine, bed: Bed) -> None:
    taken = [subnet for _, subnet in await engine.network_subnets()]
    subnet = choose_network("x", taken).subnet
    bed.make_network(name("sessions"), subnet)
    assert (name("sessions"), subnet) in await engine.network_subnets()
    for _ in range(2):
        await engine.remove_network(name("sessions"))
        assert name("sessions") not in dict(await engine.network_subnets())


async def test_what_the_engine_refuses_is_told_in_its_words(engine: Engine, bed: Bed) -> None:
    with pytest.raises(EngineError, match=r"did not make .*No such image"):
        await engine.create(name("a"), {**body(bed, *SLEEPS), "Image": "labdock/none:1"})
    with pytest.raises(EngineError, match=r"did not start .*No such container"):
        await engine.start(name("ghost"))
    await engine.create(name("a"), body(bed, *SLEEPS))
    with pytest.raises(EngineError, match=r"did not make .*Conflict"):
        await engine.create(name("a"), body(bed, *SLEEPS))
    with pytest.raises(EngineError, match=r"log of .*No such container"):
        _ = [line async for line in engine.follow_lines(name("ghost"), 1)]


@asynccontextmanager
async def nobody_listens(tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(tmp_path / "nobody.sock") as engine:
        yield engine


async def test_an_engine_that_does_not_answer_is_told_with_a_way_out(tmp_path: Path) -> None:
    async with nobody_listens(tmp_path) as engine:
        for asked in (
            engine.facts(),
            engine.has_image("x:1"),
            engine.containers({}),
            engine.create("a", {"Image": "x"}),
            engine.stop("a", grace_s=1),
            engine.remove("a"),
            engine.network_subnets(),
        ):
            with pytest.raises(EngineError, match=r"nobody\.sock") as failed:
                await asked
            assert "labdock doctor" in failed.value.fix


async def test_a_build_on_an_engine_that_does_not_answer_is_a_build_that_failed(tmp_path: Path) -> None:
    async with nobody_listens(tmp_path) as engine:
        with pytest.raises(BuildError, match="could not be built"):
            await engine.build("x:1", {"Dockerfile": b""}, arguments={}, labels={}, on_line=lambda line: None)


async def test_a_build_that_the_engine_breaks_off_is_not_taken_for_done(fake: WholeFakeEngine) -> None:
    fake.hangs_up_in_builds = True
    async with Engine(fake.socket) as engine:
        with pytest.raises(BuildError, match="could not be built") as failed:
            await engine.build(
                "x:1", {"Dockerfile": b"FROM y\n"}, arguments={}, labels={}, on_line=lambda line: None
            )
    assert failed.value.details == ("Step 1/1 : FROM y",)


async def test_an_engine_too_old_is_refused_with_its_version(fake: WholeFakeEngine) -> None:
    fake.version = {"Version": "19.03.1", "ApiVersion": "1.40"}
    async with Engine(fake.socket) as engine:
        with pytest.raises(EngineError, match=r"19\.03\.1.*20\.10 or newer"):
            await engine.facts()


async def test_a_rootless_engine_is_known(fake: WholeFakeEngine) -> None:
    fake.info["SecurityOptions"] = ["name=seccomp,profile=default", "name=rootless"]
    async with Engine(fake.socket) as engine:
        assert (await engine.facts()).rootless


async def test_a_removal_waits_for_the_one_under_way(fake: WholeFakeEngine) -> None:
    fake.add("a", {"Labels": {}})
    fake.removal_s = 0.3
    async with Engine(fake.socket) as engine:
        first = asyncio.create_task(engine.remove("a"))
        await asyncio.sleep(0.1)
        await engine.remove("a")
        assert await engine.inspect("a") is None
        await first


@pytest.mark.parametrize(
    ("registry", "got"),
    [
        ([{"status": "Pulling"}, {"status": "Done"}], True),
        ([{"status": "Pulling"}, {"error": "manifest unknown"}], False),
        (None, False),
    ],
)
async def test_an_image_is_pulled_or_not_and_nobody_waits_for_ever(
    fake: WholeFakeEngine, registry: list[dict[str, str]] | None, got: bool
) -> None:
    fake.registry = registry
    async with Engine(fake.socket) as engine:
        assert await engine.pull("debian:slim", timeout_s=0.5) is got


async def test_nobody_to_pull_from_is_no_image(tmp_path: Path) -> None:
    async with nobody_listens(tmp_path) as engine:
        assert await engine.pull("debian:slim", timeout_s=5) is False
