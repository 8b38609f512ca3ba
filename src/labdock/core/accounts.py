"""Rules of accounts: links, and how often somebody may try to sign in.

Times are seconds: of the wall clock (Unix time) for accounts and links, of any steady clock for
the limiter. Whoever calls passes them in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil

from labdock.core.errors import AccountError


class TooManyTriesError(AccountError):
    """Too many failed tries to sign in; the next one is heard after *wait_s* whole seconds."""

    label = "too-many-tries"

    def __init__(self, wait_s: int, what: str = "failed tries") -> None:
        super().__init__(f"Too many {what}.", fix=f"Try again in {seconds_in_words(wait_s)}.")
        self.wait_s = wait_s


class UnknownPersonError(AccountError):
    """There is no account of that name."""

    label = "unknown-person"


class Standing(StrEnum):
    """By what somebody is here: an administrator's word, or the rules of the configuration alone."""

    ADDED = "added"
    LISTED = "listed"
    WAITING = "waiting"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account. Times are Unix seconds; ``activated_at`` is the first sign-in, or None.

    ``login``, ``email``, ``full_name`` and ``groups`` are what the sign-in provider said last, empty for a
    local account. ``aliases`` are the names by which lists mean this person: all that nobody else showed
    first. ``admin`` is an administrator by another one's word, whatever the configuration says.
    """

    identity: str
    name: str
    admin: bool
    has_password: bool
    created_at: int
    activated_at: int | None
    standing: Standing = Standing.ADDED
    login: str = ""
    email: str = ""
    full_name: str = ""
    groups: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()

    @property
    def only_asked(self) -> bool:
        """Whether they asked to come in, or were refused that, and have never been in."""
        return self.standing in {Standing.WAITING, Standing.REFUSED} and self.activated_at is None

    @property
    def state(self) -> str:
        """waiting, refused, invited or active, in a word; not whether the rules let them in."""
        if self.standing in {Standing.WAITING, Standing.REFUSED}:
            return self.standing.value
        return "invited" if self.activated_at is None else "active"


class LinkKind(StrEnum):
    """What a link does when it is used: set the first password, set a new one, or sign in at once."""

    INVITE = "invite"
    RESET = "reset"
    SIGNIN = "signin"


LINK_LIFE_S: Mapping[LinkKind, int] = {
    LinkKind.INVITE: 7 * 24 * 3600,
    LinkKind.RESET: 24 * 3600,
    LinkKind.SIGNIN: 3600,
}


class LinkState(StrEnum):
    """Whether a link can still be used, and if not, why."""

    OPEN = "open"
    USED = "used"
    REPLACED = "replaced"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Link:
    """A one-time link of the account *identity*; times in Unix seconds. Its token is kept nowhere."""

    kind: LinkKind
    identity: str
    expires_at: int
    used_at: int | None = None
    replaced_at: int | None = None

    def state(self, now: int) -> LinkState:
        if self.used_at is not None:
            return LinkState.USED
        if self.replaced_at is not None:
            return LinkState.REPLACED
        return LinkState.OPEN if now < self.expires_at else LinkState.EXPIRED


def token_hash(token: str) -> str:
    """What is stored of a link's *token*: its SHA-256 in hex. 256 random bits need no salt."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def seconds_in_words(seconds: int) -> str:
    """*seconds* for a sentence: "1 second", "40 seconds", "5 minutes" (rounded up from two minutes on)."""
    if seconds < 120:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    return f"{ceil(seconds / 60)} minutes"


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast tries may follow each other.

    The first ``free`` failures cost nothing; each further one doubles the wait, from 1 s up to
    ``longest_s``. One failure is forgiven for every ``forgive_s`` without a new one.
    """

    free: int
    longest_s: float
    forgive_s: float

    def wait_after(self, failures: int) -> float:
        if failures <= self.free:
            return 0.0
        return min(self.longest_s, 2.0 ** min(failures - self.free - 1, 30))


PACE_FOR_NAME = Pace(free=5, longest_s=300, forgive_s=600)
"""For one name from one address, or from one browser that has signed in to it before."""

PACE_FOR_ADDRESS = Pace(free=30, longest_s=60, forgive_s=60)
"""For all names from one address, which may be a whole lab's router: kinder."""

PACE_FOR_NAME_FROM_ANYWHERE = Pace(free=60, longest_s=60, forgive_s=60)
"""For one name from all addresses together: many machines make two guesses a minute at most. One address
alone cannot get here, it is slowed too much before."""

