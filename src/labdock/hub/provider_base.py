"""What all ways of signing in with an account of elsewhere share: who may come in, and who still may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tornado import web
from tornado.log import app_log
from traitlets import default

from labdock.core.accounts import Account
from labdock.core.admission import NotAdmittedError, Presented, Reason
from labdock.core.errors import AccountError
from labdock.core.login import CALLBACK_PATH, LoginSettings
from labdock.core.sign_in_trouble import (
    ABOUT_THEM,
    SignInError,
    Trouble,
    not_now,
    refused,
    token_dead,
    unlisted,
)
from labdock.hub.accounts import VISIT
from labdock.hub.sign_in import LabdockAuthenticator
from labdock.hub.waiting import send_to_waiting

ASK_AGAIN_AFTER_S = 300.0
"""How old what a provider said of somebody may be before it is asked again."""

AFTER_A_FAILURE_S = 60.0
"""How long a provider that did not answer is left alone, for one person."""

PATIENCE_S = 3.0
"""How long somebody's page waits for what the provider says of them."""

UNCONFIRMED_S = 12 * 3600
"""How long the last word of a provider holds that cannot be asked again, or may not say."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What an authenticator is made from; *clock* gives Unix seconds."""

    login: LoginSettings
    public_url: str
    secret: str = field(repr=False)
    clock: Callable[[], float] = time.time

    @property
    def callback(self) -> str:
        """Where a provider sends browsers back; from the settings, never from what a request says."""
        return self.public_url.rstrip("/") + CALLBACK_PATH


@dataclass(frozen=True, slots=True)
class Facts:
    """What a provider says of somebody, and what it did not say, with a *gap* for each time that it did not.

    *unknown* are those of the rules' organizations and teams about which it failed just now; *hidden* those
    about which this site may not ask.
    """

    presented: Presented
    gaps: tuple[Trouble, ...] = ()
    unknown: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()

    @property
    def whole(self) -> bool:
        return not self.unknown and not self.hidden


