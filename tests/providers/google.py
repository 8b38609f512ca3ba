"""Google, as far as signing in goes: its pages, its token endpoint, and its answer about a person.

The answers, with their codes and words, are those of Google's documentation of OAuth 2.0 for web server
applications: tokens end within the hour, and a refresh token comes with the first consent alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from aiohttp import web

from tests.providers.serving import Provider, Token, choose_page
from tests.providers.serving import back_to as send_back

LASTS_S = 3599


@dataclass
class Person:
    """*hd* is the domain that manages the account, "" for one that somebody made for themselves."""

    id: int
    email: str
    hd: str = ""
    verified: bool = True


class Google(Provider):
    """Google's three hosts in one."""

    def __init__(self) -> None:
        super().__init__()
        self.people: dict[int, Person] = {}
        self.leaves_out: set[str] = set()
        self._ids = count(10**20)
        self._consented: set[int] = set()
        self._offline: set[str] = set()

    def join(self, email: str, *, managed: bool = True, verified: bool = True) -> Person:
        """A new account: its id was nobody's before."""
        number = next(self._ids)
        hd = email.rpartition("@")[2] if managed else ""
        self.people[number] = Person(number, email, hd, verified)
        return self.people[number]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/o/oauth2/v2/auth", self.authorize),
            web.post("/o/oauth2/v2/auth", self.authorized),
            web.post("/oauth2/v4/token", self.token),
            web.get("/oauth2/v1/userinfo", self.userinfo),
        ]

    async def authorize(self, request: web.Request) -> web.Response:
        application = self.applications.get(request.query.get("client_id", ""))
        if application is None:
            return web.Response(status=401, text="Error 401: invalid_client")
        if request.query.get("redirect_uri") != application.callback:
            return web.Response(status=400, text="Error 400: redirect_uri_mismatch")
        people = {person.id: person.email for person in self.people.values()}
        return choose_page("Sign in with Google", "/o/oauth2/v2/auth", people, request.query)

    async def authorized(self, request: web.Request) -> web.Response:
        form = await request.post()
        callback, state = str(form["redirect_uri"]), str(form.get("state", ""))
        if not form["person"]:
            return send_back(callback, error="access_denied", state=state)
        scopes = tuple(str(form.get("scope", "")).split())
        code = self.give_code(form, int(str(form["person"])), scopes)
        if form.get("access_type") == "offline":
            self._offline.add(code)
        return send_back(callback, code=code, state=state)

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        application = self.applications.get(str(form.get("client_id", "")))
        if application is None:
            return _error(401, "invalid_client", "The OAuth client was not found.")
        if form.get("client_secret") != application.secret:
            return _error(401, "invalid_client", "Unauthorized")
        renews = form.get("grant_type") == "refresh_token"
        if renews:
            token = self._renewed(str(form.get("refresh_token", "")))
        else:
            token = self.exchange(application.client_id, form)
        if token is None:
            return _error(
                400, "invalid_grant", "Token has been expired or revoked." if renews else "Bad Request"
            )
        answer = {
            "access_token": token.access,
            "token_type": "Bearer",
            "expires_in": LASTS_S,
            "scope": " ".join(token.scopes),
            "id_token": "not.looked.at",
        }
        if str(form.get("code", "")) in self._offline and token.person not in self._consented:
            self._consented.add(token.person)
            answer["refresh_token"] = token.refresh
        return web.json_response(answer)

    def _renewed(self, refresh: str) -> Token | None:
        old = next((token for token in self.tokens if token.refresh == refresh and not token.dead), None)
        if old is None or old.person not in self.people:
            return None
        # The old token ends by itself, and its refresh token stays good.
        self.tokens.append(Token(old.person, old.client_id, old.scopes))
        return self.tokens[-1]

    async def userinfo(self, request: web.Request) -> web.Response:
        token = self.token_of(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if token is None or token.person not in self.people:
            words = "Request had invalid authentication credentials."
            return web.json_response(
                {"error": {"code": 401, "message": words, "status": "UNAUTHENTICATED"}}, status=401
            )
        person = self.people[token.person]
        told: dict[str, object] = {
            "id": str(person.id),
            "email": person.email,
            "verified_email": person.verified,
            "name": person.email.partition("@")[0].title(),
        }
        if person.hd:
            told["hd"] = person.hd
        return web.json_response({key: value for key, value in told.items() if key not in self.leaves_out})


def _error(status: int, error: str, described: str) -> web.Response:
    return web.json_response({"error": error, "error_description": described}, status=status)
