"""JupyterHub's REST API and Labdock's own below it, as the command line uses them."""

from __future__ import annotations

import json
import socket as sockets
from collections.abc import Mapping
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import HTTPHandler, ProxyHandler, Request, build_opener

from labdock.core.errors import HubError


class HubApi:
    """Asks the hub behind *url* (without /hub) with *token*; one request a call, no proxies.

    With *socket* it asks there, in plain HTTP, and *url* only says for whom: the way past the edge.
    """

    def __init__(self, url: str, token: str, *, socket: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"token {token}"}
        self._opener = build_opener(ProxyHandler({}), *(() if socket is None else (_ByUnixSocket(socket),)))
        if socket is not None:
            self._url = f"http://{self._url.partition('://')[2]}"

    def healthy(self, *, timeout_s: float = 2.0) -> bool:
        """Whether proxy and hub both answer, and the edge too where it is on the way."""
        try:
            with self._opener.open(Request(f"{self._url}/hub/health"), timeout=timeout_s) as response:  # noqa: S310  our own http URL
                return bool(response.status == 200)
        except (OSError, HTTPException, ValueError):
            return False

    def users(self) -> list[dict[str, Any]]:
        """Everybody with an account: name, admin, state, created_at, last_activity, session."""
        return list(self._ask("GET", "users"))

    def add_user(self, who: str, *, admin: bool, name: str = "") -> dict[str, Any]:
        """A new account for *who*, called *name* here; with local accounts its invitation.

        name, link and expires_at; elsewhere name, login, and None as link.
        """
        called = {"as": name} if name else {}
        return dict(self._ask("POST", "users", {"name": who, "admin": admin, **called}))

    def throw_away(self, name: str, *, admin: bool) -> dict[str, Any]:
        """Somebody for a moment, and a link that signs in: name, link, expires_at."""
        return dict(self._ask("POST", "throw-away", {"name": name, "admin": admin}))

    def approve(self, name: str) -> dict[str, Any]:
        """Let *name* in; returns name, login, state."""
        return dict(self._ask("POST", f"users/{quote(name, safe='')}/approve", {}))

    def refuse(self, name: str) -> dict[str, Any]:
        """Keep *name* out, and end what they have; returns name, login, state."""
        return dict(self._ask("POST", f"users/{quote(name, safe='')}/refuse", {}))

    def reset_user(self, name: str) -> dict[str, Any]:
        """A link to set a new password: name, link, expires_at."""
        return dict(self._ask("POST", f"users/{quote(name, safe='')}/reset", {}))

    def take_second_factor(self, name: str) -> dict[str, Any]:
        """Let *name* sign in with the password alone, whose second factor is lost: name, second_factor."""
        return dict(self._ask("DELETE", f"users/{quote(name, safe='')}/second-factor"))

    def remove_user(self, name: str, *, home: str) -> dict[str, Any]:
        """Remove an account with its sessions and tokens; *home* is keep or delete. Returns name and home."""
        return dict(self._ask("DELETE", f"users/{quote(name, safe='')}?home={home}"))

    def first_link(self) -> dict[str, Any]:
        """A one-time sign-in link for the first administrator: name, link, expires_at."""
        return dict(self._ask("POST", "first-link", {}))

    def start_session(self, name: str, options: Mapping[str, Any]) -> None:
        """Begin to start the session of *name* with *options*; it goes on by itself.

        Raises:
            HubError: The person is unknown, has a session, or the options make no sense.
        """
        self._ask("POST", f"users/{quote(name, safe='')}/server", options, own=False)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, own: bool = True) -> Any:
        """The answer to a call of Labdock's *own* part of the API, or of JupyterHub's."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(  # noqa: S310  our own http URL
            f"{self._url}/hub/api/{'labdock/' if own else ''}{path}",
            data=data,
            method=method,
            headers={**self._headers, "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=120) as response:
                return json.loads(response.read() or b"null")
        except HTTPError as error:
            raise HubError(_message(error)) from error
        except (OSError, HTTPException, ValueError) as error:
            # The last is another program's answer, which listens where the hub should.
            raise HubError(
                f"The hub does not answer at {self._url} ({getattr(error, 'reason', error)}).",
                fix="`labdock status` tells what runs.",
            ) from error


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path, host: str, timeout: float | None = None) -> None:
        super().__init__(host, timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _ByUnixSocket(HTTPHandler):
    """Takes every request for plain HTTP to one socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._connection = partial(_UnixConnection, path)

    def http_open(self, request: Request) -> HTTPResponse:
        response: HTTPResponse = self.do_open(self._connection, request)
        return response


def _message(error: HTTPError) -> str:
    """The hub's own words, or its status."""
    status = f"The hub answered {error.code} {error.reason}."
    try:
        # JupyterHub's own message may be null.
        return str(json.loads(error.read())["message"] or status)
    except (ValueError, KeyError, TypeError):
        return status
