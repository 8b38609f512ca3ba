"""A sign-in provider that speaks OAuth, asked from the host whether it knows this site; nobody signs in."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from labdock.core.finding import Finding
from labdock.core.login import LoginSettings
from labdock.core.openid import BASIC, DISCOVERY_PATH, read_discovery
from labdock.core.sign_in_trouble import (
    CODE_SPENT,
    WRONG_SECRET,
    SignInError,
    Trouble,
    down,
    not_trusted,
    token_trouble,
    wrong_callback,
    wrong_secret,
)

ANSWER_WITHIN_S = 10.0
ANSWER_MAX_BYTES = 2 * 2**20

_TOKEN_ENDPOINTS: Mapping[str, tuple[str, str]] = {
    "github": ("https://github.com", "/login/oauth/access_token"),
    "gitlab": ("https://gitlab.com", "/oauth/token"),
    "google": ("https://www.googleapis.com", "/oauth2/v4/token"),
}
"""Where each answers by itself, and the path of its token endpoint."""


def check_login(login: LoginSettings, callback: str, secret: str) -> Finding:
    """Whether the provider of *login* takes its client id and the *secret*, asked with a code that is none.

    Right ones are told that the code is wrong, wrong ones that they are. Of the *callback* some tell at once;
    with the others it shows when somebody signs in.
    """
    provider = login.label or login.method
    try:
        trouble = _Asking(login, provider, callback, secret).trouble()
    except SignInError as error:
        trouble = error.trouble
    if trouble is None:
        return Finding("sign-in", True, f"{provider} knows this site, and takes its secret")
    return Finding("sign-in", False, trouble.cause, trouble.fix)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    answer: Mapping[str, Any] | None


class _Stay(HTTPRedirectHandler):
    """Goes where it was sent, and not where an answer points: a secret is in the question."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Asking:
    def __init__(self, login: LoginSettings, provider: str, callback: str, secret: str) -> None:
        self.login, self.provider, self.callback, self.secret = login, provider, callback, secret
        context = ssl.create_default_context()
        if login.authority:
            context.load_verify_locations(cadata=login.authority)
        # As the hub asks: directly, whatever proxy this shell has.
        self.opener: OpenerDirector = build_opener(HTTPSHandler(context=context), ProxyHandler({}), _Stay())

    def trouble(self) -> Trouble | None:
        """What is wrong, None for nothing.

        Raises:
            SignInError: The provider does not answer.
        """
        if self.login.method != "oidc":
            base, path = _TOKEN_ENDPOINTS[self.login.method]
            return self._exchange((self.login.server or base) + path, basic=False)
        url = self.login.server.rstrip("/") + DISCOVERY_PATH
        reply = self._ask(Request(url))  # noqa: S310  the scheme is https, by the configuration
        found = read_discovery(self.provider, self.login.server, reply.status, reply.answer)
        wrong: Trouble | None = wrong_secret(self.provider)
        for way in found.ways:
            wrong = self._exchange(found.token, basic=way == BASIC)
            if wrong is None:
                return self._page(found.authorize)
            if wrong.kind != WRONG_SECRET:
                break
        return wrong

    def _exchange(self, url: str, *, basic: bool) -> Trouble | None:
        form = {
            "grant_type": "authorization_code",
            "code": secrets.token_hex(10),
            "redirect_uri": self.callback,
            "code_verifier": secrets.token_urlsafe(32),
        }
        headers = {"Accept": "application/json", "User-Agent": "Labdock"}
        if basic:
            pair = f"{quote(self.login.client_id, safe='')}:{quote(self.secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self.login.client_id, "client_secret": self.secret}
        reply = self._ask(Request(url, urlencode(form).encode(), headers))  # noqa: S310  https, as above
        trouble = token_trouble(self.provider, self.callback, "", reply.status, reply.answer)
        return None if trouble is not None and trouble.kind == CODE_SPENT else trouble

    def _page(self, url: str) -> Trouble | None:
        """What the page says at once that people will be sent to."""
        query = {
            "response_type": "code",
            "client_id": self.login.client_id,
            "redirect_uri": self.callback,
            "scope": "openid",
            "state": "check",
            "code_challenge": secrets.token_urlsafe(32),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(url).query else "?"
        reply = self._ask(Request(f"{url}{joint}{urlencode(query)}"))  # noqa: S310  https, as above
        return wrong_callback(self.provider, self.callback) if 400 <= reply.status < 500 else None

    def _ask(self, request: Request) -> _Reply:
        try:
            with self.opener.open(request, timeout=ANSWER_WITHIN_S) as response:
                status, body = response.status, response.read(ANSWER_MAX_BYTES)
        except HTTPError as error:
            with error:
                status, body = error.code, error.read(ANSWER_MAX_BYTES)
        except (URLError, OSError, http.client.HTTPException) as error:
            raise SignInError(self._no_answer(request.host, error)) from error
        if status >= 500:
            raise SignInError(down(self.provider, f"{request.host} answered {status}"))
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        return _Reply(status, answer if isinstance(answer, dict) else None)

    def _no_answer(self, host: str, error: Exception) -> Trouble:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLError):
            cause = getattr(reason, "verify_message", "") or reason.reason or "the connection broke off"
            return not_trusted(self.provider, f"{host}: {cause}")
        if isinstance(reason, TimeoutError):
            return down(self.provider, f"{host} did not answer in time")
        return down(self.provider, f"{host} cannot be reached: {getattr(reason, 'strerror', None) or reason}")
