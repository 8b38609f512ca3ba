"""Knows the machine's cards and who holds them, and gives a container the cards that its label names.

Nothing is asked unless somebody wants to know: an idle machine stays idle.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labdock.adapters.engine_body import with_injection
from labdock.adapters.nvidia import AsksNvml, read_inventory
from labdock.agent.engine import Engine, Listed
from labdock.core.allocation import check_lease
from labdock.core.driver import with_vanished
from labdock.core.errors import DriverError, HostError, RefusedError
from labdock.core.gpus import (
    LABEL_DRIVER,
    LABEL_GPUS,
    LABEL_GROUPS,
    UUID_PATTERN,
    Card,
    Driver,
    GpuReport,
    Inventory,
    Lease,
    Trouble,
    Way,
)
from labdock.core.injection import cdi_file, cdi_spec, choose_way, inject
from labdock.core.session import LABEL_IDENTITY, LABEL_INSTANCE, LABEL_PERSON
from labdock.core.site import AgentRules

log = logging.getLogger(__name__)

FRESH_S = 2.0
"""How long what was read holds."""

HELD_FOR = 3
"""What took long to read, as from a driver that hangs, holds for so many times as long as that took."""

LOCK = ".labdock-gpus.lock"
"""Below the folder of devices, which every instance's agent on the machine sees."""

_LOCK_PATIENCE_S = 60.0
_LOCK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class _Reading:
    inventory: Inventory
    way: Way | None
    trouble: Trouble | None
    until_s: float


