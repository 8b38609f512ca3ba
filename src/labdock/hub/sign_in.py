"""Signing in: what all methods share, and local accounts with their passwords."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from jupyterhub.auth import Authenticator
from jupyterhub.spawner import SpawnException
from tornado import web
from tornado.log import app_log
from traitlets import Any as AnyTrait
from traitlets import default

from labdock.core.accounts import Account, Limiter, TooManyTriesError
from labdock.core.admission import NotAdmittedError, Reason
from labdock.core.passwords import PASSWORD_MAX, check_password, normal_password, words_about
from labdock.core.people import NAME_PATTERN
from labdock.hub import known_browser
from labdock.hub.admission import Admission
from labdock.hub.passwords import guesses_needed
from labdock.hub.second_factor import SecondFactors
from labdock.hub.waiting import send_to_waiting

WRONG = "Wrong name or password."

MOST_AT_ONCE = 200
"""How many passwords may wait to be checked, which takes ten seconds then. Ten thousand machines with a guess
each must not keep everybody waiting: who is known is heard whatever waits, the others are told to come again.
"""
AGAIN_AFTER_S = 10

R = TypeVar("R")


class SignIn:
    """Passwords of the local accounts: checked and set off the event loop, and only so often.

    *site_name* is what no password may contain; *steady* gives the limiter's seconds.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        site_name: str = "",
        hasher: PasswordHasher | None = None,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.admission = admission
        self.second = SecondFactors(admission, site_name=site_name)
        self._site_name = site_name
        # 32 MiB a check and two at a time: a burst of sign-ins cannot eat the hub's memory.
        self._hasher = hasher or PasswordHasher(time_cost=3, memory_cost=32 * 1024, parallelism=1)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="password")
        self._steady = steady
        self._limiter = Limiter()
        self._checking = 0
        # Checked when there is no hash, so that an unknown name takes as long as a wrong password.
        self._nobody = self._hasher.hash("nobody")

    def __deepcopy__(self, memo: Mapping[int, Any]) -> SignIn:
        """Itself: traitlets copies every configured value, but limiter and threads are one for the hub."""
        return self

    async def check(
        self, name: str, password: str, address: str, *, known: Mapping[str, str] | None = None
    ) -> Account | None:
        """The account called *name* if *password* is its password, else None.

        *known* are the marks of the browser (``hub.known_browser``).

        Raises:
            TooManyTriesError: Nothing was checked; it says how long to wait.
            NotAdmittedError: The password is right, and its owner may not come in.
        """
        known_form = name if NAME_PATTERN.fullmatch(name) else ""
        store = self.admission.store
        account = await asyncio.to_thread(store.find, known_form)
        browser = (known or {}).get(account.identity, "") if account is not None else ""
        if self._checking >= MOST_AT_ONCE and not browser:
            raise TooManyTriesError(AGAIN_AFTER_S, what="people sign in at this moment")
        self._limiter, wait_s = self._limiter.admit(address, known_form, self._steady(), browser=browser)
        if wait_s:
            raise TooManyTriesError(wait_s)
        stored = await asyncio.to_thread(store.password_hash, known_form)
        self._checking += 1
        try:
            right = await self._in_thread(self._matches, stored or self._nobody, password)
        finally:
            self._checking -= 1
        # Anew: whoever was removed or refused meanwhile is out.
        account = await asyncio.to_thread(store.find, known_form)
        # Whoever has only asked for an account is answered as for a name of somebody else: what their own
        # password does would tell whether the name was free. The page of those who wait tells them the rest.
        nobody = account is None or account.only_asked or account.name in self.admission.leaving
        if account is None or stored is None or not right or nobody:
            # What was typed as a name may be a password: log it only if it is a name.
            who = account.name if account else "nobody we know"
            app_log.warning("Failed sign-in as %s from %s", who, address)
            return None
        self._limiter = self._limiter.succeeded(address, known_form, browser=browser)
        reason = self.admission.judge(account).reason
        if reason is not None:
            app_log.warning("%s signed in and may not come in: %s", account.name, reason)
            raise NotAdmittedError(reason, account.identity, account.login or account.name)
        if account.activated_at is None:
            # Whoever asked for the account comes with a password, and needs no link to sign in first.
            await asyncio.to_thread(store.activate, account.name, now=self.admission.now())
        return account

    def admit_code(self, account: Account, *, browser: str) -> None:
        """Count a try at the second step of *account*; *browser* is the mark of one that is known.

        Raises:
            TooManyTriesError: It is one too many; it says how long to wait.
        """
        self._limiter, wait_s = self._limiter.admit_code(account.identity, self._steady(), browser=browser)
        if wait_s:
            raise TooManyTriesError(wait_s)

    def code_succeeded(self, account: Account, *, browser: str) -> None:
        """Hold nothing against the second step of *account* here any more."""
        self._limiter = self._limiter.code_succeeded(account.identity, browser=browser)

    def admit_sign_up(self, address: str) -> None:
        """Count a request to be let in from *address*.

        Raises:
            TooManyTriesError: It is one too many; it says how long to wait.
        """
        self._limiter, wait_s = self._limiter.admit_sign_up(address, self._steady())
        if wait_s:
            raise TooManyTriesError(wait_s, what="requests from where you are")

    async def hash(self, password: str, *, name: str, email: str = "", full_name: str = "") -> str:
        """What is stored of *password*, once it is checked against the rules.

        Raises:
            BadRequestError: The rules refuse it.
        """
        words = words_about(name, email=email, full_name=full_name, site=self._site_name)

        def checked_and_hashed() -> str:
            return self._hasher.hash(check_password(password, words=words, guesses=guesses_needed))

        return await self._in_thread(checked_and_hashed)

    async def _in_thread(self, call: Callable[..., R], *args: str) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, normal_password(password[: PASSWORD_MAX + 1]))
        except VerifyMismatchError:
            return False


