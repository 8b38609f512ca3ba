"""Labdock's REST API inside JupyterHub, ``/hub/api/labdock/…``: mostly for the scope ``admin:users``."""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.user import User
from tornado import web

from labdock.core.accounts import UnknownPersonError
from labdock.core.errors import AccountError, BadRequestError, LabdockError
from labdock.core.login import LOGIN_PATTERN
from labdock.core.people import check_name
from labdock.hub.cards import Cards
from labdock.hub.images import Images, image_news, images_for
from labdock.hub.people import MadeLink, People, PeopleMixin, administrators_only, iso_time


def api_handlers(people: People, cards: Cards, images: Images) -> list[tuple[Any, ...]]:
    """The API's handlers, their paths below ``/hub``."""
    given = {"people": people}
    return [
        (r"/api/labdock/users", UsersAPIHandler, given),
        (r"/api/labdock/users/([^/]+)", UserAPIHandler, given),
        (r"/api/labdock/users/([^/]+)/reset", ResetAPIHandler, given),
        (r"/api/labdock/users/([^/]+)/second-factor", SecondFactorAPIHandler, given),
        (r"/api/labdock/users/([^/]+)/(approve|refuse)", ApprovalAPIHandler, given),
        (r"/api/labdock/sweep", SweepAPIHandler, given),
        (r"/api/labdock/throw-away", ThrowAwayAPIHandler, given),
        (r"/api/labdock/first-link", FirstLinkAPIHandler, given),
        (r"/api/labdock/gpus", GpusAPIHandler, {"cards": cards}),
        (r"/api/labdock/newer-image", NewerImageAPIHandler, {"images": images}),
    ]


