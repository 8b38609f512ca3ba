"""Signing in with GitHub, GitLab, Google or an OpenID Connect provider.

OAuthenticator knows their addresses and speaks OAuth with them. What is added: whom they speak of is told by
the immutable id, memberships are told apart from answers that are kept back, every failure has a page of its
own, and the admission decides who may come in.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode, urlsplit

from jupyterhub.utils import url_path_join
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthenticator, OAuthLoginHandler
from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.netutil import Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from traitlets import default

from labdock.core.sign_in_trouble import (
    CODE_SPENT,
    NO_STATE,
    STRANGE,
    SignInError,
    Trouble,
    callback_trouble,
    code_spent,
    down,
    no_identity,
    no_state,
    not_trusted,
    slow_down,
    strange,
    token_dead,
    token_trouble,
)
from labdock.hub.provider_base import Facts, Vouched

CONNECT_WITHIN_S = 5.0
ANSWER_WITHIN_S = 10.0
ANSWER_MAX_BYTES = 2 * 2**20

FAILURE_HOLDS_S = 5.0

LEEWAY_S = 60
"""How far the provider's clock and ours may differ."""


class LoginHandler(OAuthLoginHandler):  # type: ignore[misc]  # no type information upstream
    """``/hub/oauth_login``: to the provider's page, if what is known of it says that it will answer."""

    async def get(self) -> None:
        try:
            await self.authenticator.be_ready()
        except SignInError as error:
            await show_trouble(self, error.trouble, self._get_next_url() or "")
            return
        super().get()

    def authorize_redirect(self, *, scope: Any, extra_params: dict[str, Any], **kwargs: Any) -> None:
        params = self.authenticator.authorize_params(extra_params["state"])
        if self.get_query_argument("other", "") == "yes":
            # Somebody with two accounts would be sent back as the wrong one for ever.
            params["prompt"] = "select_account"
        super().authorize_redirect(
            scope=self.authenticator.wanted_scope(), extra_params=extra_params | params, **kwargs
        )

    def set_state_cookie(self, state_cookie_value: str) -> None:
        self.set_header("Cache-Control", "no-store")
        super().set_state_cookie(state_cookie_value)


class CallbackHandler(OAuthCallbackHandler):  # type: ignore[misc]  # no type information upstream
    """``/hub/oauth_callback``: whom the provider sends back is signed in, or told why not."""

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")
        next_url = text_of(deserialized(self.get_state_cookie()), "next_url")
        try:
            self.check_arguments()
            user = await self.login_user()
        except SignInError as error:
            if error.trouble.kind == NO_STATE and self.current_user is not None:
                # The way back in the browser of somebody who is signed in.
                self.redirect(url_path_join(self.hub.base_url, "home"))
                return
            await show_trouble(self, error.trouble, next_url)
            return
        self.redirect(self.get_next_url(user))

    def check_arguments(self) -> None:
        # First of all: whatever else an address says, it may come from anywhere.
        self.check_state()
        self.check_error()
        self.check_code()

    def check_state(self) -> None:
        ours = text_of(deserialized(self.get_state_cookie()), "state_id")
        theirs = text_of(deserialized(self.get_query_argument("state", "")), "state_id")
        if not ours or not hmac.compare_digest(ours.encode(), theirs.encode("utf-8", "replace")):
            raise SignInError(no_state())

    def check_error(self) -> None:
        error = self.get_query_argument("error", "")
        if error:
            authenticator = self.authenticator
            raise SignInError(
                callback_trouble(
                    authenticator.provider, authenticator.wiring.callback, authenticator.scope_words(), error
                )
            )

    def check_code(self) -> None:
        if not self.get_query_argument("code", ""):
            raise SignInError(code_spent(self.authenticator.provider))


