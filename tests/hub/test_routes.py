"""A proxy that came back has its routes again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from labdock.hub.routes import keep_routes


async def test_routes_are_restored_each_time_the_proxy_comes_back_and_only_then(tmp_path: Path) -> None:
    socket = tmp_path / "api.sock"
    socket.touch()
    restored = 0
    fails = 1

    async def restore() -> None:
        nonlocal restored, fails
        if fails:
            fails -= 1
            raise ConnectionRefusedError
        restored += 1

    task = asyncio.create_task(keep_routes(socket, restore))
    await asyncio.sleep(0.6)
    assert restored == 0
    for expected in (1, 2):
        socket.unlink()
        await asyncio.sleep(0.3)
        socket.touch()
        async with asyncio.timeout(5):
            while restored < expected:
                await asyncio.sleep(0.02)
    await asyncio.sleep(0.6)
    assert restored == 2
    task.cancel()
