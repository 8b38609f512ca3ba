"""The Docker engine's own socket: the agent alone holds it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from labdock.core.errors import EngineError
from labdock.core.injection import EngineAbilities

LAST_LINES = 20
_LINE_MAX_CHARACTERS = 1000
_LOG_MAX_BYTES = 128 * 1024
_API = "/v1.41"

# Docker answers within seconds; an answer may still take minutes on a machine that swaps.
_PATIENCE = aiohttp.ClientTimeout(total=300, sock_connect=10)
_ENDLESS = aiohttp.ClientTimeout(total=None, sock_connect=10)


@dataclass(frozen=True, slots=True)
class Container:
    """What the agent wants to know of a container; ``raw`` is the engine's whole answer as it came.

    ``state`` is the engine's word (created, running, exited …); times are RFC 3339 as the engine gives them.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    state: str
    exit_code: int
    out_of_memory: bool
    created: str
    finished: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Listed:
    """A container in a list: its name, its labels, and when it was made (Unix time, in s)."""

    name: str
    labels: Mapping[str, str]
    created_s: float


class Engine:
    """The engine that listens on *socket_path*. Use as an asynchronous context.

    Methods raise EngineError when it cannot be reached or answers with an error.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket = socket_path
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Engine:
        # No limit: somebody's slow stop must not make others wait for a connection.
        connector = aiohttp.UnixConnector(self._socket, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_PATIENCE)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: tuple[tuple[str, str], ...] = (),
        body: object = None,
        patience: aiohttp.ClientTimeout = _PATIENCE,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The engine's answer to one call, whatever its status; *path* with its version prefix."""
        if self._session is None:
            raise RuntimeError("the engine is used outside of its context")
        try:
            async with self._session.request(
                method, f"http://engine{path}", params=query, json=body, timeout=patience
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineError(
                f"The Docker engine does not answer on {self._socket} ({type(error).__name__}).",
                fix="Is Docker running? Try: docker version",
            ) from error

    async def inspect(self, container: str) -> Container | None:
        """The container with that name or id; None if there is none."""
        async with self.request("GET", f"{_API}/containers/{container}/json") as response:
            if response.status == 404:
                return None
            raw = await _content(response)
        data = json.loads(raw)
        state = data["State"]
        return Container(
            id=data["Id"],
            name=data["Name"].removeprefix("/"),
            labels=data["Config"]["Labels"] or {},
            state=state["Status"],
            exit_code=state["ExitCode"],
            out_of_memory=state["OOMKilled"],
            created=data["Created"],
            finished=state["FinishedAt"],
            raw=raw,
        )

    async def find(self, labels: tuple[str, ...], states: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The ids of containers with all of *labels* (``key=value``), in one of *states* if given."""
        filters = {"label": labels, **({"status": states} if states else {})}
        query = (("all", "1"), ("filters", json.dumps(filters)))
        async with self.request("GET", f"{_API}/containers/json", query=query) as response:
            raw = await _content(response)
        return tuple(item["Id"] for item in json.loads(raw))

    async def labelled(self, label: str) -> tuple[Listed, ...]:
        """Every container that has *label*, whatever its value and whatever the container's state."""
        query = (("all", "1"), ("filters", json.dumps({"label": [label]})))
        async with self.request("GET", f"{_API}/containers/json", query=query) as response:
            raw = await _content(response)
        return tuple(
            # One that is just being made or removed may have no name.
            Listed((item["Names"] or [item["Id"]])[0].removeprefix("/"), item["Labels"], item["Created"])
            for item in json.loads(raw)
        )

    async def abilities(self) -> EngineAbilities:
        """What the engine can do for GPUs."""
        # Without a version: under the oldest, a newer engine leaves out what it had not yet then.
        async with self.request("GET", "/info") as response:
            data = json.loads(await _content(response))
        return EngineAbilities(
            runtimes=tuple(data.get("Runtimes") or ()), cdi_dirs=tuple(data.get("CDISpecDirs") or ())
        )

    async def last_lines(self, container: str) -> tuple[str, ...] | None:
        """The last 20 lines that *container* printed, as ``plain_lines``; None if it is gone or going."""
        query = (("stdout", "1"), ("stderr", "1"), ("tail", str(LAST_LINES)))
        async with self.request("GET", f"{_API}/containers/{container}/logs", query=query) as response:
            if response.status in (404, 409):
                return None
            if response.status >= 400:
                await _content(response)
            tail = await _last_output(response.content)
        return plain_lines(tail)

    async def remove(self, container: str, *, running: bool = False) -> None:
        """Remove *container* if it has stopped; fine when it is gone or somebody else is removing it.

        With *running* also one that runs; otherwise one that runs again by then stays.
        """
        # With the volumes that its image declared: nobody else has them, and nobody would remove them.
        query = (("v", "1"), *((("force", "1"),) if running else ()))
        async with self.request("DELETE", f"{_API}/containers/{container}", query=query) as response:
            if response.status not in (404, 409):
                await _content(response)

    async def stops(self, labels: tuple[str, ...], for_s: float) -> AsyncGenerator[tuple[str, str] | None]:
        """Id and name of each container with all of *labels* that stops, for *for_s* seconds.

        Yields None first, once the engine listens: no stop after that is missed.
        """
        filters = {"type": ["container"], "event": ["die"], "label": labels}
        query = (("filters", json.dumps(filters)), ("until", str(int(time.time() + for_s))))
        async with self.request("GET", f"{_API}/events", query=query, patience=_ENDLESS) as response:
            if response.status >= 400:
                await _content(response)
            yield None
            async for line in response.content:
                actor = json.loads(line)["Actor"]
                yield actor["ID"], actor["Attributes"].get("name", "")


async def _content(response: aiohttp.ClientResponse) -> bytes:
    raw = await response.read()
    if response.status >= 400:
        raise EngineError(
            f"The Docker engine refused {response.method} {response.url.path} (HTTP {response.status}).",
            details=plain_lines(raw),
        )
    return raw


async def _last_output(stream: aiohttp.StreamReader) -> bytes:
    """The end of what a container printed; the engine frames it: 8 bytes, the last 4 of them the size."""
    tail = b""
    while header := await stream.read(8):
        if len(header) < 8:
            header += await stream.readexactly(8 - len(header))
        tail = (tail + await stream.readexactly(int.from_bytes(header[4:])))[-_LOG_MAX_BYTES:]
    return tail


def plain_lines(output: bytes) -> tuple[str, ...]:
    """The last 20 lines of *output*, 1000 characters of each, without control characters."""
    lines = output.decode("utf-8", errors="replace").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(
        "".join(char if char.isprintable() else " " for char in line.rstrip())[:_LINE_MAX_CHARACTERS]
        for line in lines[-LAST_LINES:]
    )