def address_of(handler: Any) -> str:
    """The address that *handler*'s request came from.

    A header that tells it counts only from the hub's own proxies (``trusted_downstream_ips``):
    sessions reach the hub too, and could make up an address for each guess.
    """
    peer: str = handler.request.connection.context.address[0]
    proxies = handler.app.trusted_downstream_ips
    if proxies and peer not in proxies:
        return peer
    told: str = handler.request.remote_ip
    return told


class LabdockAuthenticator(Authenticator):  # type: ignore[misc]  # JupyterHub has no type information
    """What every way to sign in shares: the accounts say who may come in, now and later."""

    admission: Admission = AnyTrait(help="The accounts and the rules.").tag(config=True)  # type: ignore[assignment]  # a trait is declared by assigning it to its value's name

    @default("any_allow_config")
    def _default_any_allow_config(self) -> bool:
        # "Who may come in" is the table of accounts and the rules, which JupyterHub cannot see when it warns.
        return True

    @default("auth_refresh_strict")
    def _default_auth_refresh_strict(self) -> bool:
        # Else JupyterHub lets a token go on whose owner may not come in any more.
        return True

    def rights(self, account: Account) -> dict[str, Any]:
        """JupyterHub's form of *account*: its name, and whether it is an administrator's now."""
        return {"name": account.name, "admin": self.admission.is_admin(account)}

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """True: ``authenticate`` has let in those alone who may."""
        return True

    async def refresh_user(
        self, user: Any, handler: web.RequestHandler | None = None
    ) -> bool | dict[str, Any]:
        """False once the account is gone or may not come in; else its rights as they are now."""
        account = await self.admission.find(user.name)
        return False if account is None else self.rights(account)

    async def add_user(self, user: Any) -> None:
        """Refuse a hub user without an account: JupyterHub's own pages cannot make one.

        Raises:
            HTTPError: 409, with the way out.
        """
        if await self.admission.find(user.name) is None:
            raise web.HTTPError(409, f"{user.name!r} has no account. Invite people on the People page.")

    def delete_user(self, user: Any) -> None:
        """Refuse JupyterHub's own way of removing people, which asks nothing about the home.

        Raises:
            HTTPError: 409, with the way out.
        """
        raise web.HTTPError(409, "Remove people on the People page, which asks what becomes of the home.")

    async def pre_spawn_start(self, user: Any, spawner: Any) -> None:
        """Refuse a start for somebody without an account, who may not come in, or who is being removed.

        Raises:
            SpawnException: 403.
        """
        if await self.admission.find(user.name) is None:
            raise SpawnException(f"{user.name!r} has no account.", reason="no-account", status_code=403)


class LocalAuthenticator(LabdockAuthenticator):
    """JupyterHub's sign-in with local accounts: account holders may come in, and nobody else."""

    sign_in: SignIn = AnyTrait(help="The passwords and the pace of tries.").tag(config=True)  # type: ignore[assignment]  # a trait is declared by assigning it to its value's name

    async def authenticate(self, handler: web.RequestHandler, data: Mapping[str, str]) -> dict[str, Any]:
        """JupyterHub's form of the account that *data* (``username``, ``password``) belongs to.

        Raises:
            HTTPError: 400 for a form without the two, 403 for a wrong one, 429 for one too many.
        """
        name, password = data.get("username", ""), data.get("password", "")
        if not name or not password:
            raise web.HTTPError(400, "Enter your name and your password.")
        try:
            account = await self.sign_in.check(
                name.lower(), password, address_of(handler), known=known_browser.marks(handler)
            )
        except TooManyTriesError as error:
            refused = web.HTTPError(429, str(error))
            # JupyterHub sends these with the error's page.
            refused.headers = {"Retry-After": str(error.wait_s)}  # type: ignore[attr-defined]  # JupyterHub's own extension
            raise refused from error
        except NotAdmittedError as error:
            if error.reason is Reason.UNLISTED:
                raise web.HTTPError(403, str(error)) from error
            send_to_waiting(handler, error.identity)
            raise web.Finish from error
        if account is None:
            # Raised, not returned: JupyterHub would log what was typed as the name.
            raise web.HTTPError(403, WRONG)
        if await self.sign_in.second.in_use(account):
            await self.sign_in.second.send_to_second_step(handler, account)
            raise web.Finish
        known_browser.remember(handler, account.identity)
        return self.rights(account)
