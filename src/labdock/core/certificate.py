"""Certificates as values: whom one is for, until when, and what is wrong with it.

Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from labdock.core.finding import Finding

NOTICE_S = 14 * 86_400
"""How long before its end a certificate is told of."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What one certificate says: *names* are DNS names and IP addresses, *fingerprint* is its SHA-256.

    *authority* says that it may issue others; *self_signed* that nobody stands behind it.
    """

    names: tuple[str, ...]
    subject: str
    issuer: str
    begins: int
    ends: int
    authority: bool
    self_signed: bool
    fingerprint: str

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Certificate:
        return Certificate(**{**data, "names": tuple(data["names"])})


@dataclass(frozen=True, slots=True)
class Served:
    """What the edge shows to whoever comes: the chain, the leaf first, and why it is not trusted.

    *distrust* is "" where this machine trusts it, as a browser would.
    """

    chain: tuple[Certificate, ...]
    distrust: str

    @property
    def leaf(self) -> Certificate:
        return self.chain[0]

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def from_json(text: str) -> Served:
        """What ``to_json`` wrote."""
        data = json.loads(text)
        return Served(tuple(Certificate.from_data(one) for one in data["chain"]), data["distrust"])


def covers(certificate: Certificate, host: str) -> bool:
    """Whether *certificate* is for *host*, a DNS name or an IP address, as browsers see it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        wanted = host.lower().rstrip(".")
        parent = wanted.partition(".")[2]
        return any(
            name.lower() in {wanted, f"*.{parent}" if parent else wanted} for name in certificate.names
        )
    return str(address) in certificate.names


def days_left(certificate: Certificate, now: float) -> int:
    """Whole days until it ends; below zero once it has ended."""
    return int((certificate.ends - now) // 86_400)


def ends_soon(certificate: Certificate, now: float) -> bool:
    """Whether it should have been renewed by now.

    Fourteen days before the end, and for one that lives shorter when a quarter of its life is left:
    authorities also issue for six days.
    """
    life = certificate.ends - certificate.begins
    return certificate.ends - now < min(NOTICE_S, life / 4)


def end_notice(certificate: Certificate, now: float) -> str:
    """What administrators are told when *certificate* should have been renewed by now; "" when not."""
    if now >= certificate.ends:
        return f"The site's certificate ended {_ago(now - certificate.ends)}: browsers refuse the site."
    if ends_soon(certificate, now):
        return f"The site's certificate ends in {_span(certificate.ends - now)} and has not been renewed."
    return ""


def time_faults(certificate: Certificate, now: float) -> tuple[str, ...]:
    """Why *certificate* does not hold now, a sentence each; empty when it does."""
    if now >= certificate.ends:
        return (f"The certificate ended {_ago(now - certificate.ends)}.",)
    if now < certificate.begins:
        return (f"The certificate begins only in {_span(certificate.begins - now)}; or the clock is wrong.",)
    return ()


def name_faults(certificate: Certificate, *hosts: str) -> tuple[str, ...]:
    """Why browsers will not take *certificate* for the first of *hosts* that it is not for.

    A host may be a wildcard: all that is one label below a name.
    """
    host = next((host for host in hosts if not covers(certificate, host)), None)
    if host is None:
        return ()
    if not certificate.names:
        return (f"The certificate has no subject alternative name, so browsers refuse it for {host}.",)
    shown = ", ".join(certificate.names[:5]) + (" …" if len(certificate.names) > 5 else "")
    return (f"The certificate is for {shown}, and not for {host}.",)


def chain_faults(chain: tuple[Certificate, ...], linked: int, roots: frozenset[str]) -> tuple[str, ...]:
    """Why *chain* does not reach from the leaf to an authority that browsers know.

    *linked* is how many of its certificates were each issued by the next one; *roots* are the subjects of
    the authorities that this machine trusts.
    """
    leaf, last = chain[0], chain[min(linked, len(chain) - 1)]
    if leaf.authority and not leaf.self_signed and len(chain) > 1:
        return ("The first certificate in the file is an authority's; the site's own must come first.",)
    if linked < len(chain) - 1:
        return (
            f"The chain breaks after {last.subject}: the next certificate did not issue it, "
            f"{last.issuer} did.",
        )
    if len(chain) == 1 and not leaf.self_signed and leaf.issuer not in roots:
        return (
            f"The chain is missing: the certificate of the issuer, {leaf.issuer}, is not in the file. With "
            "certbot, fullchain.pem has it; one of your own is put below the site's in the same file.",
        )
    return ()


def certificate_findings(
    served: Served, hosts: tuple[str, ...], now: float, roots: frozenset[str], *, staging: bool
) -> list[Finding]:
    """What is wrong with what is *served* to people who want *hosts*; empty when nothing is."""
    leaf, check = served.leaf, "certificate"
    found = [Finding(check, False, fault, "Renew it.") for fault in time_faults(leaf, now)]
    found += [
        Finding(check, False, fault, f"Have one issued for {' and '.join(hosts)}.")
        for fault in name_faults(leaf, *hosts)
    ]
    notice = end_notice(leaf, now)
    if notice and not found:
        found.append(Finding(check, False, notice, "With https: auto, see `labdock logs edge`."))
    if staging or "(STAGING)" in leaf.issuer:
        fix = "Take acme.staging out once all works."
        found.append(Finding(check, False, f"It is a trial one, by {leaf.issuer}: browsers refuse it.", fix))
    elif len(served.chain) == 1 and not leaf.self_signed and leaf.issuer not in roots:
        fact = f"It is served without its chain: the certificate of {leaf.issuer} is missing."
        found.append(Finding(check, False, fact, "Serve the file with the chain (fullchain.pem)."))
    elif served.distrust and not found:
        fact = f"This machine does not trust it: {served.distrust}."
        found.append(
            Finding(
                check,
                False,
                fact,
                "If it is of your own authority, install that authority's root on this machine too.",
            )
        )
    return found


def _span(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return "less than a minute"


def _ago(seconds: float) -> str:
    return f"{_span(seconds)} ago"


def life_in_words(certificate: Certificate, now: float) -> str:
    """How long it still holds, for people."""
    if now >= certificate.ends:
        return f"ended {_ago(now - certificate.ends)}"
    return f"{_span(certificate.ends - now)} left"
