"""Chooses the cards of sessions that start, and tells who holds which.

What the agent reports and what was chosen here and is not made yet are one picture; from looking at it to
adding to it, nothing else of the hub runs. That is the lock. The agent's own, when the container is made,
has the last word: sessions of other instances, and containers started by hand, are not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from labdock.core.allocation import WITHOUT_GPU, Held, allocate, check_request
from labdock.core.errors import DriverError, EngineError
from labdock.core.gpus import GpuReport, GpuRequest, GpuRules, Holder, Lease

GLANCE_S = 2.0
"""How long a page waits for what is known of the GPUs; a driver may hang."""


class Reporter(Protocol):
    """The agent, as far as the cards are concerned."""

    async def gpus(self) -> GpuReport: ...


@dataclass(slots=True, eq=False)
class Hold:
    """Cards chosen for a container that is not made yet; *ended_after* is the last reading it counts in."""

    lease: Lease
    ended_after: int | None = None

    @property
    def cards(self) -> tuple[str, ...]:
        return self.lease.cards


@dataclass(frozen=True, slots=True)
class _Reading:
    """The agent's report number *number*, and what is held by it."""

    number: int
    report: GpuReport
    held: Held


class Cards:
    """The cards of this machine, as the hub of *instance* hands them out by *rules*."""

    def __init__(
        self,
        agent: Reporter,
        instance: str,
        rules: GpuRules,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.instance = instance
        self.rules = rules
        self._agent = agent
        self._clock = clock
        self._holds: list[Hold] = []
        self._begun = 0
        self._running: asyncio.Task[_Reading] | None = None
        self._next: asyncio.Task[_Reading] | None = None

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Cards:
        """Itself: traitlets copies every configured value, and two of these would give a card twice."""
        return self

    async def look(self) -> GpuReport:
        """The report, with the cards chosen here among the leases.

        Raises:
            EngineError: The agent does not answer.
        """
        reading = await self._read()
        holds = tuple(hold.lease for hold in self._counting(reading))
        return replace(reading.report, leases=reading.report.leases + holds)

    async def glance(self) -> GpuReport | None:
        """The report for a page that is about more than GPUs; None when none comes within GLANCE_S."""
        try:
            async with asyncio.timeout(GLANCE_S):
                return await self.look()
        except (EngineError, TimeoutError):
            return None

    async def hold(self, request: GpuRequest, holder: Holder, container: str) -> Hold:
        """Choose cards for *request* and keep them for *container* until the hold is ended.

        What a container of that name held is free: a start removes it first.

        Raises:
            BadRequestError: There are no such cards, or it is more than one session may have.
            NoCardError: Too few are free, or a limit is reached.
            DriverError: The driver does not work.
            EngineError: The agent does not answer.
        """
        reading = await self._read()
        # No await from here to the end: see the top of this file.
        report = reading.report
        if report.trouble is not None:
            raise DriverError(
                f"No GPU can be given out. {report.trouble.message}",
                kind=report.trouble.kind,
                fix=f"{WITHOUT_GPU} For an administrator: {report.trouble.fix}",
            )
        check_request(request, report.inventory, self.rules)
        held = reading.held
        if any(lease.container == container for lease in report.leases):
            held = Held.of(lease for lease in report.leases if lease.container != container)
        for hold in self._counting(reading):
            held = held.plus(hold.lease)
        chosen = Hold(
            Lease(
                container=container,
                cards=allocate(report.inventory, held, request, holder, self.rules),
                instance=self.instance,
                person=holder.person,
                identity=holder.identity,
                groups=holder.groups,
                since_s=self._clock(),
                driver=report.inventory.driver.version if report.inventory.driver else "",
            )
        )
        self._holds.append(chosen)
        return chosen

    def end(self, hold: Hold) -> None:
        """The container of *hold* is there, or will not be; ending a hold again does nothing.

        It still counts in the readings that have begun: they may have missed the container.
        """
        if hold.ended_after is None:
            hold.ended_after = self._begun

    def _counting(self, reading: _Reading) -> list[Hold]:
        """The holds that count besides what *reading* says."""
        # One reading more is kept, for whoever is told of this one late.
        self._holds = [
            hold for hold in self._holds if hold.ended_after is None or hold.ended_after >= reading.number - 1
        ]
        made = {(lease.container, lease.cards) for lease in reading.report.leases}
        return [
            hold
            for hold in self._holds
            if (hold.ended_after is None or hold.ended_after >= reading.number)
            and (hold.lease.container, hold.cards) not in made
        ]

    async def _read(self) -> _Reading:
        """A reading that begins after this call; all who call before it begins share it."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_after(self._running))
            # Everybody who waited may be gone when it fails.
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._next)

    async def _read_after(self, running: asyncio.Task[_Reading] | None) -> _Reading:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        self._begun += 1
        number = self._begun
        report = await self._agent.gpus()
        return _Reading(number, report, Held.of(report.leases))
