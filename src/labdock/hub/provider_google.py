"""Signing in with Google: whose token it is, and the domain that manages their account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oauthenticator.google import GoogleOAuthenticator
from traitlets import default

from labdock.core.admission import Presented
from labdock.core.sign_in_trouble import SignInError, no_verified_email
from labdock.hub.provider_base import Facts
from labdock.hub.provider_oauth import OAuthVouched, matching, text_of


class Google(OAuthVouched, GoogleOAuthenticator):  # type: ignore[misc]  # no type information upstream
    """Google.

    Somebody belongs to a domain if Google says that their account is managed there (``hd``): an address of
    the domain alone may belong to somebody who left it long ago.
    """

    @default("authorize_url")
    def _default_authorize_url(self) -> str:
        base = self.wiring.login.server or "https://accounts.google.com"
        return f"{base}/o/oauth2/v2/auth"

    @default("google_api_url")
    def _default_google_api_url(self) -> str:
        return self.wiring.login.server or "https://www.googleapis.com"

    @default("scope")
    def _default_scope(self) -> list[str]:
        return ["openid", "email", "profile"]

    def authorize_params(self, state: str) -> dict[str, str]:
        # Google's tokens end within the hour; this brings one that renews them.
        return {"access_type": "offline"}

    def check_blocked_users(self, username: str, auth_model: dict[str, Any] | None) -> bool:
        """True: domains are the admission's to judge."""
        return True

    async def facts(self, state: dict[str, Any], token: Mapping[str, Any] | None, handler: Any) -> Facts:
        user = await self.user_of(state)
        number = self.immutable_id(user, "id")
        email = text_of(user, "email").lower()
        if user.get("verified_email") is not True or "@" not in email:
            raise SignInError(no_verified_email(self.provider))
        managed = text_of(user, "hd").lower()
        theirs = {managed, email.rpartition("@")[2]} if managed else set[str]()
        presented = Presented(
            f"google:{number}",
            email,
            email=email,
            full_name=text_of(user, "name"),
            groups=matching(self.admission.rules.domains, theirs),
        )
        return Facts(presented)
