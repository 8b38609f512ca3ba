"""A person's way through the site, on a small site of the tests' own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from labdock.adapters.visitor import Visitor
from labdock.core.errors import HubError, StartError

PASSWORD = "correct horse & battery"
XSRF = "x|1=&2"
GOOD_START: list[dict[str, Any]] = [
    {"progress": 5, "steps": [{"id": "image", "state": "running"}]},
    {"progress": 100, "ready": True, "url": "/user/ada/", "steps": [{"id": "image", "state": "done"}]},
]


class FakeSite:
    """As much of the hub and of a session as a visitor meets; ``asked`` is what came, as method and path."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.hosts: list[str] = []
        self.tokens: list[str] = []
        self.signed_in_as = ""
        self.shown_name: str | None = None
        self.start: list[dict[str, Any]] = GOOD_START
        self.pending = False
        self.chosen: dict[str, str] = {}
        self.running = 0
        self.files: dict[str, str] = {}
        self.replies: list[dict[str, Any]] = []
        self.hangs = False
        self.refuse: set[str] = set()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.remember])
        app.router.add_get("/hub/login", self.form)
        app.router.add_post("/hub/login", self.sign_in)
        app.router.add_get("/hub/link/abc", self.form)
        app.router.add_post("/hub/link/abc", self.sign_in)
        app.router.add_get("/hub/home", self.home)
        app.router.add_get("/hub/spawn", self.form)
        app.router.add_post("/hub/spawn", self.begin)
        app.router.add_get("/hub/api/users/{name}/server/progress", self.progress)
        app.router.add_post("/hub/api/users/{name}/tokens", self.token)
        app.router.add_get("/hub/api/users/{name}", self.person)
        app.router.add_delete("/hub/api/users/{name}/server", self.stop)
        app.router.add_post("/user/{name}/api/kernels", self.kernel)
        app.router.add_get("/user/{name}/api/kernels/k1/channels", self.channels)
        app.router.add_put("/user/{name}/api/contents/{path:.*}", self.write)
        app.router.add_get("/user/{name}/api/contents/{path:.*}", self.read)
        return app

    @web.middleware
    async def remember(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        self.hosts.append(request.host)
        if request.path in self.refuse:
            body = "<title>No</title><body><script>x()</script><main><h1>403</h1>Not <b>you</b>.</main>"
            return web.Response(status=403, text=body, content_type="text/html")
        self.tokens.append(request.headers.get("Authorization", ""))
        response: web.StreamResponse = await handler(request)
        return response

    async def form(self, request: web.Request) -> web.Response:
        pending = '<p id="spawn-pending">' if self.pending else ""
        text = (
            f'<form><input type="hidden" name="_xsrf" value="{XSRF.replace("&", "&amp;")}"></form>{pending}'
        )
        response = web.Response(text=text, content_type="text/html")
        response.set_cookie("_xsrf", "from-cookie")
        return response

    async def sign_in(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form["_xsrf"] != XSRF or form["password"] != PASSWORD or form.get("confirm", PASSWORD) != PASSWORD:
            return web.Response(status=403, text="<body><main>Wrong password</main></body>")
        self.signed_in_as = str(form.get("username", "ada"))
        raise web.HTTPFound("/hub/home")

    async def home(self, request: web.Request) -> web.Response:
        name = self.signed_in_as if self.shown_name is None else self.shown_name
        return web.Response(
            text=f'<title>ada at home</title><a href="/hub/password">{name}</a>', content_type="text/html"
        )

    async def begin(self, request: web.Request) -> web.Response:
        self.chosen = {key: str(value) for key, value in (await request.post()).items()}
        return web.Response(text="Starting")

    async def progress(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.start:
            await response.write(b"\n" if not event else f"data: {json.dumps(event)}\n\n".encode())
            if event.get("break"):
                assert request.transport is not None
                request.transport.close()
        return response

    async def token(self, request: web.Request) -> web.Response:
        assert request.headers["X-XSRFToken"] == "from-cookie"
        return web.json_response({"token": "t0ken"})

    async def person(self, request: web.Request) -> web.Response:
        self.running = max(self.running - 1, 0)
        return web.json_response({"name": "ada", "servers": {"": {}} if self.running else {}})

    async def stop(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def kernel(self, request: web.Request) -> web.Response:
        assert await request.json() == {"name": "python3"}
        return web.json_response({"id": "k1"}, status=201)

    async def channels(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        asked = await socket.receive_json()
        for reply in self.replies:
            parent = reply.pop("parent", asked["header"]["msg_id"])
            await socket.send_json({"parent_header": {"msg_id": parent}, **reply})
        if self.hangs:
            await socket.receive()
        await socket.close()
        return socket

    async def write(self, request: web.Request) -> web.Response:
        self.files[request.match_info["path"]] = (await request.json())["content"]
        return web.json_response({}, status=201)

    async def read(self, request: web.Request) -> web.Response:
        return web.json_response({"content": self.files[request.match_info["path"]]})


def stream(text: str, **more: str) -> dict[str, Any]:
    return {"msg_type": "stream", "content": {"text": text}, **more}


IDLE = {"msg_type": "status", "content": {"execution_state": "idle"}}


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    fake = FakeSite()
    runner = web.AppRunner(fake.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def visitor(site: FakeSite) -> AsyncIterator[Visitor]:
    """Somebody who is signed in as ada."""
    async with Visitor.arrive(site.url + "/") as visitor:
        await visitor.sign_in("ada", PASSWORD)
        yield visitor


async def test_signing_in_sends_the_forms_token_and_looks_whether_it_worked(site: FakeSite) -> None:
    async with Visitor.arrive(site.url) as visitor:
        await visitor.sign_in("ada", PASSWORD)
        assert visitor.name == "ada"
    assert site.asked == ["GET /hub/login", "POST /hub/login", "GET /hub/home", "GET /hub/home"]


async def test_an_invitation_is_opened_and_a_password_set(site: FakeSite) -> None:
    async with Visitor.arrive(site.url) as visitor:
        await visitor.set_password(f"{site.url}/hub/link/abc", "ada", PASSWORD)
    assert site.asked[:2] == ["GET /hub/link/abc", "POST /hub/link/abc"]
    assert site.signed_in_as == "ada"


async def test_a_refused_password_is_told_with_the_pages_words(site: FakeSite) -> None:
    async with Visitor.arrive(site.url) as visitor:
        with pytest.raises(HubError, match=r"^/hub/login answered 403: Wrong password$"):
            await visitor.sign_in("ada", "wrong")
        assert visitor.name == ""


async def test_a_home_page_of_somebody_else_is_no_sign_in(site: FakeSite) -> None:
    site.shown_name = "bob"
    async with Visitor.arrive(site.url) as visitor:
        with pytest.raises(HubError, match="does not show ada"):
            await visitor.sign_in("ada", PASSWORD)


async def test_only_the_words_of_a_page_are_told(site: FakeSite) -> None:
    site.refuse = {"/hub/login"}
    async with Visitor.arrive(site.url) as visitor:
        with pytest.raises(HubError, match=r"403: 403 Not you \.$"):
            await visitor.sign_in("ada", PASSWORD)


async def test_a_start_sends_the_choice_and_returns_the_last_state_of_the_steps(
    site: FakeSite, visitor: Visitor
) -> None:
    assert await visitor.start("torch") == [{"id": "image", "state": "done"}]
    assert site.chosen == {"_xsrf": XSRF, "image": "torch"}


async def test_a_start_with_cards_says_how_many(site: FakeSite, visitor: Visitor) -> None:
    await visitor.start(None, gpus=2)
    assert site.chosen == {"_xsrf": XSRF, "gpus": "2"}


async def test_a_start_without_a_choice_leaves_it_to_the_site(site: FakeSite, visitor: Visitor) -> None:
    site.start = [{}, *GOOD_START]
    await visitor.start(None)
    assert site.chosen == {"_xsrf": XSRF}


async def test_a_start_under_way_is_watched_and_not_begun_again(site: FakeSite, visitor: Visitor) -> None:
    site.pending = True
    await visitor.start("cpu")
    assert "POST /hub/spawn" not in site.asked


async def test_a_start_that_fails_is_told_with_cause_way_out_and_last_lines(
    site: FakeSite, visitor: Visitor
) -> None:
    site.start = [GOOD_START[0], {"cause": "It ended.", "fix": "Try again.", "last_lines": ["a", "b"]}]
    with pytest.raises(StartError) as failed:
        await visitor.start(None)
    assert (failed.value.message, failed.value.fix, failed.value.details) == (
        "It ended.",
        "Try again.",
        ("a", "b"),
    )


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([{"failed": True, "message": "Spawn failed"}], (StartError, "Spawn failed")),
        (GOOD_START[:1], (StartError, "before the session was ready")),
        ([GOOD_START[0], {"break": True}], (HubError, "broke off")),
    ],
)
async def test_a_start_without_an_end_is_no_success(
    site: FakeSite, visitor: Visitor, events: list[dict[str, Any]], error: tuple[type[Exception], str]
) -> None:
    site.start = events
    with pytest.raises(error[0], match=error[1]):
        await visitor.start(None)


async def test_a_progress_that_is_refused_is_told(site: FakeSite, visitor: Visitor) -> None:
    site.refuse = {"/hub/api/users/ada/server/progress"}
    with pytest.raises(HubError, match="progress answered 403: 403 Not you"):
        await visitor.start(None)


async def test_kernels_and_files_are_reached_with_a_token_of_ones_own(
    site: FakeSite, visitor: Visitor
) -> None:
    await visitor.take_token()
    site.tokens.clear()
    assert await visitor.kernel() == "k1"
    await visitor.write_file("notes/a b.txt", "text")
    assert site.files == {"notes/a b.txt": "text"}
    assert await visitor.read_file("notes/a b.txt") == "text"
    assert site.tokens == ["token t0ken"] * 3


async def test_a_session_at_a_host_of_its_own_is_gone_to_where_the_hub_says(
    site: FakeSite, visitor: Visitor
) -> None:
    # The same server, at another name.
    address = f"{site.url.replace('127.0.0.1', 'ada.localhost')}/user/ada/"
    site.start = [{**GOOD_START[-1], "url": address}]
    await visitor.start(None)
    await visitor.take_token()
    site.hosts.clear()
    assert await visitor.kernel() == "k1"
    assert [host.partition(":")[0] for host in site.hosts] == ["ada.localhost"]


async def test_a_cell_returns_what_it_printed_and_nothing_of_other_cells(
    site: FakeSite, visitor: Visitor
) -> None:
    result = {"msg_type": "execute_result", "content": {"data": {"text/plain": "7"}}}
    site.replies = [stream("other", parent="else"), stream("4"), stream("2\n"), result, IDLE, stream("late")]
    assert await visitor.run_cell("k1", "print(42)") == "42\n7"


async def test_a_cell_that_raises_is_told(site: FakeSite, visitor: Visitor) -> None:
    site.replies = [{"msg_type": "error", "content": {"ename": "ValueError", "evalue": "no"}}, IDLE]
    with pytest.raises(HubError, match="The cell raised ValueError: no"):
        await visitor.run_cell("k1", "x")


async def test_a_websocket_that_closes_early_is_told(site: FakeSite, visitor: Visitor) -> None:
    site.replies = [stream("4")]
    with pytest.raises(HubError, match="closed before the cell was done"):
        await visitor.run_cell("k1", "x")


async def test_a_websocket_that_is_refused_is_told(site: FakeSite, visitor: Visitor) -> None:
    site.refuse = {"/user/ada/api/kernels/k1/channels"}
    with pytest.raises(HubError, match="WebSocket broke: 403"):
        await visitor.run_cell("k1", "x")


async def test_a_cell_that_never_ends_is_not_waited_for(site: FakeSite, visitor: Visitor) -> None:
    site.hangs = True
    with pytest.raises(TimeoutError):
        await visitor.run_cell("k1", "x", timeout_s=0.3)


async def test_stop_returns_when_the_session_is_gone(site: FakeSite, visitor: Visitor) -> None:
    site.running = 3
    await visitor.stop()
    assert site.asked.count("GET /hub/api/users/ada") == 3


async def test_a_session_that_goes_on_after_stop_is_told(site: FakeSite, visitor: Visitor) -> None:
    site.running = 1000
    with pytest.raises(HubError, match="still runs"):
        await visitor.stop(timeout_s=0.3)


async def test_a_page_where_json_should_be_is_told_with_its_words(site: FakeSite, visitor: Visitor) -> None:
    site.refuse = {"/user/ada/api/kernels"}
    with pytest.raises(HubError, match=r"/user/ada/api/kernels answered 403: 403 Not you \."):
        await visitor.kernel()


async def test_a_site_that_does_not_answer_is_told(unused_tcp_port: int) -> None:
    async with Visitor.arrive(f"http://127.0.0.1:{unused_tcp_port}") as visitor:
        with pytest.raises(HubError, match=r"^/hub/login does not answer"):
            await visitor.sign_in("ada", PASSWORD)
