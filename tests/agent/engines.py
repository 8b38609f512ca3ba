"""Docker engines for the agent's tests: one of our own in memory, and a real one, mostly the machine's."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import secrets
import socket
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Protocol, Self
from urllib.parse import quote

from aiohttp import web

from labdock.agent.guard import Images
from labdock.core.gpus import LABEL_GPUS
from labdock.core.session import LABEL_INSTANCE, Limits
from labdock.core.site import AgentRules
from tests.agent.builders import IMAGES, agent_rules
from tests.stack import PREFIX

DOCKER_SOCKET = "/var/run/docker.sock"

SESSION_PROGRAM = b"""#!/bin/sh
echo "hello from $(id -u)"
[ -z "$JUPYTER_TEST_EXIT" ] || { echo "no such file" >&2; exit "$JUPYTER_TEST_EXIT"; }
exec sleep 1000
"""
"""What runs as ``labdock-session`` in these tests: it ends at once when told to, or sleeps."""

FIRST_PROCESS = b"""#!/bin/sh
[ "$1 $2" = "-g --" ] || exit 64
shift 2
"$@" &
child=$!
trap 'kill "$child"' TERM INT
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
exit "$code"
"""
"""Stands in for tini, which the base image lacks: passes signals on, and ends with its child's exit code."""


class EngineUnderTest(Protocol):
    """An engine to put the agent in front of, seen from behind the agent."""

    socket: str
    images: Images

    def rules(self, root: Path) -> AgentRules:
        """Rules that this engine can fulfil."""

    def add_stranger(self) -> str:
        """The id of a new container that is no session."""

    def containers(self) -> list[str]:
        """The names of the sessions that are there, running or not."""

    def add_holder(self, cards: str) -> str:
        """The id of a new container that somebody made by hand, labelled as holding *cards*."""

    def remove(self, container: str) -> None:
        """Remove *container* behind the agent's back, as an administrator does."""

    def body(self, container: str) -> dict[str, Any]:
        """What *container* was made of, as the engine shows it: Config's fields and HostConfig."""


