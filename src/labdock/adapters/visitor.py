"""A person's way through the site, as a browser takes it: link, start, kernel, files, stop."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from uuid import uuid4

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from labdock.core.errors import HubError, StartError

_PATIENCE = aiohttp.ClientTimeout(total=60)


class _Names(aiohttp.ThreadedResolver):
    """This machine's way to look names up, and names below localhost as browsers see them (RFC 6761)."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return await super().resolve("localhost" if host.endswith(".localhost") else host, port, family)


class Visitor:
    """One person at *url*, with the cookies of one browser.

    Every method raises HubError when the site refuses, with the status and the page's own words, and
    when it does not answer.
    """

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._http = http
        self._token = ""
        self._session = ""
        self.name = ""

    @classmethod
    @asynccontextmanager
    async def arrive(cls, url: str, *, root: Path | None = None) -> AsyncIterator[Visitor]:
        """Somebody new at *url*, without cookies; *root* is a file with a further authority to trust."""
        # JupyterHub's cookies hold characters that must not be quoted, and come from bare addresses too.
        jar = aiohttp.CookieJar(unsafe=True, quote_cookie=False)
        trust = ssl.create_default_context()
        if root is not None:
            trust.load_verify_locations(root)
        connector = aiohttp.TCPConnector(ssl=trust, resolver=_Names())
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=_PATIENCE) as http:
            yield cls(url, http)

    async def set_password(self, link: str, name: str, password: str) -> None:
        """Open an invitation *link*, choose *password*, and be signed in as *name*."""
        page = await self._page("GET", link)
        form = {"_xsrf": _xsrf(page), "password": password, "confirm": password}
        await self._page("POST", link, form=form)
        await self._expect_name(name)

    async def use_link(self, link: str, name: str) -> None:
        """Open a *link* that signs in at once, and be signed in as *name*."""
        page = await self._page("GET", link)
        await self._page("POST", link, form={"_xsrf": _xsrf(page)})
        await self._expect_name(name)

    async def sign_in(self, name: str, password: str) -> None:
        """Sign in on the login page."""
        page = await self._page("GET", "/hub/login")
        form = {"_xsrf": _xsrf(page), "username": name, "password": password}
        await self._page("POST", "/hub/login", form=form)
        await self._expect_name(name)

    async def start(
        self, image: str | None, *, gpus: int = 0, timeout_s: float = 180.0
    ) -> list[dict[str, Any]]:
        """Start the session with the start form and watch its steps; returns the last state of each.

        *gpus* is how many cards to ask for.

        Raises:
            StartError: It failed; with the cause and the last lines.
        """
        page = await self._page("GET", "/hub/spawn")
        wish = {**({"image": image} if image else {}), **({"gpus": str(gpus)} if gpus else {})}
        form = {"_xsrf": _xsrf(page), **wish}
        if "spawn-pending" not in page:
            await self._page("POST", "/hub/spawn", form=form)
        steps: list[dict[str, Any]] = []
        async with asyncio.timeout(timeout_s):
            async for event in self._progress():
                steps = event.get("steps", steps)
                if event.get("failed") or event.get("cause"):
                    raise StartError(
                        event.get("cause") or event.get("message", "The session did not start."),
                        fix=event.get("fix", ""),
                        details=tuple(event.get("last_lines", ())),
                    )
                if event.get("ready"):
                    # Each person may have a host of their own, for which the hub then has the whole address.
                    self._session = urljoin(self._url, event["url"]).rstrip("/")
                    return steps
        raise StartError("The hub ended the report of the start before the session was ready.")

    async def take_token(self) -> None:
        """Ask the hub for a token of one's own; kernels and files are reached with it."""
        body = {"note": "Labdock visitor", "expires_in": 3600}
        made = await self._json("POST", f"/hub/api/users/{quote(self.name)}/tokens", body)
        self._token = made["token"]

    async def kernel(self) -> str:
        """Start a kernel; returns its id."""
        return str((await self._json("POST", f"{self._session}/api/kernels", {"name": "python3"}))["id"])

    @asynccontextmanager
    async def channels(self, kernel: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The WebSocket of *kernel*."""
        address = f"{self._session}/api/kernels/{kernel}/channels"
        address = "ws" + address.removeprefix("http")
        try:
            async with self._http.ws_connect(address, headers=self._headers()) as socket:
                yield socket
        except aiohttp.ClientError as error:
            raise HubError(f"The kernel's WebSocket broke: {error or type(error).__name__}.") from error

    async def run_cell(self, kernel: str, code: str, *, timeout_s: float = 60.0) -> str:
        """Run *code* in *kernel* over its WebSocket; returns all it printed.

        Raises:
            HubError: The code raised, or did not finish in time.
        """
        message = uuid4().hex
        request = {
            "header": {
                "msg_id": message,
                "msg_type": "execute_request",
                "username": self.name,
                "session": uuid4().hex,
                "version": "5.3",
                "date": "",
            },
            "parent_header": {},
            "metadata": {},
            "content": {"code": code, "silent": False, "store_history": False, "stop_on_error": True},
            "channel": "shell",
            "buffers": [],
        }
        printed: list[str] = []
        async with asyncio.timeout(timeout_s), self.channels(kernel) as socket:
            await socket.send_json(request)
            async for frame in socket:
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    break
                reply = json.loads(frame.data)
                if reply["parent_header"].get("msg_id") != message:
                    continue
                kind, content = reply["msg_type"], reply["content"]
                if kind == "stream":
                    printed.append(content["text"])
                elif kind == "execute_result":
                    printed.append(content["data"].get("text/plain", ""))
                elif kind == "error":
                    raise HubError(f"The cell raised {content['ename']}: {content['evalue']}")
                elif kind == "status" and content["execution_state"] == "idle":
                    return "".join(printed)
        raise HubError("The kernel's WebSocket closed before the cell was done.")

    async def write_file(self, path: str, text: str) -> None:
        """Save *text* at *path* in the home, as the notebook page does."""
        body = {"type": "file", "format": "text", "content": text}
        await self._json("PUT", f"{self._session}/api/contents/{quote(path)}", body)

    async def read_file(self, path: str) -> str:
        return str((await self._json("GET", f"{self._session}/api/contents/{quote(path)}"))["content"])

    async def stop(self, *, timeout_s: float = 60.0) -> None:
        """Stop the session and wait until the hub says it is gone."""
        await self._json("DELETE", f"/hub/api/users/{quote(self.name)}/server")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            me = await self._json("GET", f"/hub/api/users/{quote(self.name)}")
            if not me.get("servers"):
                return
            await asyncio.sleep(0.1)
        raise HubError(f"The session still runs {timeout_s:.0f} s after it was told to stop.")

    async def _expect_name(self, name: str) -> None:
        page = await self._page("GET", "/hub/home")
        if f">{name}<" not in page:
            raise HubError(f"The home page does not show {name} as signed in.")
        self.name = name
        self._session = f"{self._url}/user/{quote(name)}"

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self._token}"} if self._token else {}

    def _hub_xsrf(self) -> str:
        cookies = self._http.cookie_jar.filter_cookies(URL(f"{self._url}/hub/"))
        return cookies["_xsrf"].value if "_xsrf" in cookies else ""

    def _address(self, path: str) -> str:
        """The whole address of *path*, which may be one already."""
        return path if "://" in path else self._url + path

    async def _page(self, method: str, path: str, *, form: dict[str, str] | None = None) -> str:
        address = self._address(path)
        try:
            async with self._http.request(
                method, address, data=form, headers={"Referer": self._url}
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HubError(
                f"{urlsplit(address).path} does not answer ({error or type(error).__name__})."
            ) from error
        if response.status >= 400:
            raise HubError(f"{urlsplit(address).path} answered {response.status}: {_plain(text)}")
        return text

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = self._headers() or {"X-XSRFToken": self._hub_xsrf(), "Referer": f"{self._url}/hub/home"}
        address = self._address(path)
        try:
            async with self._http.request(method, address, json=body, headers=headers) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise HubError(f"{path} does not answer ({error or type(error).__name__}).") from error
        if response.status >= 400:
            raise HubError(f"{path} answered {response.status}: {_plain(text)}")
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            # Somebody who may not is sent to the page for signing in.
            raise HubError(f"{path} answered with a page: {_plain(text)}") from error

    async def _progress(self) -> AsyncIterator[dict[str, Any]]:
        """The start's events, as the hub sends them; ends with the last one."""
        address = f"{self._url}/hub/api/users/{quote(self.name)}/server/progress"
        headers = {"X-XSRFToken": self._hub_xsrf(), "Referer": f"{self._url}/hub/home"}
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with self._http.get(address, headers=headers, timeout=timeout) as response:
                if response.status >= 400:
                    text = _plain(await response.text())
                    raise HubError(f"The start's progress answered {response.status}: {text}")
                async for line in response.content:
                    if line.startswith(b"data: "):
                        yield json.loads(line.removeprefix(b"data: "))
        except aiohttp.ClientError as error:
            raise HubError(f"The start's progress broke off: {error or type(error).__name__}.") from error


def _xsrf(page: str) -> str:
    """The XSRF token in a page's form.

    Raises:
        HubError: There is no form.
    """
    found = re.search(r'name="_xsrf"\s+value="([^"]*)"', page) or re.search(r'[?&;]_xsrf=([^"&]+)', page)
    if found is None:
        raise HubError(f"There is no form on the page: {_plain(page)}")
    return unquote(unescape(found[1]))


def _plain(text: str) -> str:
    """The words of a page or of a JSON message, at most 300 characters."""
    try:
        return str(json.loads(text)["message"])[:300]
    except (ValueError, KeyError, TypeError):
        main = re.search(r"<main.*?</main>", text, re.DOTALL) or re.search(
            r"<body.*?</body>", text, re.DOTALL
        )
        words = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", main[0] if main else text, flags=re.DOTALL)
        return " ".join(unescape(words).split())[:300]