async def show_trouble(handler: Any, trouble: Trouble, next_url: str) -> None:
    """Answer *handler*'s browser with the page of *trouble*, and tell the administrator."""
    handler.authenticator.tell_admin(trouble)
    handler.set_status(trouble.status)
    handler.set_header("Cache-Control", "no-store")
    if trouble.retry_s:
        handler.set_header("Retry-After", str(trouble.retry_s))
    again = {"next": next_url} if next_url else {}
    html = await handler.render_template(
        "sign_in_failed.html",
        trouble=trouble,
        provider=handler.authenticator.provider,
        again_url=_with(url_path_join(handler.hub.base_url, "oauth_login"), again),
        other_url=_with(url_path_join(handler.hub.base_url, "oauth_login"), {"other": "yes", **again}),
    )
    handler.finish(html)


def _with(url: str, query: Mapping[str, str]) -> str:
    return f"{url}?{urlencode(query)}" if query else url


def deserialized(state: str) -> Mapping[str, Any]:
    """What is in *state*, which anybody may have written; nothing of what is no state."""
    if not state.isascii() or len(state) > 4096:
        return {}
    try:
        data = json.loads(base64.urlsafe_b64decode(state))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def text_of(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


class OwnResolver(Resolver):
    """Looks names up in threads of its own: a name server that hangs must not take everybody's."""

    def initialize(self) -> None:
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        return [(int(kind), address) for kind, _, _, _, address in found]


class OAuthVouched(Vouched, OAuthenticator):  # type: ignore[misc]  # no type information upstream
    """What the four have in common. Subclasses give ``facts``: what a token's owner is told by."""

    login_handler = LoginHandler
    callback_handler = CallbackHandler

    known_there = False
    failed: tuple[Trouble, float] | None = None
    """Why nobody could sign in when somebody last began to, and until when that is not asked anew."""

    @default("login_service")
    def _default_login_service(self) -> str:
        return self.provider

    @default("client_id")
    def _default_client_id(self) -> str:
        return self.wiring.login.client_id

    @default("client_secret")
    def _default_client_secret(self) -> str:
        return self.wiring.secret

    @default("oauth_callback_url")
    def _default_oauth_callback_url(self) -> str:
        return self.wiring.callback

    @default("http_client")
    def _default_http_client(self) -> SimpleAsyncHTTPClient:
        return SimpleAsyncHTTPClient(
            force_instance=True, max_clients=20, max_body_size=ANSWER_MAX_BYTES, resolver=OwnResolver()
        )

    @default("http_request_kwargs")
    def _default_http_request_kwargs(self) -> dict[str, Any]:
        context = ssl.create_default_context()
        if self.wiring.login.authority:
            context.load_verify_locations(cadata=self.wiring.login.authority)
        return {
            "ssl_options": context,
            "connect_timeout": CONNECT_WITHIN_S,
            "request_timeout": ANSWER_WITHIN_S,
            # A token or a secret goes where it was meant to, and not where an answer points.
            "follow_redirects": False,
        }

    def wanted_scope(self) -> list[str]:
        """What is asked for now; the rules may have changed since the hub started."""
        return list(self.scope)

    def scope_words(self) -> str:
        return " ".join(self.wanted_scope())

    def authorize_params(self, state: str) -> dict[str, str]:
        """What goes to the provider's page beside what OAuth always has."""
        return {}

    async def be_ready(self) -> None:
        """Find out, once, whether the provider knows this site: its own page would be a dead end.

        Raises:
            SignInError: It does not answer, or its settings and ours do not agree.
        """
        if self.known_there:
            return
        if self.failed is not None and self.wiring.clock() < self.failed[1]:
            raise SignInError(self.failed[0])
        try:
            await self.probe()
        except SignInError as error:
            # That the code is wrong is the right answer; where it makes no sense, its page may know better.
            if error.trouble.kind not in (CODE_SPENT, STRANGE):
                self.failed = (error.trouble, self.wiring.clock() + FAILURE_HOLDS_S)
                raise
            self.known_there = error.trouble.kind == CODE_SPENT

    async def probe(self) -> None:
        """Exchange a code that is none.

        Raises:
            SignInError: Always; that the code is wrong means that all else is right.
        """
        await self.get_token_info(None, self._made_up_code())

    def _made_up_code(self) -> dict[str, str]:
        params = {
            "grant_type": "authorization_code",
            "code": secrets.token_hex(10),
            "redirect_uri": self.wiring.callback,
            "code_verifier": secrets.token_urlsafe(32),
        }
        if not self.basic_auth:
            params |= {"client_id": self.client_id, "client_secret": self.client_secret}
        return params

    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> dict[str, Any]:
        """JupyterHub's form of whom the provider has sent back.

        Raises:
            SignInError: Nobody is let in; it says why.
            HTTPError: 400 for whoever did not come by way of the provider.
            Finish: They wait for approval, and have been told so.
        """
        if not isinstance(handler, CallbackHandler):
            raise web.HTTPError(400, f"Sign in with {self.provider}.")
        params = self.build_access_tokens_request_params(handler)
        params.pop("data", None)
        token = await self.get_token_info(handler, params)
        state = self._state_from(token, {"signed_in_at": int(self.wiring.clock())})
        facts = await self.facts(state, token, handler)
        return await self.admit(handler, facts, state)

    async def facts(self, state: dict[str, Any], token: Mapping[str, Any] | None, handler: Any) -> Facts:
        """What the provider says of the owner of the token in *state*.

        *token* is its answer at the sign-in, None when it is asked again. May add to *state* what later
        questions need.

        Raises:
            SignInError: It does not answer, or not with what must be known.
        """
        raise NotImplementedError

    async def facts_again(self, state: dict[str, Any]) -> tuple[Facts | None, dict[str, Any]]:
        ends_at = state.get("ends_at")
        renewed: Mapping[str, Any] | None = None
        if ends_at is not None and ends_at <= self.wiring.clock() + LEEWAY_S:
            if not state.get("refresh_token"):
                return None, state
            state, renewed = await self._renew(state)
        return await self.facts(state, renewed, None), state

    async def _renew(self, state: dict[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """*state* with a new token, and the provider's answer.

        Raises:
            SignInError: The provider gave none.
        """
        try:
            token = await self.get_token_info(
                None, self.build_refresh_token_request_params(state["refresh_token"])
            )
        except SignInError as error:
            if error.trouble.kind == CODE_SPENT:
                raise SignInError(token_dead(self.provider)) from error
            raise
        return self._state_from(token, state), token

    def _state_from(self, token: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept of *token*, on top of what was kept *before*: no more than asking again needs."""
        scope = token.get("scope")
        lasts = token.get("expires_in")
        return {
            **before,
            "access_token": token["access_token"],
            # A refresh token may be good for one time only; where no new one comes, the old one stays good.
            "refresh_token": text_of(token, "refresh_token") or before.get("refresh_token", ""),
            "scope": scope.replace(",", " ").split() if isinstance(scope, str) else before.get("scope"),
            "ends_at": int(self.wiring.clock() + lasts) if isinstance(lasts, int | float) else None,
        }

    async def get_token_info(self, handler: Any, params: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self.httpfetch(
            self.token_url,
            parse_json=False,
            raise_error=False,
            method="POST",
            headers=self.build_token_info_request_headers(),
            body=urlencode(params),
        )
        answer = json_object(reply)
        trouble = token_trouble(self.provider, self.wiring.callback, self.scope_words(), reply.code, answer)
        if trouble is not None:
            raise SignInError(trouble)
        return answer or {}

    async def fetch(self, req: HTTPRequest, label: str = "", parse_json: bool = True, **kwargs: Any) -> Any:
        """The reply to *req*; what OAuthenticator's own methods ask with, and ours.

        Raises:
            SignInError: Nobody answers, in time, as somebody who can be trusted, or the provider failed.
            HTTPClientError: The answer says that the question was wrong, unless *raise_error* is false.
        """
        host = urlsplit(req.url).netloc
        try:
            reply: HTTPResponse = await self.http_client.fetch(req, raise_error=False)
            if reply.code == 599:
                reply.rethrow()
        except ssl.SSLError as error:
            # What the library says names certificates, and no secret.
            cause = getattr(error, "verify_message", "") or error.reason or "the connection broke off"
            raise SignInError(not_trusted(self.provider, f"{host}: {cause}")) from error
        except HTTPClientError as error:
            raise SignInError(down(self.provider, f"{host} did not answer in time")) from error
        except OSError as error:
            raise SignInError(
                down(self.provider, f"{host} cannot be reached: {error.strerror or error}")
            ) from error
        if reply.code >= 500:
            raise SignInError(down(self.provider, f"{host} answered {reply.code}"))
        if reply.code == 429 or (reply.code == 403 and reply.headers.get("X-RateLimit-Remaining") == "0"):
            raise SignInError(slow_down(self.provider, wait_s(reply, self.wiring.clock())))
        if kwargs.get("raise_error", True) and reply.code >= 300:
            raise HTTPClientError(reply.code, response=reply)
        if not parse_json:
            return reply
        try:
            return json.loads(reply.body)
        except ValueError as error:
            raise SignInError(strange(self.provider, f"{host} answered with what is no JSON")) from error

    async def user_of(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """What the provider tells of the token's owner.

        Raises:
            SignInError: It does not, or does not accept the token.
        """
        try:
            user = await self.token_to_user({"access_token": state["access_token"], "token_type": "bearer"})
        except HTTPClientError as error:
            if error.code in (401, 403):
                raise SignInError(token_dead(self.provider)) from error
            raise SignInError(
                strange(
                    self.provider, f"{self.provider} answered {error.code} when it was asked who somebody is"
                )
            ) from error
        if not isinstance(user, dict):
            raise SignInError(strange(self.provider, "its answer about a person is no JSON object"))
        return user

    async def ask(self, url: str, state: Mapping[str, Any]) -> HTTPResponse:
        """The reply to a question with the person's own token.

        Raises:
            SignInError: There is none that says anything.
        """
        reply: HTTPResponse = await self.httpfetch(
            url,
            parse_json=False,
            raise_error=False,
            method="GET",
            headers=self.build_userdata_request_headers(state["access_token"], "bearer"),
        )
        return reply

    def immutable_id(self, user: Mapping[str, Any], key: str) -> str:
        """The provider's id of *user*, as text.

        Raises:
            SignInError: There is none: no other word for a person will do.
        """
        value = user.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return str(value)
        if isinstance(value, str) and value.strip() and len(value) <= 255 and value.isprintable():
            return value
        raise SignInError(no_identity(self.provider, key))


def json_object(reply: HTTPResponse) -> dict[str, Any] | None:
    """What *reply* holds, if it is a JSON object."""
    try:
        data = json.loads(reply.body or b"")
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def wait_s(reply: HTTPResponse, now: float) -> int:
    """How long a rate limit lasts, by the headers of *reply*: between a second and an hour."""
    after, resets = reply.headers.get("Retry-After", ""), reply.headers.get("X-RateLimit-Reset", "")
    wait = int(after) if after.isdecimal() else int(resets) - int(now) if resets.isdecimal() else 60
    return min(max(wait, 1), 3600)


def names_in(value: object) -> set[str]:
    """The names in a claim: a list of texts, one text, or a mapping whose keys they are."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, list | dict):
        return {name for name in value if isinstance(name, str)}
    return set()


def matching(wanted: tuple[str, ...], theirs: set[str]) -> frozenset[str]:
    """Those of *wanted*, as the rules write them, that are among *theirs*; case does not count."""
    folded = {name.casefold() for name in theirs}
    return frozenset(name for name in wanted if name.casefold() in folded)
