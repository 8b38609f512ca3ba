"""Starts, looks after and stops people's sessions, through the agent's guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientError
from jupyterhub.httpclient import fetch
from jupyterhub.spawner import Spawner

from labdock.adapters.agent_api import AgentClient, Ended
from labdock.adapters.engine import Engine
from labdock.adapters.engine_body import container_body
from labdock.adapters.package_cache import PackageCacheLook
from labdock.core.allocation import WITHOUT_GPU
from labdock.core.errors import (
    BadRequestError,
    EngineError,
    LabdockError,
    NoCardError,
    RefusedError,
    StartError,
)
from labdock.core.gpus import LABEL_GPUS, GpuRequest, Holder
from labdock.core.people import Person
from labdock.core.session import (
    SESSION_PORT,
    ImageChoice,
    SessionSpec,
    StartRequest,
    container_name,
    parse_start_request,
    session_spec,
)
from labdock.core.site import HubSettings
from labdock.hub import pages
from labdock.hub.cards import Cards, Hold
from labdock.hub.gate import Gate
from labdock.hub.images import Images, from_state, images_for, to_state

IdentityOf = Callable[[str], Awaitable[str]]
"""A person's name to their identity; raises AccountError for somebody unknown."""

AWAY = StartError(
    "The part of Labdock that makes containers does not answer or refused.",
    fix="Try again in a minute. If it stays so, tell an administrator: `labdock doctor` looks for the cause.",
)
"""What a person is told when the engine or the agent fails; the log has the rest."""

STOP_GRACE_S = 10
LOOK_EVERY_S = 0.05
"""How often a starting session is asked whether Jupyter answers."""

ANSWER_WITHIN_S = 2.0
"""How long one such question may hang, so that a container that has died is noticed."""

LAST_WORDS_LOOKS = 40
"""How often to ask for the last words of a session that has just ended."""

CONTAINER_LOOK_EVERY_S = 1.0
"""How often it is asked whether its container still runs."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a start: *state* is waiting, running, done or failed; *seconds* once it is over."""

    id: str
    label: str
    state: str = "waiting"
    seconds: float | None = None


STEPS = (
    Step("image", "Find the image"),
    Step("container", "Make your container"),
    Step("jupyter", "Wait for Jupyter to answer"),
)

GPU_STEP = Step("gpu", "Choose a GPU")
"""Before the others, when one was asked for."""


