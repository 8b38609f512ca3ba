"""One client for both hubs, through JupyterHub's REST API: start, follow to "ready", stop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from bench.figures import Crowd
from labdock.core.errors import HubError, StartError

STOP_TIMEOUT_S = 120.0
GENTLE = 3
"""How many sessions start or stop at the same time where nothing is measured."""


class Hub:
    """The hub that answers at *url*, asked with the token of an administrator."""

    def __init__(self, url: str, token: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._api = f"{url}/hub/api"
        self._headers = {"Authorization": f"token {token}"}
        self._http = http

    async def wait_until_healthy(self, *, timeout_s: float) -> None:
        """Wait until proxy and hub answer.

        Raises:
            HubError: They do not in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                async with self._http.get(f"{self.url}/hub/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # not there yet: that is what this waits for
            await asyncio.sleep(0.2)
        raise HubError(f"The hub at {self.url} does not answer after {timeout_s:.0f} s.")

    async def add_users(self, names: Sequence[str]) -> None:
        """Make *names* known to JupyterHub; those it knows stay."""
        async with self._ask("POST", "/users", {"usernames": list(names)}) as response:
            if response.status not in {201, 409}:
                raise HubError(f"The hub did not add people: {response.status} {await response.text()}")

    async def start(self, name: str, *, limit_s: float, gpus: int = 0) -> float:
        """Start *name*'s session with *gpus* cards; returns the seconds from the request to "ready".

        Raises:
            StartError: It failed, or was not ready within *limit_s* seconds.
        """
        begun = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                async with self._ask(
                    "POST", f"/users/{name}/server", {"gpus": gpus} if gpus else {}
                ) as response:
                    if response.status >= 400:
                        raise StartError(f"{name}: {response.status} {(await response.text())[:300]}")
                    ready = response.status == 201
                if not ready:
                    await self._follow(name)
        except TimeoutError as error:
            raise StartError(f"{name} is not ready after {limit_s:.0f} s.") from error
        return time.monotonic() - begun

    async def ask_for_a_gpu(self, name: str) -> tuple[int, float]:
        """Ask to start *name*'s session with a card: the answer's status, and the seconds until it came."""
        begun = time.monotonic()
        async with self._ask("POST", f"/users/{name}/server", {"gpus": 1}) as response:
            await response.read()
            return response.status, time.monotonic() - begun

    async def start_at_once(self, names: Sequence[str], *, limit_s: float) -> Crowd:
        """Start the sessions of all *names* in the same moment, and wait for each until *limit_s*."""

        async def one(name: str) -> float | None:
            try:
                return await self.start(name, limit_s=limit_s)
            except (StartError, HubError):
                return None  # one of a crowd that did not get ready is a result, and is counted

        return Crowd(len(names), tuple(await asyncio.gather(*map(one, names))), limit_s)

    async def start_gently(self, names: Sequence[str], *, limit_s: float) -> None:
        """Bring up those of *names* that do not run, a few at a time.

        Raises:
            StartError: One failed.
        """
        running = await self.running()
        gate = asyncio.Semaphore(GENTLE)

        async def one(name: str) -> None:
            async with gate:
                await self.start(name, limit_s=limit_s)

        await _all(one(name) for name in names if name not in running)

    async def stop(self, name: str) -> None:
        """Stop *name*'s session and wait until the hub says it is gone.

        Raises:
            HubError: It still runs after two minutes.
        """
        async with self._ask("DELETE", f"/users/{name}/server") as response:
            if response.status >= 400:
                raise HubError(f"{name} does not stop: {response.status} {(await response.text())[:300]}")
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            async with self._ask("GET", f"/users/{name}") as response:
                if not (await response.json()).get("servers"):
                    return
            await asyncio.sleep(0.1)
        raise HubError(f"{name}'s session still runs {STOP_TIMEOUT_S:.0f} s after it was told to stop.")

    async def stop_all(self) -> None:
        """Stop every session, a few at a time."""
        gate = asyncio.Semaphore(GENTLE)

        async def one(name: str) -> None:
            async with gate:
                await self.stop(name)

        await _all(one(name) for name in await self.running())

    async def running(self) -> frozenset[str]:
        """Who has a session."""
        async with self._ask("GET", "/users?state=active") as response:
            return frozenset(user["name"] for user in await response.json())

    async def _follow(self, name: str) -> None:
        async with self._ask("GET", f"/users/{name}/server/progress") as response:
            if response.status >= 400:
                raise StartError(f"{name}: {response.status} {(await response.text())[:300]}")
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if event.get("ready"):
                    return
                if event.get("failed"):
                    raise StartError(f"{name}: {event.get('message', 'the start failed')}")
        raise StartError(f"{name}: the hub ended its report before the session was ready.")

    @asynccontextmanager
    async def _ask(self, method: str, path: str, body: Any = None) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._http.request(
                method, self._api + path, json=body, headers=self._headers
            ) as response:
                yield response
        except aiohttp.ClientError as error:
            raise HubError(f"The hub at {self.url} does not answer ({error!r}).") from error


async def _all(works: Any) -> None:
    """Do all *works*; when one fails, end the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except* (StartError, HubError) as errors:
        raise errors.exceptions[0] from None