PACE_FOR_CODE = Pace(free=5, longest_s=1800, forgive_s=3600)
"""For the second step of signing in to one account: whoever is there knows the password."""

PACE_FOR_SIGN_UP = Pace(free=3, longest_s=1800, forgive_s=1800)
"""For requests to be let in from one address, which fill the administrators' list."""

MOST_REMEMBERED = 10_000
"""The most entries the limiter keeps; the ones that failed longest ago go first."""


@dataclass(frozen=True, slots=True)
class Tries:
    """Failed tries of one kind: how many, the last one's time, and until when the next is not heard."""

    failures: int
    last_s: float
    until_s: float

    def one_more(self, pace: Pace, now: float) -> Tries:
        kept = max(0, self.failures - int(max(0.0, now - self.last_s) / pace.forgive_s))
        # More failures than reach the longest wait would only make forgiving slower.
        failures = min(kept + 1, pace.free + 12)
        return Tries(failures, now, now + pace.wait_after(failures))


Key = tuple[str, str]
"""Where from, and what for."""

ANYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Limiter:
    """Who failed to sign in lately, keyed by where from and what for: an address and a name, say.

    Nobody can lock the right person out from elsewhere. From an address that did not itself fail, a name is
    slowed only while many others fail at it together, to a minute; from a *browser* that has signed in to it
    before (a mark that is nobody else's), not even then, nor by those who share its address.

    A try counts as failed from its admission on until ``succeeded`` takes it back, so that many at the same
    moment do not all get in before the first one is known to be wrong.
    """

    tries: Mapping[Key, Tries] = field(default_factory=dict)

    def admit(self, address: str, name: str, now: float, *, browser: str = "") -> tuple[Limiter, int]:
        """The limiter after this try at the password of *name*, and 0; or this limiter, and the whole seconds
        to wait.

        A try that is not admitted lengthens no wait.
        """
        return self._admit(_sign_in_keys(address, name, browser), now)

    def succeeded(self, address: str, name: str, *, browser: str = "") -> Limiter:
        """The limiter without the last admitted try, and with nothing held against the name here."""
        (own, _), *shared = _sign_in_keys(address, name, browser)
        tries = {key: entry for key, entry in self.tries.items() if key != own}
        for key, _ in shared:
            entry = tries.pop(key, None)
            if entry is not None and entry.failures > 1:
                tries[key] = replace(entry, failures=entry.failures - 1, until_s=entry.last_s)
        return Limiter(tries)

    def admit_code(self, identity: str, now: float, *, browser: str = "") -> tuple[Limiter, int]:
        """As ``admit``, for the second step of signing in to the account *identity*."""
        return self._admit((((browser or ANYWHERE, f"code {identity}"), PACE_FOR_CODE),), now)

    def code_succeeded(self, identity: str, *, browser: str = "") -> Limiter:
        """The limiter with nothing held against the second step here."""
        own = (browser or ANYWHERE, f"code {identity}")
        return Limiter({key: entry for key, entry in self.tries.items() if key != own})

    def admit_sign_up(self, address: str, now: float) -> tuple[Limiter, int]:
        """As ``admit``, for a request to be let in."""
        return self._admit((((address_group(address), "sign-up"), PACE_FOR_SIGN_UP),), now)

    def _admit(self, keys: tuple[tuple[Key, Pace], ...], now: float) -> tuple[Limiter, int]:
        wait_s = max((self.tries[key].until_s - now for key, _ in keys if key in self.tries), default=0.0)
        if wait_s > 0:
            return self, ceil(wait_s)
        tries = dict(self.tries)
        for key, pace in keys:
            # Put anew, so that the order is by the last failure.
            tries[key] = tries.pop(key, Tries(0, now, now)).one_more(pace, now)
        while len(tries) > MOST_REMEMBERED:
            del tries[next(iter(tries))]
        return Limiter(tries), 0


def _sign_in_keys(address: str, name: str, browser: str) -> tuple[tuple[Key, Pace], ...]:
    """What a try counts for, its own key first."""
    if browser:
        return (((browser, f"name {name}"), PACE_FOR_NAME),)
    place = address_group(address)
    own, whole = ((place, f"name {name}"), PACE_FOR_NAME), ((place, ""), PACE_FOR_ADDRESS)
    # What cannot be a name has no owner, and nobody's guesses at it have an end.
    return (own, whole, ((ANYWHERE, f"name {name}"), PACE_FOR_NAME_FROM_ANYWHERE)) if name else (own, whole)


def address_group(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that an IPv6 customer is given."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), 64), strict=False))
