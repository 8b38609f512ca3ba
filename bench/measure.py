"""What is measured, and in which order: both stacks side by side, so that noise hits both alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from bench import gpus
from bench.client import Hub
from bench.figures import (
    Crowd,
    Figure,
    Floor,
    Rule,
    Unit,
    compared,
    crowd_figures,
)
from bench.ours import Ours
from bench.stage import Stage
from bench.stock import Stock
from labdock.adapters.visitor import Visitor
from labdock.cli.console import Console
from labdock.core.errors import HostError, LabdockError
from labdock.core.session import SESSION_PORT

LIMIT_S = 180.0
"""How long a start may take when many start at once."""

PATIENT_S = 600.0
"""The same where the stock stack may take the time it needs."""

MEGABYTE = 1e6

SECTIONS = ("up", "start", "form", "server", "crowd", "memory", "idle", "size", "gpus", "images")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured; *sessions* is the largest crowd, and those that memory is measured with."""

    starts: int
    server_starts: int
    crowds: tuple[int, ...]
    rounds: int
    warm_ups: int
    idle_s: float

    @property
    def sessions(self) -> int:
        return max(self.crowds)


THOROUGH = Effort(starts=10, server_starts=5, crowds=(10, 25), rounds=3, warm_ups=3, idle_s=60.0)
QUICK = Effort(starts=3, server_starts=3, crowds=(10,), rounds=1, warm_ups=1, idle_s=15.0)
PROMISED_SESSIONS = 25
"""The number of sessions that the floors speak of."""


@dataclass(slots=True)
class Server:
    """A notebook server's own starts: seconds until it answered, and CPU seconds until then, in order."""

    seconds: list[float]
    cpu_seconds: list[float]


