"""What goes wrong when somebody signs in with an account of elsewhere: for them in plain words, and the fix.

A *provider* says who somebody is: GitHub, a GitLab, Google, an OpenID Connect provider, a directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labdock.core.errors import AccountError

DOWN = "provider-down"
SLOW_DOWN = "provider-rate-limit"
NOT_TRUSTED = "provider-not-trusted"
WRONG_CLIENT = "wrong-client"
WRONG_SECRET = "wrong-secret"  # noqa: S105  the word for a failure
WRONG_CALLBACK = "wrong-callback"
WRONG_SCOPE = "wrong-scope"
CODE_SPENT = "code-spent"
TOKEN_DEAD = "token-dead"  # noqa: S105  the word for a failure
SAID_NO = "said-no"
NO_STATE = "no-state"
WRONG_LOOKUP = "wrong-lookup"
WRONG_BASE = "wrong-base"
NOT_ACTIVE = "account-not-active"
HIDDEN = "membership-hidden"
NO_EMAIL = "no-verified-email"
NO_IDENTITY = "no-identity"
STRANGE = "strange-answer"
UNLISTED = "unlisted"
REFUSED = "refused"
NOT_NOW = "not-now"

PASSING = frozenset({DOWN, SLOW_DOWN})
"""What passes by itself, and says nothing of a person."""

ABOUT_THEM = frozenset({TOKEN_DEAD, NO_EMAIL, NOT_ACTIVE})
"""What ends the sign-in of a person who is in; all else is between this site and the provider."""

ASK = "Write to whoever runs this site; nothing is wrong with your account."


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a sign-in did not come about.

    *title*, *words* and *way_out* are for the person, and name no setting; *cause* and *fix* are for the
    administrator. None of them holds a secret, nor text that somebody chose, but the person's own login.
    *again* says whether trying again can help; *retry_s* when, 0 for at once.
    """

    kind: str
    title: str
    words: str
    way_out: str
    cause: str
    fix: str
    status: int
    again: bool = False
    retry_s: int = 0


class SignInError(AccountError):
    """A sign-in did not come about; ``trouble`` says all."""

    label = "sign-in"

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.words, fix=trouble.way_out)
        self.trouble = trouble


def _set_up_wrongly(kind: str, provider: str, cause: str, fix: str) -> Trouble:
    return Trouble(
        kind,
        "Signing in is not set up rightly",
        f"This site and {provider} do not agree about how people sign in, so nobody can now.",
        ASK,
        cause,
        fix,
        500,
    )


def down(provider: str, cause: str) -> Trouble:
    """*provider* does not answer, or not in time; *cause* says it for the administrator."""
    return Trouble(
        DOWN,
        f"{provider} does not answer",
        f"This site asked {provider} who you are, and got no answer.",
        "Try again in a minute. Sessions that run go on.",
        cause,
        f"Look whether this machine reaches {provider}, and whether it reports trouble of its own; "
        "`labdock doctor` asks again.",
        503,
        again=True,
        retry_s=60,
    )


def slow_down(provider: str, wait_s: int) -> Trouble:
    return Trouble(
        SLOW_DOWN,
        f"{provider} is asked too often",
        f"{provider} answers this site only so often an hour.",
        f"Try again in {max(1, -(-wait_s // 60))} minutes. Sessions that run go on.",
        f"the rate limit of {provider} is reached for {wait_s} s more",
        "It passes by itself; fewer organizations and teams in login mean fewer questions.",
        503,
        again=True,
        retry_s=max(1, wait_s),
    )


def not_trusted(provider: str, cause: str) -> Trouble:
    return Trouble(
        NOT_TRUSTED,
        f"{provider} could not be trusted",
        f"The certificate of {provider} is not one that this site trusts, so it said nothing to it.",
        ASK,
        f"the certificate of {provider} is not trusted: {cause}",
        "If a certificate authority of your own signed it, name its PEM file in login.authority; "
        "if the certificate has expired, it is the provider's to renew.",
        502,
    )


def wrong_client(provider: str) -> Trouble:
    return _set_up_wrongly(
        WRONG_CLIENT,
        provider,
        f"{provider} knows no application with this client id",
        "Copy the client id of the application anew into login.client_id, and run `labdock up`.",
    )


def wrong_secret(provider: str) -> Trouble:
    return _set_up_wrongly(
        WRONG_SECRET,
        provider,
        f"{provider} refuses the client secret, or does not know the client id",
        "Make a new secret at the provider and set it with `labdock secret set client_secret`; "
        "compare login.client_id too.",
    )


