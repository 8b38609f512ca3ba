"""An agent in memory that tells of GPUs, for the commands that ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from labdock.core.gpus import Driver, DriverFile, GpuReport, Lease, Node, Way
from tests.core.gpu_builders import inventory, lease

DRIVER = Driver(
    version="570.86.15",
    cuda=(12, 8),
    files=(DriverFile("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),),
    nodes=(Node("/dev/nvidiactl", "/dev/null", 195, 255),),
    library_dir="/usr/lib/x86_64-linux-gnu",
)


def report(*leases: Lease, cards: tuple[float, ...] = (80, 80)) -> GpuReport:
    """Two H100 of 80 GiB, or *cards*, with *leases* on them."""
    return GpuReport(replace(inventory(*cards), driver=DRIVER), leases, Way.DEVICES)


class FakeAgent:
    """Answers ``GET /labdock/gpus`` with ``report``."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.report = report(lease("GPU-0"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeAgent]:
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        app = web.Application()
        app.router.add_get("/labdock/gpus", self._gpus)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        yield self
        await runner.cleanup()

    async def _gpus(self, request: web.Request) -> web.Response:
        return web.Response(text=self.report.to_json(), content_type="application/json")