class StartProgress:
    """The steps of one start, *with_gpu* or without, and everybody who watches them."""

    def __init__(self, *, with_gpu: bool = False) -> None:
        self.steps: tuple[Step, ...] = (GPU_STEP, *STEPS) if with_gpu else STEPS
        self.failure: LabdockError | None = None
        self._changed = asyncio.Event()
        self._begun = time.monotonic()

    def begin(self, step: str) -> None:
        """Close the step that runs and begin *step*."""
        self._close("done")
        self._begun = time.monotonic()
        self._set(step, "running", None)

    def finish(self, failure: LabdockError | None = None) -> None:
        """Close the step that runs: as failed when there is a *failure*."""
        self.failure = failure
        self._close("failed" if failure else "done")

    def event(self) -> dict[str, Any]:
        """The state of all steps, as the page is sent it."""
        done = sum(step.state == "done" for step in self.steps)
        running = next((step.label for step in self.steps if step.state == "running"), "")
        event: dict[str, Any] = {
            "progress": 5 + 90 * done // len(self.steps),
            "message": running or "Your session is starting",
            "steps": [
                {"id": s.id, "label": s.label, "state": s.state, "seconds": s.seconds} for s in self.steps
            ],
        }
        if self.failure is not None:
            event |= {
                "message": self.failure.message,
                "cause": self.failure.message,
                "fix": self.failure.fix,
                "last_lines": list(self.failure.details),
            }
        return event

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The state now, and again after each change, until the start is over."""
        while True:
            changed = self._changed
            yield self.event()
            if all(step.state in {"done", "failed"} for step in self.steps) or self.failure is not None:
                return
            await changed.wait()

    def _close(self, state: str) -> None:
        for step in self.steps:
            if step.state == "running":
                self._set(step.id, state, round(time.monotonic() - self._begun, 2))

    def _set(self, wanted: str, state: str, seconds: float | None) -> None:
        self.steps = tuple(
            replace(step, state=state, seconds=seconds) if step.id == wanted else step for step in self.steps
        )
        self._changed.set()
        self._changed = asyncio.Event()


class LabdockSpawner(Spawner):  # type: ignore[misc]  # JupyterHub has no type information
    """One person's session in a container of its own.

    ``settings``, ``images``, ``agent``, ``engine``, ``identity_of``, ``gate``, ``cards`` and
    ``package_look`` come from :func:`spawner_class`. ``started_from`` is the image that runs, None when
    nobody knows. ``hold`` is what was chosen for a start that has not made its container yet; ``choosing`` is
    taken from before that choice until the start has begun. ``opened_at`` is the address under which people
    were to open the session that runs, empty when nobody knows.
    """

    settings: HubSettings
    images: Images
    agent: AgentClient
    engine: Engine
    identity_of: IdentityOf
    gate: Gate
    cards: Cards
    package_look: PackageCacheLook | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start_progress = StartProgress()
        self.container = ""
        self.started_from: ImageChoice | None = None
        self.opened_at = ""
        self.hold: Hold | None = None
        self._remembered = False
        self._packages: Mapping[str, str] = {}
        self.choosing = asyncio.Lock()

    # What JupyterHub keeps across a restart of the hub.

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state()
        if self.container:
            state["container"] = self.container
            if self.started_from is not None:
                state["image"] = to_state(self.started_from)
            if self.opened_at:
                state["opened_at"] = self.opened_at
        failure = self.start_progress.failure
        if failure is not None:
            # JupyterHub forgets a spawner that failed; the start page still tells why.
            state["failure"] = [failure.message, failure.fix, list(failure.details)]
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.container = state.get("container", "")
        self.started_from = from_state(state["image"]) if "image" in state else None
        self.opened_at = state.get("opened_at", "")
        if "failure" in state:
            message, fix, details = state["failure"]
            self.start_progress.failure = StartError(message, fix=fix, details=tuple(details))

    def clear_state(self) -> None:
        super().clear_state()
        self.container = self.opened_at = ""
        self.started_from = None

    @property
    def moved(self) -> bool:
        """Whether the site has had another address when this session was started: it cannot be opened."""
        return self.opened_at not in {"", self.public_url}

    # The start form and the REST API.

    def _options_form_default(self) -> Callable[[Spawner], Awaitable[str]]:
        return pages.options_form

    def options_from_form(self, formdata: dict[str, list[str]]) -> dict[str, Any]:
        return pages.options_from_form(formdata)

    async def apply_user_options(self, spawner: Spawner, user_options: dict[str, Any]) -> None:
        """Nothing is left to do: ``choose`` has checked them. Without it, JupyterHub warns at each start."""

    async def choose(self, options: dict[str, Any] | None) -> None:
        """Check *options* (None: those of the last start), and hold the cards they ask for.

        Called before JupyterHub does anything for a start, so that a refusal costs little and leaves nothing.

        Raises:
            SpawnException: 400 for options that make no sense, 503 when no card or no image can be given.
        """
        self.let_go()
        self._remembered = options is None
        options = self.orm_spawner.user_options or {} if options is None else options
        try:
            request = self._request(options, self._images())
            if request.gpus.count:
                await self._hold(request.gpus)
        except BadRequestError as error:
            raise pages.not_started(error, status_code=400) from error
        except LabdockError as error:
            self.log.info("%s's session was not started: %s", self.user.name, error)
            raise pages.not_started(AWAY if isinstance(error, EngineError) else error) from error

    def _images(self) -> tuple[ImageChoice, ...]:
        """What the session's person may have now."""
        return images_for(self.images, admin=self.user.admin)

    def _request(self, options: dict[str, Any], images: tuple[ImageChoice, ...]) -> StartRequest:
        return parse_start_request(options, images, remembered=self._remembered)

    async def _hold(self, gpus: GpuRequest) -> None:
        identity = await self.identity_of(self.user.name)
        groups = tuple(sorted(group.name for group in self.user.groups))
        holder = Holder(self.settings.instance, identity, self.user.name, groups)
        name = container_name(self.settings.instance, self.user.name, self.name)
        self.hold = await self.cards.hold(gpus, holder, name)

    def let_go(self) -> None:
        """End the hold, if there is one: its container is there, or will not be."""
        if self.hold is not None:
            self.cards.end(self.hold)
            self.hold = None

    # Start, look, stop.

    async def start(self) -> str:
        """Start the session; returns its URL when Jupyter answers there.

        Raises:
            SpawnException: With a plain cause; the container's last lines are on the page and in the log.
        """
        progress = self.start_progress = StartProgress(with_gpu=self.hold is not None)
        try:
            async with self.gate.place():
                url = await self._start(progress)
        except LabdockError as error:
            shown = AWAY if isinstance(error, EngineError | RefusedError) else error
            progress.finish(shown)
            self.log.warning(
                "%s's session did not start: %s%s",
                self.user.name,
                error,
                "".join(f"\n    {line}" for line in error.details),
            )
            try:
                await self._remove_container()
            except LabdockError as left:
                # The next start removes it; the person is told why this one failed.
                self.log.warning("%s's container stays behind: %s", self.user.name, left)
            # Lets whoever watches the steps see the cause before the hub closes their stream.
            await asyncio.sleep(0)
            raise pages.not_started(shown) from error
        finally:
            self.let_go()
        progress.finish()
        seconds = ", ".join(f"{step.id} {step.seconds} s" for step in progress.steps)
        self.log.info("%s's session runs in %s (%s)", self.user.name, self.container, seconds)
        return url

    async def _start(self, progress: StartProgress) -> str:
        images = self._images()
        request = self._request(self.user_options, images)
        if self.hold is not None:
            progress.begin("gpu")
        elif request.gpus.count:
            # JupyterHub starts a session in no other way; one that did would still get its cards.
            await self._hold(request.gpus)
        progress.begin("image")
        image = next(image for image in images if image.id == request.image)
        identity = await self.identity_of(self.user.name)
        person, known, self._packages = await asyncio.gather(
            self.agent.person(identity, self.user.name),
            self.engine.has_image(image.reference),
            self._package_environment(),
        )
        if not known:
            raise StartError(
                f"The image {image.label!r} ({image.reference}) is not on this machine.",
                fix="An administrator can make it with `labdock up`.",
            )
        progress.begin("container")
        spec = self._spec(person, image)
        # Known before it is made, so that a start that is cancelled half-way is cleaned up.
        self.container, self.started_from, self.opened_at = spec.name, image, self.public_url
        # One left over from a start that a dying hub did not finish would hold the name.
        await self.engine.remove(spec.name)
        try:
            await self.engine.create(spec.name, container_body(spec))
        except RefusedError as error:
            if self.hold is None:
                raise
            # Another instance, or somebody by hand, was quicker: choose once more, knowing that.
            self.log.info("%s's cards were taken meanwhile: %s", self.user.name, error)
            self.let_go()
            await self._hold(request.gpus)
            spec = self._spec(person, image)
            await self._create_again(spec)
        # From now on the container's label says who holds the cards.
        self.let_go()
        await self.engine.start(spec.name)
        progress.begin("jupyter")
        url = f"http://{await self._address(spec)}:{SESSION_PORT}"
        await self._wait_for_jupyter(f"{url}{self.server.base_url}api", spec)
        return url

    async def _package_environment(self) -> Mapping[str, str]:
        """What tells a session where packages are kept; nothing while that part is away."""
        packages = self.settings.packages
        if packages is None or self.package_look is None or not await self.package_look.answers():
            return {}
        return packages.environment

    async def _create_again(self, spec: SessionSpec) -> None:
        try:
            await self.engine.create(spec.name, container_body(spec))
        except RefusedError as error:
            if LABEL_GPUS not in error.field:
                raise
            raise NoCardError(
                "Somebody outside this site took the cards chosen for you, twice.",
                fix=f"Try again. {WITHOUT_GPU}",
                waiting_helps=True,
            ) from error

    def _spec(self, person: Person, image: ImageChoice) -> SessionSpec:
        """What the session is given, with the cards that are held for it."""
        settings = self.settings
        return session_spec(
            instance=settings.instance,
            person=person,
            server=self.name,
            admin=self.user.admin,
            image=image,
            environment={**self.get_env(), **self._packages},
            homes_root=settings.homes_root,
            names_dir=settings.names_dir,
            shared=settings.shared,
            network=settings.network,
            limits=settings.limits,
            cards=self.hold.cards if self.hold else (),
            groups=self.hold.lease.groups if self.hold else (),
        )

    async def _address(self, spec: SessionSpec) -> str:
        """The container's address on the sessions' network, which stays as long as the container lives.

        Not its name: to resolve the name of one that has died takes the hub's and the proxy's few
        resolver threads many seconds, and everybody else waits with it.
        """
        shown = await self.engine.inspect(spec.name)
        address = shown["NetworkSettings"]["Networks"][spec.network]["IPAddress"] if shown else ""
        if not address:
            raise await self._ended_early(spec)
        return str(address)

    async def _wait_for_jupyter(self, url: str, spec: SessionSpec) -> None:
        deadline = time.monotonic() + self.start_timeout - STOP_GRACE_S
        next_look = time.monotonic() + CONTAINER_LOOK_EVERY_S
        while not await _answers(url):
            now = time.monotonic()
            if now > next_look:
                next_look = now + CONTAINER_LOOK_EVERY_S
                if await self.poll() is not None:
                    raise await self._ended_early(spec)
            if now > deadline:
                raise StartError(
                    f"Jupyter did not answer within {self.start_timeout - STOP_GRACE_S} seconds.",
                    fix="The machine may be very busy: try again. "
                    "If it stays so, show the lines below to an administrator.",
                    details=await self.engine.last_lines(spec.name),
                )
            await asyncio.sleep(LOOK_EVERY_S)

    async def _ended_early(self, spec: SessionSpec) -> StartError:
        """Why the container ended before Jupyter answered."""
        ended = None
        for _ in range(LAST_WORDS_LOOKS):
            # The agent writes the last words down right after the end.
            ended = await self.agent.ended(spec.name)
            if ended is not None:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        shown = await self.engine.inspect(spec.name) if ended is None else None
        if shown is not None:
            # The agent was away when it ended; the container still knows.
            state, lines = shown["State"], await self.engine.last_lines(spec.name)
            ended = Ended(spec.name, state["ExitCode"], state["OOMKilled"], lines, datetime.now(UTC))
        if ended is None:
            return StartError("The container was removed while it started.", fix="Try again.")
        if ended.out_of_memory:
            memory_bytes = spec.limits.memory_bytes
            if memory_bytes is None:
                return StartError(
                    "The machine ran out of memory while the session was starting.",
                    fix="Try again later, or ask an administrator to set limits.memory.",
                    details=ended.last_lines,
                )
            return StartError(
                f"The session needed more than its {memory_bytes / 2**30:.1f} GiB of memory while starting.",
                fix="Ask an administrator to raise limits.memory.",
                details=ended.last_lines,
            )
        return StartError(
            f"The notebook server ended with exit code {ended.exit_code} before it answered.",
            fix="The lines below are the last ones it printed. A broken file in your home's .jupyter, "
            ".ipython or .local folder is the usual cause.",
            details=ended.last_lines,
        )

    async def poll(self) -> int | None:
        """None while the container runs, otherwise its exit code (0 when nobody knows it)."""
        if not self.container:
            return 0
        try:
            shown = await self.engine.inspect(self.container)
        except EngineError as error:
            # The agent is away: that is no news of the session, and taken for its end would lose it.
            self.log.warning("%s's session cannot be looked at: %s", self.user.name, error)
            return None
        if shown is not None:
            state = shown["State"]
            if state["Status"] in {"created", "running", "paused", "restarting"}:
                return None
            return int(state["ExitCode"])
        ended = await self.agent.ended(self.container)
        return ended.exit_code if ended is not None else 0

    async def stop(self, now: bool = False) -> None:
        """Stop the session and remove its container; one that is gone is stopped already."""
        if self.container:
            await self.engine.stop(self.container, grace_s=0 if now else STOP_GRACE_S)
        await self._remove_container()

    async def _remove_container(self) -> None:
        if self.container:
            await self.engine.remove(self.container)
            self.log.info("%s's session in %s is stopped and removed", self.user.name, self.container)
            self.container = ""

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        async for event in self.start_progress.events():
            yield event


def spawner_class(
    settings: HubSettings,
    images: Images,
    agent: AgentClient,
    engine: Engine,
    identity_of: IdentityOf,
    gate: Gate,
    cards: Cards,
    package_look: PackageCacheLook | None = None,
) -> type[LabdockSpawner]:
    """What ``JupyterHub.spawner_class`` is set to: the spawner with what it works with."""
    given = {
        "settings": settings,
        "images": staticmethod(images),
        "agent": agent,
        "engine": engine,
        "identity_of": staticmethod(identity_of),
        "gate": gate,
        "cards": cards,
        "package_look": package_look,
    }
    return type("LabdockSpawner", (LabdockSpawner,), given)


async def _answers(url: str) -> bool:
    """Whether a notebook server answers at *url*, whatever it says."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            response = await fetch(url, raise_for_status=False, allow_redirects=False)
    except (ClientError, OSError, TimeoutError):
        return False
    return bool(response.status < 500)
