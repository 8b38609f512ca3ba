"""Keeps the last words of sessions that stopped, and removes their containers.

A stopped container must never start again: it would come back with the settings of another day.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime

from labdock.adapters.agent_api import Ended
from labdock.agent.ends import Ends
from labdock.agent.engine import Engine
from labdock.agent.guard import is_session, session_filter
from labdock.agent.last_words import LastWords
from labdock.core.errors import EngineError, HostError

log = logging.getLogger(__name__)

STALE_AFTER_S = 120.0
"""A container that was made and not started for so long is nobody's start in progress."""

LISTEN_S = 300.0
"""How long to follow the engine's events before looking at all containers again."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class Watch:
    """Follows the engine's events for the sessions of *instance*.

    ``problem`` is a sentence while the engine cannot be followed, else None.
    """

    def __init__(
        self,
        engine: Engine,
        instance: str,
        last_words: LastWords,
        ends: Ends,
        *,
        clock: Callable[[], float] = time.time,
        listen_s: float = LISTEN_S,
    ) -> None:
        self._engine = engine
        self._instance = instance
        self._last_words = last_words
        self._ends = ends
        self._clock = clock
        self._listen_s = listen_s
        self._in_hand: set[str] = set()
        self.problem: str | None = "The engine's events are not followed yet."

    async def run(self) -> None:
        """Follow until cancelled, through any number of the engine's restarts."""
        pause_s = _FIRST_PAUSE_S
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    stops = self._engine.stops(session_filter(self._instance), self._listen_s)
                    async with aclosing(stops):
                        async for container in stops:
                            if container is None:
                                self.problem, pause_s = None, _FIRST_PAUSE_S
                                group.create_task(self.sweep())
                            else:
                                identifier, name = container
                                self._ends.add(name)
                                group.create_task(self._settle(identifier))
                except EngineError as error:
                    self.problem = str(error)
                    log.warning("watch: %s Trying again in %.1f s.", error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def sweep(self) -> None:
        """Settle whatever stopped while nobody looked."""
        try:
            found = await self._engine.find(session_filter(self._instance), ("created", "exited", "dead"))
        except EngineError as error:
            log.warning("watch: %s", error)
            return
        for container in found:
            await self._settle(container)

    async def _settle(self, container: str) -> None:
        """Keep the last words of *container* and remove it, if it is a session that stopped."""
        if container in self._in_hand:
            return
        self._in_hand.add(container)
        try:
            await self._keep_and_remove(container)
        except (EngineError, HostError) as error:
            # The container keeps its last words until the next sweep comes back to it.
            log.warning("watch: %s: %s", container[:12], error)
        finally:
            self._in_hand.discard(container)

    async def _keep_and_remove(self, container: str) -> None:
        found = await self._engine.inspect(container)
        if found is None or not is_session(found.labels, self._instance):
            return
        if found.state in ("exited", "dead"):
            lines = await self._engine.last_lines(container)
            if lines is None:
                return
            ended = Ended(
                found.name,
                found.exit_code,
                found.out_of_memory,
                lines,
                datetime.fromisoformat(found.finished),
            )
            self._last_words.save(ended)
            await self._engine.remove(container)
            log.info("session %s ended with exit code %d; removed", found.name, found.exit_code)
        elif found.state == "created":
            age_s = self._clock() - datetime.fromisoformat(found.created).timestamp()
            if age_s > STALE_AFTER_S:
                await self._engine.remove(container)
                log.info("session %s was made %.0f s ago and never started; removed", found.name, age_s)
