"""What administrators do with people: invite, reset, list, remove; for the page and the REST API alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from jupyterhub import orm
from jupyterhub.roles import assign_default_roles
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import new_token
from tornado import web
from tornado.log import app_log

from labdock.core.accounts import Account, LinkKind, Standing, UnknownPersonError
from labdock.core.errors import AccountError, BadRequestError, HubError
from labdock.core.login import LOCAL
from labdock.core.site import HubSettings
from labdock.hub.accounts import VISIT
from labdock.hub.admission import Admission

STOP_WITHIN_S = 60.0
"""How long removing somebody waits for each of their sessions to end."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


def administrators_only(method: _Method) -> _Method:
    """*method* of a handler for whoever has the scope ``admin:users``; 403 for the others."""
    guarded: _Method = needs_scope("admin:users")(method)
    return guarded


class Agent(Protocol):
    """What the pages ask of the agent."""

    async def remove_person(self, identity: str, *, delete_home: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Invited:
    """Who was invited: their name here, what they sign in as, and the link for it with local accounts."""

    name: str
    login: str
    link: MadeLink | None


@dataclass(frozen=True, slots=True)
class Swept:
    """What a look at everybody's rights changed: who was shut out, whose rights are others now."""

    shut_out: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MadeLink:
    """A fresh link, shown once; ``expires_at`` in Unix seconds."""

    name: str
    kind: LinkKind
    url: str
    expires_at: int


class People:
    """The people of one instance."""

    def __init__(self, settings: HubSettings, admission: Admission, agent: Agent) -> None:
        self.settings = settings
        self.admission = admission
        self._store = admission.store
        self._agent = agent

    def __deepcopy__(self, memo: Mapping[int, Any]) -> People:
        """Itself: traitlets copies every configured value, the agent's connection among them."""
        return self

    async def everybody(self) -> tuple[Account, ...]:
        """All accounts by name."""
        return await asyncio.to_thread(self._store.everybody)

    async def get(self, name: str) -> Account:
        """The account called *name*.

        Raises:
            UnknownPersonError: There is none.
        """
        account = await asyncio.to_thread(self._store.find, name)
        if account is None:
            raise UnknownPersonError(f"There is nobody called {name!r}.")
        return account

    @property
    def local(self) -> bool:
        """Whether people have accounts of this site, with links and passwords."""
        return self.settings.login.method == LOCAL

    async def invite(self, who: str, *, admin: bool, name: str = "") -> Invited:
        """A new account for *who*, called *name* here.

        With local accounts *who* is the name, and a link to set the password by comes with it. Elsewhere it
        is what they sign in as, and *name* is made of that when it is empty.

        Raises:
            AccountError: Somebody has the name or the login, or it cannot be one.
            BadRequestError: A local account was to have two names, or nobody can sign in as *who*.
        """
        now = self.admission.now()
        if self.local:
            if name not in {"", who}:
                raise BadRequestError("A local account has one name.", field="as", fix="Leave the other out.")
            await asyncio.to_thread(self._store.add, who, admin=admin, now=now)
        else:
            if "@" in who and self.settings.login.method == "github":
                raise BadRequestError(
                    f"{who} is an e-mail address, and GitHub tells none.",
                    field="name",
                    fix="Give the GitHub login.",
                )
            name = name or await asyncio.to_thread(self._store.name_for, who)
            await asyncio.to_thread(self._store.expect, who, name=name, admin=admin, now=now)
        app_log.info("Invited %s%s", who, " as administrator" if admin else "")
        link = await self._link(who, LinkKind.INVITE) if self.local else None
        return Invited(name or who, who, link)

    async def throw_away(self, name: str, *, admin: bool) -> MadeLink:
        """An account for a moment, for `labdock verify`, and the link that signs in to it.

        Raises:
            AccountError: Somebody has the name.
        """
        now = self.admission.now()
        await asyncio.to_thread(self._store.add, name, admin=admin, now=now, kind=VISIT)
        app_log.info("Made %s, for a moment", name)
        return await self._link(name, LinkKind.SIGNIN)

    async def approve(self, name: str) -> Account:
        """Let *name* in, who waits, was refused, or is in by the configuration alone.

        Raises:
            UnknownPersonError: There is no such account.
            AccountError: They chose a name that the configuration makes an administrator since.
        """
        found = await self.get(name)
        signed_up = self.local and found.has_password and found.activated_at is None
        if signed_up and name in self.admission.rules.admins:
            raise AccountError(
                f"{name!r} is an administrator's name in login.admins, and whoever asked chose it.",
                fix=f"Take {name!r} out of login.admins, or remove this account and invite {name}.",
            )
        account = await asyncio.to_thread(self._store.set_standing, name, Standing.ADDED)
        app_log.info("Approved %s", name)
        return account

    async def dismiss_requests(self) -> int:
        """Forget everybody who waits and was never in; they may ask again. How many they were."""
        number = await asyncio.to_thread(self._store.dismiss_requests, made_before=self.admission.now() + 1)
        app_log.info("Dismissed %d requests", number)
        return number

    async def refuse(self, name: str, *, asked_by: str) -> Account:
        """Keep *name* out, whatever the configuration says, until somebody approves them.

        Raises:
            UnknownPersonError: There is no such account.
            AccountError: It is one's own, or the last administrator's.
        """
        await self.check_may_go(name, asked_by=asked_by)
        account = await asyncio.to_thread(self._store.set_standing, name, Standing.REFUSED)
        app_log.info("Refused %s", name)
        return account

    async def reset(self, name: str) -> MadeLink:
        """A link by which *name* sets a new password; the invitation anew for who never used theirs.

        Raises:
            UnknownPersonError: There is no such account.
            AccountError: People sign in elsewhere, so there is no password to set.
        """
        self._check_local()
        account = await self.get(name)
        return await self._link(name, LinkKind.INVITE if account.activated_at is None else LinkKind.RESET)

    async def take_second_factor(self, name: str, *, asked_by: str) -> None:
        """Let *name* sign in with the password alone, whose second factor is lost.

        Raises:
            UnknownPersonError: There is no such account.
            AccountError: There is no second factor.
        """
        account = await self.get(name)
        if not await asyncio.to_thread(self.admission.second_factors.remove, account.identity):
            raise AccountError(f"{name!r} has no second factor.", fix="The password alone signs in.")
        app_log.warning("The second factor of %s was taken away by %s", name, asked_by)

    async def first_link(self) -> MadeLink:
        """A link that signs the first administrator in; makes the account if it is missing.

        Its holder is an administrator by the configuration alone, and is none once that says so.

        Raises:
            AccountError: People sign in elsewhere.
        """
        self._check_local()
        name = self.settings.first_admin
        if await asyncio.to_thread(self._store.find, name) is None:
            await asyncio.to_thread(self._store.add, name, admin=False, now=self.admission.now())
        return await self._link(name, LinkKind.SIGNIN)

    async def check_may_go(self, name: str, *, asked_by: str) -> Account:
        """The account called *name*, if *asked_by* may remove it.

        Raises:
            UnknownPersonError: There is none.
            AccountError: It is one's own, the last administrator's, or is being removed already.
        """
        account = await self.get(name)
        if name == asked_by:
            raise AccountError("You cannot remove yourself.", fix="Ask another administrator.")
        is_admin = self.admission.is_admin
        if is_admin(account) and not any(is_admin(a) and a.name != name for a in await self.everybody()):
            raise AccountError(f"{name!r} is the last administrator.", fix="Invite another one first.")
        if name in self.admission.leaving:
            raise AccountError(f"{name!r} is being removed already.", fix="Wait a moment.")
        return account

    async def forget(self, account: Account, *, delete_home: bool) -> str:
        """Remove *account*, whose sessions have ended; where its home is kept, or "" if it was deleted.

        The agent goes first: if it fails, the account is still there to try again.
        """
        home = await self._agent.remove_person(account.identity, delete_home=delete_home)
        await asyncio.to_thread(self.admission.second_factors.remove, account.identity)
        await asyncio.to_thread(self._store.remove, account.name)
        app_log.info("Removed %s; home %s", account.name, f"kept at {home}" if home else "deleted")
        return home

    def _check_local(self) -> None:
        if not self.local:
            label = self.settings.login.label
            raise AccountError(f"People sign in with {label}.", fix="There are no passwords and links here.")

    async def _link(self, name: str, kind: LinkKind) -> MadeLink:
        token, expires_at = await asyncio.to_thread(
            self._store.make_link, name, kind, now=self.admission.now()
        )
        app_log.info("Made a link (%s) for %s", kind, name)
        # The public address, never the request's Host: whoever sends that could choose where tokens go.
        url = f"{self.settings.public_url.rstrip('/')}/hub/link/{token}"
        return MadeLink(name, kind, url, expires_at)


def iso_time(unix_s: float) -> str:
    """*unix_s* as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(int(unix_s), UTC).isoformat()


def sign_out_everywhere(db: Any, user: Any, *, tokens_too: bool = False) -> None:
    """End every browser's sign-in of *user*; running sessions and tokens made by hand stay.

    With *tokens_too* nothing stays by which anybody is taken for *user*.
    """
    user.cookie_id = new_token()
    for token in list(user.api_tokens):
        # JupyterHub's own client holds sessions' and hand-made tokens; the others are browsers at sessions.
        if tokens_too or token.client_id != "jupyterhub":
            db.delete(token)
    db.commit()


class PeopleMixin:
    """What the page and the API share: both are JupyterHub handlers with ``people``."""

    people: People

    def initialize(self, people: People) -> None:
        self.people = people

    def check_may_touch(self: Any, *, admin: bool) -> None:
        """Let administrators' accounts be made and reset by administrators and services alone.

        A role may give somebody else the scope ``admin:users``; that must not be a way to become one.
        """
        if admin and self.current_user.kind != "service" and not self.current_user.admin:
            raise web.HTTPError(403, "Only administrators may do this to administrators.")

    async def list_people(self: Any) -> list[dict[str, Any]]:
        """Everybody as the REST API tells it, by name; times in ISO 8601, UTC."""
        accounts = await self.people.everybody()
        known = {user.name: user for user in self.db.query(orm.User)}
        second = await asyncio.to_thread(self.people.admission.second_factors.in_use)
        return [self._told(account, known.get(account.name), second) for account in accounts]

    def _told(self: Any, account: Account, user: orm.User | None, second: frozenset[str]) -> dict[str, Any]:
        verdict = self.people.admission.judge(account)
        seen = user.last_activity if user is not None else None
        # Only people with a session, or who asked for a page, are in memory.
        spawners = self.users[user].spawners.values() if user is not None and user.id in self.users else ()
        session = "none"
        if any(spawner.pending for spawner in spawners):
            session = "pending"
        elif any(spawner.ready for spawner in spawners):
            session = "running"
        return {
            "name": account.name,
            "identity": account.identity,
            # With local accounts it is the name that they asked for: once they are in, only theirs counts.
            "login": "" if self.people.local and not account.only_asked else account.login,
            "email": account.email,
            "full_name": account.full_name,
            "admin": verdict.admin,
            "second_factor": account.identity in second,
            "state": account.state if verdict.admitted or account.state != "active" else "shut out",
            "created_at": iso_time(account.created_at),
            "last_activity": seen.replace(tzinfo=UTC, microsecond=0).isoformat() if seen else None,
            "session": session,
        }

    async def refuse_person(self: Any, name: str) -> Account:
        """Keep *name* out from now on, and end their sessions, tokens and sign-ins.

        Raises:
            UnknownPersonError: There is no such account.
            AccountError: It must not be refused.
            HubError: A session did not stop; they are out all the same.
        """
        found = await self.people.get(name)
        self.check_may_touch(admin=self.people.admission.is_admin(found))
        account: Account = await self.people.refuse(name, asked_by=self.current_user.name)
        await self.shut_out(name)
        return account

    async def take_second_factor(self: Any, name: str) -> None:
        """Let *name* sign in with the password alone.

        Raises:
            UnknownPersonError: There is no such account.
            AccountError: There is no second factor.
        """
        account = await self.people.get(name)
        self.check_may_touch(admin=self.people.admission.is_admin(account))
        await self.people.take_second_factor(name, asked_by=self.current_user.name)

    async def shut_out(self: Any, name: str) -> None:
        """End *name*'s sessions, tokens and sign-ins.

        Raises:
            HubError: A session did not stop in time; nothing else of theirs is good any more.
        """
        user = self.find_user(name)
        if user is not None:
            self.close_to(user)
            await self.stop_sessions(user)

    def close_to(self: Any, user: Any) -> bool:
        """End *user*'s tokens, sign-ins and rights; whether there was anything to end, a session too."""
        running = any(spawner.active for spawner in user.spawners.values())
        known = running or bool(user.api_tokens)
        sign_out_everywhere(self.db, user, tokens_too=True)
        if user.admin:
            user.admin = False
            assign_default_roles(self.db, entity=user.orm_user)
        if known:
            app_log.info("Shut out %s: tokens and sign-ins ended, sessions are stopped", user.name)
        return known

    async def sweep(self: Any) -> Swept:
        """Judge everybody who is known to the hub by the rules as they are now, and act on it.

        Raises:
            HubError: Somebody's session did not stop; everybody else was seen to.
        """
        shut_out, changed = [], []
        accounts = {account.name: account for account in await self.people.everybody()}
        judge, ended = self.people.admission.judge, self.people.admission.ended
        out = []
        for orm_user in list(self.db.query(orm.User)):
            account = accounts.get(orm_user.name)
            verdict = judge(account) if account is not None else None
            if verdict is None or not verdict.admitted or orm_user.name in ended:
                user = self.find_user(orm_user.name)
                out.append(user)
                # Everybody's tokens first: a session may take its time to stop.
                if self.close_to(user):
                    shut_out.append(user.name)
            elif verdict.admin != orm_user.admin:
                orm_user.admin = verdict.admin
                self.db.commit()
                assign_default_roles(self.db, entity=orm_user)
                app_log.info("%s is %s administrator now", orm_user.name, "an" if verdict.admin else "no")
                changed.append(orm_user.name)
        failures = []
        for user, failure in zip(out, await asyncio.gather(*map(self._stopped, out)), strict=True):
            if failure is None:
                ended.discard(user.name)
            else:
                failures.append(failure)
        if failures:
            raise failures[0]
        return Swept(tuple(shut_out), tuple(changed))

    async def _stopped(self: Any, user: Any) -> HubError | None:
        """Stop *user*'s sessions; why that failed, or None."""
        try:
            await self.stop_sessions(user)
        except HubError as error:
            return error
        return None

    async def remove_person(self: Any, name: str, *, delete_home: bool) -> str:
        """End *name*'s sessions, tokens and sign-ins, and remove the account; where the home is kept, or "".

        Raises:
            UnknownPersonError: There is no such account.
            AccountError: It must not go.
            HubError: A session did not stop; the account is still there.
        """
        account = await self.people.check_may_go(name, asked_by=self.current_user.name)
        self.check_may_touch(admin=self.people.admission.is_admin(account))
        leaving = self.people.admission.leaving
        leaving.add(name)
        try:
            user = self.find_user(name)
            if user is not None:
                sign_out_everywhere(self.db, user)
                await self.stop_sessions(user)
            home: str = await self.people.forget(account, delete_home=delete_home)
            if user is not None:
                await user.delete_spawners()
                # With it go the tokens that are left.
                self.users.delete(user)
        finally:
            leaving.discard(name)
        return home

    async def stop_sessions(self: Any, user: Any) -> None:
        """Stop every session of *user*, the ones just starting too.

        Raises:
            HubError: One did not stop in time.
        """
        for server_name in list(user.spawners):
            await self._stop(user, server_name)

    async def _stop(self: Any, user: Any, server_name: str) -> None:
        spawner = user.spawners[server_name]
        deadline = time.monotonic() + STOP_WITHIN_S
        start = spawner._spawn_future
        if spawner.pending in ("spawn", "check") and start is not None:
            start.cancel()
            await asyncio.wait([start], timeout=STOP_WITHIN_S)
        stopping = getattr(spawner, "_stop_future", None)
        if stopping is None and spawner.active:
            stopping = await self.stop_single_user(user, server_name)
        if stopping is not None:
            await asyncio.wait([stopping], timeout=max(0.0, deadline - time.monotonic()))
        if spawner.active:
            raise HubError(
                f"The session of {user.name!r} did not stop within {STOP_WITHIN_S:.0f} seconds.",
                fix="Try again.",
            )
