"""The pages of the second factor: setting it up, and the question for a code when signing in."""

from __future__ import annotations

from jupyterhub.handlers.base import BaseHandler
from tornado import web
from tornado.log import app_log

from labdock.core.accounts import Account, TooManyTriesError
from labdock.core.admission import NotAdmittedError
from labdock.core.errors import AccountError, BadRequestError
from labdock.hub import known_browser, second_factor
from labdock.hub.people import iso_time, sign_out_everywhere
from labdock.hub.sign_in import SignIn, address_of

WRONG_CODE = "That code is not right, or was used already."


class SecondFactorHandler(BaseHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/second-factor``: a person sets their second factor up, or turns it off."""

    def initialize(self, sign_in: SignIn) -> None:
        self.sign_in = sign_in

    @web.authenticated
    async def get(self) -> None:
        await self._show(await self._account())

    @web.authenticated
    async def post(self) -> None:
        account = await self._account()
        act = self.get_body_argument("act", "")
        try:
            if act == "begin":
                await self._check_password(account)
                await self.sign_in.second.begin(account)
            elif act == "confirm":
                await self._confirm(account)
                return
            elif act == "off":
                await self._check_password(account)
                await self.sign_in.second.remove(account, asked_by=account.name)
            else:
                raise web.HTTPError(400, "The form says nothing that can be done.")
        except BadRequestError as error:
            self.set_status(400)
            await self._show(account, error=str(error), field=error.field)
            return
        except TooManyTriesError as error:
            self.set_status(429)
            self.set_header("Retry-After", str(error.wait_s))
            await self._show(account, error=str(error))
            return
        except AccountError as error:
            self.set_status(409)
            await self._show(account, error=str(error))
            return
        self.redirect(f"{self.hub.base_url}second-factor", status=303)

    async def _confirm(self, account: Account) -> None:
        browser = known_browser.marks(self).get(account.identity, "")
        self.sign_in.admit_code(account, browser=browser)
        codes = await self.sign_in.second.confirm(account, self.get_body_argument("code", ""))
        if codes is None:
            raise BadRequestError(
                WRONG_CODE, field="code", fix="Wait for the next one; the clock of your device must be right."
            )
        self.sign_in.code_succeeded(account, browser=browser)
        # Whoever signed in with the password alone signs in anew.
        sign_out_everywhere(self.db, self.current_user)
        self.set_login_cookie(self.current_user)
        await self._show(account, codes=codes)

    async def _check_password(self, account: Account) -> None:
        present = self.get_body_argument("password", "", strip=False)
        if not account.has_password:
            raise BadRequestError("You have no password yet.", field="password", fix="Set one first.")
        try:
            right = await self.sign_in.check(
                account.name, present, address_of(self), known=known_browser.marks(self)
            )
        except NotAdmittedError as error:
            raise web.HTTPError(403, str(error)) from error
        if right is None:
            raise BadRequestError("That is not your password.", field="password")

    async def _account(self) -> Account:
        account = await self.sign_in.admission.find(self.current_user.name)
        if account is None:
            raise web.HTTPError(403, "You have no local account.")
        return account

    async def _show(
        self, account: Account, *, error: str = "", field: str = "", codes: tuple[str, ...] = ()
    ) -> None:
        self.set_header("Cache-Control", "no-store")
        factor = await self.sign_in.second.find(account)
        begun = factor is not None and factor.since is None
        html = await self.render_template(
            "second_factor.html",
            account=account,
            factor=None if begun else factor,
            since=iso_time(factor.since) if factor is not None and factor.since else "",
            set_up=await self.sign_in.second.set_up(account, factor)
            if factor is not None and begun
            else None,
            error=error,
            field=field,
            codes=codes,
        )
        self.finish(html)


class SecondStepHandler(BaseHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/second-step``: asks whoever gave the right password for a code, and signs them in."""

    def initialize(self, sign_in: SignIn) -> None:
        self.sign_in = sign_in

    async def get(self) -> None:
        account = await self.sign_in.second.expected(self)
        if account is None:
            self._begin_again()
        else:
            await self._show()

    async def post(self) -> None:
        account = await self.sign_in.second.expected(self)
        if account is None:
            self._begin_again()
            return
        browser = known_browser.marks(self).get(account.identity, "")
        try:
            self.sign_in.admit_code(account, browser=browser)
        except TooManyTriesError as error:
            self.set_status(429)
            self.set_header("Retry-After", str(error.wait_s))
            await self._show(error=str(error))
            return
        if not await self.sign_in.second.check(account, self.get_body_argument("code", "")):
            app_log.warning("Failed second step as %s from %s", account.name, address_of(self))
            self.set_status(403)
            await self._show(error=WRONG_CODE)
            return
        self.sign_in.code_succeeded(account, browser=browser)
        user = await self.auth_to_user(
            {"name": account.name, "admin": self.sign_in.admission.is_admin(account)}
        )
        self.clear_cookie(second_factor.COOKIE, path=self.hub.base_url)
        self.set_login_cookie(user)
        known_browser.remember(self, account.identity)
        app_log.info("%s signed in with a second factor", account.name)
        self.redirect(self.get_next_url(user), status=303)

    def _begin_again(self) -> None:
        # Never with the wish where to go: it was of a sign-in that is over.
        self.redirect(self.authenticator.login_url(self.hub.base_url), status=303)

    async def _show(self, *, error: str = "") -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template("second_step.html", error=error))
