"""Signing in with GitLab: whose token it is, and their groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oauthenticator.gitlab import GitLabOAuthenticator
from traitlets import default

from labdock.core.admission import Presented
from labdock.core.sign_in_trouble import SignInError, no_identity
from labdock.hub.provider_base import Facts
from labdock.hub.provider_oauth import OAuthVouched, matching, names_in, text_of


class GitLab(OAuthVouched, GitLabOAuthenticator):  # type: ignore[misc]  # no type information upstream
    """GitLab.com, or a GitLab of one's own.

    GitLab is an OpenID Connect provider: its answer about a person has the full path of every group they
    belong to, also through a group above, and asking for it takes no right to read anything else.
    """

    @default("gitlab_url")
    def _default_gitlab_url(self) -> str:
        return self.wiring.login.server or "https://gitlab.com"

    @default("userdata_url")
    def _default_userdata_url(self) -> str:
        return f"{self.gitlab_url}/oauth/userinfo"

    @default("scope")
    def _default_scope(self) -> list[str]:
        return ["openid", "profile", "email"]

    async def facts(self, state: dict[str, Any], token: Mapping[str, Any] | None, handler: Any) -> Facts:
        user = await self.user_of(state)
        number = self.immutable_id(user, "sub")
        login = text_of(user, "nickname") or text_of(user, "preferred_username")
        if not login:
            raise SignInError(no_identity(self.provider, "nickname"))
        theirs = names_in(user.get("groups"))
        presented = Presented(
            f"gitlab:{number}",
            login,
            email=text_of(user, "email") if user.get("email_verified") is True else "",
            full_name=text_of(user, "name"),
            groups=matching(self.admission.rules.groups, theirs),
        )
        return Facts(presented)
