"""Who the people are on this machine: identity, name, uid, home; stable for ever.

An *identity* never changes hands (``local:<random>``, later ``github:<number>``); a *name* may.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from labdock.core.errors import AccountError

FIRST_UID = 200_001
"""Above the ranges that Debian's adduser (1000-59999) and systemd's dynamic users (61184-65519) hand out."""

LAB_GID = 200_000
"""The group everybody is in; owns the shared folders that Labdock makes."""

LAB_GROUP = "lab"

NAME_PATTERN = re.compile(r"(?=.{1,32}$)[a-z](?:[a-z0-9]|[._-](?=[a-z0-9]))*")
"""What a name may be: it becomes a login, a container's name and a folder's name.

No two of ".", "_", "-" meet, so that "--" can join a name with something else without doubt.
"""

_LABEL_JOINS = {"-": "-", ".": "--", "_": "---"}


def host_label(name: str) -> str:
    """The DNS label of the person *name*, of at most 63 characters; no two names share one.

    Hyphens stand for what a label cannot hold, so many that they can be told apart: ``ada.b`` is ``ada--b``.
    What begins with ``xn--`` browsers would decode: such a one gets a 0 in front, which begins no name.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise AccountError(f"{name!r} is no name of a person, so it cannot be part of a host name.")
    label = "".join(_LABEL_JOINS.get(sign, sign) for sign in name)
    return f"0{label}" if label.startswith("xn--") else label


_SYSTEM_NAMES = """
adm audio avahi backup bin cdrom crontab daemon dialout dip disk docker fax floppy games gnats input irc
kmem kvm lab list lp mail man messagebus news nobody nogroup operator plugdev polkitd postfix proxy render
root sasl sgx shadow src ssl-cert sshd staff sudo sync sys systemd-journal systemd-network systemd-resolve
systemd-timesync tape tty users utmp uucp uuidd video voice www-data
"""
_PART_NAMES = "agent edge hub packages proxy"

RESERVED_NAMES = frozenset((_SYSTEM_NAMES + _PART_NAMES).split())
"""Debian's users and groups inside a session, and Labdock's parts as ``logs`` calls them."""


@dataclass(frozen=True, slots=True)
class Person:
    """One person as the machine knows them; ``home`` is a folder's name below the homes."""

    identity: str
    name: str
    uid: int
    home: str

    @property
    def gid(self) -> int:
        return self.uid


@dataclass(frozen=True, slots=True)
class Registry:
    """Everybody who ever had a uid here, in order of uid; no uid or home is ever given twice.

    ``gone`` marks identities that were removed: they keep their row so that their uid stays theirs.
    """

    people: tuple[Person, ...] = ()
    gone: frozenset[str] = frozenset()
    next_uid: int = FIRST_UID

    def find(self, identity: str) -> Person | None:
        """The person with *identity*, or None if unknown or gone."""
        if identity in self.gone:
            return None
        return next((p for p in self.people if p.identity == identity), None)

    def current(self) -> tuple[Person, ...]:
        """Everybody who is not gone, in order of uid."""
        return tuple(p for p in self.people if p.identity not in self.gone)


def check_name(name: str) -> str:
    """*name* if it can be a person's name.

    Raises:
        AccountError: With the rule, when it cannot.
    """
    if not NAME_PATTERN.fullmatch(name) or name in RESERVED_NAMES:
        raise AccountError(
            f"{name!r} cannot be a person's name.",
            fix="Use 1 to 32 of a-z and 0-9, beginning with a letter, with single '.', '_' or '-' between; "
            "names that the system or Labdock uses itself (root, mail, hub …) are taken.",
        )
    return name


def register(registry: Registry, identity: str, name: str) -> tuple[Registry, Person]:
    """The registry with *identity* in it under *name*, and that person.

    Somebody known keeps uid and home, whatever their name is now; somebody new gets the next uid
    and a home of their own, also when the name was used before.

    Raises:
        AccountError: *name* cannot be a name, *identity* was removed, or somebody else has the name.
    """
    known = registry.find(identity)
    if known is None or known.name != name:
        check_name(name)
    if identity in registry.gone:
        raise AccountError(f"The identity {identity} was removed.", fix="Add the person anew.")
    holder = next((p for p in registry.current() if p.name == name and p.identity != identity), None)
    if holder is not None:
        raise AccountError(f"The name {name!r} belongs to somebody else (uid {holder.uid}).")
    if known is not None:
        renamed = replace(known, name=name)
        people = tuple(renamed if p.identity == identity else p for p in registry.people)
        return replace(registry, people=people), renamed
    person = Person(identity, name, registry.next_uid, f"{name}-{registry.next_uid}")
    return (
        replace(registry, people=(*registry.people, person), next_uid=registry.next_uid + 1),
        person,
    )


def forget(registry: Registry, identity: str) -> Registry:
    """The registry with *identity* marked as gone; its uid and home's name stay taken."""
    if not any(p.identity == identity for p in registry.people):
        return registry
    return replace(registry, gone=registry.gone | {identity})


def passwd_lines(people: Iterable[Person]) -> str:
    """The text of a passwd(5) file that names *people*; homes as sessions see them."""
    return "".join(f"{p.name}:x:{p.uid}:{p.gid}:{p.name}:{session_home(p.name)}:/bin/bash\n" for p in people)


def group_lines(people: Iterable[Person]) -> str:
    """The text of a group(5) file: everybody's own group, and the group of the lab."""
    known = tuple(people)
    lab = f"{LAB_GROUP}:x:{LAB_GID}:{','.join(p.name for p in known)}\n"
    return lab + "".join(f"{p.name}:x:{p.gid}:\n" for p in known)


def session_home(name: str) -> str:
    """Where a session sees the home of the person called *name*."""
    return f"/home/{name}"
