"""What the agent answers on its socket: the guarded engine; people, cards, last words, health of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from labdock.adapters.agent_api import ENDS_PATIENCE_S
from labdock.adapters.homes import Homes
from labdock.agent.certificates import CertificateKeeper
from labdock.agent.ends import Ends
from labdock.agent.engine import Container, Engine
from labdock.agent.gpus import GpuKeeper
from labdock.agent.guard import (
    Call,
    Images,
    check_create,
    check_person,
    is_session,
    parse_call,
    parse_json,
    session_filter,
)
from labdock.agent.last_words import LastWords
from labdock.core.errors import (
    AccountError,
    BadRequestError,
    EngineError,
    HostError,
    LabdockError,
    RefusedError,
)
from labdock.core.gpus import LABEL_GPUS
from labdock.core.session import LABEL_IDENTITY
from labdock.core.site import AgentRules

log = logging.getLogger(__name__)

_OWN = "/labdock/"
_ENDED = re.compile(r"/labdock/ended/(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})")
_ENDS = re.compile(r"/labdock/ends\?after=(?P<number>[0-9]{1,15})")
_IDENTITY = re.compile(r"[!-~]{1,200}")

_STATUS: tuple[tuple[type[LabdockError], int], ...] = (
    (BadRequestError, 400),
    (RefusedError, 403),
    (AccountError, 409),
    (HostError, 500),
    (EngineError, 502),
)


class AgentServer:
    """Handles one request at a time for each connection; ``handle`` is what aiohttp's low-level server calls.

    There is no router: a path is compared as it came, and what is in no table is refused.
    """

    def __init__(
        self,
        rules: AgentRules,
        homes: Homes,
        engine: Engine,
        last_words: LastWords,
        ends: Ends,
        gpus: GpuKeeper,
        images: Callable[[], Images],
        problems: Callable[[], tuple[str, ...]],
        certificate: CertificateKeeper,
    ) -> None:
        self._rules = rules
        self._homes = homes
        self._engine = engine
        self._last_words = last_words
        self._ends = ends
        self._gpus = gpus
        self._images = images
        self._problems = problems
        self._certificate = certificate
        # From reading what is there to making the container that adds to it.
        self._creating = asyncio.Lock()
        # The same for cards; apart, since a driver may take long, and who wants none must not wait for it.
        self._lending = asyncio.Lock()
        self._people = asyncio.Lock()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to *request*; every error of ours becomes JSON with message, fix, field and label."""
        path = request.raw_path.partition("?")[0]
        try:
            if path.startswith(_OWN):
                return await self._own(request)
            call = parse_call(request.method, request.raw_path, self._rules, self._images)
            return await self._guarded(call, request)
        except web.HTTPRequestEntityTooLarge:
            error: LabdockError = BadRequestError("The body is larger than 1 MiB.", field="body")
            log.warning("refused %s %s to %s: %s", request.method, path[:200], _caller(request), error)
            return _error(error, 413)
        except RefusedError as error:
            log.warning("refused %s %s to %s: %s", request.method, path[:200], _caller(request), error)
            return _error(error, 403)
        except LabdockError as error:
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            log.warning("%s %s failed: %s", request.method, path[:200], error)
            return _error(error, status)

    async def _guarded(self, call: Call, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        if call.name == "create":
            return await self._create(call, body)
        if body:
            raise RefusedError("body: this call has none.", field="body")
        if not call.path.startswith("/containers/{}"):
            return await self._pass(call, call.target)
        container = await self._session(call.target)
        if container is None:
            return _json({"message": f"No such container: {call.target}"}, 404)
        if call.name == "inspect":
            return web.Response(body=container.raw, content_type="application/json")
        # By the id that was looked at: a name or the beginning of an id may mean another one by now.
        response = await self._pass(call, container.id)
        if call.method != "GET":
            log.info("session %s: %s, HTTP %d", container.name, call.name, response.status)
        return response

    async def _create(self, call: Call, body: bytes) -> web.Response:
        wanted = parse_json(body, "body")
        checked = check_create(wanted, dict(call.query), self._rules, self._homes.registry, self._images())
        if LABEL_GPUS not in checked["Labels"]:
            return await self._make(call, checked)
        async with self._lending, self._gpus.alone():
            return await self._make(call, await self._gpus.with_cards(checked))

    async def _make(self, call: Call, body: Mapping[str, Any]) -> web.Response:
        async with self._creating:
            # Somebody may have been removed meanwhile.
            check_person(body["Labels"], self._homes.registry)
            response = await self._pass(call, "", body)
        name = dict(call.query)["name"]
        if response.status == 201:
            self._last_words.drop(name)
        cards = body["Labels"].get(LABEL_GPUS, "none")
        log.info("session %s: create with cards: %s, HTTP %d", name, cards, response.status)
        return response

    async def _session(self, target: str) -> Container | None:
        """The container *target*, which the engine knows as a session of ours; None if there is none."""
        container = await self._engine.inspect(target)
        if container is not None and not is_session(container.labels, self._rules.instance):
            raise RefusedError("container: is no session of this instance.", field="container")
        return container

    async def _pass(self, call: Call, target: str, body: Mapping[str, object] | None = None) -> web.Response:
        """The engine's answer to the checked *call* on *target*, as it came."""
        path = call.version + call.path.replace("{}", target)
        async with self._engine.request(call.method, path, query=call.query, body=body) as answer:
            content = await answer.read()
        headers = {
            key: answer.headers[key] for key in ("Content-Type", "Api-Version") if key in answer.headers
        }
        return web.Response(status=answer.status, body=content, headers=headers)

    async def _own(self, request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            return await self._tell(request.raw_path)
        match request.method, request.raw_path:
            case "POST", "/labdock/people":
                return await self._add_person(await request.read())
            case "POST", "/labdock/people/remove":
                return await self._remove_person(await request.read())
        raise RefusedError("The agent answers no such call.", field="path")

    async def _tell(self, target: str) -> web.Response:
        ended = _ENDED.fullmatch(target)
        if ended is not None:
            return self._ended(ended["name"])
        after = _ENDS.fullmatch(target)
        if after is not None:
            last, names = await self._ends.after(int(after["number"]), patience_s=ENDS_PATIENCE_S)
            return _json({"last": last, "containers": names})
        match target:
            case "/labdock/health":
                problems = self._problems()
                return _json({"ok": not problems, "problems": problems}, 503 if problems else 200)
            case "/labdock/people":
                return _json({"people": [asdict(person) for person in self._homes.registry.current()]})
            case "/labdock/certificate":
                served = await self._certificate.served()
                return web.Response(text=served.to_json(), content_type="application/json")
            case "/labdock/gpus":
                report = await self._gpus.report()
                return web.Response(text=report.to_json(), content_type="application/json")
        raise RefusedError("The agent answers no such call.", field="path")

    def _ended(self, name: str) -> web.Response:
        ended = self._last_words.read(name)
        if ended is None:
            return _json({"message": f"Nothing is known of the end of {name}."}, 404)
        return web.Response(text=ended.to_json(), content_type="application/json")

    async def _add_person(self, body: bytes) -> web.Response:
        fields = _texts(body, "identity", "name")
        identity = _identity(fields["identity"])
        async with self._people:
            known = self._homes.registry.find(identity)
            person = await asyncio.to_thread(self._homes.add, identity, fields["name"])
        if person != known:
            log.info("person %s (%s): registered with uid %d", person.name, identity, person.uid)
        return _json(asdict(person))

    async def _remove_person(self, body: bytes) -> web.Response:
        fields = _texts(body, "identity", "home")
        identity = _identity(fields["identity"])
        if fields["home"] not in ("keep", "delete"):
            raise BadRequestError("The home can be kept or deleted.", field="home", fix="Say keep or delete.")
        # No container may be made between looking for one and forgetting the person.
        async with self._creating, self._people:
            labels = (*session_filter(self._rules.instance), f"{LABEL_IDENTITY}={identity}")
            # The hub has stopped what it knew of; what is left it lost sight of.
            for container in await self._engine.find(labels):
                log.warning("person %s: container %s is removed with them", identity, container[:12])
                await self._engine.remove(container, running=True)
            aside = await asyncio.to_thread(self._homes.remove, identity)
        if aside is not None and fields["home"] == "delete":
            await asyncio.to_thread(self._homes.delete, aside)
            aside = None
        log.info("person %s: removed, home %s", identity, aside or "deleted or never made")
        return _json({"home": str(aside or "")})


def _texts(body: bytes, *keys: str) -> dict[str, str]:
    """The texts at *keys* in the JSON object *body*, which has no other key.

    Raises:
        BadRequestError: With the field that is wrong.
    """
    try:
        data = parse_json(body, "body")
    except RefusedError as error:
        raise BadRequestError("The body is not JSON.", field="body") from error
    if not isinstance(data, dict):
        raise BadRequestError("The body is no object.", field="body")
    for key in data:
        if key not in keys:
            raise BadRequestError(
                f"Unknown field {key[:60]!r}.", field=key[:60], fix=f"Known: {', '.join(keys)}."
            )
    for key in keys:
        if not isinstance(data.get(key), str):
            raise BadRequestError(f"The field {key} must be text.", field=key)
    return data


def _identity(text: str) -> str:
    if not _IDENTITY.fullmatch(text):
        raise BadRequestError(
            "An identity is 1 to 200 characters of ASCII without a blank.", field="identity"
        )
    return text


def _json(data: object, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(data) + "\n", status=status, content_type="application/json")


def _error(error: LabdockError, status: int) -> web.Response:
    field = error.field if isinstance(error, (BadRequestError, RefusedError)) else ""
    return _json({"message": error.message, "fix": error.fix, "field": field, "label": error.label}, status)


def _caller(request: web.BaseRequest) -> str:
    """The process at the other end of the socket, as the kernel knows it."""
    connection = request.get_extra_info("socket")
    if connection is None:
        return "a caller that has gone"
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"uid {uid} pid {pid}"
