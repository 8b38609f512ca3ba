"""GitLab, as far as signing in goes: its pages, its token endpoint, and its answer about a person.

The answers, with their codes and words, are those of GitLab's documentation of OAuth 2.0 (doorkeeper) and of
GitLab as an OpenID Connect provider: tokens end after two hours, and a refresh token is good for once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from aiohttp import web

from tests.providers.serving import Provider, Token, back_to, choose_page

LASTS_S = 7200


@dataclass
class Person:
    id: int
    username: str
    email: str = ""
    verified: bool = True
    groups: tuple[str, ...] = ()
    blocked: bool = False


class GitLab(Provider):
    """A GitLab of one's own."""

    scopes = frozenset({"openid", "profile", "email"})
    """What the application may ask for: the boxes that were ticked when it was registered."""

    def __init__(self) -> None:
        super().__init__()
        self.people: dict[int, Person] = {}
        self.leaves_out: set[str] = set()
        self._ids = count(4000)

    def join(self, username: str, *groups: str, email: str = "", verified: bool = True) -> Person:
        """A new account: its id was nobody's before."""
        number = next(self._ids)
        email = email or f"{username}@example.edu"
        self.people[number] = Person(number, username, email, verified, groups)
        return self.people[number]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/oauth/authorize", self.authorize),
            web.post("/oauth/authorize", self.authorized),
            web.post("/oauth/token", self.token),
            web.get("/oauth/userinfo", self.userinfo),
        ]

    async def authorize(self, request: web.Request) -> web.Response:
        application = self.applications.get(request.query.get("client_id", ""))
        if application is None:
            return web.Response(status=401, text="Client authentication failed due to unknown client.")
        if request.query.get("redirect_uri") != application.callback:
            return web.Response(status=400, text="The redirect URI included is not valid.")
        if not set(request.query.get("scope", "").split()) <= self.scopes:
            return back_to(
                application.callback,
                error="invalid_scope",
                error_description="The requested scope is invalid, unknown, or malformed.",
                state=request.query.get("state", ""),
            )
        people = {person.id: person.username for person in self.people.values()}
        return choose_page("Sign in to GitLab", "/oauth/authorize", people, request.query)

    async def authorized(self, request: web.Request) -> web.Response:
        form = await request.post()
        callback, state = str(form["redirect_uri"]), str(form.get("state", ""))
        if not form["person"]:
            return back_to(
                callback,
                error="access_denied",
                error_description="The resource owner or authorization server denied the request.",
                state=state,
            )
        scopes = tuple(str(form.get("scope", "")).split())
        return back_to(callback, code=self.give_code(form, int(str(form["person"])), scopes), state=state)

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        application = self.applications.get(str(form.get("client_id", "")))
        if application is None or form.get("client_secret") != application.secret:
            return _error(
                401,
                "invalid_client",
                "Client authentication failed due to unknown client, no client authentication included, "
                "or unsupported authentication method.",
            )
        if form.get("grant_type") == "refresh_token":
            token = self._renewed(str(form.get("refresh_token", "")), application.client_id)
        else:
            token = self.exchange(application.client_id, form)
        if token is None:
            return _error(
                400,
                "invalid_grant",
                "The provided authorization grant is invalid, expired, revoked, does not match the "
                "redirection URI used in the authorization request, or was issued to another client.",
            )
        return web.json_response(
            {
                "access_token": token.access,
                "token_type": "Bearer",
                "expires_in": LASTS_S,
                "refresh_token": token.refresh,
                "scope": " ".join(token.scopes),
            }
        )

    def _renewed(self, refresh: str, client_id: str) -> Token | None:
        old = next((t for t in self.tokens if t.refresh == refresh and t.client_id == client_id), None)
        if old is None or old.dead:
            return None
        old.dead = True
        self.tokens.append(Token(old.person, client_id, old.scopes))
        return self.tokens[-1]

    async def userinfo(self, request: web.Request) -> web.Response:
        token = self.token_of(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if token is None or token.person not in self.people or self.people[token.person].blocked:
            return _error(401, "invalid_token", "The access token is invalid.")
        person = self.people[token.person]
        told = {
            "sub": str(person.id),
            "name": person.username.title(),
            "nickname": person.username,
            "preferred_username": person.username,
            "email": person.email,
            "email_verified": person.verified,
            "groups": list(person.groups),
        }
        return web.json_response({key: value for key, value in told.items() if key not in self.leaves_out})


def _error(status: int, error: str, described: str) -> web.Response:
    return web.json_response({"error": error, "error_description": described}, status=status)
