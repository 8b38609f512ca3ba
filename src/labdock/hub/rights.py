"""A change of who may come in takes effect at once, also for those who are in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import ClientError
from tornado.log import app_log

LOOK_EVERY_S = 1.0


async def keep_rights(
    state: Callable[[], object], sweep: Callable[[], Awaitable[object]], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Call *sweep* when the hub is there, and again whenever *state* changed; never ends.

    A sweep that fails is tried again: somebody's session may not have stopped in time.
    """
    swept: object = None
    while True:
        now = state()
        if now != swept:
            try:
                await sweep()
                swept = now
            except (OSError, ClientError) as error:
                app_log.warning("Nobody was judged by the new rules yet: %s", error)
        await asyncio.sleep(every_s)