def wrong_callback(provider: str, callback: str) -> Trouble:
    return _set_up_wrongly(
        WRONG_CALLBACK,
        provider,
        f"{provider} has another callback address for this application",
        f"Set it there to exactly {callback}",
    )


def wrong_scope(provider: str, scopes: str) -> Trouble:
    return _set_up_wrongly(
        WRONG_SCOPE,
        provider,
        f"{provider} does not let this application ask for: {scopes}",
        "Allow the application these scopes at the provider.",
    )


def wrong_lookup(provider: str, entry: str) -> Trouble:
    """The directory *provider* refuses the *entry* that looks people up; "" asks without a name."""
    cause = f"{provider} refuses the name or the password of {entry}" if entry else f"{provider} wants a name"
    fix = "Set the password with `labdock secret set ldap_password`, and compare login.ldap.lookup_dn."
    return _set_up_wrongly(WRONG_LOOKUP, provider, cause, fix)


def wrong_base(provider: str, base: str, setting: str) -> Trouble:
    """There is no *base* in the directory *provider*, or whoever looks people up may not see it."""
    cause = f"{provider} has no {base}, or does not show it to whoever looks people up"
    return _set_up_wrongly(
        WRONG_BASE, provider, cause, f"Correct {setting}, or let login.ldap.lookup_dn read it."
    )


def not_active(provider: str, words: str) -> Trouble:
    """*provider* has ended or stopped somebody's account there; *words* say so to them."""
    return Trouble(
        NOT_ACTIVE,
        "Your account is not active",
        words,
        f"Ask whoever keeps the accounts of {provider}.",
        f"an account that {provider} says is not active was used",
        "Nothing: it is the directory's to allow.",
        403,
        again=True,
    )


def strange(provider: str, cause: str) -> Trouble:
    return Trouble(
        STRANGE,
        f"{provider} gave an answer that makes no sense here",
        f"This site asked {provider} who you are, and could not use the answer.",
        "Try again; if it stays so, write to whoever runs this site.",
        cause,
        "Compare login.server and login.client_id with what the provider shows; `labdock doctor` asks it.",
        502,
        again=True,
    )


def no_identity(provider: str, what: str) -> Trouble:
    return _set_up_wrongly(
        NO_IDENTITY,
        provider,
        f"the answer of {provider} about a person has no {what}",
        f"Nobody is let in without it, since names may change hands. Make {provider} send {what}.",
    )


def code_spent(provider: str) -> Trouble:
    return Trouble(
        CODE_SPENT,
        "This sign-in was used up",
        f"What {provider} gave your browser works once and for a few minutes; it was used or is too old.",
        "Sign in again.",
        f"{provider} refused a code that was used before, is too old, or was made for another application",
        "Nothing, unless it happens to everybody: then compare login.client_id.",
        400,
        again=True,
    )


def token_dead(provider: str) -> Trouble:
    return Trouble(
        TOKEN_DEAD,
        "Sign in again",
        f"{provider} does not confirm your earlier sign-in any more.",
        "Sign in again.",
        f"{provider} does not accept a person's token any more",
        "Nothing: they took the permission back, or their account there ended.",
        403,
        again=True,
    )


def said_no(provider: str) -> Trouble:
    return Trouble(
        SAID_NO,
        "You were not signed in",
        f"At {provider}, you or your organization said no to telling this site who you are.",
        "Sign in again, and say yes there. This site learns who you are, and can change nothing there.",
        f"somebody, or a rule of theirs at {provider}, said no",
        "Nothing, unless an administrator at the provider has to allow the application for everybody.",
        403,
        again=True,
    )


def no_state() -> Trouble:
    return Trouble(
        NO_STATE,
        "This sign-in did not begin here",
        "Your browser came back from somewhere, but it did not begin to sign in on this site, "
        "or began more than once, or too long ago.",
        "Sign in again from here. If somebody sent you the link that led here, do not use it.",
        "a sign-in came back that was not begun in the same browser",
        "Nothing, unless it happens to everybody: then site.url is not the address that people use.",
        400,
        again=True,
    )