def _has(labels: dict[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return labels.get(key) == value if equals else key in labels


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class FakeContainer:
    id: str
    name: str
    body: dict[str, Any]
    created: str = field(default_factory=now)
    state: str = "created"
    exit_code: int = 0
    out_of_memory: bool = False
    finished: str = "0001-01-01T00:00:00Z"
    output: list[bytes] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Created": self.created,
            "Config": {**self.body, "Tty": False},
            "State": {
                "Status": self.state,
                "ExitCode": self.exit_code,
                "OOMKilled": self.out_of_memory,
                "FinishedAt": self.finished,
            },
        }


class FakeEngine:
    """As much of a Docker engine as the agent's calls need; what reaches it is in ``calls``."""

    def __init__(self, socket_path: str) -> None:
        self.socket = socket_path
        self.images: Images = IMAGES
        self.by_id: dict[str, FakeContainer] = {}
        self.calls: list[str] = []
        self.questions: list[str] = []
        self.volumes_kept: list[str] = []
        self.listeners: list[asyncio.Queue[str | None]] = []
        self.hold: dict[str, asyncio.Event] = {}
        self.abilities: dict[str, Any] = {"Runtimes": {"runc": {}}}

    def rules(self, root: Path) -> AgentRules:
        return agent_rules(root)

    def add_stranger(self) -> str:
        return self.add("postgres", {"Labels": {}, "Env": []}).id

    def containers(self) -> list[str]:
        return [one.name for one in self.by_id.values() if LABEL_INSTANCE in one.body["Labels"]]

    def add_holder(self, cards: str) -> str:
        return self.add("by-hand", {"Labels": {LABEL_GPUS: cards}, "Env": []}).id

    def remove(self, container: str) -> None:
        del self.by_id[self._named(container).id]

    def body(self, container: str) -> dict[str, Any]:
        return self._named(container).body

    def add(self, name: str, body: dict[str, Any]) -> FakeContainer:
        made = FakeContainer(secrets.token_hex(32), name, body)
        self.by_id[made.id] = made
        return made

    def end(self, container: FakeContainer, exit_code: int, *, quietly: bool = False) -> None:
        """Let *container* stop; *quietly* as if nobody listened to the engine."""
        container.state, container.exit_code, container.finished = "exited", exit_code, now()
        for listener in [] if quietly else self.listeners:
            listener.put_nowait(container.id)

    def hang_up(self) -> None:
        """End all streams of events, as a restart of the engine does."""
        for listener in self.listeners:
            listener.put_nowait(None)

    def app(self) -> web.Application:
        """The calls that are understood."""
        app = web.Application()
        versioned = "/v{version}"
        app.router.add_get("/_ping", self._ping)
        app.router.add_get("/version", self._version)
        app.router.add_get("/info", self._abilities)
        app.router.add_get(f"{versioned}/version", self._version)
        app.router.add_post(f"{versioned}/containers/create", self._create)
        app.router.add_get(f"{versioned}/containers/json", self._list)
        app.router.add_get(f"{versioned}/containers/{{id}}/json", self._inspect)
        app.router.add_get(f"{versioned}/containers/{{id}}/logs", self._logs)
        app.router.add_post(f"{versioned}/containers/{{id}}/start", self._start)
        app.router.add_post(f"{versioned}/containers/{{id}}/stop", self._stop)
        app.router.add_delete(f"{versioned}/containers/{{id}}", self._delete)
        app.router.add_get(f"{versioned}/images/{{name:.+}}/json", self._image)
        app.router.add_get(f"{versioned}/events", self._events)
        return app

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeEngine]:
        runner = web.AppRunner(self.app(), shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, self.socket).start()
        try:
            yield self
        finally:
            self.hang_up()
            await runner.cleanup()

    def _named(self, wanted: str) -> FakeContainer:
        return next(one for one in self.by_id.values() if one.id.startswith(wanted) or one.name == wanted)

    def _find(self, request: web.Request) -> FakeContainer:
        try:
            return self._named(request.match_info["id"])
        except StopIteration:
            raise web.HTTPNotFound(text=json.dumps({"message": "No such container"})) from None

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="OK", headers={"Api-Version": "1.41"})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"Version": "20.10.24", "ApiVersion": "1.41"})

    async def _abilities(self, request: web.Request) -> web.Response:
        return web.json_response(self.abilities)

    async def _image(self, request: web.Request) -> web.Response:
        return web.json_response({"RepoTags": [request.match_info["name"]]})

    async def _create(self, request: web.Request) -> web.Response:
        self.calls.append("create")
        name = request.query["name"]
        if any(one.name == name for one in self.by_id.values()):
            return web.json_response({"message": "Conflict"}, status=409)
        made = self.add(name, await request.json())
        return web.json_response({"Id": made.id, "Warnings": []}, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        self.questions.append("list")
        filters = json.loads(request.query.get("filters", "{}"))
        found = [
            {
                "Id": one.id,
                "Names": [f"/{one.name}"],
                "Labels": one.body["Labels"],
                "State": one.state,
                "Created": int(datetime.fromisoformat(one.created).timestamp()),
            }
            for one in self.by_id.values()
            if all(_has(one.body["Labels"], wanted) for wanted in filters["label"])
            and one.state in filters.get("status", [one.state])
            and (one.state == "running" or request.query.get("all") == "1")
        ]
        return web.json_response(found)

    async def _inspect(self, request: web.Request) -> web.Response:
        self.questions.append("inspect")
        return web.json_response(self._find(request).shown())

    async def _logs(self, request: web.Request) -> web.Response:
        lines = self._find(request).output[-int(request.query.get("tail", 0)) :]
        frames = [b"\1\0\0\0" + len(line).to_bytes(4) + line for line in lines]
        return web.Response(body=b"".join(frames), content_type="application/octet-stream")

    async def _start(self, request: web.Request) -> web.Response:
        one = self._find(request)
        one.state = "running"
        one.output.append(f"hello from {one.body['User'].split(':')[0]}\n".encode())
        code = dict(item.split("=", 1) for item in one.body["Env"]).get("JUPYTER_TEST_EXIT")
        if code is not None:
            one.output.append(b"no such file\n")
            self.end(one, int(code))
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        one = self._find(request)
        if one.name in self.hold:
            await self.hold[one.name].wait()
        self.end(one, 137)
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        one = self._find(request)
        if one.state == "running" and request.query.get("force") != "1":
            return web.json_response({"message": "is running"}, status=409)
        if request.query.get("v") != "1":
            self.volumes_kept.append(one.name)
        del self.by_id[one.id]
        return web.Response(status=204)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.listeners.append(queue)
        try:
            while (container := await queue.get()) is not None:
                known = self.by_id.get(container)
                actor = {"ID": container, "Attributes": {"name": known.name if known else ""}}
                event = {"Type": "container", "Action": "die", "Actor": actor}
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self.listeners.remove(queue)
        return response


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(120)
        self.sock.connect(self._path)


def docker(
    method: str, path: str, body: object = None, *, raw: bytes | None = None, socket_path: str = DOCKER_SOCKET
) -> Any:
    """The answer to a call of the engine at *socket_path*, the machine's: JSON, or bytes where it is none.

    Raises:
        RuntimeError: It answers with an error.
    """
    connection = _UnixConnection(socket_path)
    try:
        kind = "application/json" if raw is None else "application/x-tar"
        content = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        connection.request(method, f"/v1.41{path}", content, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise RuntimeError(f"{method} {path}: {response.status} {answer.decode(errors='replace')}")
    if response.headers.get("Content-Type") == "application/json" and answer and raw is None:
        return json.loads(answer)
    return answer


def build_session_image(base: str, tag: str, *lines: str) -> None:
    """Make the image *tag*: *base* with what a session runs, and further *lines* of its Dockerfile."""
    recipe = (f"FROM {base}", "COPY labdock-session tini /usr/local/bin/", *lines, "")
    files = {
        "Dockerfile": "\n".join(recipe).encode(),
        "labdock-session": SESSION_PROGRAM,
        "tini": FIRST_PROCESS,
    }
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            tar.addfile(info, io.BytesIO(content))
    docker("POST", f"/build?t={quote(tag)}&forcerm=1", raw=context.getvalue())


class RealEngine:
    """The machine's engine, with an instance and a network of this test's own; nothing stays behind.

    Or the engine at *socket_path*, with whatever *network* its sessions are to be in.
    """

    def __init__(
        self,
        image: str,
        *,
        bridge: str | None = None,
        subnet: str | None = None,
        socket_path: str = DOCKER_SOCKET,
        network: str | None = None,
    ) -> None:
        self.socket = socket_path
        self.ask = partial(docker, socket_path=socket_path)
        self.image = image
        self.images: Images = {"cpu": (image,)}
        # Named after the process: the next run removes what a killed one left.
        suffix = "".join(secrets.choice(ascii_lowercase) for _ in range(5))
        self.instance = f"{PREFIX}{os.getpid()}{suffix}"
        self._makes_network = network is None
        self.network = network or f"{self.instance}-sessions"
        self.bridge = bridge or f"ld-{secrets.token_hex(4)}"
        self.subnet = subnet

    @contextmanager
    def running(self) -> Iterator[Self]:
        if self._makes_network:
            self.ask(
                "POST",
                "/networks/create",
                {
                    "Name": self.network,
                    "Options": {
                        "com.docker.network.bridge.name": self.bridge,
                        "com.docker.network.bridge.enable_icc": "false",
                    },
                    "IPAM": {"Config": [{"Subnet": self.subnet}] if self.subnet else []},
                },
            )
        try:
            yield self
        finally:
            for one in self._listed():
                self.ask("DELETE", f"/containers/{one['Id']}?force=1")
            if self._makes_network:
                self.ask("DELETE", f"/networks/{self.network}")

    def rules(self, root: Path) -> AgentRules:
        return agent_rules(
            root,
            instance=self.instance,
            limits=Limits(cpus=1.0, memory_bytes=2**28, shm_bytes=2**20, pids=64),
            network=self.network,
            bridge=self.bridge,
            managed_shared=("datasets", "models", "scratch"),
        )

    def add_stranger(self) -> str:
        return self.add({"Cmd": ["sleep", "1000"]})

    def add_holder(self, cards: str) -> str:
        return self.add({"Cmd": ["sleep", "1000"], "Labels": {LABEL_GPUS: cards}})

    def remove(self, container: str) -> None:
        self.ask("DELETE", f"/containers/{container}?force=1")

    def body(self, container: str) -> dict[str, Any]:
        shown = self.ask("GET", f"/containers/{container}/json")
        return {**shown["Config"], "HostConfig": shown["HostConfig"]}

    def run(self, container: str, *command: str, user: str = "", privileged: bool = False) -> str:
        """What *command* prints in the running *container*, as the session's user or as *user*."""
        wanted = {"Cmd": command, "Tty": True, "AttachStdout": True, "AttachStderr": True}
        made = self.ask(
            "POST", f"/containers/{container}/exec", {**wanted, "User": user, "Privileged": privileged}
        )
        output = self.ask("POST", f"/exec/{made['Id']}/start", {"Tty": True, "Detach": False})
        return bytes(output).decode().replace("\r\n", "\n")

    def add(self, body: dict[str, Any], name: str = "") -> str:
        """The id of a new container of *body*, marked as this test's and as no session."""
        labels = {LABEL_INSTANCE: self.instance, "org.labdock.role": "part"} | body.pop("Labels", {})
        query = f"?name={name}" if name else ""
        made = self.ask("POST", f"/containers/create{query}", {"Image": self.image, "Labels": labels} | body)
        return str(made["Id"])

    def containers(self) -> list[str]:
        return [
            one["Names"][0][1:] for one in self._listed() if one["Labels"]["org.labdock.role"] == "session"
        ]

    def _listed(self) -> list[dict[str, Any]]:
        filters = quote(json.dumps({"label": [f"{LABEL_INSTANCE}={self.instance}"]}))
        listed: list[dict[str, Any]] = self.ask("GET", f"/containers/json?all=1&filters={filters}")
        return listed
