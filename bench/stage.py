"""What one run makes on the engine, all under one label, and its removal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiodocker
from aiodocker.exceptions import DockerError

from bench.cgroups import Cgroup, cgroup_of
from labdock.adapters.engine import Engine
from labdock.core.errors import EngineError

LABEL = "org.labdock.bench"


class Stage:
    """The engine for the run called *run*: everything made here carries the run's label."""

    def __init__(self, run: str, engine: Engine, docker: aiodocker.Docker) -> None:
        self.run = run
        self._images: list[str] = []
        self.engine = engine
        self._docker = docker

    @classmethod
    @asynccontextmanager
    async def open(cls, run: str, socket: Path, *, keep_images: bool) -> AsyncIterator[Stage]:
        """The stage of *run*; at the end all with its label goes, and its images unless *keep_images*."""
        async with Engine(socket) as engine, aiodocker.Docker(url=f"unix://{socket}") as docker:
            stage = cls(run, engine, docker)
            try:
                yield stage
            finally:
                await stage.sweep()
                if not keep_images:
                    await stage.remove_images()

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL: self.run}

    async def make_network(self, name: str) -> None:
        await self._docker.networks.create({"Name": name, "Driver": "bridge", "Labels": self.labels})

    async def make_volume(self, name: str) -> None:
        await self._docker.volumes.create({"Name": name, "Labels": self.labels})  # type: ignore[no-untyped-call]  # aiodocker has none

    async def run_container(self, name: str, body: Mapping[str, Any]) -> None:
        """Make and start a container."""
        await self.engine.create(name, {**body, "Labels": self.labels})
        await self.engine.start(name)

    async def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of the container *name*.

        Raises:
            EngineError: There is none.
        """
        shown = await self.engine.inspect(name)
        if shown is None:
            raise EngineError(f"There is no container {name}.")
        return shown

    async def cgroup(self, name: str) -> Cgroup:
        """Where the running container *name* is counted."""
        return cgroup_of((await self.inspect(name))["State"]["Pid"])

    async def remove_containers(self, labels: Mapping[str, str]) -> None:
        """Remove every container with *labels*, running or not, with its nameless volumes."""
        for container in await self.engine.containers(labels):
            await self.engine.remove(container.name)

    def own_images(self, *references: str) -> None:
        """Say that this run makes images called *references*, each after the one it stands on."""
        self._images += references

    async def remove_images(self) -> None:
        """Remove the run's own images."""
        for reference in reversed(self._images):
            with contextlib.suppress(DockerError):  # it was not made yet
                await self._docker.images.delete(reference)

    async def sweep(self) -> None:
        """Remove all that carries the run's label."""
        await self.remove_containers(self.labels)
        filters = {"label": [f"{LABEL}={self.run}"]}
        for network in await self._docker.networks.list(filters=filters):
            await self.engine.remove_network(network["Name"])
        listed = await self._docker._query_json("volumes", params={"filters": json.dumps(filters)})
        for volume in listed.get("Volumes") or ():
            found = await self._docker.volumes.get(volume["Name"])  # type: ignore[no-untyped-call]  # aiodocker has none
            await found.delete()
