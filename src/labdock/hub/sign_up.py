"""Asking for a local account, where administrators approve requests (``login.approve``)."""

from __future__ import annotations

import asyncio

from jupyterhub.handlers.base import BaseHandler
from tornado import web
from tornado.log import app_log

from labdock.core.accounts import TooManyTriesError
from labdock.core.errors import AccountError, BadRequestError
from labdock.core.people import NAME_PATTERN
from labdock.hub.sign_in import SignIn, address_of
from labdock.hub.waiting import asked_for, send_to_waiting

FULL_NAME_MAX = 80
EMAIL_MAX = 254


class SignUpHandler(BaseHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/sign-up``: a name and a password become an account that waits for approval.

    The answer is the same whether the name is free or not: who has it already keeps it, the new account gets
    another one, and its owner is told which once they are let in.
    """

    def initialize(self, sign_in: SignIn) -> None:
        self.sign_in = sign_in

    async def get(self) -> None:
        self._check_offered()
        if self.current_user is not None:
            self.redirect(f"{self.hub.base_url}home")
        elif (await asked_for(self, self.sign_in.admission.store)) is not None:
            self.redirect(f"{self.hub.base_url}waiting")
        else:
            await self._show()

    async def post(self) -> None:
        self._check_offered()
        admission = self.sign_in.admission
        try:
            name, full_name, email = self._told()
            password = self.get_body_argument("password", "", strip=False)
            # Counted before anything costs time, and whatever comes of it.
            self.sign_in.admit_sign_up(address_of(self))
            hashed = await self.sign_in.hash(password, name=name, email=email, full_name=full_name)
            account = await asyncio.to_thread(
                admission.store.sign_up,
                name,
                full_name=full_name,
                email=email,
                password_hash=hashed,
                not_for_them=frozenset((*admission.rules.admins, *admission.rules.people)),
                now=admission.now(),
            )
        except BadRequestError as error:
            self.set_status(400)
            await self._show(error=str(error), field=error.field)
            return
        except TooManyTriesError as error:
            self.set_status(429)
            self.set_header("Retry-After", str(error.wait_s))
            await self._show(error=str(error))
            return
        except AccountError as error:
            self.set_status(503)
            await self._show(error=str(error))
            return
        app_log.info("%s asks to be let in, from %s", account.name, address_of(self))
        send_to_waiting(self, account.identity)

    def _check_offered(self) -> None:
        if not self.sign_in.admission.rules.approve:
            raise web.HTTPError(404, "Nobody can ask for an account here.")

    def _told(self) -> tuple[str, str, str]:
        """The name, full name and e-mail address of the form.

        Raises:
            BadRequestError: One of them cannot be. A name that is taken can.
        """
        name = self.get_body_argument("name", "").lower()
        full_name = " ".join(self.get_body_argument("full_name", "").split())
        email = self.get_body_argument("email", "").lower()
        if not NAME_PATTERN.fullmatch(name):
            raise BadRequestError(
                "That cannot be a name here.",
                field="name",
                fix='Use 1 to 32 of a-z and 0-9, with single ".", "_" or "-" between, a letter first.',
            )
        if len(full_name) > FULL_NAME_MAX or not full_name.isprintable():
            raise BadRequestError(
                "The full name is too long, or holds signs that cannot be shown.",
                field="full_name",
                fix=f"Use {FULL_NAME_MAX} letters at most.",
            )
        before, _, domain = email.rpartition("@")
        if email and (not before or not domain or len(email) > EMAIL_MAX or not email.isprintable()):
            raise BadRequestError(
                "That is no e-mail address.", field="email", fix="Correct it, or leave it empty."
            )
        return name, full_name, email

    async def _show(self, *, error: str = "", field: str = "") -> None:
        self.set_header("Cache-Control", "no-store")
        typed = {key: self.get_body_argument(key, "") for key in ("name", "full_name", "email")}
        self.finish(await self.render_template("sign_up.html", error=error, field=field, typed=typed))