class GpuKeeper:
    """The cards of the machine as *rules* let them be shared.

    *own_dev* is where this process's driver library looks for devices; *clock* counts seconds.
    """

    def __init__(
        self,
        rules: AgentRules,
        engine: Engine,
        nvml: AsksNvml,
        *,
        own_dev: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._engine = engine
        self._nvml = nvml
        places = rules.driver
        # A simulated library needs no nodes, and none of its own is to appear beside real ones.
        copies = places is not None and not places.state and Path(places.dev) != own_dev
        self._own_dev = own_dev if copies else None
        self._clock = clock
        self._reading_lock = asyncio.Lock()
        self._last: _Reading | None = None
        self._seen: tuple[Card, ...] = ()

    async def report(self) -> GpuReport:
        """What there is, who holds it, and what is wrong.

        Of other instances only what they hold of these cards is told: theirs may be simulated ones.

        Raises:
            EngineError: The engine does not answer.
        """
        reading = await self._read()
        leases = tuple(
            lease
            for lease in await self.leases()
            if lease.instance == self._rules.instance or any(map(reading.inventory.find, lease.cards))
        )
        return GpuReport(reading.inventory, leases, reading.way, reading.trouble)

    async def leases(self) -> tuple[Lease, ...]:
        """What every container of the engine holds, oldest first, whosever it is."""
        listed = await self._engine.labelled(LABEL_GPUS)
        return tuple(sorted(map(lease_of, listed), key=lambda lease: (lease.since_s, lease.container)))

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keeps other instances' agents on this machine from giving out cards meanwhile.

        Simulated cards are the instance's own: nobody else gives them out.

        Raises:
            HostError: Another agent does not let go within a minute, or the lock cannot be made.
        """
        places = self._rules.driver
        if places is None or places.state:
            yield
            return
        file = Path(places.dev, LOCK)
        try:
            # For root alone, so that nobody else can hold it.
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HostError(
                f"The lock for giving out GPUs, {file}, cannot be made: {error.strerror}.",
                fix="Write Labdock's parts anew: labdock up",
            ) from error
        try:
            await _lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    async def with_cards(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The checked *body* with the cards that its label names, and all that they take.

        Whoever calls lets nobody else call from before this until the container is made, and is ``alone``.

        Raises:
            RefusedError: A card cannot be given, or none can.
            HostError: The CDI spec cannot be written.
            EngineError: The engine does not answer.
        """
        reading = await self._read()
        if reading.trouble is not None:
            raise RefusedError(reading.trouble.message, field=f"Labels.{LABEL_GPUS}", fix=reading.trouble.fix)
        inventory = reading.inventory
        names = tuple(body["Labels"][LABEL_GPUS].split(","))
        check_lease(inventory, await self.leases(), names, self._rules.gpus)
        cards = tuple(card for card in map(inventory.find, names) if card is not None)
        if inventory.driver is None or reading.way is None:
            raise RuntimeError("cards without a driver passed the check")
        if reading.way is Way.CDI:
            await asyncio.to_thread(self._write_spec, inventory.driver, inventory.cards)
        given = inject(reading.way, inventory.driver, cards, instance=self._rules.instance)
        return with_injection(body, given)

    async def _read(self) -> _Reading:
        async with self._reading_lock:
            begun_s = self._clock()
            if self._last is None or begun_s >= self._last.until_s:
                self._last = await self._read_anew(begun_s)
            return self._last

    async def _read_anew(self, begun_s: float) -> _Reading:
        inventory, way, trouble = Inventory(), None, None
        places = self._rules.driver
        if places is None:
            return _Reading(inventory, way, trouble, self._until(begun_s))
        try:
            inventory = await asyncio.to_thread(read_inventory, places, self._nvml, own_dev=self._own_dev)
            self._seen = with_vanished(self._seen, inventory.cards)
            inventory = replace(inventory, cards=self._seen)
            if inventory.cards:
                way = choose_way(self._rules.gpus.inject, await self._engine.abilities(), self._rules.cdi_dir)
        except DriverError as error:
            inventory = Inventory(simulated=bool(places.state))
            trouble = Trouble(error.kind, error.message, error.fix)
        except HostError as error:
            trouble = Trouble(error.label, error.message, error.fix)
        if trouble is not None and (self._last is None or self._last.trouble != trouble):
            log.warning("gpus: %s %s", trouble.message, trouble.fix)
        return _Reading(inventory, way, trouble, self._until(begun_s))

    def _until(self, begun_s: float) -> float:
        now_s = self._clock()
        return now_s + max(FRESH_S, HELD_FOR * (now_s - begun_s))

    def _write_spec(self, driver: Driver, cards: tuple[Card, ...]) -> None:
        """Let the engine's CDI know *cards*, if it knows them otherwise."""
        file = Path(self._rules.cdi_dir, cdi_file(self._rules.instance))
        spec = cdi_spec(driver, cards, instance=self._rules.instance)
        text = (json.dumps(spec, indent=2) + "\n").encode()
        # Engines read only what ends in .json or .yaml.
        new = file.with_suffix(".new")
        try:
            if file.is_file() and file.read_bytes() == text:
                return
            new.write_bytes(text)
            new.chmod(0o644)
            new.replace(file)
        except OSError as error:
            raise HostError(
                f"The CDI spec {file} cannot be written: {error}.",
                fix="Write Labdock's parts anew: labdock up. Or set gpus.inject to devices.",
            ) from error
        log.info("gpus: wrote %s with %d cards, driver %s", file, len(cards), driver.version)


async def _lock(descriptor: int) -> None:
    try:
        async with asyncio.timeout(_LOCK_PATIENCE_S):
            while not _locked(descriptor):  # noqa: ASYNC110  another process tells of no event
                await asyncio.sleep(_LOCK_EVERY_S)
    except TimeoutError as error:
        raise HostError(
            f"Another Labdock on this machine is giving out GPUs for more than {_LOCK_PATIENCE_S:g} s.",
            fix="Try again. If it stays so: labdock --instance NAME restart agent, for the other one.",
        ) from error


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_spec(rules: AgentRules) -> None:
    """Take the instance's CDI spec away, when it is taken down for good."""
    if rules.cdi_dir:
        Path(rules.cdi_dir, cdi_file(rules.instance)).unlink(missing_ok=True)


def lease_of(container: Listed) -> Lease:
    """What *container* holds, by its labels; what means nothing in a label counts as nothing."""
    labels = container.labels
    # A person may have written it, with blanks; a card that is overlooked is given twice.
    named = [card.strip() for card in labels.get(LABEL_GPUS, "").split(",")]
    return Lease(
        container=container.name,
        cards=tuple(dict.fromkeys(card for card in named if UUID_PATTERN.fullmatch(card))),
        instance=labels.get(LABEL_INSTANCE, ""),
        person=_plain(labels.get(LABEL_PERSON, "")),
        identity=labels.get(LABEL_IDENTITY, ""),
        groups=_groups(labels.get(LABEL_GROUPS, "[]")),
        since_s=container.created_s,
        driver=_plain(labels.get(LABEL_DRIVER, "")),
    )


def _plain(text: str) -> str:
    """*text* if it can be shown on a terminal as it is."""
    return text if text.isprintable() else ""


def _groups(text: str) -> tuple[str, ...]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()
