"""A real JupyterHub in the test's process, with our sign-in and pages, a spawner and a proxy of the tests."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web as aioweb
from argon2 import PasswordHasher
from jupyterhub.proxy import Proxy
from jupyterhub.utils import random_port
from traitlets.config import Config

from labdock.core.errors import EngineError, HostError, StartError
from labdock.core.gpus import GpuReport, GpuRules, Inventory, Lease, Trouble, Way
from labdock.core.login import AccessRules, LoginSettings
from labdock.core.session import ImageChoice, Limits
from labdock.core.site import HubSettings
from labdock.hub import pages
from labdock.hub.accounts import AccountStore
from labdock.hub.admission import Admission
from labdock.hub.app import LabdockHub
from labdock.hub.cards import Cards
from labdock.hub.sign_in import LabdockAuthenticator, LocalAuthenticator, SignIn
from labdock.hub.spawner import LabdockSpawner, StartProgress
from labdock.hub.web_edge import host_traits

PUBLIC_URL = "http://lab.example:8000"
GOOD = "correct horse battery"
BETTER = "staple paper clip lamp"
os.environ.setdefault("JUPYTERHUB_CRYPT_KEY", "11" * 32)
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

SETTINGS = HubSettings(
    instance="test",
    site_name="Test <Lab>",
    contact="admin@lab.example",
    public_url=PUBLIC_URL,
    first_admin="mia",
    login=LoginSettings(),
    limits=Limits(cpus=4, memory_bytes=8 * 2**30),
    shared=(),
    homes_root="/srv/homes",
    names_dir="/srv/names",
    network="test",
    hub_ip="127.0.0.1",
    proxy_ip="127.0.0.1",
    gpus=GpuRules(per_session=2),
)


IMAGES = (
    ImageChoice(
        "cpu", "JupyterLab", "cpu:1", default=True, details="Python 3.13, 640 MB", published_at="2026-11-01"
    ),
    ImageChoice("broken", "Broken <b>one</b>", "broken:1"),
)


class NoProxy(Proxy):  # type: ignore[misc]  # JupyterHub has no type information
    """Remembers routes and serves nothing: the tests ask the hub itself."""

    should_start = False
    routes: dict[str, Any]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.routes = {}

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        self.routes[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        self.routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, Any]:
        return dict(self.routes)


class TinySpawner(LabdockSpawner):
    """A session that is a web server in this process; the image "broken" fails to start.

    What it holds of GPUs is in the fake agent's report while it runs.
    """

    settings = SETTINGS
    fake_agent: FakeAgent

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.runner: aioweb.AppRunner | None = None
        self.lease: Lease | None = None

    async def start(self) -> str:
        self.start_progress = StartProgress()
        request = self._request(self.user_options, self._images())
        self.started_from = next(image for image in self._images() if image.id == request.image)
        if request.image == "broken":
            self.start_progress.failure = StartError(
                "The container ended at once.",
                fix="Choose another image.",
                details=("line 1", "<i>line 2</i>"),
            )
            raise pages.not_started(self.start_progress.failure)
        if self.hold is not None:
            self.lease = self.hold.lease
            self.container = self.lease.container
            self.fake_agent.leases.append(self.lease)
            self.let_go()

        async def answer(request: aioweb.Request) -> aioweb.Response:
            return aioweb.Response(text="session")

        app = aioweb.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        self.runner = aioweb.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        port = int(random_port())
        await aioweb.TCPSite(self.runner, "127.0.0.1", port).start()
        return f"http://127.0.0.1:{port}"

    async def poll(self) -> int | None:
        return None if self.runner else 0

    async def stop(self, now: bool = False) -> None:
        if self.runner:
            await self.runner.cleanup()
            self.runner = None
        if self.lease is not None:
            self.fake_agent.leases.remove(self.lease)
            self.lease = None


class OneHub(LabdockHub):
    """JupyterHub that reads no file and leaves the test's signals alone."""

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        pass

    def init_signal(self) -> None:
        pass


@dataclass
class FakeAgent:
    """The agent's part in removing people, and in telling of GPUs: none, until a test says otherwise."""

    removed: list[tuple[str, bool]] = field(default_factory=list)
    inventory: Inventory = field(default_factory=Inventory)
    leases: list[Lease] = field(default_factory=list)
    trouble: Trouble | None = None
    away: bool = False
    asked: int = 0

    async def gpus(self) -> GpuReport:
        self.asked += 1
        if self.away:
            raise EngineError("The agent does not answer.")
        # What is read is as old as the question when the answer comes.
        leases = tuple(self.leases)
        await asyncio.sleep(0.005)
        return GpuReport(self.inventory, leases, Way.DEVICES, self.trouble)

    async def remove_person(self, identity: str, *, delete_home: bool) -> str:
        self.removed.append((identity, delete_home))
        return "" if delete_home else "/srv/homes/kept"


