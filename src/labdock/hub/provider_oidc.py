"""Signing in with any OpenID Connect provider: who it is, what it signs, and what it says of somebody."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import jwt
from oauthenticator.generic import GenericOAuthenticator
from tornado.httputil import url_concat

from labdock.core.admission import Presented
from labdock.core.openid import BASIC, DISCOVERY_PATH, OpenIdProvider, read_discovery
from labdock.core.sign_in_trouble import (
    CODE_SPENT,
    WRONG_SECRET,
    SignInError,
    no_state,
    no_verified_email,
    strange,
    wrong_callback,
    wrong_secret,
)
from labdock.hub.provider_base import Facts
from labdock.hub.provider_oauth import (
    LEEWAY_S,
    OAuthVouched,
    deserialized,
    json_object,
    names_in,
    text_of,
)

LONGEST_SUBJECT = 50
"""The longest identity that the table of accounts keeps is a little more than this."""

SELF_CHOSEN = frozenset({"preferred_username", "nickname", "name", "email"})
"""Claims that people choose themselves at many a provider (OpenID Connect Core, 5.1 and 5.7)."""


class Oidc(OAuthVouched, GenericOAuthenticator):  # type: ignore[misc]  # no type information upstream
    """Any OpenID Connect provider, found by its issuer.

    Whose token it is the ID token says, once its signature and what it is made out for are checked; the
    userinfo endpoint may add to that, about the same subject.
    """

    metadata: OpenIdProvider | None = None
    keys: list[Any] | None = None

    async def be_ready(self) -> None:
        await self._discovered()
        await super().be_ready()

    async def probe(self) -> None:
        # What a provider can is not what it lets this application do.
        for way in (await self._discovered()).ways:
            self.basic_auth = way == BASIC
            try:
                await super().probe()
            except SignInError as error:
                if error.trouble.kind == CODE_SPENT:
                    await self._try_page()
                    raise
                if error.trouble.kind != WRONG_SECRET:
                    raise
        raise SignInError(wrong_secret(self.provider))

    async def _try_page(self) -> None:
        """Look at the page that people are sent to: one that refuses them would be a dead end."""
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.wiring.callback,
            "scope": self.scope_words(),
            "state": "probe",
            "code_challenge": secrets.token_urlsafe(32),
            "code_challenge_method": "S256",
        }
        reply = await self.httpfetch(
            url_concat(self.authorize_url, query), parse_json=False, raise_error=False, method="GET"
        )
        if 400 <= reply.code < 500:
            raise SignInError(wrong_callback(self.provider, self.wiring.callback))

    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> dict[str, Any]:
        # A hub that was restarted meanwhile does not know yet how to speak with the provider.
        await self.be_ready()
        return await super().authenticate(handler, data, **kwargs)

    async def facts_again(self, state: dict[str, Any]) -> tuple[Facts | None, dict[str, Any]]:
        await self.be_ready()
        if state.get("groups_by_id_token"):
            # Only a new ID token tells them again.
            if not state.get("refresh_token"):
                return None, state
            state, renewed = await self._renew(state)
            if not renewed.get("id_token"):
                return None, state
            return await self.facts(state, renewed, None), state
        return await super().facts_again(state)

    def wanted_scope(self) -> list[str]:
        return list(dict.fromkeys(("openid", "profile", "email", *self.wiring.login.scopes)))

    def authorize_params(self, state: str) -> dict[str, str]:
        # Bound to the browser by the state, which its cookie has too.
        return {"nonce": nonce_of(state)}

    def build_token_info_request_headers(self) -> dict[str, str]:
        headers: dict[str, str] = super().build_token_info_request_headers()
        if self.basic_auth:
            # RFC 6749, 2.3.1: both are form-encoded first, which matters for secrets with signs in them.
            pair = f"{quote(self.client_id, safe='')}:{quote(self.client_secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return headers

    async def _discovered(self) -> OpenIdProvider:
        """The provider's own description of itself, read when it is first needed.

        Raises:
            SignInError: It cannot be had, or describes somebody else.
        """
        if self.metadata is None:
            server = self.wiring.login.server
            reply = await self.httpfetch(
                server.rstrip("/") + DISCOVERY_PATH, parse_json=False, raise_error=False, method="GET"
            )
            self.metadata = read_discovery(self.provider, server, reply.code, json_object(reply))
            self.authorize_url, self.token_url = self.metadata.authorize, self.metadata.token
            self.userdata_url = self.metadata.userinfo
        return self.metadata

    async def facts(self, state: dict[str, Any], token: Mapping[str, Any] | None, handler: Any) -> Facts:
        claims: dict[str, Any] = {}
        if token is not None and (handler is not None or token.get("id_token")):
            nonce = nonce_of(handler.get_query_argument("state")) if handler is not None else ""
            claims = await self._id_token_claims(text_of(token, "id_token"), nonce)
        subject = claims.get("sub")
        if self.userdata_url:
            told = await self.user_of(state)
            if subject is not None and told.get("sub") != subject:
                raise SignInError(strange(self.provider, "its two answers are about different people"))
            state["groups_by_id_token"] = (
                claim_at(told, self.wiring.login.groups_claim) is None
                and claim_at(claims, self.wiring.login.groups_claim) is not None
            )
            claims = {**claims, **told}
        elif token is not None:
            state["groups_by_id_token"] = True
        subject = self.immutable_id(claims, "sub")
        email = text_of(claims, "email").lower()
        verified = bool(email) and claims.get("email_verified") is True
        name_claim = self.wiring.login.name_claim
        login = _login_of(claims, name_claim)
        mine = login.lower() == email
        if "@" in login and "email_verified" in claims and (mine or name_claim in SELF_CHOSEN):
            # An address that anybody can type in is nobody's name.
            if not verified:
                raise SignInError(no_verified_email(self.provider))
            login = login if mine else email
        login = login or (email if verified else subject)
        presented = Presented(
            f"oidc:{_short(subject)}",
            login,
            email=email if verified else "",
            full_name=text_of(claims, "name"),
            # As they are written: another provider may well tell "Lab" from "lab".
            groups=frozenset(self.admission.rules.groups)
            & names_in(claim_at(claims, self.wiring.login.groups_claim)),
        )
        return Facts(presented)

    async def _id_token_claims(self, id_token: str, nonce: str) -> dict[str, Any]:
        """What *id_token* says, once it is known to be the provider's, for us, and of now.

        *nonce* is what the sign-in was begun with, "" where none was.

        Raises:
            SignInError: It is not.
        """
        found = await self._discovered()
        try:
            key = await self._key_of(id_token)
            claims: dict[str, Any] = jwt.decode(
                id_token,
                key,
                # No shared secrets and no "none": only the provider can have signed it.
                algorithms=["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"],
                audience=self.client_id,
                issuer=found.issuer,
                leeway=LEEWAY_S,
                options={"require": ["sub", "aud", "iss", "exp", "iat"]},
            )
        except jwt.InvalidTokenError as error:
            raise SignInError(
                strange(self.provider, f"its ID token does not hold: {type(error).__name__}")
            ) from error
        except jwt.PyJWKSetError as error:
            raise SignInError(strange(self.provider, "its keys cannot be read")) from error
        if nonce and not hmac.compare_digest(text_of(claims, "nonce").encode(), nonce.encode()):
            raise SignInError(no_state())
        return claims

    async def _key_of(self, id_token: str) -> Any:
        """The provider's key that *id_token* names; its keys are read anew for one that is not known."""
        header = jwt.get_unverified_header(id_token)
        for anew in (False, True):
            if self.keys is None or anew:
                found = await self._discovered()
                reply = await self.httpfetch(found.keys, parse_json=False, raise_error=False, method="GET")
                self.keys = jwt.PyJWKSet.from_dict(json_object(reply) or {}).keys
            named = [key for key in self.keys if "kid" not in header or key.key_id == header["kid"]]
            fitting = [key for key in named if key.public_key_use in (None, "sig")]
            if fitting:
                return fitting[0]
        raise jwt.InvalidTokenError("no such key")


def nonce_of(state: str) -> str:
    """The nonce of the sign-in that *state* belongs to."""
    return text_of(deserialized(state), "state_id")


def claim_at(claims: Mapping[str, Any], path: str) -> object:
    """The claim called *path*, or the one that its dots lead to; None if there is none."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _login_of(claims: Mapping[str, Any], path: str) -> str:
    value = claim_at(claims, path)
    # It goes into logs and onto terminals, where signs that are not printed do things.
    return value.strip() if isinstance(value, str) and value.strip().isprintable() else ""


def _short(subject: str) -> str:
    """*subject* as it is, or a digest that stands for it where it is too long to keep."""
    if len(subject) <= LONGEST_SUBJECT:
        return subject
    return f"sha256-{hashlib.sha256(subject.encode()).hexdigest()[:43]}"
