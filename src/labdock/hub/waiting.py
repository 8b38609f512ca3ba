"""The page of those who signed in and may not come in yet: what happens next, and the way in once it did."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jupyterhub.handlers.base import BaseHandler

from labdock.core.accounts import Account, Standing
from labdock.hub.accounts import AccountStore
from labdock.hub.admission import Admission

COOKIE = "labdock-waiting"
"""Holds, signed, whose request the browser made; it opens nothing but the page that tells of it."""

COOKIE_DAYS = 30


def send_to_waiting(handler: Any, identity: str) -> None:
    """Remember in the browser of *handler* that it asked for *identity*, and show what becomes of that."""
    # By JupyterHub's own way, which knows whether cookies of this site are for HTTPS alone.
    handler._set_cookie(COOKIE, identity, expires_days=COOKIE_DAYS, path=handler.hub.base_url)
    handler.redirect(f"{handler.hub.base_url}waiting", status=303)


async def asked_for(handler: Any, store: AccountStore) -> Account | None:
    """The account that the browser of *handler* asked for, or None."""
    cookie = handler.get_secure_cookie(COOKIE, max_age_days=COOKIE_DAYS)
    if cookie is None:
        return None
    return await asyncio.to_thread(store.of_identity, cookie.decode("utf-8", "replace"))


class WaitingHandler(BaseHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/waiting``: the state of the request that this browser made; with ``?state`` as JSON."""

    def initialize(self, admission: Admission) -> None:
        self.admission = admission

    async def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        account = await asked_for(self, self.admission.store)
        state = self._state(account)
        if "state" in self.request.query_arguments:
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps({"state": state}))
        elif state == "admitted" and account is not None and not account.has_password:
            self.clear_cookie(COOKIE, path=self.hub.base_url)
            self.redirect(self.authenticator.login_url(self.hub.base_url))
        else:
            html = await self.render_template("waiting.html", state=state, account=account)
            self.finish(html)

    def _state(self, account: Account | None) -> str:
        if account is None:
            return "unknown"
        if self.admission.judge(account).admitted:
            return "admitted"
        return "refused" if account.standing is Standing.REFUSED else "waiting"
