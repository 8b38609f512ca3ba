"""What the edge's log says of certificates → the cause in plain words, and the way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

OBTAINED = ("certificate obtained successfully", "certificate renewed successfully")
FAILED = ("could not get certificate from issuer", "will retry")
LAST_WORD = "will retry"
"""What the edge says when an attempt is over."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no certificate: *cause* in a word, *message* as a sentence, *fix* the way out.

    *over* says that the edge has given up for now and tries again by itself, within a minute at first and
    later less often.
    """

    cause: str
    message: str
    fix: str
    over: bool


def find_trouble(lines: Iterable[str], host: str, directory: str, *, since: float = 0.0) -> Trouble | None:
    """What keeps *host* from a certificate by *directory*, by the edge's log; None when nothing does.

    Only what was said from *since* (seconds since 1970) on counts. A success ends all trouble before it.
    """
    error, over = "", False
    details: list[str] = []
    for line in lines:
        entry = _entry(line)
        if entry is None or entry.get("ts", 0.0) < since:
            continue
        if host not in {entry.get("identifier"), None} and f"[{host}]" not in str(entry.get("error", "")):
            continue
        message = str(entry.get("msg", ""))
        if message in OBTAINED:
            error, details, over = "", [], False
        elif message == "obtaining certificate":
            details, over = [], False
        elif message == "challenge failed":
            problem = entry.get("problem") or {}
            details.append(f"{problem.get('type', '')} - {problem.get('detail', '')}")
        elif message in FAILED:
            error, over = str(entry.get("error", "")), over or message == LAST_WORD
    if not error:
        return None
    cause, words, fix = _explain("\n".join((error, *details)), host, urlsplit(directory).netloc)
    return Trouble(cause, words, fix, over)


def _entry(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and entry.get("level") in {"info", "warn", "error"} else None


Words = tuple[str, str]


def _rate_limit(text: str, host: str, authority: str) -> Words:
    until = re.search(r"retry after ([0-9][0-9TZ:UTC +-]{8,30}[0-9CZ])", text, re.IGNORECASE)
    when = f" until {until[1]}" if until else ""
    return (
        f"{authority} issues no more certificates for {host}{when}: its rate limit is reached.",
        "Wait; the edge tries again by itself. While you try things, use acme.staging: true.",
    )


def _account_missing(text: str, host: str, authority: str) -> Words:
    return (
        f"{authority} wants external account binding.",
        "Ask it for a key id and a key: write the id to site.acme.eab_key_id, "
        "and the key with `labdock secret set acme_eab_key`.",
    )


def _account_wrong(text: str, host: str, authority: str) -> Words:
    return (
        f"{authority} does not accept the key for external account binding.",
        "Compare site.acme.eab_key_id with what the authority gave you, "
        "and set the key again: labdock secret set acme_eab_key",
    )


def _unknown_authority(text: str, host: str, authority: str) -> Words:
    return (
        f"The HTTPS of {authority} itself is not trusted.",
        "Name the file with its root certificate in site.acme.authority.",
    )


def _clock(text: str, host: str, authority: str) -> Words:
    return (
        f"By this machine's clock, the certificate of {authority} does not hold.",
        "Set the clock: timedatectl set-ntp true",
    )


def _not_reached(text: str, host: str, authority: str) -> Words:
    why = re.search(r"(?:dial tcp|lookup)[^:]*(?::[0-9]+)?: (.{3,120}?)(?:\n| \(ca=|$)", text)
    return (
        f"{authority} is not reached{f' ({why[1]})' if why else ''}.",
        "The edge needs a way out to it: check site.acme.directory, the firewall and this machine's DNS.",
    )


def _caa(text: str, host: str, authority: str) -> Words:
    return (
        f"A CAA record in the DNS forbids {authority} to issue for {host}.",
        "Have the record allow this authority, or take it out.",
    )


def _no_name(text: str, host: str, authority: str) -> Words:
    return (
        f"The DNS does not know {host}, says {authority}.",
        f"Make an A record for {host} with this machine's public address.",
    )


def _points_elsewhere(text: str, host: str, authority: str) -> Words:
    where = re.search(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f:]{4,39}): Invalid response", text)
    return (
        f"Another server answers for {host}{f' at {where[1]}' if where else ''}, says {authority}.",
        f"Let the DNS record of {host} point to this machine, "
        "and the ports 80 and 443 of its public address lead here.",
    )


def _closed(text: str, host: str, authority: str) -> Words:
    ports = sorted({int(port) for port in re.findall(r"[0-9\]]:([0-9]{1,5})(?: for the|: connect)", text)})
    which = (
        f"port{'s' if len(ports) > 1 else ''} {' and '.join(map(str, ports))}"
        if ports
        else "ports 80 and 443"
    )
    return (
        f"{authority} does not reach {host} at {which}.",
        f"Open {which} of this machine to the internet, in its firewall and in that of the site; "
        f"and let the DNS record of {host} point here.",
    )


def _rejected(text: str, host: str, authority: str) -> Words:
    return (
        f"{authority} issues no certificate for {host}, by its own rules.",
        "Use another name, or another authority in site.acme.directory.",
    )


def _other(text: str, host: str, authority: str) -> Words:
    said = re.sub(r"^(?:\[[^\]]*\] )?(?:Obtain: )?", "", text.splitlines()[0])[:300]
    return f"{authority} did not issue a certificate for {host}: {said}", "See: labdock logs edge"


_CAUSES: tuple[tuple[str, str, Callable[[str, str, str], Words]], ...] = (
    ("rate limit", r"error:rateLimited|HTTP 429", _rate_limit),
    ("account missing", r"error:externalAccountRequired", _account_missing),
    (
        "account wrong",
        r"registering account.*(?:'kid'|external ?account|\beab\b|\bmac\b)|externalAccountBinding",
        _account_wrong,
    ),
    ("clock", r"x509: certificate has expired or is not yet valid", _clock),
    (
        "authority unknown",
        r"x509: certificate (?:signed by unknown authority|is not trusted)",
        _unknown_authority,
    ),
    ("caa", r"error:caa", _caa),
    ("rejected", r"error:rejectedIdentifier", _rejected),
    ("no name", r"error:dns|NXDOMAIN|No valid IP addresses found", _no_name),
    ("closed", r"error:connection|Timeout during connect|Failed to connect to", _closed),
    (
        "points elsewhere",
        r"Invalid response from|error:unauthorized|error:tls|incorrectResponse",
        _points_elsewhere,
    ),
    (
        "not reached",
        r"performing request: .*(?:dial tcp|lookup |timeout|deadline|EOF|proxyconnect)",
        _not_reached,
    ),
)
"""A word, what the log says, and what explains it; the first that fits."""


def _explain(text: str, host: str, authority: str) -> tuple[str, str, str]:
    for cause, pattern, words in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return (cause, *words(text, host, authority))
    return ("other", *_other(text, host, authority))
