"""Lets people through a proxy that has started only when it knows its routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

LOOK_EVERY_S = 0.1


async def admit_proxy(waiting: Path, admitted: Path, restore: Callable[[], Awaitable[None]]) -> None:
    """Whenever the proxy's socket *waiting* appears, *restore* its routes and rename it to *admitted*.

    A proxy starts without routes and would answer everybody that their session does not run;
    JupyterHub itself looks only every five minutes. The edge knows the name *admitted* alone and lets
    requests wait for it. *restore* raises OSError while hub or proxy are not ready; then it is called
    again. Runs until cancelled.
    """
    while True:
        if waiting.exists():  # noqa: ASYNC240  one look at a file in memory
            with contextlib.suppress(OSError, TimeoutError):
                await restore()
                waiting.replace(admitted)  # noqa: ASYNC240  the same
        await asyncio.sleep(LOOK_EVERY_S)