def _answers(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Turn our errors into the API's: 400 with the field, 404, 409, or 503 with the sentence."""

    @functools.wraps(method)
    async def answered(self: APIHandler, *args: str) -> None:
        try:
            await method(self, *args)
        except BadRequestError as error:
            self.answer({"message": str(error), "field": error.field}, 400)
        except UnknownPersonError as error:
            self.answer({"message": str(error)}, 404)
        except AccountError as error:
            self.answer({"message": str(error)}, 409)
        except LabdockError as error:
            self.log.error("%s %s: %s", self.request.method, self.request.path, error)
            self.answer({"message": str(error)}, 503)

    return answered


class _API(APIHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """One of our API's handlers: ``/hub/api/labdock/…``."""

    def answer(self, body: Any, status: int = 200) -> None:
        self.set_status(status)
        self.finish(json.dumps(body))


class _PeopleAPI(PeopleMixin, _API):
    """One of those that are about people."""

    def answer_link(self, made: MadeLink) -> None:
        body = {"name": made.name, "link": made.url, "expires_at": iso_time(made.expires_at)}
        self.answer(body, 201)

    def read_body(self, *known: str) -> dict[str, Any]:
        """The body's JSON object, which may be empty, with *known* keys only.

        Raises:
            BadRequestError: It is anything else.
        """
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise BadRequestError("The body is not JSON.", field="body") from error
        if not isinstance(body, dict):
            raise BadRequestError("The body is not a JSON object.", field="body")
        for key in body:
            if key not in known:
                fix = f"Known: {', '.join(known)}." if known else "The body must be empty."
                raise BadRequestError(f"Unknown key {key[:60]!r}.", field=key[:60], fix=fix)
        return body


class UsersAPIHandler(_PeopleAPI):
    """``GET /api/labdock/users`` tells everybody; ``POST`` with ``{name, admin}`` invites."""

    @administrators_only
    async def get(self) -> None:
        self.answer(await self.list_people())

    @administrators_only
    @_answers
    async def post(self) -> None:
        body = self.read_body("name", "admin", "as")
        name, admin, here = body.get("name"), body.get("admin", False), body.get("as", "")
        if not isinstance(name, str):
            raise BadRequestError("The name is missing or no text.", field="name")
        if not isinstance(here, str):
            raise BadRequestError("The name here is no text.", field="as")
        if not isinstance(admin, bool):
            raise BadRequestError("Whether somebody is an administrator is true or false.", field="admin")
        if self.people.local:
            known_form(name, "name")
        elif not LOGIN_PATTERN.fullmatch(name):
            raise BadRequestError(f"{name[:60]!r} cannot be what somebody signs in as.", field="name")
        if here:
            known_form(here, "as")
        self.check_may_touch(admin=admin)
        invited = await self.people.invite(name, admin=admin, name=here)
        if invited.link is not None:
            self.answer_link(invited.link)
        else:
            self.answer({"name": invited.name, "login": invited.login, "link": None}, 201)


def known_form(name: str, field: str) -> None:
    """Raise BadRequestError unless *name* can be a person's name."""
    try:
        check_name(name)
    except AccountError as error:
        raise BadRequestError(error.message, field=field, fix=error.fix) from error


class ThrowAwayAPIHandler(_PeopleAPI):
    """``POST /api/labdock/throw-away`` with ``{name, admin}``: somebody for a moment; for services alone."""

    @administrators_only
    @_answers
    async def post(self) -> None:
        if self.current_user.kind != "service":
            raise web.HTTPError(403, "Only the command line makes people for a moment.")
        body = self.read_body("name", "admin")
        name = str(body.get("name"))
        known_form(name, "name")
        self.answer_link(await self.people.throw_away(name, admin=body.get("admin") is True))


class UserAPIHandler(_PeopleAPI):
    """``DELETE /api/labdock/users/<name>?home=keep|delete`` removes somebody."""

    @administrators_only
    @_answers
    async def delete(self, name: str) -> None:
        home = self.get_query_argument("home", "")
        if home not in ("keep", "delete"):
            raise BadRequestError(
                "What becomes of the home is not said.", field="home", fix="Add ?home=keep or ?home=delete."
            )
        kept = await self.remove_person(name, delete_home=home == "delete")
        self.answer({"name": name, "home": kept})


class ResetAPIHandler(_PeopleAPI):
    """``POST /api/labdock/users/<name>/reset`` makes a link that sets a new password."""

    @administrators_only
    @_answers
    async def post(self, name: str) -> None:
        self.read_body()
        account = await self.people.get(name)
        self.check_may_touch(admin=self.people.admission.is_admin(account))
        self.answer_link(await self.people.reset(name))


class SecondFactorAPIHandler(_PeopleAPI):
    """``DELETE /api/labdock/users/<name>/second-factor`` takes away what somebody has lost."""

    @administrators_only
    @_answers
    async def delete(self, name: str) -> None:
        await self.take_second_factor(name)
        self.answer({"name": name, "second_factor": False})


class ApprovalAPIHandler(_PeopleAPI):
    """``POST /api/labdock/users/<name>/approve|refuse`` lets somebody in, or keeps them out."""

    @administrators_only
    @_answers
    async def post(self, name: str, act: str) -> None:
        self.read_body()
        account = await (self.people.approve(name) if act == "approve" else self.refuse_person(name))
        self.answer({"name": account.name, "login": account.login, "state": account.state})


class SweepAPIHandler(_PeopleAPI):
    """``POST /api/labdock/sweep`` judges everybody by the rules as they are now."""

    @administrators_only
    @_answers
    async def post(self) -> None:
        self.read_body()
        self.answer(asdict(await self.sweep()))


class FirstLinkAPIHandler(_PeopleAPI):
    """``POST /api/labdock/first-link`` makes the link that signs the first administrator in."""

    @administrators_only
    @_answers
    async def post(self) -> None:
        self.read_body()
        self.check_may_touch(admin=True)
        self.answer_link(await self.people.first_link())


class GpusAPIHandler(_API):
    """``GET /api/labdock/gpus`` tells everybody who is signed in what there is, and who holds it."""

    def initialize(self, cards: Cards) -> None:
        self._cards = cards

    @_answers
    async def get(self) -> None:
        if self.current_user is None:
            raise web.HTTPError(403, "Sign in, or send a token.")
        report = await self._cards.look()
        inventory = report.inventory
        self.answer(
            {
                "simulated": inventory.simulated,
                "driver": inventory.driver and inventory.driver.version,
                "trouble": report.trouble and report.trouble.message,
                "cards": [
                    {
                        "uuid": card.uuid,
                        "index": card.index,
                        "model": card.label,
                        "memory_bytes": card.memory_bytes,
                        "fault": card.fault,
                        "seats": self._cards.rules.share_of(card).seats,
                        "held_by": [
                            {"person": lease.person, "since": iso_time(lease.since_s)}
                            for lease in report.leases
                            if card.uuid in lease.cards
                        ],
                    }
                    for card in inventory.cards
                ],
                "mine": [
                    {"cards": lease.cards, "restart_needed": report.outdated(lease)}
                    for lease in report.leases
                    if lease.instance == self._cards.instance and lease.person == self.current_user.name
                ],
            }
        )


class NewerImageAPIHandler(_API):
    """``GET /api/labdock/newer-image?server=<name>`` tells a running session whether its image is outdated.

    For whoever may open that session of their own, as the session itself may: it asks with its token.
    """

    def initialize(self, images: Images) -> None:
        self._images = images

    @_answers
    async def get(self) -> None:
        person = self.current_user
        if not isinstance(person, User):
            raise web.HTTPError(403, "Sign in, or send a token of a person or a session.")
        name = self.get_query_argument("server", "")
        spawner = person.spawners.get(name)
        may_ask = self.has_scope(f"access:servers!server={person.name}/{name}")
        if spawner is None or not spawner.ready or not may_ask:
            raise web.HTTPError(404, "You have no such session running.")
        news = image_news(spawner.started_from, images_for(self._images, admin=person.admin))
        self.answer({"message": news and str(news), "home": f"{self.hub.base_url}home"})
