"""The proxy is let in with its routes, or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

from labdock.hub.routes import admit_proxy


async def test_a_proxy_is_let_in_each_time_it_comes_and_only_with_its_routes(tmp_path: Path) -> None:
    waiting, admitted = tmp_path / "waiting.sock", tmp_path / "proxy.sock"
    restored = 0
    failures = 2

    async def restore() -> None:
        nonlocal restored, failures
        assert waiting.exists()
        if failures:
            failures -= 1
            raise ConnectionRefusedError
        restored += 1

    task = asyncio.create_task(admit_proxy(waiting, admitted, restore))
    await asyncio.sleep(0.3)
    assert not admitted.exists()
    for expected in (1, 2):
        waiting.write_text(f"proxy {expected}")
        async with asyncio.timeout(5):
            while waiting.exists():
                await asyncio.sleep(0.02)
        assert admitted.read_text() == f"proxy {expected}"
        assert restored == expected
    task.cancel()
