"""Which accounts a browser has signed in to before, so that others' failures do not slow it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

COOKIE = "labdock-known"
"""Holds, signed, for each account the mark that this browser was given at a sign-in; it signs nobody in."""

COOKIE_DAYS = 180
MOST_ACCOUNTS = 4


def marks(handler: Any) -> Mapping[str, str]:
    """The marks of *handler*'s browser, by the identities whose accounts it has signed in to."""
    value = handler.get_secure_cookie(COOKIE, max_age_days=COOKIE_DAYS)
    entries = value.decode("utf-8", "replace").split() if value else []
    return {identity: mark for identity, _, mark in (entry.rpartition("/") for entry in entries)}


def remember(handler: Any, identity: str) -> None:
    """Give the browser of *handler*, which has just signed in, a mark for the account *identity*."""
    known = dict(marks(handler))
    # The same mark again: with a new one for each sign-in, somebody could collect marks to guess with.
    mark = known.pop(identity, "") or secrets.token_hex(16)
    kept = {identity: mark, **known}
    value = " ".join(f"{identity}/{mark}" for identity, mark in list(kept.items())[:MOST_ACCOUNTS])
    # By JupyterHub's own way, which knows whether cookies of this site are for HTTPS alone.
    handler._set_cookie(COOKIE, value, path=handler.hub.base_url, expires_days=COOKIE_DAYS)
