"""GitHub, as far as signing in goes: its pages, its token endpoint, and the questions about people.

The answers, with their codes and words, are those of GitHub's documentation of OAuth apps and of the REST API
(organization members, team members), version 2022-11-28.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from tests.providers.serving import Provider, Token, back_to, choose_page

API = "/api/v3"
DOCS = "https://docs.github.com/"


@dataclass
class Person:
    id: int
    login: str
    name: str = ""
    email: str | None = None


@dataclass
class Organization:
    """Members by id, ``active`` or ``pending``; teams by slug.

    *lets_in* are the client ids that its owners have approved, None while it does not restrict applications.
    """

    members: dict[int, str] = field(default_factory=dict)
    teams: dict[str, set[int]] = field(default_factory=dict)
    lets_in: set[str] | None = None
    saml: bool = False


class GitHub(Provider):
    """A GitHub Enterprise server."""

    def __init__(self) -> None:
        super().__init__()
        self.people: dict[int, Person] = {}
        self.organizations: dict[str, Organization] = {}
        self.rate_limit_used_up = False
        self.leaves_out: set[str] = set()
        """Keys that its answer about a person lacks."""
        self._next_id = 583231

    def join(self, login: str, *organizations: str, name: str = "") -> Person:
        """A new account under *login*, which must be free: its id was nobody's before."""
        assert self._by_login(login) is None
        self._next_id += 17
        person = Person(self._next_id, login, name or login.title())
        self.people[person.id] = person
        for organization in organizations:
            self.organizations.setdefault(organization, Organization()).members[person.id] = "active"
        return person

    def delete(self, person: Person) -> None:
        """End an account: its login is free for anybody."""
        del self.people[person.id]
        for organization in self.organizations.values():
            organization.members.pop(person.id, None)

    def _by_login(self, login: str) -> Person | None:
        return next((p for p in self.people.values() if p.login.lower() == login.lower()), None)

    def routes(self) -> list[web.RouteDef]:
        def api(path: str, answer: Callable[[web.Request, Token], web.Response]) -> web.RouteDef:
            async def handle(request: web.Request) -> web.Response:
                return self._with_token(request, answer)

            return web.get(API + path, handle)

        return [
            web.get("/login/oauth/authorize", self.authorize),
            web.post("/login/oauth/authorize", self.authorized),
            web.post("/login/oauth/access_token", self.access_token),
            api("/user", self.user),
            api("/user/orgs", self.user_orgs),
            api("/user/memberships/orgs/{org}", self.my_membership),
            api("/orgs/{org}/members/{login}", self.is_member),
            api("/orgs/{org}/teams/{team}/memberships/{login}", self.team_membership),
        ]

    async def authorize(self, request: web.Request) -> web.Response:
        application = self.applications.get(request.query.get("client_id", ""))
        if application is None:
            return web.Response(status=404, text="<h1>404</h1>", content_type="text/html")
        ours, theirs = urlsplit(application.callback), urlsplit(request.query.get("redirect_uri", ""))
        if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc) or not theirs.path.startswith(
            ours.path
        ):
            return back_to(
                application.callback,
                error="redirect_uri_mismatch",
                error_description="The redirect_uri MUST match the registered callback URL.",
                error_uri=DOCS,
                state=request.query.get("state", ""),
            )
        people = {person.id: person.login for person in self.people.values()}
        return choose_page("Sign in to GitHub", "/login/oauth/authorize", people, request.query)

    async def authorized(self, request: web.Request) -> web.Response:
        form = await request.post()
        callback, state = str(form["redirect_uri"]), str(form.get("state", ""))
        if not form["person"]:
            return back_to(
                callback,
                error="access_denied",
                error_description="The user has denied your application access.",
                error_uri=DOCS,
                state=state,
            )
        scopes = tuple(str(form.get("scope", "")).replace(",", " ").split())
        return back_to(callback, code=self.give_code(form, int(str(form["person"])), scopes), state=state)

    async def access_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        application = self.applications.get(str(form.get("client_id", "")))
        if application is None:
            return web.json_response({"error": "Not Found"}, status=404)
        if form.get("client_secret") != application.secret:
            return self._token_answer(
                request,
                error="incorrect_client_credentials",
                error_description="The client_id and/or client_secret passed are incorrect.",
                error_uri=DOCS,
            )
        token = self.exchange(application.client_id, form)
        if token is None:
            return self._token_answer(
                request,
                error="bad_verification_code",
                error_description="The code passed is incorrect or expired.",
                error_uri=DOCS,
            )
        return self._token_answer(
            request, access_token=token.access, scope=",".join(token.scopes), token_type="bearer"
        )

    def _token_answer(self, request: web.Request, **answer: str) -> web.Response:
        # Errors too come with status 200, and as a form unless JSON is asked for.
        if "application/json" in request.headers.get("Accept", ""):
            return web.json_response(answer)
        return web.Response(text=urlencode(answer), content_type="application/x-www-form-urlencoded")

    def _with_token(
        self, request: web.Request, answer: Callable[[web.Request, Token], web.Response]
    ) -> web.Response:
        kind, _, access = request.headers.get("Authorization", "").partition(" ")
        token = self.token_of(access) if kind.lower() in ("bearer", "token") else None
        if token is None or token.person not in self.people:
            return _message(401, "Bad credentials")
        if self.rate_limit_used_up:
            reply = _message(403, f"API rate limit exceeded for user ID {token.person}.")
            reply.headers["X-RateLimit-Remaining"] = "0"
            reply.headers["X-RateLimit-Reset"] = str(int(time.time()) + 1200)
            return reply
        reply = answer(request, token)
        reply.headers["X-OAuth-Scopes"] = ", ".join(token.scopes)
        reply.headers.setdefault("X-RateLimit-Remaining", "4999")
        return reply

    def user(self, request: web.Request, token: Token) -> web.Response:
        person = self.people[token.person]
        told = {
            "login": person.login,
            "id": person.id,
            "node_id": f"U_{person.id}",
            "type": "User",
            "name": person.name,
            "email": person.email,
        }
        return web.json_response({key: value for key, value in told.items() if key not in self.leaves_out})

    def user_orgs(self, request: web.Request, token: Token) -> web.Response:
        return web.json_response(
            [
                {"login": name}
                for name, organization in self.organizations.items()
                if token.person in organization.members and self._kept_back(organization, token) is None
            ]
        )

    def my_membership(self, request: web.Request, token: Token) -> web.Response:
        if "read:org" not in token.scopes:
            return _message(403, "You need at least read:org scope to get your organization membership.")
        name = request.match_info["org"]
        organization = self._organization(name)
        if organization is None:
            return _message(404, "Not Found")
        state = organization.members.get(token.person)
        kept_back = self._kept_back(organization, token) if state else None
        if kept_back is not None:
            return kept_back
        if state is None:
            return _message(404, "Not Found")
        return web.json_response({"state": state, "role": "member", "organization": {"login": name}})

    def is_member(self, request: web.Request, token: Token) -> web.Response:
        organization = self._organization(request.match_info["org"])
        asked = self._by_login(request.match_info["login"])
        if organization is None or asked is None:
            return _message(404, "Not Found")
        if token.person not in organization.members or "read:org" not in token.scopes:
            name, login = request.match_info["org"], request.match_info["login"]
            location = f"{self.url}{API}/orgs/{name}/public_members/{login}"
            return web.Response(status=302, headers={"Location": location})
        kept_back = self._kept_back(organization, token)
        if kept_back is not None:
            return kept_back
        return web.Response(status=204) if asked.id in organization.members else _message(404, "Not Found")

    def team_membership(self, request: web.Request, token: Token) -> web.Response:
        organization = self._organization(request.match_info["org"])
        asked = self._by_login(request.match_info["login"])
        if organization is None or asked is None or token.person not in organization.members:
            return _message(404, "Not Found")
        kept_back = self._kept_back(organization, token)
        if kept_back is not None:
            return kept_back
        if asked.id not in organization.teams.get(request.match_info["team"], set()):
            return _message(404, "Not Found")
        return web.json_response({"role": "member", "state": organization.members[asked.id]})

    def _organization(self, name: str) -> Organization | None:
        return next((o for key, o in self.organizations.items() if key.lower() == name.lower()), None)

    def _kept_back(self, organization: Organization, token: Token) -> web.Response | None:
        if organization.saml:
            reply = _message(
                403,
                "Resource protected by organization SAML enforcement. "
                "You must grant your OAuth token access to this organization.",
            )
            reply.headers["X-GitHub-SSO"] = "required; url=https://github.com/orgs/x/sso"
            return reply
        if organization.lets_in is not None and token.client_id not in organization.lets_in:
            return _message(
                403,
                "Although you appear to have the correct authorization credentials, the organization has "
                "enabled OAuth App access restrictions, meaning that access to third-parties is limited.",
            )
        return None


def _message(status: int, text: str) -> web.Response:
    answer = {"message": text, "documentation_url": DOCS, "status": str(status)}
    return web.json_response(answer, status=status)