@dataclass
class Offered:
    """The images that the command line has published; a test publishes others, or breaks the file."""

    choices: tuple[ImageChoice, ...] = IMAGES
    broken: bool = False

    def __call__(self) -> tuple[ImageChoice, ...]:
        if self.broken:
            raise HostError("/run/images.json cannot be read.", fix="Write it anew with: labdock up")
        return self.choices

    @contextmanager
    def changed(self, *choices: ImageChoice, broken: bool = False) -> Iterator[None]:
        """*choices* are offered meanwhile."""
        self.choices, self.broken = choices, broken
        try:
            yield
        finally:
            self.choices, self.broken = IMAGES, False


class Lines(logging.Handler):
    """Everything that was logged, as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + "\n"


@dataclass
class Answer:
    """One answer of the hub, read to its end."""

    status: int
    text: str
    headers: Any
    json: Any

    def xsrf(self) -> str:
        """The token in the page's form."""
        found = re.search(r'name="_xsrf" value="([^"]+)"', self.text) or re.search(
            r"_xsrf=([^\"&]+)", self.text
        )
        assert found, self.text
        return found.group(1)


class Browser:
    """One person's browser: cookies, and one address it comes from."""

    def __init__(self, base: str, address: str, peer: str = "127.0.0.1") -> None:
        self.base = base
        self.address = address
        self.http = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True), connector=aiohttp.TCPConnector(local_addr=(peer, 0))
        )

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, **kwargs: Any
    ) -> Answer:
        sent = {"X-Forwarded-For": self.address, **(headers or {})}
        kwargs.setdefault("allow_redirects", False)
        async with self.http.request(method, self.base + path, headers=sent, **kwargs) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json" and text
            return Answer(answer.status, text, answer.headers, await answer.json() if is_json else None)

    async def get(self, path: str, **kwargs: Any) -> Answer:
        return await self.ask("GET", path, **kwargs)

    async def post(self, path: str, data: dict[str, str], **kwargs: Any) -> Answer:
        return await self.ask("POST", path, data=data, **kwargs)

    async def sign_in(self, name: str, password: str, query: str = "") -> Answer:
        page = await self.get("/hub/login" + query)
        fields = {"_xsrf": page.xsrf(), "username": name, "password": password}
        return await self.post("/hub/login" + query, fields)

    async def use_link(self, link: str, password: str | None = None) -> Answer:
        path = urlsplit(link).path
        page = await self.get(path)
        fields = {"_xsrf": page.xsrf()} | ({"password": password} if password is not None else {})
        return await self.post(path, fields)

    async def who(self) -> str:
        """Whose browser this is by its cookies, or ""."""
        page = await self.get("/hub/home")
        found = re.search(r"<h1>Hello, ([^<]+)</h1>", page.text)
        return found.group(1) if found else ""


@dataclass
class Rules:
    """Who may come in by the configuration, which a test may change."""

    now: AccessRules


@dataclass
class Hub:
    """The running hub and everything a test needs of it."""

    app: OneHub
    base: str
    store: AccountStore
    sign_in: SignIn
    agent: FakeAgent
    lines: Lines
    token: str
    images: Offered
    rules: Rules
    later_s: float = 0.0
    browsers: list[Browser] = field(default_factory=list)

    def browser(self, address: str | None = None, peer: str = "127.0.0.1") -> Browser:
        # Each from an address of its own, unless told: the pace of tries must not join the tests.
        address = address or f"198.51.{len(self.browsers) // 250}.{len(self.browsers) % 250 + 1}"
        self.browsers.append(Browser(self.base, address, peer))
        return self.browsers[-1]

    async def api(self, method: str, path: str, token: str | None = None, **kwargs: Any) -> Answer:
        headers = {"Authorization": f"token {token or self.token}", **kwargs.pop("headers", {})}
        return await self.browser().ask(method, "/hub/api" + path, headers=headers, **kwargs)

    async def invite(self, name: str, *, admin: bool = False) -> str:
        made = await self.api("POST", "/labdock/users", json={"name": name, "admin": admin})
        assert made.status == 201, made.text
        return str(made.json["link"])

    async def member(self, name: str, *, admin: bool = False, password: str = GOOD) -> Browser:
        """The signed-in browser of a new person."""
        browser = self.browser()
        entered = await browser.use_link(await self.invite(name, admin=admin), password)
        assert entered.status == 303, entered.text
        return browser