def hidden_membership(provider: str, organization: str, cause: str, fix: str) -> Trouble:
    """*provider* does not tell this site whether somebody belongs to *organization*."""
    return Trouble(
        HIDDEN,
        f"Nobody can see whether you belong to {organization}",
        f"Members of {organization} may come in here, but {provider} does not tell this site who they are.",
        f"Ask an owner of {organization} to allow this site there, then sign in again.",
        cause,
        fix,
        403,
        again=True,
    )


def no_verified_email(provider: str) -> Trouble:
    return Trouble(
        NO_EMAIL,
        "Your e-mail address is not verified",
        f"{provider} does not say that your e-mail address is yours, and this site goes by it.",
        f"Verify your address at {provider}, then sign in again.",
        f"somebody's e-mail address at {provider} is not verified",
        "Nothing: they can verify it.",
        403,
        again=True,
    )


def unlisted(provider: str, login: str) -> Trouble:
    """Nobody expects whom *provider* calls *login*."""
    return Trouble(
        UNLISTED,
        "You are not on the list",
        f"{provider} knows you as {login}, and this site does not expect {login}.",
        "If you have several accounts there, use the right one. Otherwise ask to be let in.",
        "somebody who is on no list signed in",
        "If they belong here, add them: `labdock users add`, or to login.people.",
        403,
        again=True,
    )


def refused(provider: str) -> Trouble:
    return Trouble(
        REFUSED,
        "You may not come in",
        "An administrator of this site has refused or ended your access.",
        f"If you have another account at {provider}, use that; otherwise ask whoever runs this site.",
        "somebody whose access was refused or ended signed in",
        "If they belong here after all, let them in on the People page.",
        403,
        again=True,
    )


def not_now(words: str, way_out: str) -> Trouble:
    """For a reason of this site's own, said by *words* and *way_out*, somebody cannot be let in just now."""
    return Trouble(
        NOT_NOW,
        "You cannot be let in just now",
        words,
        way_out or "Try again later.",
        f"somebody could not be let in: {words}",
        way_out or "`labdock users` shows who there is.",
        409,
        again=True,
    )


def token_trouble(
    provider: str, callback: str, scopes: str, status: int, answer: Mapping[str, Any] | None
) -> Trouble | None:
    """What is wrong with the *answer* of a token endpoint (RFC 6749, 5.2); None if it holds a token.

    *answer* is None if it was no JSON object. GitHub answers errors with status 200 and codes of its own, and
    404 for a client id that it does not know.
    """
    error = answer.get("error") if answer is not None else None
    described = str(answer.get("error_description", "")) if answer is not None else ""
    known = {
        "invalid_client": wrong_client(provider) if "was not found" in described else wrong_secret(provider),
        "incorrect_client_credentials": wrong_secret(provider),
        "unauthorized_client": wrong_secret(provider),
        "redirect_uri_mismatch": wrong_callback(provider, callback),
        "invalid_grant": code_spent(provider),
        "bad_verification_code": code_spent(provider),
        "invalid_scope": wrong_scope(provider, scopes),
        "temporarily_unavailable": down(provider, f"{provider} says that it is unavailable"),
        "slow_down": slow_down(provider, 60),
    }
    if status == 404:
        return wrong_client(provider)
    if isinstance(error, str) and error in known:
        return known[error]
    if status == 200 and error is None and answer is not None and isinstance(answer.get("access_token"), str):
        return None
    said = f"{status} with {_word(error)}"
    return strange(provider, f"{provider} answered {said} when it was asked for a token")


def callback_trouble(provider: str, callback: str, scopes: str, error: str) -> Trouble:
    """What the word *error* means that a browser brought back from *provider*'s page (RFC 6749, 4.1.2.1)."""
    known = {
        "access_denied": said_no(provider),
        "consent_required": said_no(provider),
        "interaction_required": said_no(provider),
        "login_required": said_no(provider),
        "redirect_uri_mismatch": wrong_callback(provider, callback),
        "invalid_scope": wrong_scope(provider, scopes),
        "unauthorized_client": wrong_client(provider),
        "invalid_client": wrong_client(provider),
        "application_suspended": wrong_client(provider),
        "server_error": down(provider, f"{provider} says that it failed"),
        "temporarily_unavailable": down(provider, f"{provider} says that it is unavailable"),
    }
    return known.get(error) or strange(
        provider, f"a browser came back from {provider} with the error {_word(error)}"
    )


def _word(value: object) -> str:
    """*value* for a log: an error's code as it is, and nothing that could be anything else."""
    return value if isinstance(value, str) and re.fullmatch("[a-z_]{1,40}", value) else "no known error"
