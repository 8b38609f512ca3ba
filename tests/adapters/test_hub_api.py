"""The command line's way to the hub, with a small web server at the other end."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from labdock.adapters.hub_api import HubApi
from labdock.core.errors import HubError

TOKEN = "s3cret"


class FakeHub:
    """Answers what it is told to, and remembers what it was asked: method, path with query, token, body."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str, str, Any]] = []
        self.answer: Any = {}
        self.status = 200
        self.healthy = True

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append((request.method, request.raw_path, request.headers["Authorization"], body))
        answer = self.answer if isinstance(self.answer, str) else json.dumps(self.answer)
        return web.Response(text=answer, status=self.status)

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    fake = FakeHub()
    app = web.Application()
    app.router.add_get("/hub/health", fake.health)
    app.router.add_route("*", "/hub/api/labdock/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


async def ask(hub: FakeHub, call: Callable[[HubApi], Any]) -> Any:
    """What *call* says; in a thread, since it waits and the hub is in this one."""
    return await asyncio.to_thread(call, HubApi(f"{hub.url}/", TOKEN))


@pytest.mark.parametrize(
    ("call", "answer", "asked"),
    [
        (lambda api: api.users(), [{"name": "ada"}], ("GET", "users", None)),
        (
            lambda api: api.add_user("ada", admin=True),
            {"name": "ada", "link": "x"},
            ("POST", "users", {"name": "ada", "admin": True}),
        ),
        (lambda api: api.reset_user("a.b"), {"link": "x"}, ("POST", "users/a.b/reset", {})),
        (lambda api: api.reset_user("a/../b"), {"link": "x"}, ("POST", "users/a%2F..%2Fb/reset", {})),
        (
            lambda api: api.remove_user("ada", home="keep"),
            {"name": "ada", "home": "/x"},
            ("DELETE", "users/ada?home=keep", None),
        ),
        (lambda api: api.first_link(), {"name": "mia", "link": "x"}, ("POST", "first-link", {})),
    ],
)
async def test_each_call_asks_one_thing_and_returns_the_answer(
    hub: FakeHub, call: Callable[[HubApi], Any], answer: Any, asked: tuple[str, str, Any]
) -> None:
    hub.answer = answer
    assert await ask(hub, call) == answer
    method, path, body = asked
    assert hub.asked == [(method, f"/hub/api/labdock/{path}", f"token {TOKEN}", body)]


async def test_what_the_hub_refuses_is_told_in_its_words(hub: FakeHub) -> None:
    hub.status, hub.answer = 409, {"message": "There is an account ada already."}
    with pytest.raises(HubError, match=r"^There is an account ada already\.$"):
        await ask(hub, lambda api: api.add_user("ada", admin=False))


@pytest.mark.parametrize("answer", ["<html>Bad gateway</html>", "[1]", '"text"', "{}", '{"message": null}'])
async def test_a_refusal_without_words_is_told_by_its_status(hub: FakeHub, answer: str) -> None:
    hub.status, hub.answer = 502, answer
    with pytest.raises(HubError, match="The hub answered 502 Bad Gateway"):
        await ask(hub, lambda api: api.users())


async def test_health_is_that_of_the_whole_way(hub: FakeHub) -> None:
    assert await ask(hub, lambda api: api.healthy())
    hub.healthy = False
    assert not await ask(hub, lambda api: api.healthy())


async def test_a_proxy_of_this_machine_is_not_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert await ask(hub, lambda api: api.healthy())


async def test_a_page_where_an_answer_should_be_is_no_answer(hub: FakeHub) -> None:
    hub.answer = "<html>Another program</html>"
    with pytest.raises(HubError, match="does not answer at"):
        await ask(hub, lambda api: api.users())


@contextmanager
def listener(answer: bytes) -> Iterator[str]:
    """The address of something that sends *answer* to whoever comes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]"]
)
def test_a_hub_that_hangs_up_or_is_none_is_told_with_the_way_out(answer: bytes) -> None:
    with listener(answer) as url:
        with pytest.raises(HubError, match="The hub does not answer at") as failed:
            HubApi(url, TOKEN).users()
        assert "labdock status" in failed.value.fix


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n"])
def test_what_is_no_hub_is_not_healthy(answer: bytes) -> None:
    with listener(answer) as url:
        assert not HubApi(url, TOKEN).healthy()


def test_where_nobody_listens_there_is_no_hub() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        api = HubApi(f"http://127.0.0.1:{probe.getsockname()[1]}", TOKEN)
        assert not api.healthy()
        with pytest.raises(HubError, match="refused"):
            api.users()


async def test_by_a_socket_the_hub_is_asked_past_name_port_and_certificate(
    hub: FakeHub, tmp_path: Path
) -> None:
    app = web.Application()
    app.router.add_get("/hub/health", hub.health)
    app.router.add_route("*", "/hub/api/labdock/{path:.*}", hub.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "proxy.sock")).start()
    hub.answer = [{"name": "ada"}]
    # Nobody resolves this name, and nobody speaks TLS here.
    api = HubApi("https://gpu.lab.invalid:8443", TOKEN, socket=tmp_path / "proxy.sock")
    try:
        assert await asyncio.to_thread(api.healthy)
        assert await asyncio.to_thread(api.users) == [{"name": "ada"}]
    finally:
        await runner.cleanup()
    assert not await asyncio.to_thread(api.healthy)
    with pytest.raises(HubError, match="does not answer at"):
        await asyncio.to_thread(api.users)
