"""Who may come in: what a sign-in provider says of somebody, the lab's rules, and what follows from both.

An identity never changes hands; what somebody is called at a provider (their login, their e-mail address)
may. An *alias* is such a name, and belongs to the identity that showed it first: whoever is given the same
login later is a stranger to every list that names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from labdock.core.accounts import Account, Standing
from labdock.core.errors import AccountError
from labdock.core.login import AccessRules
from labdock.core.people import RESERVED_NAMES

MOST_WAITING = 200
"""How many may wait for approval at a time: strangers must not fill the lab's database."""


class Reason(StrEnum):
    """Why somebody is not let in."""

    WAITING = "waiting"
    REFUSED = "refused"
    UNLISTED = "unlisted"


class NotAdmittedError(AccountError):
    """Somebody has signed in and may not come in; *reason* says why, *identity* who it is."""

    label = "not-admitted"

    def __init__(self, reason: Reason, identity: str, login: str) -> None:
        super().__init__(
            {
                Reason.WAITING: f"{login} waits for an administrator's approval.",
                Reason.REFUSED: f"{login} was refused by an administrator.",
                Reason.UNLISTED: f"{login} is on no list of this site.",
            }[reason]
        )
        self.reason = reason
        self.identity = identity
        self.login = login


@dataclass(frozen=True, slots=True)
class Presented:
    """Who a sign-in provider says has just signed in.

    *identity* is the provider's immutable id ("github:583231"). *login* is what they are called there now;
    *email* only if the provider has verified it. *groups* are those organizations, teams, groups and domains
    of the rules that they are in now.
    """

    identity: str
    login: str
    email: str = ""
    full_name: str = ""
    groups: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The login and the e-mail address as lists have them, without what no list can hold."""
        # Lists are ASCII, and other signs become some of it in lower case: the Kelvin sign a "k".
        told = (name for name in (self.login, self.email) if name and name.isascii())
        return tuple(dict.fromkeys(name.lower() for name in told))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether somebody may come in, and as an administrator; *reason* is why not, None for who may."""

    admin: bool = False
    reason: Reason | None = None

    @property
    def admitted(self) -> bool:
        return self.reason is None


def judge(rules: AccessRules, account: Account) -> Verdict:
    """What *rules* say of *account* now.

    A refusal outweighs every list. Administrators may come in by that alone.
    """
    if account.standing is Standing.REFUSED:
        return Verdict(reason=Reason.REFUSED)
    if account.admin or account.aliases & set(rules.admins):
        return Verdict(admin=True)
    if (
        account.standing is Standing.ADDED
        or account.aliases & set(rules.people)
        or account.groups & rules.memberships
    ):
        return Verdict()
    return Verdict(reason=Reason.WAITING if rules.approve else Reason.UNLISTED)


def newcomer(presented: Presented, taken: Collection[str]) -> Account:
    """The account that *presented* would have; the names in *taken* belong to others."""
    return Account(
        identity=presented.identity,
        name="",
        admin=False,
        has_password=False,
        created_at=0,
        activated_at=None,
        standing=Standing.LISTED,
        login=presented.login,
        email=presented.email,
        full_name=presented.full_name,
        groups=presented.groups,
        aliases=frozenset(name for name in presented.names if name not in taken),
    )


def name_from(login: str, taken: Collection[str]) -> str:
    """A person's name made of *login*, which none of *taken* has.

    Of an e-mail address it is what stands before the "@".
    """
    words = re.findall(r"[a-z0-9]+|[._-]", login.partition("@")[0].lower())
    text = re.sub(r"[._-]*([._-])", r"\1", "".join(words)).strip("._-")
    if not text or not text[0].isalpha():
        text = f"u{text}"
    text = text[:32].rstrip("._-")
    candidate, number = text, 1
    while candidate in taken or candidate in RESERVED_NAMES:
        number += 1
        ending = f"-{number}"
        candidate = text[: 32 - len(ending)].rstrip("._-") + ending
    return candidate
