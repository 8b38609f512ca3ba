"""Who may come in at this moment: accounts, the rules of the configuration, and what follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from tornado.log import app_log

from labdock.core.accounts import Account, Standing
from labdock.core.admission import NotAdmittedError, Presented, Reason, Verdict, judge, newcomer
from labdock.core.errors import HostError
from labdock.core.login import AccessRules
from labdock.hub.accounts import AccountStore
from labdock.hub.second_factor_store import SecondFactorStore


class Admission:
    """Everybody's accounts, judged by the rules as they are now.

    *rules* reads them and may fail with HostError: then the last ones hold. *clock* gives Unix seconds.
    """

    def __init__(
        self,
        store: AccountStore,
        rules: Callable[[], AccessRules],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.second_factors = SecondFactorStore(store.engine)
        self.leaving: set[str] = set()
        """Names that are being removed: they can neither sign in nor start a session."""
        self.lost = 0
        """How often somebody who was in was found to have lost the right to be."""
        self.ended: set[str] = set()
        """Names whose accounts have ended where they sign in, and whose sessions are still to be stopped."""
        self._read_rules = rules
        self._rules = rules()
        self._clock = clock

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Admission:
        """Itself: traitlets copies every configured value, and this is one for the hub."""
        return self

    def now(self) -> int:
        """Unix time in whole seconds."""
        return int(self._clock())

    @property
    def rules(self) -> AccessRules:
        """The rules of the configuration, as they are now."""
        try:
            self._rules = self._read_rules()
        except HostError as error:
            app_log.error("Who may come in is as it was: %s", error)
        return self._rules

    def state(self) -> tuple[AccessRules, int]:
        """What makes everybody's rights be looked at anew when it changes."""
        return self.rules, self.lost

    def judge(self, account: Account) -> Verdict:
        """Whether *account* may come in now, and as what."""
        return judge(self.rules, account)

    def is_admin(self, account: Account) -> bool:
        return self.judge(account).admin

    async def find(self, name: str) -> Account | None:
        """The account called *name*; None if it is unknown, may not come in, or is being removed."""
        if name in self.leaving:
            return None
        account = await asyncio.to_thread(self.store.find, name)
        return account if account is not None and self.judge(account).admitted else None

    async def admit(self, presented: Presented) -> Account:
        """The account of whoever a provider has just signed in; a new one for who is on a list.

        Raises:
            NotAdmittedError: They may not come in; who waits for approval is on the administrators' list now.
            AccountError: Too many wait already, or they are being removed.
        """
        account, taken = await asyncio.to_thread(self.store.recognise, presented)
        verdict = self.judge(account or newcomer(presented, taken))
        waits = verdict.reason is Reason.WAITING
        if account is None and (verdict.admitted or waits):
            standing = Standing.WAITING if waits else Standing.LISTED
            account = await asyncio.to_thread(self.store.enrol, presented, standing, now=self.now())
            app_log.info("%s is new here, as %s (%s)", presented.login, account.name, standing)
        elif account is not None and waits and account.standing is Standing.LISTED:
            await asyncio.to_thread(self.store.set_standing, account.name, Standing.WAITING)
        if verdict.reason is not None or account is None or account.name in self.leaving:
            reason = verdict.reason or Reason.UNLISTED
            app_log.warning("%s signed in and may not come in: %s", presented.login, reason)
            raise NotAdmittedError(reason, presented.identity, presented.login)
        await asyncio.to_thread(self.store.activate, account.name, now=self.now())
        return account
