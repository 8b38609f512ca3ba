"""A session's start, look and stop, with an agent and an engine of the tests' own."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from jupyterhub.spawner import SpawnException

from labdock.adapters.agent_api import AgentClient, Ended
from labdock.adapters.engine import Engine
from labdock.core.errors import AccountError, EngineError, HostError, RefusedError
from labdock.core.gpus import LABEL_GPUS, LABEL_GROUPS, GpuReport, GpuRules, Inventory, Lease, Way
from labdock.core.people import Person
from labdock.core.session import SESSION_PORT, ImageChoice, Limits
from labdock.core.site import HubSettings, package_cache
from labdock.hub import spawner as spawner_module
from labdock.hub.cards import Cards
from labdock.hub.gate import Gate
from labdock.hub.spawner import AWAY, LabdockSpawner, spawner_class
from tests.core.gpu_builders import inventory, lease
from tests.hub.conftest import SETTINGS

NAME = "test-session-ada"
SPEC_SETTINGS = replace(
    SETTINGS,
    limits=Limits(cpus=2, memory_bytes=2**30, shm_bytes=2**20, pids=64),
)

CPU = ImageChoice("cpu", "JupyterLab", "cpu:1", default=True)
GONE = ImageChoice("gone", "Gone", "gone:1")
TRIAL = ImageChoice("cpu@new", "JupyterLab: new", "cpu:2", trial=True)

Hook = Callable[[str], Awaitable[None]]


async def nothing(name: str) -> None:
    """What happens when a container starts in which nothing ends."""


class FakeAgent:
    """Knows everybody who is asked for, and the last words it is told to know."""

    def __init__(self) -> None:
        self.inventory = Inventory()
        self.leases: list[Lease] = []
        self.refuses: Exception | None = None
        self.last_words: dict[str, Ended] = {}
        self.knows_after = 0

    async def person(self, identity: str, name: str) -> Person:
        if self.refuses:
            raise self.refuses
        return Person(identity, name, 200_001, f"{name}-200001")

    async def gpus(self) -> GpuReport:
        return GpuReport(self.inventory, tuple(self.leases), Way.DEVICES)

    async def ended(self, container: str) -> Ended | None:
        self.knows_after -= 1
        return self.last_words.get(container) if self.knows_after < 0 else None


@dataclass
class FakeContainer:
    body: dict[str, Any]
    status: str = "created"
    exit_code: int = 0


@dataclass
class FakeEngine:
    """Keeps containers by name; all of them have the same address. ``calls`` is what was asked, in order."""

    address: str
    images: set[str] = field(default_factory=lambda: {"cpu:1"})
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refuses: dict[str, Exception] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    after_start: Hook = nothing
    before_create: Hook = nothing

    def _asked(self, call: str, name: str) -> None:
        self.calls.append(f"{call} {name}")
        if call in self.refuses:
            raise self.refuses[call]

    async def has_image(self, reference: str) -> bool:
        return reference in self.images

    async def create(self, name: str, body: dict[str, Any]) -> None:
        await self.before_create(name)
        self._asked("create", name)
        assert name not in self.containers
        self.containers[name] = FakeContainer(body)

    async def start(self, name: str) -> None:
        self._asked("start", name)
        self.containers[name].status = "running"
        await self.after_start(name)

    async def stop(self, name: str, *, grace_s: int) -> None:
        self._asked(f"stop within {grace_s} s", name)
        if name in self.containers:
            self.containers[name].status = "exited"

    async def remove(self, name: str) -> None:
        self._asked("remove", name)
        self.containers.pop(name, None)

    async def inspect(self, name: str) -> dict[str, Any] | None:
        if "inspect" in self.refuses:
            raise self.refuses["inspect"]
        if name not in self.containers:
            return None
        one = self.containers[name]
        networks = {"test": {"IPAddress": self.address if one.status == "running" else ""}}
        return {
            "State": {"Status": one.status, "ExitCode": one.exit_code},
            "NetworkSettings": {"Networks": networks},
        }

    async def last_lines(self, name: str) -> tuple[str, ...]:
        return self.lines


class FakeJupyter:
    """What listens in the containers: answers with ``status``, once it is told to listen."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.status = 200
        self.hangs = False
        self.asked: list[str] = []

    async def listen(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, SESSION_PORT).start()

    async def close(self) -> None:
        if hasattr(self, "_runner"):
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.hangs:
            await asyncio.sleep(30)
        return web.Response(status=self.status)


