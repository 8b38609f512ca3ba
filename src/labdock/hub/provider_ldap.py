"""Signing in with the account of a directory: OpenLDAP, FreeIPA, 389, an Active Directory.

ldapauthenticator gives the settings and JupyterHub's form. Its questions are asked here in a thread, with
limits of time, over a connection that is always encrypted and whose certificate is always checked; and who
somebody is, is told by the attribute that never changes hands.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from jupyterhub.handlers.login import LoginHandler
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn, parse_dn
from ldapauthenticator import LDAPAuthenticator
from tornado import web
from tornado.log import app_log

from labdock.adapters.directory import ANSWER_WITHIN_S, Directory, Entry
from labdock.core.accounts import Limiter, TooManyTriesError
from labdock.core.admission import Presented
from labdock.core.sign_in_trouble import (
    SignInError,
    down,
    no_identity,
    not_active,
    strange,
    token_dead,
)
from labdock.hub import known_browser
from labdock.hub.provider_base import Facts, Vouched
from labdock.hub.sign_in import WRONG, address_of

R = TypeVar("R")

MOST_AT_ONCE = 8
MOST_WAITING = 40
"""The most questions to the directory, asked and waiting: a class that comes in, and an end to it."""

LONGEST_LOGIN = 254
LONGEST_PASSWORD = 1024

FULL_NAME = ("displayName", "cn")
SIGNS = ("userAccountControl", "nsAccountLock", "shadowExpire", "accountExpires", "loginDisabled")
"""Attributes in which directories say that an account is not to be used; most refuse its password as well."""

ACTIVE_DIRECTORY_SAYS: Mapping[str, str] = {
    "532": "The password of your account has expired: set a new one first.",
    "773": "You have to set a new password first.",
    "533": "Your account is disabled in the directory.",
    "701": "Your account has expired in the directory.",
    "775": "Your account is locked in the directory, after too many wrong passwords.",
}
"""What the number means with which an Active Directory refuses a password."""


class Ldap(Vouched, LDAPAuthenticator):  # type: ignore[misc]  # no type information upstream
    """JupyterHub's form, with names and passwords of a directory."""

    ends_sessions = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        login = self.wiring.login
        self.directory = Directory(login, self.provider, self.wiring.secret)
        self.server_address, self.server_port = self.directory.host, self.directory.port
        self.user_search_base, self.user_attribute = login.user_base, login.login_attribute
        self._limiter = Limiter()
        # Of their own: a directory that hangs must not take the threads for everything else.
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="directory")
        self._waiting = 0

    def get_handlers(self, app: Any) -> list[tuple[Any, ...]]:
        return [("/login", LoginHandler)]

    async def authenticate(self, handler: Any, data: Mapping[str, str]) -> dict[str, Any]:
        """JupyterHub's form of the person that *data* (``username``, ``password``) belongs to.

        Raises:
            HTTPError: For the form: 400 without the two, 403 for a wrong one or who may not come in, 429 for
                one too many, and others where the directory cannot be asked.
            Finish: They wait for approval, and have been told so.
        """
        typed, password = data.get("username", ""), data.get("password", "")
        if not typed or not password.strip("\0"):
            # An empty password would be no proof: directories take it for somebody who gives no name.
            raise web.HTTPError(400, "Enter your name and your password.")
        address, name = address_of(handler), typed.lower()
        browser = await self._mark_for(handler, name)
        self._limiter, wait_s = self._limiter.admit(address, name, time.monotonic(), browser=browser)
        if wait_s:
            raise _for_form(429, str(TooManyTriesError(wait_s)), wait_s)
        try:
            entry = await self._in_thread(self._proven, typed, password)
            if entry is None:
                raise web.HTTPError(403, WRONG)
            self._limiter = self._limiter.succeeded(address, name, browser=browser)
            facts = await self._in_thread(self._facts_of, entry)
            state = {
                "id": self._raw_id(entry).hex(),
                "signed_in_at": int(self.wiring.clock()),
            }
            model = await self.admit(handler, facts, state)
            known_browser.remember(handler, model["auth_state"]["identity"])
            return model
        except SignInError as error:
            trouble = error.trouble
            self.tell_admin(trouble)
            raise _for_form(trouble.status, f"{trouble.words} {trouble.way_out}", trouble.retry_s) from error

    async def _mark_for(self, handler: Any, name: str) -> str:
        """The mark of *handler*'s browser for the account of *name*, "" if it never signed in to it."""
        for identity, mark in known_browser.marks(handler).items():
            account = await asyncio.to_thread(self.admission.store.of_identity, identity)
            if account is not None and account.login.lower() == name:
                return mark
        return ""

    async def facts_again(self, state: dict[str, Any]) -> tuple[Facts | None, dict[str, Any]]:
        return await self._in_thread(self._facts_by_id, bytes.fromhex(state["id"])), state

    async def _in_thread(self, ask: Callable[..., R], *args: Any) -> R:
        """What *ask* answers, from one of a few threads.

        Raises:
            SignInError: So many wait for the directory that one more would wait in vain.
        """
        if self._waiting >= MOST_WAITING:
            cause = f"{self._waiting} questions wait for {self.directory.host} already"
            raise SignInError(down(self.provider, cause))
        came_at = time.monotonic()

        def ask_in_time() -> R:
            # Whoever had to wait so long has gone, and others wait behind them.
            if time.monotonic() - came_at > ANSWER_WITHIN_S:
                raise SignInError(down(self.provider, f"{self.directory.host} keeps everybody waiting"))
            return ask(*args)

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, ask_in_time)
        finally:
            self._waiting -= 1

    # What follows runs in such a thread.

    def _proven(self, typed: str, password: str) -> Entry | None:
        """The entry whose login is *typed*, if *password* is its password; else None.

        Raises:
            SignInError: The directory cannot be asked, or says that the account is not to be used.
        """
        entry = None
        if len(typed) <= LONGEST_LOGIN and len(password) <= LONGEST_PASSWORD and "\0" not in typed + password:
            with self.directory.looking() as connection:
                entry = self._person(connection, f"({self.user_attribute}={escape_filter_chars(typed)})")
        # For an unknown name too a password is tried, so that it takes as long.
        dn = entry.dn if entry else f"{self.user_attribute}={escape_rdn(typed[:64])},{self.user_search_base}"
        right = self._is_password(dn, password[:LONGEST_PASSWORD])
        if entry is None or not right:
            # What was typed as a name may be a password: log it only if it is a name.
            app_log.warning(
                "Failed sign-in as %s", entry.text(self.user_attribute) if entry else "nobody we know"
            )
            return None
        return entry

    def _is_password(self, dn: str, password: str) -> bool:
        if not password:
            return False
        with self.directory.connected(dn, password) as (_, result):
            if result["result"] == 0:
                return True
            code = re.search(r"\bdata ([0-9a-f]{3})\b", str(result.get("message", "")))
            if code and code[1] in ACTIVE_DIRECTORY_SAYS:
                raise SignInError(not_active(self.provider, ACTIVE_DIRECTORY_SAYS[code[1]]))
            return False

    def _facts_by_id(self, raw: bytes) -> Facts:
        escaped = "".join(f"\\{byte:02x}" for byte in raw)
        with self.directory.looking() as connection:
            entry = self._person(connection, f"({self.wiring.login.id_attribute}={escaped})")
        if entry is None:
            raise SignInError(token_dead(self.provider))
        return self._facts_of(entry)

    def _facts_of(self, entry: Entry) -> Facts:
        """What *entry* says of its person, with their groups.

        Raises:
            SignInError: The account is not to be used, or lacks what must be known.
        """
        if _is_ended(entry, self.wiring.clock()):
            raise SignInError(not_active(self.provider, "Your account is disabled in the directory."))
        raw, login = self._raw_id(entry), entry.text(self.user_attribute)
        presented = Presented(
            f"ldap:{uuid.UUID(bytes_le=raw) if self._is_guid(raw) else raw.decode()}",
            login,
            full_name=next(filter(None, map(entry.text, FULL_NAME)), ""),
            groups=self._groups(entry) if self.admission.rules.groups else frozenset(),
        )
        return Facts(presented)

    def _raw_id(self, entry: Entry) -> bytes:
        attribute = self.wiring.login.id_attribute
        values = entry.values.get(attribute.lower(), ())
        if len(values) != 1 or not (self._is_guid(values[0]) or re.fullmatch(rb"[!-~]{8,200}", values[0])):
            raise SignInError(no_identity(self.provider, attribute))
        return values[0]

    def _is_guid(self, raw: bytes) -> bool:
        return self.wiring.login.id_attribute.lower() == "objectguid" and len(raw) == 16

    def _groups(self, entry: Entry) -> frozenset[str]:
        """Which of the rules' groups *entry* is in: by whole name anywhere, by cn below the groups' place."""
        base = self.wiring.login.group_base
        names = set(map(_normal, entry.texts("memberOf")))
        if base:
            dn = escape_filter_chars(entry.dn)
            login = escape_filter_chars(entry.text(self.user_attribute))
            member = f"(|(member={dn})(uniqueMember={dn})(memberUid={login}))"
            with self.directory.looking() as connection:
                found = self.directory.search(connection, base, member, ("cn",), setting="login.ldap.groups")
            names |= {_normal(group.dn) for group in found}
        below = f",{_normal(base)}"
        short = {_cn(name) for name in names if base and name.endswith(below)} - {""}
        return frozenset(
            group
            for group in self.admission.rules.groups
            if _normal(group) in names or group.casefold() in short
        )

    def _person(self, connection: Any, condition: str) -> Entry | None:
        login = self.wiring.login
        wanted = (self.user_attribute, login.id_attribute, "memberOf", *FULL_NAME, *SIGNS)
        found = self.directory.search(
            connection, self.user_search_base, condition, wanted, setting="login.ldap.users"
        )
        if len(found) > 1:
            raise SignInError(
                strange(
                    self.provider,
                    f"several entries have one {self.user_attribute} below {self.user_search_base}",
                )
            )
        return found[0] if found else None


