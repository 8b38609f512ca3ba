"""The second factor of local accounts: set up, asked for after the password, and taken away."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pyotp
import segno
from jupyterhub.crypto import InvalidToken, decrypt, encrypt
from tornado.log import app_log

from labdock.core.accounts import Account
from labdock.core.errors import AccountError
from labdock.core.second_factor import (
    CODE_PATTERN,
    RECOVERY_CODES,
    RECOVERY_LENGTH,
    RECOVERY_LETTERS,
    SECOND_STEP_WITHIN_S,
    SET_UP_WITHIN_S,
    STEP_S,
    normal_code,
    recovery_code,
    recovery_hash,
    step_of,
    steps_heard,
)
from labdock.hub.admission import Admission
from labdock.hub.second_factor_store import StoredFactor

COOKIE = "labdock-second-step"
"""Holds, signed, whose password was right here, and when; it opens only the question for a code."""


@dataclass(frozen=True, slots=True)
class SetUp:
    """What an authenticator app needs: the secret in fours, the address with it, and that as an SVG image."""

    secret: str
    uri: str
    qr: str


class SecondFactors:
    """The second factors of one instance."""

    def __init__(self, admission: Admission, *, site_name: str) -> None:
        self._admission = admission
        self._store = admission.second_factors
        self._issuer = site_name

    async def find(self, account: Account) -> StoredFactor | None:
        """The second factor of *account*, also one that is only being set up and was begun lately."""
        found = await asyncio.to_thread(self._store.find, account.identity)
        if found is None or found.since is not None:
            return found
        age_s = (step_of(self._admission.now()) - found.last_step) * STEP_S
        return found if age_s <= SET_UP_WITHIN_S else None

    async def in_use(self, account: Account) -> bool:
        """Whether *account* signs in with a second factor."""
        found = await self.find(account)
        return found is not None and found.since is not None

    async def begin(self, account: Account) -> None:
        """Make a secret for *account*; nothing is asked for yet.

        Raises:
            AccountError: One is in use.
        """
        # With whose it is inside: what is stored for one account opens no other.
        sealed = (await encrypt({"secret": pyotp.random_base32(), "of": account.identity})).decode("ascii")
        # Two steps back, so that the code of this moment is good, and of a clock that is behind too.
        begun = step_of(self._admission.now()) - 2
        if not await asyncio.to_thread(self._store.begin, account.identity, sealed, begun):
            raise AccountError("A second factor is set up already.", fix="Turn it off first.")

    async def set_up(self, account: Account, factor: StoredFactor) -> SetUp | None:
        """What to show of *factor*, which is being set up; None if it cannot be read."""
        secret = await self._secret(account, factor)
        if secret is None:
            return None
        uri = pyotp.TOTP(secret).provisioning_uri(name=account.name, issuer_name=self._issuer)
        image = segno.make_qr(uri, error="m").svg_inline(scale=5, dark="#000", light="#fff", border=4)
        return SetUp(recovery_code(secret), uri, image)

    async def confirm(self, account: Account, typed: str) -> tuple[str, ...] | None:
        """The recovery codes, shown once, if *typed* is a code of what was begun; else None."""
        factor = await self.find(account)
        step = None if factor is None or factor.since else await self._step(account, factor, typed)
        if step is None:
            return None
        codes = tuple(
            recovery_code([secrets.choice(RECOVERY_LETTERS) for _ in range(RECOVERY_LENGTH)])
            for _ in range(RECOVERY_CODES)
        )
        hashes = [recovery_hash(code) for code in codes]
        now = self._admission.now()
        if not await asyncio.to_thread(self._store.confirm, account.identity, step, hashes, now=now):
            return None
        app_log.info("%s set up a second factor", account.name)
        return codes

    async def check(self, account: Account, typed: str) -> bool:
        """Whether *typed* is a code that *account* may use now; it is used up by that."""
        factor = await self.find(account)
        if factor is None or factor.since is None:
            return False
        step = await self._step(account, factor, typed)
        if step is not None:
            return await asyncio.to_thread(self._store.use_step, account.identity, step)
        used = await asyncio.to_thread(self._store.use_recovery, account.identity, recovery_hash(typed))
        if used:
            left = factor.recovery_codes - 1
            app_log.warning("%s used a recovery code; %d are left", account.name, left)
        return used

    async def remove(self, account: Account, *, asked_by: str) -> bool:
        """Take the second factor of *account* away; whether there was one."""
        removed = await asyncio.to_thread(self._store.remove, account.identity)
        if removed:
            app_log.warning("The second factor of %s was taken away by %s", account.name, asked_by)
        return removed

    async def _step(self, account: Account, factor: StoredFactor, typed: str) -> int | None:
        """The step whose code *typed* is, if it can still be used."""
        code = normal_code(typed)
        if not CODE_PATTERN.fullmatch(code):
            return None
        secret = await self._secret(account, factor)
        if secret is None:
            return None
        totp = pyotp.TOTP(secret, interval=STEP_S)
        for step in steps_heard(self._admission.now(), factor.last_step):
            if hmac.compare_digest(totp.at(step * STEP_S), code):
                return step
        return None

    async def _secret(self, account: Account, factor: StoredFactor) -> str | None:
        try:
            kept = await decrypt(factor.secret.encode("ascii"))
        except InvalidToken:
            kept = {}
        if kept.get("of") != account.identity:
            app_log.error(
                "The second factor of %s cannot be read: the key it was encrypted with is another one. "
                "Recovery codes go on working; `labdock users reset %s --second-factor` takes it away.",
                account.name,
                account.name,
            )
            return None
        return str(kept["secret"])

    # --- between the password and the code ---

    async def send_to_second_step(self, handler: Any, account: Account) -> None:
        """Remember in the browser of *handler* that the password was right, and ask for a code."""
        value = json.dumps([account.identity, self._admission.now(), await self._password_mark(account)])
        handler._set_cookie(
            COOKIE, value, path=handler.hub.base_url, expires_days=SECOND_STEP_WITHIN_S / 86_400
        )
        wanted = handler.get_argument("next", "")
        query = f"?{urlencode({'next': wanted})}" if wanted else ""
        handler.redirect(f"{handler.hub.base_url}second-step{query}", status=303)

    async def expected(self, handler: Any) -> Account | None:
        """Whose code is asked for in the browser of *handler*; None if it is too late, or nobody's."""
        cookie = handler.get_secure_cookie(COOKIE, max_age_days=1)
        if cookie is None:
            return None
        identity, at, mark = json.loads(cookie)
        if not 0 <= self._admission.now() - at <= SECOND_STEP_WITHIN_S:
            return None
        found = await asyncio.to_thread(self._admission.store.of_identity, identity)
        account = None if found is None else await self._admission.find(found.name)
        # With another password than the one that was right, it is right no more.
        return account if account is not None and mark == await self._password_mark(account) else None

    async def _password_mark(self, account: Account) -> str:
        stored = await asyncio.to_thread(self._admission.store.password_hash, account.name)
        return hashlib.sha256((stored or "").encode()).hexdigest()