class Bed:
    """The fakes, and spawners that work with them."""

    def __init__(self, agent: FakeAgent, engine: FakeEngine, jupyter: FakeJupyter) -> None:
        self.agent = agent
        self.engine = engine
        self.jupyter = jupyter
        self.images: tuple[ImageChoice, ...] = (CPU, GONE)
        self.unknown: set[str] = set()
        self.cards = Cards(agent, "test", GpuRules(per_session=2))

    async def identity_of(self, name: str) -> str:
        if name in self.unknown:
            raise AccountError(f"There is no account {name}.")
        return f"local:{name}"

    def spawner(self, name: str = "ada", settings: HubSettings = SPEC_SETTINGS, **options: object) -> Any:
        """*name*'s spawner as JupyterHub makes it, with *options* chosen."""
        agent, engine = cast(AgentClient, self.agent), cast(Engine, self.engine)
        given = spawner_class(
            settings,
            lambda: self.images,
            agent,
            engine,
            self.identity_of,
            Gate(4, hold_s=60),
            self.cards,
        )

        class UnderTest(given):  # type: ignore[valid-type,misc]  # made while running, as JupyterHub wants it
            server = SimpleNamespace(base_url=f"/user/{name}/")

            def get_env(self) -> dict[str, str]:
                return {"JUPYTERHUB_API_TOKEN": "s3cret"}

        user = SimpleNamespace(name=name, admin=False, groups=[SimpleNamespace(name="staff")])
        return UnderTest(user=user, user_options=options, start_timeout=30)


@pytest.fixture
async def bed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    monkeypatch.setattr(spawner_module, "CONTAINER_LOOK_EVERY_S", 0.05)
    # Sessions listen on one port, so each test has an address of its own.
    address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 2}"
    jupyter = FakeJupyter(address)
    yield Bed(FakeAgent(), FakeEngine(address), jupyter)
    await jupyter.close()


def states(event: dict[str, Any]) -> list[str]:
    return [step["state"] for step in event["steps"]]


async def failed_start(spawner: Any) -> tuple[SpawnException, dict[str, Any]]:
    """How the start of *spawner* failed: what JupyterHub is given, and what the page is told."""
    with pytest.raises(SpawnException) as failed:
        await spawner.start()
    (event,) = [event async for event in spawner.progress()]
    return failed.value, event


def dies(bed: Bed, *, exit_code: int = 1, out_of_memory: bool = False, remains: bool = True) -> None:
    """From now on containers end as soon as they are started."""

    async def end(name: str) -> None:
        one = bed.engine.containers[name]
        one.status, one.exit_code = "exited", exit_code
        bed.agent.last_words[name] = Ended(
            name, exit_code, out_of_memory, ("Traceback", "ImportError: no"), datetime.now(UTC)
        )
        if not remains:
            del bed.engine.containers[name]

    bed.engine.after_start = end


async def test_a_start_ends_with_the_address_at_which_jupyter_answers(bed: Bed) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner()
    assert await spawner.start() == f"http://{bed.jupyter.address}:{SESSION_PORT}"
    assert bed.jupyter.asked == ["/user/ada/api"]
    assert bed.engine.calls == [f"remove {NAME}", f"create {NAME}", f"start {NAME}"]
    assert await spawner.poll() is None


async def test_the_container_is_made_as_the_settings_say(bed: Bed) -> None:
    await bed.jupyter.listen()
    await bed.spawner(image="cpu").start()
    body = bed.engine.containers[NAME].body
    assert body["Image"] == "cpu:1"
    assert body["User"] == "200001:200001"
    assert body["HostConfig"]["Memory"] == 2**30
    assert body["HostConfig"]["NetworkMode"] == "test"
    assert "JUPYTERHUB_API_TOKEN=s3cret" in body["Env"]
    assert body["Labels"]["org.labdock.identity"] == "local:ada"


