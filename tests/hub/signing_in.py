"""A browser's way through a provider and back, and the hub that it comes back to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from html import unescape
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp

from labdock.core.login import AccessRules, LoginSettings
from labdock.hub.provider_base import Wiring
from labdock.hub.providers import authenticator_class
from tests.hub.conftest import PUBLIC_URL, SETTINGS, Answer, Browser, Hub, running_hub
from tests.providers.serving import Application, Authority, Provider, serving


class Runs(Protocol):
    """A provider that runs somewhere."""

    url: str


CALLBACK = f"{PUBLIC_URL}/hub/oauth_callback"
CRYPT_KEY = "11" * 32

P = TypeVar("P", bound=Runs)
S = TypeVar("S", bound=Provider)


@dataclass
class Site(Generic[P]):
    """A hub, the provider that its people sign in with, and the application that it is there."""

    hub: Hub
    provider: P
    application: Application
    authority: Authority
    later: Later

    @property
    def authenticator(self) -> Any:
        return self.hub.app.authenticator

    @contextmanager
    def rules(self, **changed: Any) -> Iterator[None]:
        """Other rules meanwhile."""
        before = self.hub.rules.now
        self.hub.rules.now = replace(before, **changed)
        try:
            yield
        finally:
            self.hub.rules.now = before

    @contextmanager
    def afresh(self) -> Iterator[None]:
        """The hub as if it had just started, and once more so afterwards: the provider is a stranger."""
        self.authenticator.known_there, self.authenticator.failed = False, None
        try:
            yield
        finally:
            self.authenticator.known_there, self.authenticator.failed = False, None

    def ask_anew(self) -> None:
        """Let what was asked of the provider, and when a person's rights were looked at, be long ago."""
        self.authenticator._asked.clear()
        for user in self.hub.app.users.values():
            user._auth_refreshed = None


@dataclass
class Later:
    """How much later it is for the authenticator than it is."""

    seconds: float = 0.0


@asynccontextmanager
async def running_site(
    folder: Path, provider: S, method: str, rules: AccessRules, **login: Any
) -> AsyncIterator[Site[S]]:
    """A hub whose people sign in with *provider*."""
    authority = Authority()
    with serving(provider, authority, folder):
        application = provider.register(CALLBACK)
        async with site_of(folder, provider, application, authority, method, rules, **login) as site:
            yield site


@asynccontextmanager
async def site_of(
    folder: Path,
    provider: P,
    application: Application,
    authority: Authority,
    method: str,
    rules: AccessRules,
    **login: Any,
) -> AsyncIterator[Site[P]]:
    """A hub that is *application* at *provider*, which runs already."""
    later = Later()
    settings = LoginSettings(
        method=method,
        client_id=application.client_id,
        server=provider.url,
        authority=authority.pem,
        **{"label": "", **login},
    )
    wiring = Wiring(settings, PUBLIC_URL, application.secret, clock=lambda: time.time() + later.seconds)
    os.environ["JUPYTERHUB_CRYPT_KEY"] = CRYPT_KEY
    async with running_hub(
        folder, rules, replace(SETTINGS, login=settings), authenticator_class(wiring)
    ) as hub:
        yield Site(hub, provider, application, authority, later)


@dataclass
class Trip:
    """One browser on its way: what the hub sent it with, and what it would bring back."""

    browser: Browser
    at_provider: str
    back: str = ""
    asked: dict[str, str] = field(default_factory=dict)

    async def come_back(self, browser: Browser | None = None) -> Answer:
        """Open the address that the provider sent the browser to, in it or in another's."""
        return await (browser or self.browser).get(on_hub(self.back))


def on_hub(url: str) -> str:
    """The path and query of *url*, which must be the callback and nowhere else."""
    assert url.startswith(CALLBACK + "?"), url
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


async def set_out(browser: Browser, query: str = "") -> Trip:
    """Press the button on the sign-in page; the hub sends the browser to the provider."""
    page = await browser.get("/hub/login" + query)
    button = re.search(r'<a id="login_submit"[^>]*href="([^"]+)"', page.text)
    assert button, page.text
    sent = await browser.get(unescape(button.group(1)))
    assert sent.status == 302, sent.text
    url = sent.headers["Location"]
    asked = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
    return Trip(browser, url, asked=asked)


async def choose(site: Site[Any], trip: Trip, person: int | str) -> Trip:
    """At the provider's page, continue as *person*, by id; "" says no."""
    ssl = site.authority.trusting()
    async with aiohttp.ClientSession() as http:
        async with http.get(trip.at_provider, ssl=ssl, allow_redirects=False) as page:
            text = await page.text()
            if page.status == 302:
                trip.back = page.headers["Location"]
                return trip
            assert page.status == 200, text
        action = re.search(r'action="([^"]+)"', text)
        assert action, text
        fields = {
            unescape(name): unescape(value)
            for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', text)
        }
        fields["person"] = str(person)
        url = site.provider.url + action.group(1)
        async with http.post(url, data=fields, ssl=ssl, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
            trip.back = answer.headers["Location"]
    return trip


async def sign_in(site: Site[Any], person: int | str, query: str = "") -> tuple[Browser, Answer]:
    """A new browser after the whole way, and the hub's answer at its end."""
    browser = site.hub.browser()
    trip = await choose(site, await set_out(browser, query), person)
    return browser, await trip.come_back()


def kind(answer: Answer) -> str:
    """The word of the failure that the page shows."""
    found = re.search(r"<code>([a-z-]+)</code>", answer.text)
    assert found, answer.text
    return found.group(1)


def with_query(url: str, **changed: str | None) -> str:
    """*url* with parts of its query set anew, or left out."""
    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    query = {key: value for key, value in {**query, **changed}.items() if value is not None}
    return parts._replace(query=urlencode(query)).geturl()
