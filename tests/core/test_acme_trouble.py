"""The edge's log → why there is no certificate.

The lines are Caddy's; the problems in them are Pebble's and Let's Encrypt's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from labdock.core.acme_trouble import Trouble, find_trouble

HOST = "gpu.lab.example"
DIRECTORY = "https://acme.lab.example/dir"


def line(message: str, **fields: Any) -> str:
    level = "error" if "error" in fields or "problem" in fields else "info"
    entry = {"level": level, "ts": 100.0, "logger": "tls.obtain", "msg": message, "identifier": HOST}
    return json.dumps({**entry, **fields})


def refused(error: str) -> list[str]:
    """What the edge says when an attempt ended with *error*."""
    return [
        line("obtaining certificate"),
        line("could not get certificate from issuer", issuer="acme", error=error),
        line("will retry", error=f"[{HOST}] Obtain: {error}", attempt=1, retrying_in=60, identifier=None),
    ]


def challenge(kind: str, problem: str, detail: str) -> str:
    told = {"type": f"{ERROR}:{problem}", "detail": detail}
    return line("challenge failed", challenge_type=kind, problem=told, logger="http.acme_client")


def trouble(*lines: str, since: float = 0.0) -> Trouble | None:
    return find_trouble(lines, HOST, DIRECTORY, since=since)


ERROR = "urn:ietf:params:acme:error"
ACCOUNT = "registering account [] with server: attempt 1: https://acme.lab.example/sign-me-up: HTTP"
GET = "registering account [] with server: provisioning client: performing request: Get"
AUTHORIZATION = f"[{HOST}] solving challenge: {HOST}: [{HOST}] authorization failed: HTTP"


@pytest.mark.parametrize(
    ("error", "cause", "message", "fix"),
    [
        (
            f"{ACCOUNT} 403 {ERROR}:externalAccountRequired - ACME server policy requires",
            "account missing",
            "wants external account binding",
            "labdock secret set acme_eab_key",
        ),
        (
            f"{ACCOUNT} 403 {ERROR}:unauthorized - the field 'kid' references a key that "
            "is not known to the ACME server",
            "account wrong",
            "does not accept the key for external account binding",
            "site.acme.eab_key_id",
        ),
        (
            f'{GET} "{DIRECTORY}": tls: failed to verify certificate: x509: certificate signed by '
            "unknown authority",
            "authority unknown",
            "acme.lab.example itself is not trusted",
            "site.acme.authority",
        ),
        (
            f'{GET} "{DIRECTORY}": tls: failed to verify certificate: x509: certificate has expired or is '
            "not yet valid: current time 2031-01-01T00:00:00Z is after 2026-12-01T00:00:00Z",
            "clock",
            "By this machine's clock",
            "timedatectl",
        ),
        (
            f'{GET} "{DIRECTORY}": dial tcp 192.0.2.1:443: connect: connection refused',
            "not reached",
            "is not reached (connect: connection refused)",
            "firewall",
        ),
        (
            f'{GET} "{DIRECTORY}": dial tcp: lookup acme.lab.example on 127.0.0.11:53: no such host',
            "not reached",
            "no such host",
            "DNS",
        ),
        (
            f"{AUTHORIZATION} 400 {ERROR}:dns - DNS problem: NXDOMAIN looking up A for {HOST}",
            "no name",
            f"The DNS does not know {HOST}",
            "Make an A record",
        ),
        (
            f"{AUTHORIZATION} 400 {ERROR}:connection - 192.0.2.7: Fetching http://{HOST}/: "
            "Timeout during connect (likely firewall problem)",
            "closed",
            f"does not reach {HOST} at ports 80 and 443",
            "Open ports 80 and 443",
        ),
        (
            f'{AUTHORIZATION} 400 {ERROR}:connection - Get "http://{HOST}:8080/x": '
            "dial tcp 127.0.0.1:8080: connect: connection refused",
            "closed",
            "at port 8080",
            "Open port 8080",
        ),
        (
            f"{AUTHORIZATION} 403 {ERROR}:unauthorized - 192.0.2.9: Invalid response from "
            f"http://{HOST}/.well-known/acme-challenge/x: 404",
            "points elsewhere",
            f"Another server answers for {HOST} at 192.0.2.9",
            "DNS record",
        ),
        (
            f"{AUTHORIZATION} 403 {ERROR}:caa - CAA record for {HOST} prevents issuance",
            "caa",
            "A CAA record in the DNS forbids",
            "Have the record allow",
        ),
        (
            f"[{HOST}] creating new order: attempt 1: HTTP 429 {ERROR}:rateLimited - too many "
            "certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, "
            "retry after 2026-12-01 10:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/",
            "rate limit",
            "until 2026-12-01 10:00:00 UTC",
            "acme.staging: true",
        ),
        (
            f"[{HOST}] creating new order: HTTP 400 {ERROR}:rejectedIdentifier - forbidden",
            "rejected",
            "by its own rules",
            "another name",
        ),
        (
            "something that nobody has seen yet",
            "other",
            "something that nobody has seen yet",
            "labdock logs edge",
        ),
    ],
)
def test_an_error_becomes_a_cause_and_a_way_out(error: str, cause: str, message: str, fix: str) -> None:
    found = trouble(*refused(error))
    assert found is not None
    assert (found.cause, found.over) == (cause, True)
    assert message in found.message
    assert fix in found.fix


def test_the_ports_that_were_tried_are_named_together() -> None:
    error = f"{AUTHORIZATION} 400 {ERROR}:connection - dial tcp 127.0.0.1:80: connect: refused"
    found = trouble(
        line("obtaining certificate"),
        challenge(
            "tls-alpn-01", "unauthorized", "Failed to connect to 127.0.0.1:443 for the tls-alpn-01 challenge"
        ),
        challenge("http-01", "connection", 'Get "http://x/": dial tcp 127.0.0.1:80: connect: refused'),
        *refused(error)[1:],
    )
    assert found is not None
    assert "ports 443 and 80" in found.message or "ports 80 and 443" in found.message


def test_an_attempt_that_goes_on_is_not_over() -> None:
    lines = refused(f"HTTP 429 {ERROR}:rateLimited")
    assert trouble(*lines[:1]) is None
    found = trouble(*lines[:2])
    assert found is not None
    assert not found.over
    # The next attempt has begun.
    again = trouble(*lines, line("obtaining certificate"))
    assert again is not None
    assert not again.over


def test_a_success_ends_all_trouble_before_it() -> None:
    lines = refused(f"HTTP 429 {ERROR}:rateLimited")
    assert trouble(*lines, line("certificate obtained successfully")) is None
    assert trouble(*lines, line("certificate renewed successfully")) is None
    assert trouble(line("certificate obtained successfully"), *lines) is not None


def test_what_was_said_before_or_of_another_name_does_not_count() -> None:
    lines = refused(f"HTTP 429 {ERROR}:rateLimited")
    assert trouble(*lines, since=101.0) is None
    others = [text.replace(HOST, "other.lab.example") for text in lines]
    assert trouble(*others) is None


@pytest.mark.parametrize(
    "text", ["", "caddy: panic", "{", "[]", '{"level": "error"}', '{"msg": "will retry"}']
)
def test_lines_that_are_no_log_are_passed_over(text: str) -> None:
    assert trouble(text) is None
