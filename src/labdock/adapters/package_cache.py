"""The part that keeps Python packages, as the hub sees it: whether it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LOOK_EVERY_S = 3.0
"""How long one look counts."""

ANSWER_WITHIN_S = 0.25
"""How long a look may take; on a machine that is not busy, the part answers in two milliseconds."""

AWAY_WITHIN_S = 0.05
"""How long it may take while the part is away."""

_QUESTION = b"GET /health HTTP/1.0\r\n\r\n"


class PackageCacheLook:
    """Whether the part at *host* and *port* answers; many who ask at the same time share one look."""

    def __init__(self, host: str, port: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._port = port
        self._clock = clock
        self._lock = asyncio.Lock()
        self._looked_at = float("-inf")
        self._answered = True

    async def answers(self) -> bool:
        """Whether it did within the last three seconds."""
        async with self._lock:
            if self._clock() - self._looked_at >= LOOK_EVERY_S:
                self._answered = await self._look()
                self._looked_at = self._clock()
            return self._answered

    async def _look(self) -> bool:
        try:
            # A session that is not told of it goes without for its whole life: a busy part is waited for.
            async with asyncio.timeout(ANSWER_WITHIN_S if self._answered else AWAY_WITHIN_S):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(_QUESTION)
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except OSError:  # a TimeoutError is one
            return False
