"""The agent, as the hub sees it: people, homes, cards, last words, health, over its Unix socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from labdock.core.certificate import Served
from labdock.core.errors import (
    AccountError,
    BadRequestError,
    EngineError,
    HostError,
    LabdockError,
    RefusedError,
)
from labdock.core.gpus import GpuReport
from labdock.core.people import Person

ENDS_PATIENCE_S = 60.0
"""How long the agent lets somebody wait for the next end of a session."""

_PATIENCE_S = 30.0
_PATIENCE_REMOVING_S = 3600.0
"""A large home takes long to delete."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last words of a session: its container's name, how it ended, and when (with a time zone).

    ``exit_code`` is 128 + n for signal n; ``out_of_memory`` says that the kernel ended something in it for
    using more memory than allowed; ``last_lines`` are its last 20 lines of output at most.
    """

    name: str
    exit_code: int
    out_of_memory: bool
    last_lines: tuple[str, ...]
    ended_at: datetime

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"ended_at": self.ended_at.isoformat()}) + "\n"

    @staticmethod
    def from_json(text: str) -> Ended:
        """What ``to_json`` wrote."""
        data = json.loads(text)
        return Ended(
            data["name"],
            data["exit_code"],
            data["out_of_memory"],
            tuple(data["last_lines"]),
            datetime.fromisoformat(data["ended_at"]),
        )


class AgentClient:
    """Asks the agent that listens on *socket_path*; holds nothing open between two calls.

    Every method raises EngineError when the agent does not answer.
    """

    def __init__(self, socket_path: str | Path) -> None:
        self._socket = str(socket_path)

    async def person(self, identity: str, name: str) -> Person:
        """The person with *identity*, registered under *name*, whose home is there.

        Raises:
            AccountError: The name cannot be used, or the identity was removed.
            HostError: The home cannot be made.
        """
        _, data = await self._ask("POST", "/labdock/people", {"identity": identity, "name": name})
        return Person(**data)

    async def people(self) -> tuple[Person, ...]:
        """Everybody registered, in order of uid."""
        _, data = await self._ask("GET", "/labdock/people")
        return tuple(Person(**person) for person in data["people"])

    async def remove_person(self, identity: str, *, delete_home: bool) -> str:
        """Forget *identity*, and delete or set aside the home; where it lies now, empty if nowhere.

        A container of theirs that still runs is ended.

        Raises:
            HostError: The home cannot be moved or deleted.
        """
        body = {"identity": identity, "home": "delete" if delete_home else "keep"}
        _, data = await self._ask("POST", "/labdock/people/remove", body, patience_s=_PATIENCE_REMOVING_S)
        return str(data["home"])

    async def ended(self, container: str) -> Ended | None:
        """How the last session in *container* ended; None if it did not, or nothing is known."""
        status, data = await self._ask("GET", f"/labdock/ended/{quote(container, safe='')}", expected=404)
        return None if status == 404 else Ended.from_json(json.dumps(data))

    async def ends(self, number: int) -> tuple[int, tuple[str, ...]]:
        """The number of the last end, and the containers of sessions that ended after end *number*.

        Waits up to ENDS_PATIENCE_S seconds for one; numbers begin anew when the agent does.
        """
        patience_s = ENDS_PATIENCE_S + _PATIENCE_S
        _, data = await self._ask("GET", f"/labdock/ends?after={number}", patience_s=patience_s)
        return int(data["last"]), tuple(data["containers"])

    async def gpus(self) -> GpuReport:
        """The machine's cards, who holds them, how they are given, and what is wrong with them."""
        _, data = await self._ask("GET", "/labdock/gpus")
        try:
            return GpuReport.from_json(json.dumps(data))
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(
                "The agent tells of GPUs in a way that is not understood.",
                fix="It is of another version: labdock up",
            ) from error

    async def certificate(self) -> Served:
        """What the edge shows to whoever comes.

        Raises:
            HostError: Nothing, or the site has no certificate of its own.
        """
        _, data = await self._ask("GET", "/labdock/certificate")
        return Served.from_json(json.dumps(data))

    async def health(self) -> tuple[str, ...]:
        """What is wrong with the agent's work, a sentence each; empty when all is well."""
        _, data = await self._ask("GET", "/labdock/health", expected=503)
        return tuple(data["problems"])

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, str] | None = None,
        *,
        expected: int | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> tuple[int, Any]:
        """The HTTP status, a good one or the *expected* one, and the JSON value in the answer."""
        timeout = aiohttp.ClientTimeout(total=patience_s)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(self._socket), timeout=timeout
                ) as session,
                session.request(method, f"http://agent{path}", json=body) as response,
            ):
                status, text = response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineError(
                f"The agent does not answer on {self._socket} ({type(error).__name__}).",
                fix="See: labdock logs agent",
            ) from error
        try:
            data = json.loads(text)
            if status >= 400 and status != expected:
                raise _error(data)
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"The agent's answer to {path} makes no sense (HTTP {status}).") from error
        return status, data


def _error(data: dict[str, str]) -> LabdockError:
    """The error that the agent's answer *data* tells of."""
    message, fix = data["message"], data["fix"]
    match data["label"]:
        case BadRequestError.label:
            return BadRequestError(message, field=data["field"], fix=fix)
        case RefusedError.label:
            return RefusedError(message, field=data["field"], fix=fix)
        case AccountError.label:
            return AccountError(message, fix=fix)
        case HostError.label:
            return HostError(message, fix=fix)
        case _:
            return EngineError(message, fix=fix)
