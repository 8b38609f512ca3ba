"""The stock stack: JupyterHub, DockerSpawner, configurable-http-proxy, as jupyterhub-deploy-docker does."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from bench.client import Hub
from bench.stage import LABEL, Stage
from labdock.adapters.build_settings import read_build_settings
from labdock.core.errors import HubError
from labdock.core.image import DEBIAN_RELEASE

READY_TIMEOUT_S = 60.0
_HERE = Path(__file__).parent


class Stock:
    """The stock stack of one run: a hub with its proxy in one container, and a container for each session."""

    def __init__(self, stage: Stage, base: str, socket: Path, http: aiohttp.ClientSession) -> None:
        self._stage = stage
        self._base = base
        self._socket = socket
        self._http = http
        self._name = f"{stage.run}-stock"
        self._token = secrets.token_hex(16)
        version = base.rpartition(":")[2]
        self.hub_image = f"labdock-bench/stock-hub:{version}"
        self.notebook_image = f"labdock-bench/stock-notebook:{version}"
        self.parts = {"hub and proxy": f"{self._name}-hub"}

    async def build(self, on_line: Callable[[str], None]) -> None:
        """Build both images where they are not there yet."""
        config = (_HERE / "jupyterhub_config.py").read_bytes()
        self._stage.own_images(self.hub_image, self.notebook_image)
        arguments = {**read_build_settings(os.environ, DEBIAN_RELEASE).arguments, "BASE": self._base}
        for tag, recipe in ((self.hub_image, "hub"), (self.notebook_image, "notebook")):
            await self._stage.engine.build(
                tag,
                {
                    "Dockerfile": (_HERE / f"{recipe}.Dockerfile").read_bytes(),
                    "jupyterhub_config.py": config,
                },
                arguments=arguments,
                labels={LABEL: "stock"},
                on_line=on_line,
            )

    async def prepare(self, names: Sequence[str]) -> None:
        """Make the network, the hub's volume and everybody's home."""
        await self._stage.make_network(self._name)
        await self._stage.make_volume(f"{self._name}-data")
        for name in names:
            await self._stage.make_volume(f"{self._name}-home-{name}")

    async def start(self, names: Sequence[str], *, raised: bool) -> Hub:
        """A fresh hub with *names* as users; *raised* time-outs let every start finish."""
        await self.stop()
        environment = {
            "BENCH_RUN": self._stage.run,
            "BENCH_LABEL": LABEL,
            "BENCH_NOTEBOOK": self.notebook_image,
            "BENCH_NETWORK": self._name,
            "BENCH_HOMES": f"{self._name}-home-",
            "BENCH_PREFIX": f"{self._name}-session",
            "BENCH_TOKEN": self._token,
            "BENCH_RAISED": "yes" if raised else "",
        }
        await self._stage.run_container(
            self.parts["hub and proxy"],
            {
                "Image": self.hub_image,
                "Hostname": "hub",
                "Env": [f"{key}={value}" for key, value in environment.items()],
                "ExposedPorts": {"8000/tcp": {}},
                "HostConfig": {
                    "NetworkMode": self._name,
                    "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
                    "Mounts": [
                        {"Type": "bind", "Source": str(self._socket), "Target": "/var/run/docker.sock"},
                        {"Type": "volume", "Source": f"{self._name}-data", "Target": "/data"},
                    ],
                },
                "NetworkingConfig": {"EndpointsConfig": {self._name: {"Aliases": ["hub"]}}},
            },
        )
        shown = await self._stage.inspect(self.parts["hub and proxy"])
        port = shown["NetworkSettings"]["Ports"]["8000/tcp"][0]["HostPort"]
        hub = Hub(f"http://127.0.0.1:{port}", self._token, self._http)
        try:
            await hub.wait_until_healthy(timeout_s=READY_TIMEOUT_S)
        except HubError as error:
            lines = await self._stage.engine.last_lines(self.parts["hub and proxy"])
            raise HubError(error.message, details=lines) from error
        await hub.add_users(names)
        return hub

    async def stop(self) -> None:
        """Remove the hub and whatever sessions it had, also those it never brought up."""
        await self._stage.remove_containers(self._stage.labels)

    def session(self, name: str) -> str:
        """The container of *name*'s session."""
        return f"{self._name}-session-{name}"
