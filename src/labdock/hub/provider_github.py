"""Signing in with GitHub: whose token it is, and what their organizations and teams tell this site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from oauthenticator.github import GitHubOAuthenticator
from tornado.httpclient import HTTPResponse
from traitlets import default

from labdock.core.admission import Presented
from labdock.core.sign_in_trouble import (
    ABOUT_THEM,
    HIDDEN,
    SignInError,
    Trouble,
    hidden_membership,
    no_identity,
    slow_down,
    strange,
    token_dead,
)
from labdock.hub.provider_base import Facts
from labdock.hub.provider_oauth import OAuthVouched, json_object, text_of, wait_s


@dataclass
class _Asked:
    """What came of the questions about somebody's memberships."""

    groups: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    gaps: list[Trouble] = field(default_factory=list)

    @contextmanager
    def about(self, *names: str) -> Iterator[None]:
        """Note for *names* why they could not be asked about; a token that is not accepted ends it all."""
        try:
            yield
        except SignInError as error:
            if error.trouble.kind in ABOUT_THEM:
                raise
            self.gaps.append(error.trouble)
            (self.hidden if error.trouble.kind == HIDDEN else self.unknown).update(names)


class GitHub(OAuthVouched, GitHubOAuthenticator):  # type: ignore[misc]  # no type information upstream
    """GitHub, or a GitHub Enterprise server.

    ``read:org`` is asked for while the rules name organizations or teams: then a member's own token says
    whether they belong there, and nothing else is asked for.
    """

    @default("github_url")
    def _default_github_url(self) -> str:
        return self.wiring.login.server or "https://github.com"

    def wanted_scope(self) -> list[str]:
        rules = self.admission.rules
        return ["read:org"] if rules.organizations or rules.teams else []

    async def facts(self, state: dict[str, Any], token: Mapping[str, Any] | None, handler: Any) -> Facts:
        user = await self.user_of(state)
        number = self.immutable_id(user, "id")
        login = text_of(user, "login")
        if not login:
            raise SignInError(no_identity(self.provider, "login"))
        rules = self.admission.rules
        asked = _Asked()
        for organization in dict.fromkeys(
            (*rules.organizations, *(team.partition(":")[0] for team in rules.teams))
        ):
            teams = [team for team in rules.teams if team.partition(":")[0] == organization]
            with asked.about(organization, *teams):
                if await self._belongs_to(organization, state):
                    asked.groups.add(organization)
        for team in rules.teams:
            organization, _, slug = team.partition(":")
            if organization in asked.groups:
                with asked.about(team):
                    if await self._on_team(organization, slug, login, state):
                        asked.groups.add(team)
        presented = Presented(
            f"github:{number}",
            login,
            full_name=text_of(user, "name"),
            # The organization of a team is no reason to come in by itself.
            groups=rules.memberships & asked.groups,
        )
        return Facts(
            presented,
            tuple(asked.gaps),
            unknown=rules.memberships & asked.unknown,
            hidden=rules.memberships & asked.hidden,
        )

    async def _belongs_to(self, organization: str, state: Mapping[str, Any]) -> bool:
        # Of the several questions this is the one that needs no login, which may change hands meanwhile.
        url = f"{self.github_api}/user/memberships/orgs/{quote(organization, safe='')}"
        return self._membership(organization, await self.ask(url, state), state)

    async def _on_team(self, organization: str, slug: str, login: str, state: Mapping[str, Any]) -> bool:
        url = "{}/orgs/{}/teams/{}/memberships/{}".format(
            self.github_api, *(quote(part, safe="") for part in (organization, slug, login))
        )
        return self._membership(organization, await self.ask(url, state), state)

    def _membership(self, organization: str, reply: HTTPResponse, state: Mapping[str, Any]) -> bool:
        """Whether *reply* says that somebody belongs there; who was invited and has not agreed does not.

        Raises:
            SignInError: It says that this may not be asked.
        """
        answer = json_object(reply) or {}
        if reply.code == 200:
            return answer.get("state") == "active"
        message = text_of(answer, "message").lower()
        if reply.code == 401:
            raise SignInError(token_dead(self.provider))
        if "rate limit" in message:
            raise SignInError(slow_down(self.provider, wait_s(reply, self.wiring.clock())))
        granted = reply.headers.get("X-OAuth-Scopes", ",".join(state.get("scope") or ()))
        scopes = {scope.strip() for scope in granted.split(",") if scope.strip()}
        if "not accessible by integration" in message:
            cause = f"the GitHub App may not see who belongs to {organization}"
            fix = "Give it the permission Organization, Members: read-only; an owner then accepts it there."
        elif scopes.isdisjoint({"read:org", "write:org", "admin:org"}) and reply.code in (403, 404):
            cause = f"a token lacks the scope read:org, so memberships of {organization} cannot be seen"
            fix = "Nothing, if it passes when they sign in again: only then is the scope asked for."
        elif "saml" in message or "X-GitHub-SSO" in reply.headers:
            cause = f"the organization {organization} wants SAML single sign-on before it tells of members"
            fix = (
                f"They sign in to {organization} at GitHub first, and then here; "
                "or an owner lets the application pass."
            )
        elif reply.code == 404:
            return False
        elif reply.code == 403:
            cause = f"the organization {organization} does not let this application see its members"
            fix = (
                f"An owner of {organization} approves it: GitHub, organization settings, "
                "Third-party access, OAuth app policy."
            )
        else:
            raise SignInError(
                strange(self.provider, f"GitHub answered {reply.code} about a member of {organization}")
            )
        raise SignInError(hidden_membership(self.provider, organization, cause, fix))