CACHE = package_cache("10.213.0.4", {})


class FakeLook:
    """A look at the part that keeps packages, which says what it is told to."""

    def __init__(self, *, there: bool) -> None:
        self.there = there

    async def answers(self) -> bool:
        return self.there


@pytest.mark.parametrize("there", [True, False])
async def test_a_session_is_told_of_the_package_cache_while_it_answers(bed: Bed, there: bool) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner(settings=replace(SPEC_SETTINGS, packages=CACHE))
    spawner.package_look = FakeLook(there=there)
    await spawner.start()
    told = [item for item in bed.engine.containers[NAME].body["Env"] if item.startswith(("PIP_", "UV_"))]
    wanted = [f"{key}={value}" for key, value in sorted(CACHE.environment.items())]
    assert told == (wanted if there else [])


async def test_a_session_is_told_which_image_it_runs(bed: Bed) -> None:
    await bed.jupyter.listen()
    await bed.spawner().start()
    assert "LABDOCK_IMAGE=cpu:1" in bed.engine.containers[NAME].body["Env"]


async def test_the_steps_are_shown_as_they_happen_with_their_seconds(bed: Bed) -> None:
    spawner = bed.spawner()
    start = asyncio.create_task(spawner.start())
    await asyncio.sleep(0)
    seen = []

    async def watch() -> None:
        async for event in spawner.progress():
            seen.append(event)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.3)
    assert states(seen[-1]) == ["done", "done", "running"]
    assert seen[-1]["message"] == "Wait for Jupyter to answer"
    await bed.jupyter.listen()
    await start
    await watcher
    assert states(seen[-1]) == ["done", "done", "done"]
    seconds = [step["seconds"] for step in seen[-1]["steps"]]
    assert all(one >= 0 for one in seconds)
    assert seconds[2] >= 0.2
    progress = [event["progress"] for event in seen]
    assert progress == sorted(progress)
    assert 0 < progress[0] <= progress[-1] < 100


async def test_whoever_watches_late_is_told_the_end(bed: Bed) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner()
    await spawner.start()
    (event,) = [event async for event in spawner.progress()]
    assert states(event) == ["done", "done", "done"]
    assert "cause" not in event


