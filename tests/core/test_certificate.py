"""What a certificate is good for, and until when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.certificate import (
    Certificate,
    Served,
    certificate_findings,
    chain_faults,
    covers,
    days_left,
    end_notice,
    ends_soon,
    life_in_words,
    name_faults,
    time_faults,
)

DAY = 86_400
NOW = 1_800_000_000


def certificate(*names: str, days: float = 60, life: float = 90, **changes: object) -> Certificate:
    """One for *names* of *life* days in all, with *days* left."""
    ends = NOW + int(days * DAY)
    made = Certificate(names, "gpu", "Lab CA", ends - int(life * DAY), ends, False, False, "AB:CD")
    return replace(made, **changes)  # type: ignore[arg-type]  # by name


ROOT = certificate(subject="Lab Root", issuer="Lab Root", authority=True, self_signed=True)
MIDDLE = certificate(subject="Lab CA", issuer="Lab Root", authority=True)


@pytest.mark.parametrize(
    ("names", "host", "covered"),
    [
        (("gpu.lab.example",), "gpu.lab.example", True),
        (("GPU.lab.example",), "gpu.LAB.example", True),
        (("*.lab.example",), "gpu.lab.example", True),
        (("*.lab.example",), "a.gpu.lab.example", False),
        (("*.lab.example",), "lab.example", False),
        (("other", "192.0.2.7"), "192.0.2.7", True),
        (("2001:db8::1",), "2001:DB8::1", True),
        (("192.0.2.7",), "192.0.2.8", False),
        (("localhost",), "localhost", True),
        ((), "gpu", False),
    ],
)
def test_a_certificate_is_for_its_names(names: tuple[str, ...], host: str, covered: bool) -> None:
    found = certificate(*names)
    assert covers(found, host) == covered
    assert (name_faults(found, host) == ()) == covered


def test_a_name_that_is_missing_is_told_with_those_that_are_there() -> None:
    assert name_faults(certificate("a", "b"), "c") == ("The certificate is for a, b, and not for c.",)
    assert "no subject alternative name" in name_faults(certificate(), "c")[0]
    both = ("gpu.example.edu", "*.gpu.example.edu")
    assert name_faults(certificate(*both), *both) == ()
    assert name_faults(certificate(both[0]), *both) == (
        "The certificate is for gpu.example.edu, and not for *.gpu.example.edu.",
    )
    assert name_faults(certificate("*.example.edu"), *both) != ()


@pytest.mark.parametrize(
    ("days", "life", "soon"),
    [
        (15, 90, False),
        (13, 90, True),
        # Authorities issue for six days and for hours too: what is renewed in time is not told of.
        (4, 6, False),
        (1.4, 6, True),
        (0.2, 0.5, False),
        (0.1, 0.5, True),
        (-1, 90, True),
    ],
)
def test_the_end_is_told_of_in_time_and_not_before(days: float, life: float, soon: bool) -> None:
    found = certificate("gpu", days=days, life=life)
    assert ends_soon(found, NOW) == soon
    assert bool(end_notice(found, NOW)) == soon


def test_the_notice_says_when() -> None:
    assert "ends in 9 days and has not been renewed" in end_notice(certificate(days=9.5), NOW)
    assert "ended 2 hours ago" in end_notice(certificate(days=-0.1), NOW)
    assert life_in_words(certificate(days=1.5), NOW) == "1 day left"
    assert life_in_words(certificate(days=0.0001), NOW) == "less than a minute left"


def test_times_that_do_not_hold_are_told_apart() -> None:
    assert time_faults(certificate(), NOW) == ()
    assert "ended 3 days ago" in time_faults(certificate(days=-3), NOW)[0]
    assert "begins only in 10 days" in time_faults(certificate(days=100), NOW)[0]


@given(st.floats(-1000, 1000), st.floats(0.01, 1000))
def test_a_certificate_holds_or_says_why(days: float, life: float) -> None:
    found = certificate("gpu", days=days, life=life)
    holds = found.begins <= NOW < found.ends
    assert (time_faults(found, NOW) == ()) == holds
    assert (days_left(found, NOW) >= 0) == (found.ends >= NOW)


def test_a_chain_reaches_an_authority_or_says_where_it_breaks() -> None:
    leaf = certificate("gpu")
    nobody: frozenset[str] = frozenset()
    assert chain_faults((leaf, MIDDLE), 1, nobody) == ()
    assert chain_faults((leaf, MIDDLE, ROOT), 2, nobody) == ()
    assert chain_faults((ROOT,), 0, nobody) == ()
    # Issued by a root that this machine knows.
    assert chain_faults((leaf,), 0, frozenset({"Lab CA"})) == ()
    assert (
        "The chain is missing: the certificate of the issuer, Lab CA" in chain_faults((leaf,), 0, nobody)[0]
    )
    assert "breaks after gpu" in chain_faults((leaf, ROOT), 0, nobody)[0]
    assert "must come first" in chain_faults((MIDDLE, leaf), 0, nobody)[0]


@pytest.mark.parametrize(
    ("chain", "distrust", "words"),
    [
        ((certificate("gpu"), MIDDLE), "", ""),
        ((certificate("gpu", days=-1), MIDDLE), "certificate has expired", "ended 1 day ago"),
        ((certificate("gpu", days=9), MIDDLE), "", "has not been renewed"),
        ((certificate("other"), MIDDLE), "", "and not for gpu"),
        ((certificate("gpu"),), "unable to get local issuer certificate", "without its chain"),
        ((certificate("gpu"), MIDDLE), "self-signed certificate in chain", "does not trust it"),
        ((certificate("gpu", issuer="(STAGING) Wannabe"), MIDDLE), "unknown", "a trial one"),
    ],
)
def test_what_is_wrong_with_what_people_are_shown_is_said_once(
    chain: tuple[Certificate, ...], distrust: str, words: str
) -> None:
    found = certificate_findings(Served(chain, distrust), ("gpu",), NOW, frozenset(), staging=False)
    assert [words in finding.seen for finding in found] == ([True] if words else [])
    assert all(finding.fix and not finding.ok for finding in found)


def test_what_is_served_travels_as_json() -> None:
    served = Served((certificate("gpu", "192.0.2.7"), MIDDLE), "why")
    assert Served.from_json(served.to_json()) == served