def _for_form(status: int, words: str, retry_s: int) -> web.HTTPError:
    """What the form shows, with *status*."""
    error = web.HTTPError(status, words)
    if retry_s:
        # JupyterHub sends these with the error's page.
        error.headers = {"Retry-After": str(retry_s)}  # type: ignore[attr-defined]  # JupyterHub's own extension
    return error


def _is_ended(entry: Entry, now: float) -> bool:
    """Whether *entry* says of itself that it is not to be used, in any of the ways that directories have."""
    control = entry.text("userAccountControl")
    if control.lstrip("-").isdecimal() and int(control) & 2:
        return True
    if "true" in (entry.text("nsAccountLock").lower(), entry.text("loginDisabled").lower()):
        return True
    days = entry.text("shadowExpire")
    if days.isdecimal() and int(days) * 86400 <= now:
        return True
    # Steps of 100 ns since 1601; 0 and the largest number mean never.
    ticks = entry.text("accountExpires")
    return ticks.isdecimal() and 0 < int(ticks) < 2**63 - 1 and int(ticks) / 1e7 - 11_644_473_600 <= now


def _normal(dn: str) -> str:
    """*dn* so that two spellings of one name are the same; what is no such name, only in lower case."""
    try:
        parts = parse_dn(dn, escape=False, strip=True)
    except LDAPException:
        return dn.casefold()
    return "".join(f"{key}={value}{joint}" for key, value, joint in parts).casefold()


def _cn(dn: str) -> str:
    """What a normal *dn* calls its own entry, if it does so by cn."""
    try:
        key, value, _ = parse_dn(dn)[0]
    except (LDAPException, IndexError):
        return ""
    return str(value) if key == "cn" else ""