async def test_a_start_is_logged_in_one_line_without_its_secrets(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner()
    spawner.log = logging.getLogger("test")
    with caplog.at_level(logging.DEBUG):
        await spawner.start()
    lines = [record.getMessage() for record in caplog.records if record.name == "test"]
    assert len(lines) == 1
    assert lines[0].startswith(f"ada's session runs in {NAME} (image ")
    assert "s3cret" not in caplog.text


async def test_what_a_dying_hub_left_over_is_removed_first(bed: Bed) -> None:
    await bed.jupyter.listen()
    bed.engine.containers[NAME] = FakeContainer({"Image": "old"}, "running")
    await bed.spawner().start()
    assert bed.engine.containers[NAME].body["Image"] == "cpu:1"


async def test_an_image_that_is_not_on_the_machine_is_told_and_nothing_is_made(bed: Bed) -> None:
    failed, event = await failed_start(bed.spawner(image="gone"))
    assert event["cause"] == "The image 'Gone' (gone:1) is not on this machine."
    assert event["fix"] == "An administrator can make it with `labdock up`."
    assert states(event) == ["failed", "waiting", "waiting"]
    assert bed.engine.calls == []
    assert failed.status_code == 503


@pytest.mark.parametrize(
    "options", [{"image": "none"}, {"image": ["cpu", "gone"]}, {"image": "cpu", "cpus": "64"}]
)
async def test_a_choice_that_makes_no_sense_is_a_bad_request(bed: Bed, options: dict[str, Any]) -> None:
    spawner = bed.spawner()
    with pytest.raises(SpawnException) as refused:
        await spawner.choose(options)
    assert refused.value.status_code == 400
    assert bed.engine.calls == []


async def test_a_choice_that_makes_sense_is_taken(bed: Bed) -> None:
    spawner = bed.spawner()
    await spawner.choose({"image": "gone"})


async def test_a_start_uses_what_is_published_at_that_moment(bed: Bed) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner(image="cpu")
    await spawner.choose({"image": "cpu"})
    bed.images = (replace(CPU, reference="cpu:2", published_at="2026-11-20"),)
    bed.engine.images.add("cpu:2")
    await spawner.start()
    assert bed.engine.containers[NAME].body["Image"] == "cpu:2"
    assert spawner.started_from == bed.images[0]


async def test_an_image_taken_away_between_choice_and_start_is_told(bed: Bed) -> None:
    spawner = bed.spawner(image="gone")
    await spawner.choose({"image": "gone"})
    bed.images = (CPU,)
    _, event = await failed_start(spawner)
    assert "There is no image 'gone'" in event["cause"]
    assert bed.engine.calls == []


async def test_a_remembered_image_that_is_gone_gives_way_to_the_default(bed: Bed) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner(image="torch")
    spawner.orm_spawner = SimpleNamespace(name="", user_options={"image": "torch"}, server=None, state=None)
    await spawner.choose(None)
    await spawner.start()
    assert bed.engine.containers[NAME].body["Image"] == "cpu:1"
    with pytest.raises(SpawnException) as refused:
        await spawner.choose({"image": "torch"})
    assert refused.value.status_code == 400


async def test_while_no_image_is_offered_nothing_starts_and_why_is_told(bed: Bed) -> None:
    spawner = bed.spawner()
    bed.images = ()
    with pytest.raises(SpawnException) as refused:
        await spawner.choose({})
    assert refused.value.status_code == 503
    assert "No image is offered now" in str(refused.value.jupyterhub_message)
    _, event = await failed_start(spawner)
    assert "No image is offered now" in event["cause"]


async def test_a_trial_is_for_administrators_alone(bed: Bed) -> None:
    await bed.jupyter.listen()
    bed.images = (CPU, TRIAL)
    bed.engine.images.add("cpu:2")
    spawner = bed.spawner(image=TRIAL.id)
    with pytest.raises(SpawnException) as refused:
        await spawner.choose({"image": TRIAL.id})
    assert refused.value.status_code == 400
    assert TRIAL.id not in str(refused.value.jupyterhub_message).partition("Choose")[2]
    # What is checked before is checked at the start itself, too.
    _, event = await failed_start(spawner)
    assert "There is no image" in event["cause"]
    spawner.user.admin = True
    await spawner.choose({"image": TRIAL.id})
    await spawner.start()
    assert bed.engine.containers[NAME].body["Image"] == "cpu:2"
    assert bed.engine.containers[NAME].body["Labels"]["org.labdock.image"] == TRIAL.id


async def test_which_image_a_session_was_started_from_survives_a_restart_of_the_hub(bed: Bed) -> None:
    await bed.jupyter.listen()
    bed.images = (replace(CPU, published_at="2026-11-20T08:00:00Z"),)
    spawner = bed.spawner()
    await spawner.start()
    state = json.loads(json.dumps(spawner.get_state()))
    # What is published later does not change what this session runs.
    bed.images = (replace(CPU, reference="cpu:2"),)
    again = bed.spawner()
    again.load_state(state)
    assert again.started_from is not None
    assert (again.started_from.id, again.started_from.reference) == ("cpu", "cpu:1")
    assert again.started_from.published_at == "2026-11-20T08:00:00Z"
    again.clear_state()
    assert again.started_from is None
    older = bed.spawner()
    older.load_state({"container": NAME})
    assert older.started_from is None


@pytest.mark.parametrize(
    "error",
    [
        AccountError("The identity was removed.", fix="Add the person anew."),
        HostError("The home cannot be made.", fix="Make room."),
    ],
)
async def test_what_the_agent_refuses_is_told(bed: Bed, error: Any) -> None:
    bed.agent.refuses = error
    _, event = await failed_start(bed.spawner())
    assert (event["cause"], event["fix"]) == (error.message, error.fix)
    assert bed.engine.calls == []


async def test_an_agent_that_is_away_is_told_in_plain_words(bed: Bed) -> None:
    bed.agent.refuses = EngineError(
        "The agent does not answer on /run/x.sock.", fix="See: labdock logs agent"
    )
    _, event = await failed_start(bed.spawner())
    assert (event["cause"], event["fix"]) == (AWAY.message, AWAY.fix)


async def test_an_agent_that_is_away_is_no_end_of_a_session(bed: Bed) -> None:
    spawner = bed.spawner()
    spawner.container = "labdock-session-ada"
    bed.engine.refuses["inspect"] = EngineError("The agent does not answer.")
    assert await spawner.poll() is None


async def test_somebody_without_an_account_has_no_session(bed: Bed) -> None:
    bed.unknown.add("ada")
    _, event = await failed_start(bed.spawner())
    assert event["cause"] == "There is no account ada."


@pytest.mark.parametrize("call", ["remove", "create", "start"])
async def test_what_the_engine_refuses_is_told_and_nothing_stays_behind(bed: Bed, call: str) -> None:
    bed.engine.refuses[call] = EngineError(f"The engine did not {call} it.")
    spawner = bed.spawner()
    _, event = await failed_start(spawner)
    # The person is told what it means for them; the engine's words are in the log.
    assert event["cause"] == AWAY.message
    assert states(event) == ["done", "failed", "waiting"]
    assert bed.engine.containers == {}


async def test_a_removal_that_fails_does_not_hide_why_the_start_failed(bed: Bed) -> None:
    dies(bed, exit_code=3)
    end = bed.engine.after_start

    async def end_and_keep(name: str) -> None:
        await end(name)
        bed.engine.refuses["remove"] = EngineError("The agent does not answer.")

    bed.engine.after_start = end_and_keep
    failed, event = await failed_start(bed.spawner())
    assert "exit code 3" in event["cause"]
    assert "exit code 3" in str(failed.jupyterhub_message)


@pytest.mark.parametrize("remains", [True, False])
async def test_a_container_that_ends_is_told_with_its_exit_code_and_last_lines(
    bed: Bed, remains: bool, caplog: pytest.LogCaptureFixture
) -> None:
    dies(bed, exit_code=3, remains=remains)
    spawner = bed.spawner()
    spawner.log = logging.getLogger("test")
    failed, event = await failed_start(spawner)
    assert event["cause"] == "The notebook server ended with exit code 3 before it answered."
    assert event["last_lines"] == ["Traceback", "ImportError: no"]
    assert "ImportError: no" in failed.jupyterhub_html_message
    assert "    ImportError: no" in caplog.text
    assert bed.engine.containers == {}


async def test_last_words_that_come_a_moment_later_are_waited_for(bed: Bed) -> None:
    dies(bed, exit_code=3)
    bed.agent.knows_after = 5
    _, event = await failed_start(bed.spawner())
    assert event["last_lines"] == ["Traceback", "ImportError: no"]


async def test_a_container_that_somebody_removed_is_told(bed: Bed) -> None:
    async def vanish(name: str) -> None:
        del bed.engine.containers[name]

    bed.engine.after_start = vanish
    _, event = await failed_start(bed.spawner())
    assert event["cause"] == "The container was removed while it started."


async def test_too_little_memory_is_told_with_how_much_there_was(bed: Bed) -> None:
    dies(bed, exit_code=137, out_of_memory=True)
    _, event = await failed_start(bed.spawner())
    assert event["cause"] == "The session needed more than its 1.0 GiB of memory while starting."
    assert "limits.memory" in event["fix"]
    assert event["last_lines"] == ["Traceback", "ImportError: no"]


async def test_without_a_limit_it_was_the_machines_memory_that_ran_out(bed: Bed) -> None:
    dies(bed, exit_code=137, out_of_memory=True)
    unlimited = replace(SPEC_SETTINGS, limits=replace(SPEC_SETTINGS.limits, memory_bytes=None))
    _, event = await failed_start(bed.spawner(settings=unlimited))
    assert event["cause"] == "The machine ran out of memory while the session was starting."


@pytest.mark.parametrize("how", ["nobody listens", "it hangs", "it says 503"])
async def test_a_jupyter_that_never_answers_is_told_with_what_it_printed(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(spawner_module, "ANSWER_WITHIN_S", 0.2)
    if how != "nobody listens":
        await bed.jupyter.listen()
    bed.jupyter.hangs, bed.jupyter.status = how == "it hangs", 503
    bed.engine.lines = ("Loading extensions",)
    spawner = bed.spawner()
    spawner.start_timeout = spawner_module.STOP_GRACE_S + 1
    _, event = await failed_start(spawner)
    assert event["cause"] == "Jupyter did not answer within 1 seconds."
    assert event["last_lines"] == ["Loading extensions"]
    assert states(event) == ["done", "done", "failed"]
    assert bed.engine.containers == {}


async def test_a_container_that_dies_while_jupyter_hangs_is_noticed(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawner_module, "ANSWER_WITHIN_S", 0.2)
    await bed.jupyter.listen()
    bed.jupyter.hangs = True
    start = asyncio.create_task(failed_start(bed.spawner()))
    await asyncio.sleep(0.3)
    dies(bed, exit_code=9)
    await bed.engine.after_start(NAME)
    _, event = await asyncio.wait_for(start, 5)
    assert "exit code 9" in event["cause"]


async def test_one_persons_slow_start_does_not_delay_anothers(bed: Bed) -> None:
    await bed.jupyter.listen()
    hold = asyncio.Event()

    async def wait(name: str) -> None:
        if name == NAME:
            await hold.wait()

    bed.engine.before_create = wait
    slow = asyncio.create_task(bed.spawner("ada").start())
    await asyncio.wait_for(bed.spawner("bob").start(), 2)
    assert not slow.done()
    hold.set()
    await slow


async def test_the_next_start_after_a_failed_one_begins_anew(bed: Bed) -> None:
    dies(bed)
    spawner = bed.spawner()
    await failed_start(spawner)
    bed.engine.after_start = nothing
    await bed.jupyter.listen()
    await spawner.start()
    assert spawner.start_progress.failure is None
    assert await spawner.poll() is None


@pytest.mark.parametrize("status", ["created", "running", "paused", "restarting"])
async def test_a_container_that_lives_is_a_running_session(bed: Bed, status: str) -> None:
    spawner = bed.spawner()
    spawner.container = NAME
    bed.engine.containers[NAME] = FakeContainer({}, status)
    assert await spawner.poll() is None


async def test_a_session_that_ended_is_told_by_its_exit_code(bed: Bed) -> None:
    spawner = bed.spawner()
    assert await spawner.poll() == 0
    spawner.container = NAME
    assert await spawner.poll() == 0
    bed.agent.last_words[NAME] = Ended(NAME, 137, False, (), datetime.now(UTC))
    assert await spawner.poll() == 137
    bed.engine.containers[NAME] = FakeContainer({}, "exited", 3)
    assert await spawner.poll() == 3


async def test_a_hub_that_was_restarted_finds_its_sessions_again(bed: Bed) -> None:
    await bed.jupyter.listen()
    before = bed.spawner()
    await before.start()
    after = bed.spawner()
    after.load_state(before.get_state())
    assert await after.poll() is None
    await after.stop()
    assert bed.engine.containers == {}
    after.clear_state()
    assert after.get_state() == {}


async def test_why_the_last_start_failed_survives_in_the_state(bed: Bed) -> None:
    dies(bed, exit_code=3)
    before, after = bed.spawner(), bed.spawner()
    await failed_start(before)
    after.load_state(before.get_state())
    told, kept = before.start_progress.failure, after.start_progress.failure
    assert (told.message, told.fix, told.details) == (kept.message, kept.fix, kept.details)


@pytest.mark.parametrize(("now", "grace_s"), [(False, 10), (True, 0)])
async def test_stopping_gives_the_container_its_time_and_removes_it(
    bed: Bed, now: bool, grace_s: int
) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner()
    await spawner.start()
    bed.engine.calls.clear()
    for _ in range(2):
        await spawner.stop(now=now)
    assert bed.engine.calls == [f"stop within {grace_s} s {NAME}", f"remove {NAME}"]
    assert await spawner.poll() == 0


async def test_a_further_session_has_a_container_of_its_own(bed: Bed) -> None:
    await bed.jupyter.listen()
    spawner = bed.spawner()
    spawner.orm_spawner = SimpleNamespace(name="two", server=None)
    await spawner.start()
    assert list(bed.engine.containers) == [f"{NAME}--two"]


def test_the_form_and_the_api_are_read_by_the_same_rules(bed: Bed) -> None:
    spawner: LabdockSpawner = bed.spawner()
    assert spawner.options_from_form({"image": ["gone"], "_xsrf": ["x"]}) == {"image": "gone"}


# --- cards ---


def taken(uuid: str) -> RefusedError:
    """What the guard says of a card that somebody else has."""
    field = f"Labels.{LABEL_GPUS}"
    return RefusedError(f"{field}: {uuid} is taken.", field=field)


async def with_cards(bed: Bed, gpus: int = 1) -> Any:
    """ada's spawner with *gpus* of two cards chosen."""
    bed.agent.inventory = inventory(80, 80)
    spawner = bed.spawner(gpus=gpus)
    await spawner.choose({"gpus": gpus})
    return spawner


async def test_the_chosen_cards_are_on_the_container_s_label_and_no_longer_held(bed: Bed) -> None:
    await bed.jupyter.listen()
    spawner = await with_cards(bed, 2)
    await spawner.start()
    labels = bed.engine.containers[NAME].body["Labels"]
    assert labels[LABEL_GPUS] == "GPU-0,GPU-1"
    assert json.loads(labels[LABEL_GROUPS]) == ["staff"]
    assert (await bed.cards.look()).leases == ()
    (event,) = [event async for event in spawner.progress()]
    assert event["steps"][0]["label"] == "Choose a GPU"


async def test_whoever_was_slower_than_somebody_outside_chooses_again(bed: Bed) -> None:
    await bed.jupyter.listen()
    spawner = await with_cards(bed)
    bed.engine.refuses["create"] = taken("GPU-0")

    async def somebody_was_quicker(name: str) -> None:
        if not bed.agent.leases:
            bed.agent.leases.append(lease("GPU-0"))
        else:
            bed.engine.refuses.clear()

    bed.engine.before_create = somebody_was_quicker
    await spawner.start()
    assert bed.engine.containers[NAME].body["Labels"][LABEL_GPUS] == "GPU-1"
    assert (await bed.cards.look()).leases == tuple(bed.agent.leases)


async def test_whoever_was_slower_twice_is_told_and_nothing_is_held(bed: Bed) -> None:
    spawner = await with_cards(bed)
    bed.engine.refuses["create"] = taken("GPU-0")
    failed, event = await failed_start(spawner)
    assert failed.status_code == 503
    assert event["cause"] == "Somebody outside this site took the cards chosen for you, twice."
    assert [call.split()[0] for call in bed.engine.calls].count("create") == 2
    assert bed.engine.containers == {}
    assert (await bed.cards.look()).leases == ()


async def test_what_the_guard_refuses_is_not_read_out_to_people(bed: Bed) -> None:
    bed.engine.refuses["create"] = RefusedError("HostConfig.Mounts: is none.", field="HostConfig.Mounts")
    _, event = await failed_start(bed.spawner())
    assert event["cause"] == AWAY.message


@pytest.mark.parametrize("turns", range(1, 60, 3))
async def test_a_start_cancelled_anywhere_holds_nothing(bed: Bed, turns: int) -> None:
    spawner = await with_cards(bed, 2)
    start = asyncio.create_task(spawner.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (await bed.cards.look()).leases == ()
    await spawner.stop()
    assert bed.engine.containers == {}
