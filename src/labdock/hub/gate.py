"""Lets starts through a few at a time, since a machine has only so many processors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """*places* for starts under way; a start gives its place back when it is done, or after *hold_s* seconds.

    When many people start at once, the first are ready soon instead of all at the end, and the whole
    takes no longer. Whatever hangs holds nobody up for longer than *hold_s*.
    """

    def __init__(self, places: int, *, hold_s: float) -> None:
        self._places = asyncio.Semaphore(places)
        self._hold_s = hold_s

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place; it is held inside this context, for *hold_s* at most."""
        await self._places.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._places.release()

        timer = asyncio.get_running_loop().call_later(self._hold_s, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()
