"""Gives a proxy that came back its routes again, at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

LOOK_EVERY_S = 0.25


async def keep_routes(proxy_socket: Path, restore: Callable[[], Awaitable[None]]) -> None:
    """Call *restore* whenever *proxy_socket* was made anew; runs until cancelled.

    A restarted proxy knows no routes, and JupyterHub itself would look only every five minutes.
    It makes its socket anew when it starts, so one ``stat`` tells. *restore* raises OSError while
    the proxy does not listen yet, and is then called again.
    """
    served = _made(proxy_socket)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = _made(proxy_socket)
        if now is None or now == served:
            continue
        try:
            await restore()
        except (OSError, TimeoutError):
            continue
        served = now


def _made(path: Path) -> tuple[int, int] | None:
    """What tells one making of *path* from the next, or None while it is not there."""
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    return seen.st_ino, seen.st_ctime_ns