class Bench:
    """One run. ``figures`` grows as it goes; ``problems`` says what did not run, and why.

    ``parts`` splits memory and CPU time up by part, for the JSON.
    """

    def __init__(
        self,
        stage: Stage,
        ours: Ours,
        stock: Stock,
        http: aiohttp.ClientSession,
        *,
        effort: Effort,
        only: frozenset[str],
        console: Console,
    ) -> None:
        self._stage = stage
        self._ours = ours
        self._stock = stock
        self._http = http
        self._effort = effort
        self._only = only
        self._console = console
        self._names = tuple(f"bench{number:02}" for number in range(1, effort.sessions + 1))
        self._passwords: dict[str, str] = {}
        self.figures: list[Figure] = []
        self.problems: list[str] = []
        self.parts: dict[str, Any] = {}

    async def run(self, *, cold: bool) -> None:
        """Measure everything asked for.

        Raises:
            LabdockError: A stack could not be brought up at all.
        """
        await self._bring_up_ours(cold=cold)
        await self._do("gpus", "GPUs, simulated: choose, ask, start, and 200 who want four", self._gpus())
        await self._do("images", "Add a package for everybody, and take it back", self._images())
        if self._only <= {"up", "gpus", "images"}:
            return
        with self._console.step("Build the stock stack's images") as show:
            await self._stock.build(show)
        await self._do("size", "Look at the images' sizes", self._sizes())
        if self._only <= {"up", "size"}:
            return
        with self._console.step(f"Invite {len(self._names)} people, make their homes, start everything once"):
            self._passwords = await self._ours.add_people(self._names)
            await self._stock.prepare(self._names)
            ours, stock = self._ours.hub(), await self._stock.start(self._names, raised=True)
            for hub in (ours, stock):
                await hub.start_gently(self._names, limit_s=PATIENT_S)
                await hub.stop_all()
        effort = self._effort
        if self._only & {"start", "server", "form"}:
            stock = await self._stock.start(self._names, raised=False)
            words = f"One start, {effort.starts} times each, in turn"
            await self._do("start", words, self._starts(ours, stock))
            await self._do("form", f"One start with the form, {effort.starts} times", self._form())
            words = f"Jupyter's own start, {effort.server_starts} times each, in turn"
            await self._do("server", words, self._server_starts(ours, stock))
        if "crowd" in self._only:
            for count in effort.crowds:
                await self._default_crowd(ours, count)
        stock = await self._stock.start(self._names, raised=True)
        for count in effort.crowds:
            words = f"{count} starts at once, {effort.rounds} times each, the stock stack's time-outs raised"
            await self._do("crowd", words, self._raised_crowds(ours, stock, count))
        if self._only & {"memory", "idle"}:
            with self._console.step(f"Start {effort.sessions} sessions each"):
                for hub in (ours, stock):
                    await hub.start_gently(self._names, limit_s=PATIENT_S)
        words = f"Memory with {effort.sessions} sessions each"
        await self._do("memory", words, self._memory(effort.sessions))
        words = f"CPU for {effort.idle_s:g} s with {effort.sessions} idle sessions each, then with none"
        await self._do("idle", words, self._idle(ours, stock))

    async def _bring_up_ours(self, *, cold: bool) -> None:
        label = "without any image" if cold else "from the images that are there"
        with self._console.step(f"labdock up, {label}") as show:
            first = await self._ours.up(show)
        if "up" not in self._only:
            return
        warm = []
        for _ in range(self._effort.warm_ups):
            with self._console.step("labdock up again"):
                warm.append(await self._ours.up(lambda line: None))
        six_minutes, ten_seconds = Floor(Rule.OURS_AT_MOST, 360.0), Floor(Rule.OURS_AT_MOST, 10.0)
        if cold:
            self._keep(
                compared(
                    "up-cold",
                    "make up: first, no image there",
                    Unit.SECONDS,
                    ours=[first],
                    stock=[],
                    floor=six_minutes,
                )
            )
        self._keep(
            compared("up-warm", "make up: again", Unit.SECONDS, ours=warm, stock=[], floor=ten_seconds)
        )

    async def _images(self) -> None:
        # A release to go back to, and what every later one stands on.
        await self._ours.publish_with(("six",))
        added, back = [], []
        for package in ("toolz==0.12.0", "toolz==0.12.1", "toolz==1.0.0")[: self._effort.warm_ups]:
            added.append(await self._ours.publish_with(("six", package)))
            back.append(await self._ours.roll_back())
        half_a_minute, five_seconds = Floor(Rule.OURS_AT_MOST, 30.0), Floor(Rule.OURS_AT_MOST, 5.0)
        label = "One pip package more: built, checked, published"
        self._keep(
            compared("image-add", label, Unit.SECONDS, ours=added, stock=[], floor=half_a_minute),
            compared(
                "image-back", "Rollback of an image", Unit.SECONDS, ours=back, stock=[], floor=five_seconds
            ),
        )

    async def _gpus(self) -> None:
        hub, name = self._ours.hub(), "gpu01"
        await self._ours.add_people((name,))
        self._keep(*gpus.choosing(), await gpus.refreshing(self._ours))
        # The first start of all makes the home.
        await hub.start(name, limit_s=LIMIT_S)
        await hub.stop(name)
        self._keep(*await gpus.starting(hub, name, 2 * self._effort.starts, LIMIT_S))
        self._keep(*await gpus.asking_at_once(self._ours, hub))
        # What follows is measured as on a machine without any.
        await self._ours.simulate_gpus(0)

    async def _sizes(self) -> None:
        sizes = {}
        for image in (
            self._ours.images["cpu"],
            self._ours.images["server"],
            self._stock.notebook_image,
            self._stock.hub_image,
        ):
            size_bytes = await self._stage.engine.image_size_bytes(image)
            if size_bytes is None:
                raise HostError(f"The image {image} is not there.")
            sizes[image] = size_bytes / MEGABYTE
        notebook = sizes[self._ours.images["cpu"]], sizes[self._stock.notebook_image]
        parts = sizes[self._ours.images["server"]], sizes[self._stock.hub_image]
        self._keep(
            Figure("size-notebook", "Image: notebook", Unit.MEGABYTES, *notebook),
            Figure("size-parts", "Image: hub and the other parts", Unit.MEGABYTES, *parts),
        )

    async def _starts(self, ours: Hub, stock: Hub) -> None:
        name = self._names[0]
        seconds: dict[Hub, list[float]] = {ours: [], stock: []}
        for _ in range(self._effort.starts):
            for hub in (ours, stock):
                seconds[hub].append(await hub.start(name, limit_s=LIMIT_S))
                await hub.stop(name)
        self._keep(
            compared(
                "start",
                "One start, request to ready",
                Unit.SECONDS,
                ours=seconds[ours],
                stock=seconds[stock],
                floor=Floor(Rule.RATIO_AT_MOST, 0.45),
            )
        )

    async def _form(self) -> None:
        name = self._names[0]
        seconds = []
        async with Visitor.arrive(self._ours.url) as visitor:
            await visitor.sign_in(name, self._passwords[name])
            for _ in range(self._effort.starts):
                begun = time.monotonic()
                await visitor.start(None)
                seconds.append(time.monotonic() - begun)
                await visitor.stop()
        self._keep(compared("form", "One start, click to ready", Unit.SECONDS, ours=seconds, stock=[]))

    async def _server_starts(self, ours: Hub, stock: Hub) -> None:
        name = self._names[0]
        servers = {ours: Server([], []), stock: Server([], [])}
        for _ in range(self._effort.server_starts):
            for hub, container in (
                (ours, self._ours.session(name)),
                (stock, self._stock.session(name)),
            ):
                watched = asyncio.create_task(self._watch_server(container, name))
                try:
                    await hub.start(name, limit_s=LIMIT_S)
                    seconds, cpu_seconds = await watched
                finally:
                    watched.cancel()
                servers[hub].seconds.append(seconds)
                servers[hub].cpu_seconds.append(cpu_seconds)
                await hub.stop(name)
        mine, theirs = servers[ours], servers[stock]
        self._keep(
            compared(
                "server",
                "Jupyter's own start in its container",
                Unit.SECONDS,
                ours=mine.seconds,
                stock=theirs.seconds,
            ),
            compared(
                "server-cpu",
                "Jupyter's own start, CPU time",
                Unit.SECONDS,
                ours=mine.cpu_seconds,
                stock=theirs.cpu_seconds,
                floor=Floor(Rule.RATIO_AT_MOST, 0.5),
            ),
        )

    async def _watch_server(self, container: str, person: str) -> tuple[float, float]:
        """Seconds from the start of *container* to its server's first answer, and its CPU seconds by then."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                shown = await self._stage.engine.inspect(container)
                if shown is not None and shown["State"]["Running"]:
                    break
                await asyncio.sleep(0.02)
            cgroup = await self._stage.cgroup(container)
            begun = datetime.fromisoformat(shown["State"]["StartedAt"][:26].rstrip("Z") + "+00:00")
            (network,) = shown["NetworkSettings"]["Networks"].values()
            url = f"http://{network['IPAddress']}:{SESSION_PORT}/user/{person}/api"
            while not await self._answers(url):  # noqa: ASYNC110  the server is another process
                await asyncio.sleep(0.02)
        return (datetime.now(UTC) - begun).total_seconds(), cgroup.cpu_seconds()

    async def _answers(self, url: str) -> bool:
        try:
            async with self._http.get(url, allow_redirects=False) as response:
                return response.status < 500
        except aiohttp.ClientError:
            return False

    async def _default_crowd(self, ours: Hub, count: int) -> None:
        # Half-made sessions are left when it fails: each crowd meets a fresh hub.
        stock = await self._stock.start(self._names, raised=False)
        words = f"{count} starts at once, default settings, {LIMIT_S:.0f} s at most"
        await self._do("crowd", words, self._default_crowd_of(ours, stock, count))

    async def _default_crowd_of(self, ours: Hub, stock: Hub, count: int) -> None:
        mine = await self._crowd(ours, count, LIMIT_S)
        theirs = await stock.start_at_once(self._names[:count], limit_s=LIMIT_S)
        self._keep(
            *crowd_figures(
                f"crowd-{count}-default",
                f"{count} at once, defaults",
                [mine],
                [theirs],
                all_ready=count == PROMISED_SESSIONS,
            )
        )

    async def _raised_crowds(self, ours: Hub, stock: Hub, count: int) -> None:
        mine, theirs = [], []
        for _ in range(self._effort.rounds):
            mine.append(await self._crowd(ours, count, LIMIT_S))
            theirs.append(await self._crowd(stock, count, PATIENT_S))
        self._keep(
            *crowd_figures(
                f"crowd-{count}-raised",
                f"{count} at once, stock with raised time-outs",
                mine,
                theirs,
                most_ratio=0.4 if count == PROMISED_SESSIONS else None,
            )
        )

    async def _crowd(self, hub: Hub, count: int, limit_s: float) -> Crowd:
        crowd = await hub.start_at_once(self._names[:count], limit_s=limit_s)
        await hub.stop_all()
        return crowd

    async def _idle(self, ours: Hub, stock: Hub) -> None:
        floor = Floor(Rule.OURS_AT_MOST, 2.0)
        count = self._effort.sessions
        await self._idle_now(f"idle-{count}", f"CPU of all parts, {count} idle sessions", floor)
        for hub in (ours, stock):
            await hub.stop_all()
        await self._idle_now("idle-none", "CPU of all parts, no session", floor)

    async def _memory(self, count: int) -> None:
        mine = {part: await self._megabytes(name) for part, name in self._ours.parts.items()}
        theirs = {part: await self._megabytes(name) for part, name in self._stock.parts.items()}
        floor = Floor(Rule.OURS_AT_MOST, 400.0) if count == PROMISED_SESSIONS else None
        self._keep(
            Figure(
                f"memory-{count}",
                f"Memory of all parts, {count} sessions",
                Unit.MEGABYTES,
                sum(mine.values()),
                sum(theirs.values()),
                floor,
            ),
            compared(
                "memory-session",
                "Memory of one session",
                Unit.MEGABYTES,
                ours=[await self._megabytes(self._ours.session(name)) for name in self._names],
                stock=[await self._megabytes(self._stock.session(name)) for name in self._names],
            ),
        )
        cgroup = await self._stage.cgroup(self._ours.parts["hub"])
        self.parts["memory_mb"] = {"ours": mine, "stock": theirs, "cgroup_version": cgroup.version}

    async def _megabytes(self, container: str) -> float:
        return (await self._stage.cgroup(container)).memory_bytes() / MEGABYTE

    async def _idle_now(self, key: str, label: str, floor: Floor) -> None:
        # Both at the same time: each is counted by itself.
        mine = {part: await self._stage.cgroup(name) for part, name in self._ours.parts.items()}
        theirs = {part: await self._stage.cgroup(name) for part, name in self._stock.parts.items()}
        # What starting and stopping left to do is not idling.
        await asyncio.sleep(5)
        groups = {("ours", part): g for part, g in mine.items()} | {
            ("stock", part): g for part, g in theirs.items()
        }
        begun, before = time.monotonic(), {who: group.cpu_seconds() for who, group in groups.items()}
        await asyncio.sleep(self._effort.idle_s)
        seconds = time.monotonic() - begun
        percent = {who: 100 * (group.cpu_seconds() - before[who]) / seconds for who, group in groups.items()}
        sums = {side: sum(p for (s, _), p in percent.items() if s == side) for side in ("ours", "stock")}
        self._keep(Figure(key, label, Unit.PERCENT, sums["ours"], sums["stock"], floor))
        self.parts[f"{key}_percent"] = {
            side: {part: p for (s, part), p in percent.items() if s == side} for side in ("ours", "stock")
        }

    def _keep(self, *figures: Figure) -> None:
        self.figures.extend(figures)

    async def _do(self, section: str, words: str, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* if *section* is asked for; when it fails that is kept, and the next one goes on."""
        if section not in self._only:
            work.close()
            return
        try:
            with self._console.step(words):
                await work
        except (LabdockError, TimeoutError) as error:
            self._keep_problem(words, error)

    def give_up(self, error: LabdockError) -> None:
        """Keep *error* as what ended the run before its end."""
        self._keep_problem("Everything after that", error)

    def _keep_problem(self, words: str, error: LabdockError | TimeoutError) -> None:
        self.problems.append(f"{words}: {error or 'it took too long'}")
        self._console.note(f"Did not run: {self.problems[-1]}")
        for line in getattr(error, "details", ()):
            self._console.note(f"    {line}")
