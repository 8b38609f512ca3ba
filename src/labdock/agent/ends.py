"""Tells whoever waits which sessions have just ended."""

from __future__ import annotations

import asyncio
from collections import deque

KEPT = 1000
"""How many ends are remembered for somebody who was away."""


class Ends:
    """The ends of sessions, numbered in the order in which they were seen.

    Numbers begin after *first*. With the time in milliseconds for it they go on rising through
    restarts, so that somebody with a number from before gets every end since.
    """

    def __init__(self, first: int) -> None:
        self._names: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self._last = first
        self._more = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """Let nobody wait any longer: the agent is about to end."""
        self._closed = True
        self._more.set()

    def add(self, name: str) -> None:
        """The session in the container *name* has ended."""
        self._last += 1
        self._names.append((self._last, name))
        self._more.set()
        self._more = asyncio.Event()

    async def after(self, number: int, *, patience_s: float) -> tuple[int, tuple[str, ...]]:
        """The last number and the containers that ended after *number*; waits for one if it is the last."""
        if number == self._last and not self._closed:
            try:
                async with asyncio.timeout(patience_s):
                    await self._more.wait()
            except TimeoutError:
                return self._last, ()
        return self._last, tuple(name for at, name in self._names if at > number)