class Vouched(LabdockAuthenticator):
    """An authenticator that asks a provider who somebody is, and the admission whether they may come in.

    Subclasses give ``wiring``, ``provider`` (what people call it) and ``facts_again``. ``_asked`` holds when
    the provider was last asked about somebody, by their name here, in Unix seconds.
    """

    wiring: Wiring
    provider: str

    ends_sessions = False
    """Whether somebody whom the provider confirms no more has ended there, and is not only signed out."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._asked: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[Account]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    @default("refresh_pre_spawn")
    def _default_refresh_pre_spawn(self) -> bool:
        return True

    @default("enable_auth_state")
    def _default_enable_auth_state(self) -> bool:
        return True

    async def admit(self, handler: Any, facts: Facts, state: dict[str, Any]) -> dict[str, Any]:
        """JupyterHub's form of whom *facts* are about, if they may come in; *state* is kept of the sign-in.

        Raises:
            SignInError: They may not, or nobody can say.
            Finish: They wait for approval, and have been told so.
        """
        for gap in facts.gaps:
            self.tell_admin(gap)
        presented, now = facts.presented, self.wiring.clock()
        known = await asyncio.to_thread(self.admission.store.of_identity, presented.identity)
        before = await self._kept(handler, known)
        if known is not None:
            # What the provider did not say is no news: it must not end what its earlier word began.
            unsaid = facts.unknown | (facts.hidden if _is_fresh(before, now) else frozenset())
            presented = replace(presented, groups=presented.groups | (known.groups & unsaid))
        try:
            account = await self.admission.admit(presented)
        except NotAdmittedError as error:
            if error.reason is Reason.REFUSED:
                raise SignInError(refused(self.provider)) from error
            if error.reason is Reason.WAITING and not facts.unknown:
                send_to_waiting(handler, error.identity)
                raise web.Finish from error
            nobody = unlisted(self.provider, facts.presented.login)
            raise SignInError(facts.gaps[0] if facts.gaps else nobody) from error
        except AccountError as error:
            raise SignInError(not_now(error.message, error.fix)) from error
        self._asked[account.name] = now
        kept = {
            "identity": account.identity,
            "confirmed_at": int(now) if facts.whole else before.get("confirmed_at", 0),
            # Some providers give what renews a token with the first sign-in alone.
            "refresh_token": state.get("refresh_token") or before.get("refresh_token", ""),
        }
        return self.model(account, state | kept)

    async def _kept(self, handler: Any, account: Account | None) -> dict[str, Any]:
        """What is kept of the last sign-in to *account*; nothing if it holds no more."""
        user = handler.find_user(account.name) if account is not None else None
        state = await user.get_auth_state() if user is not None else None
        if not state or state.get("dead") or account is None or state.get("identity") != account.identity:
            return {}
        return dict(state)

    def model(self, account: Account, state: dict[str, Any]) -> dict[str, Any]:
        """JupyterHub's form of *account*, and what it keeps with it."""
        return {**self.rights(account), "auth_state": state}

    def tell_admin(self, trouble: Trouble) -> None:
        """One line for the administrator: what it was, and the way out."""
        app_log.warning(
            "Sign-in with %s (%s): %s. %s", self.provider, trouble.kind, trouble.cause, trouble.fix
        )

    async def refresh_user(
        self, user: Any, handler: web.RequestHandler | None = None
    ) -> bool | dict[str, Any]:
        """False once somebody may not come in any more; else their present rights.

        The admission is asked each time, the provider every few minutes: who left an organization is out.
        A provider that does not answer keeps nobody out who is in.
        """
        # One question at a time for each person: what renews a token may be good for once.
        async with self._locks.setdefault(user.name, asyncio.Lock()):
            account = await self.admission.find(user.name)
            if account is None:
                return False
            if account.identity.startswith(VISIT):
                # Nobody at the provider: the command line made it for a moment, with a link of its own.
                return self.rights(account)
            state = await user.get_auth_state()
            if not state or state.get("identity") != account.identity or state.get("dead"):
                return False
            try:
                return await self._present(user, account, state)
            except (NotAdmittedError, SignInError):
                return False

    async def _present(self, user: Any, account: Account, state: dict[str, Any]) -> bool | dict[str, Any]:
        """What is so now of *user*, whose *account* may come in; True if nothing changed.

        Raises:
            NotAdmittedError: They may not come in, by what the provider says now.
            SignInError: It does not say that they are who they were.
        """
        if (
            self.wiring.clock() - self._asked.get(user.name, 0.0) >= ASK_AGAIN_AFTER_S
            and user.name not in self._asking
        ):
            asking = asyncio.create_task(self._ask_again(user, account, state))
            self._asking[user.name] = asking
            asking.add_done_callback(lambda _: self._asking.pop(user.name, None))
            done, _ = await asyncio.wait({asking}, timeout=PATIENCE_S)
            if done:
                account = asking.result()
            else:
                # A slow provider holds up nobody's page; what it says counts for a later one.
                asking.add_done_callback(_heed)
        # What is kept of the sign-in is kept already, and JupyterHub leaves it as it is. With True it writes
        # nothing at all, every few seconds for everybody who is here.
        return True if user.admin == self.admission.is_admin(account) else self.rights(account)

    async def _ask_again(self, user: Any, known: Account, state: dict[str, Any]) -> Account:
        """The account of *user*, who is *known*, by what the provider says now; *state* is kept anew.

        Raises:
            NotAdmittedError: They may not come in any more.
            SignInError: It does not say that they are who they were.
        """
        now = self.wiring.clock()
        self._asked[user.name] = now - ASK_AGAIN_AFTER_S + AFTER_A_FAILURE_S
        try:
            facts, state = await self.facts_again(state)
        except SignInError as error:
            self.tell_admin(error.trouble)
            if error.trouble.kind in ABOUT_THEM:
                await self._end(user, state)
                raise
            return known
        if facts is not None and facts.whole:
            state = state | {"confirmed_at": int(now)}
        await user.save_auth_state(state)
        if facts is None:
            # What it said at the sign-in holds for half a day.
            if now - state.get("signed_in_at", 0) > UNCONFIRMED_S:
                await self._end(user, state)
                raise SignInError(token_dead(self.provider))
        elif facts.unknown or (facts.hidden and _is_fresh(state, now)):
            for gap in facts.gaps:
                self.tell_admin(gap)
            return known
        else:
            # Not by the provider's id: an account may have been made before anybody signed in to it.
            try:
                found = await self.admission.admit(facts.presented)
            except NotAdmittedError as error:
                app_log.warning("Out: %s may not come in any more (%s)", user.name, error.reason)
                # They may have a session that runs, and a browser that is connected to it.
                self.admission.lost += 1
                raise
            if found.identity != known.identity:
                await self._end(user, state)
                raise SignInError(token_dead(self.provider))
            known = found
        self._asked[user.name] = now
        return known

    async def _end(self, user: Any, state: dict[str, Any]) -> None:
        """End *user*'s sign-in; the provider is asked no more until there is another."""
        await user.save_auth_state(state | {"dead": True})
        if self.ends_sessions:
            self.admission.ended.add(user.name)
            self.admission.lost += 1

    async def facts_again(self, state: dict[str, Any]) -> tuple[Facts | None, dict[str, Any]]:
        """What the provider says now of whom *state* is about, and what is kept from now on.

        None where it cannot be asked without the person.

        Raises:
            SignInError: It does not answer, or does not know them any more.
        """
        raise NotImplementedError


def _heed(asking: asyncio.Task[Account]) -> None:
    """Take an answer of ours that came behind somebody's page; anything else is a bug, and is logged."""
    if not asking.cancelled():
        with suppress(SignInError, NotAdmittedError):
            asking.result()


def _is_fresh(state: Mapping[str, Any], now: float) -> bool:
    """Whether what *state* was kept with was confirmed so lately that it holds without a new word."""
    confirmed_at: float = state.get("confirmed_at", 0)
    return now - confirmed_at <= UNCONFIRMED_S