async def until_ready(hub: Hub, name: str, server: str = "") -> None:
    """Wait until *name*'s session runs."""
    async with asyncio.timeout(60):
        while not any(
            user.name == name and server in user.spawners and user.spawners[server].ready
            for user in hub.app.users.values()
        ):
            await asyncio.sleep(0.05)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks a whole hub is none of the unit tests."""
    for item in items:
        here = item.path.is_relative_to(Path(__file__).parent)
        if here and isinstance(item, pytest.Function) and {"hub", "site"} & set(item.fixturenames):
            item.add_marker("programs")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: Any) -> AsyncIterator[Hub]:
    """One hub for all tests of a file; each test uses people of its own."""
    async with running_hub(tmp_path_factory.mktemp("hub"), AccessRules(admins=("mia", "carl"))) as running:
        yield running


@asynccontextmanager
async def running_hub(
    folder: Path,
    first_rules: AccessRules,
    settings: HubSettings = SETTINGS,
    authenticator: type[LabdockAuthenticator] = LocalAuthenticator,
) -> AsyncIterator[Hub]:
    """A hub with its files in *folder*, whose people sign in by *authenticator*."""
    db_url = f"sqlite:///{folder}/hub.sqlite"
    store = AccountStore(db_url, settings.login.method)

    rules = Rules(first_rules)

    admission = Admission(store, lambda: rules.now, clock=lambda: time.time() + running.later_s)
    sign_in = SignIn(
        admission,
        site_name=settings.site_name,
        hasher=CHEAP,
        steady=lambda: time.monotonic() + running.later_s,
    )
    agent = FakeAgent()
    cards = Cards(agent, settings.instance, settings.gpus)
    offered = Offered()

    def images() -> tuple[ImageChoice, ...]:
        # Not the object itself, which JupyterHub would copy.
        return offered()

    async def identity_of(name: str) -> str:
        account = await admission.find(name)
        assert account is not None
        return account.identity

    spawner = type(
        "TinySpawner",
        (TinySpawner,),
        {
            "fake_agent": agent,
            "cards": cards,
            "images": staticmethod(images),
            "identity_of": staticmethod(identity_of),
        },
    )
    port, token = int(random_port()), secrets.token_hex(16)
    c = Config()
    c.JupyterHub.hub_port = port
    c.JupyterHub.db_url = db_url
    c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
    c.JupyterHub.log_level = "DEBUG"
    c.JupyterHub.update(host_traits(settings.public_url, isolate_pages=settings.isolate_pages))
    c.JupyterHub.bind_url = f"http://127.0.0.1:{port + 1}"
    # Where the tests ask from: their browsers' made-up addresses count.
    c.JupyterHub.trusted_downstream_ips = ["127.0.0.1"]
    c.JupyterHub.proxy_class = NoProxy
    c.JupyterHub.spawner_class = spawner
    c.JupyterHub.concurrent_spawn_limit = 0
    # Longer than in earnest: a start on a busy machine is no slow one.
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 2}
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.authenticator_class = authenticator
    c.LabdockAuthenticator.admission = admission
    c.LocalAuthenticator.sign_in = sign_in
    c.Authenticator.auth_refresh_age = 5
    c.JupyterHub.template_paths = pages.template_paths()
    c.JupyterHub.template_vars = pages.template_vars(settings, images, admission, cards)
    c.JupyterHub.extra_handlers = pages.extra_handlers(settings, images, sign_in, agent, cards)
    c.JupyterHub.services = [{"name": "labdock", "api_token": token}]
    c.JupyterHub.load_roles = [
        {"name": "labdock", "services": ["labdock"], "scopes": ["admin:users", "admin:servers", "tokens"]}
    ]
    app, lines = OneHub(config=c), Lines()
    await app.initialize([])
    app.log.addHandler(lines)
    await app.start()
    running = Hub(app, f"http://127.0.0.1:{port}", store, sign_in, agent, lines, token, offered, rules)
    try:
        yield running
    finally:
        for browser in running.browsers:
            await browser.http.close()
        app.http_server.stop()
        await app.cleanup()
        store.close()
