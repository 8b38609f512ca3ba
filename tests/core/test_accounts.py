"""The rules of local accounts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labdock.core.accounts import (
    LINK_LIFE_S,
    MOST_REMEMBERED,
    PACE_FOR_ADDRESS,
    PACE_FOR_CODE,
    PACE_FOR_NAME,
    PACE_FOR_NAME_FROM_ANYWHERE,
    Limiter,
    Link,
    LinkKind,
    LinkState,
    address_group,
    seconds_in_words,
    token_hash,
)

ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
NAMES = ("ada", "bob", "")

tries = st.lists(
    st.tuples(
        st.sampled_from(ADDRESSES),
        st.sampled_from(NAMES),
        st.floats(min_value=0, max_value=400),
        st.booleans(),
    ),
    max_size=120,
)


def after(history: list[tuple[str, str, float, bool]]) -> tuple[Limiter, float]:
    """The limiter and the time after *history*: address, name, seconds since the last try, right or wrong."""
    limiter, now = Limiter(), 0.0
    for address, name, pause, right in history:
        now += pause
        limiter, wait = limiter.admit(address, name, now)
        if right and not wait:
            limiter = limiter.succeeded(address, name)
    return limiter, now


@given(tries, st.sampled_from(ADDRESSES), st.sampled_from(NAMES))
def test_after_the_stated_seconds_the_next_try_is_heard(
    history: list[tuple[str, str, float, bool]], address: str, name: str
) -> None:
    limiter, now = after(history)
    _, wait = limiter.admit(address, name, now)
    assert 0 <= wait <= max(PACE_FOR_NAME.longest_s, PACE_FOR_ADDRESS.longest_s)
    _, still = limiter.admit(address, name, now + wait)
    assert still == 0


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.floats(min_value=0, max_value=10)), max_size=150))
def test_failures_at_one_address_never_slow_another(attack: list[tuple[str, float]]) -> None:
    limiter, now = after([("192.0.2.66", name, pause, False) for name, pause in attack])
    for name in NAMES:
        _, wait = limiter.admit("198.51.100.7", name, now)
        assert wait == 0


@given(tries, st.sampled_from(ADDRESSES), st.sampled_from(NAMES), st.integers(1, 50))
def test_knocking_while_waiting_lengthens_nothing(
    history: list[tuple[str, str, float, bool]], address: str, name: str, knocks: int
) -> None:
    limiter, now = after(history)
    _, wait = limiter.admit(address, name, now)
    if wait:
        for _ in range(knocks):
            limiter, wait_now = limiter.admit(address, name, now)
            assert wait_now == wait


@given(tries, st.sampled_from(ADDRESSES))
def test_success_takes_back_what_it_counted(
    history: list[tuple[str, str, float, bool]], address: str
) -> None:
    limiter, now = after(history)
    admitted, wait = limiter.admit(address, "ada", now)
    if not wait:
        _, wait_next = admitted.succeeded(address, "ada").admit(address, "ada", now)
        assert wait_next == 0


def test_the_sixth_failure_in_a_row_costs_a_second_and_then_doubles() -> None:
    limiter, now, waits = Limiter(), 0.0, []
    for _ in range(18):
        limiter, wait = limiter.admit("192.0.2.1", "ada", now)
        if wait:
            waits.append(wait)
            now += wait
            limiter, _ = limiter.admit("192.0.2.1", "ada", now)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_many_tries_at_once_do_not_all_get_in() -> None:
    limiter, heard = Limiter(), 0
    for _ in range(1000):
        limiter, wait = limiter.admit("192.0.2.1", "ada", 0.0)
        heard += not wait
    assert heard == PACE_FOR_NAME.free + 1


def test_guessing_one_password_for_many_names_is_slowed_by_address() -> None:
    limiter, heard = Limiter(), 0
    for i in range(1000):
        limiter, wait = limiter.admit("192.0.2.1", f"name{i}", 0.0)
        heard += not wait
    assert heard == PACE_FOR_ADDRESS.free + 1


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 100)), min_size=100, max_size=400))
@settings(max_examples=40, deadline=None)
def test_many_addresses_together_make_few_guesses_at_one_name(attack: list[tuple[int, float]]) -> None:
    limiter, now, heard = Limiter(), 0.0, 0
    for number, pause in attack:
        now += pause
        limiter, wait = limiter.admit(f"10.0.{number >> 8}.{number & 255}", "ada", now)
        heard += not wait
    assert heard <= PACE_FOR_NAME_FROM_ANYWHERE.free + 12 + now / 30


def test_a_thousand_addresses_make_two_guesses_a_minute() -> None:
    limiter, heard = Limiter(), 0
    for second in range(24 * 3600):
        limiter, wait = limiter.admit(f"10.0.{second % 1000 >> 8}.{second & 255}", "ada", float(second))
        heard += not wait
    assert heard < 2 * 24 * 60


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 10)), max_size=300), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_attack_slows_a_browser_that_has_signed_in_before(
    attack: list[tuple[int, float]], shares_the_address: bool
) -> None:
    limiter, now = Limiter(), 0.0
    for number, pause in attack:
        now += pause
        limiter, _ = limiter.admit(f"10.0.{number >> 8}.{number & 255}", "ada", now)
        limiter, _ = limiter.admit_code("local:1", now)
    address = "10.0.0.0" if shares_the_address else "192.0.2.9"
    assert limiter.admit(address, "ada", now, browser="mark")[1] == 0
    assert limiter.admit_code("local:1", now, browser="mark")[1] == 0


def test_a_browser_that_has_signed_in_before_has_a_pace_of_its_own() -> None:
    limiter, heard, codes = Limiter(), 0, 0
    for i in range(1000):
        limiter, wait = limiter.admit(f"10.0.{i >> 8}.{i & 255}", "ada", 0.0, browser="mark")
        heard += not wait
        limiter, wait = limiter.admit_code("local:1", 0.0, browser="mark")
        codes += not wait
    assert heard == PACE_FOR_NAME.free + 1
    assert codes == PACE_FOR_CODE.free + 1


def test_codes_are_guessed_a_few_times_a_day_from_wherever() -> None:
    limiter, heard = Limiter(), 0
    for second in range(0, 24 * 3600, 10):
        limiter, wait = limiter.admit_code("local:1", float(second))
        heard += not wait
    assert heard < 70
    limiter = limiter.code_succeeded("local:1")
    assert limiter.admit_code("local:1", 24 * 3600.0)[1] == 0


def test_requests_to_be_let_in_are_few_from_one_address_and_slow_no_sign_in() -> None:
    limiter, heard = Limiter(), 0
    for second in range(0, 3600, 2):
        limiter, wait = limiter.admit_sign_up("192.0.2.1", float(second))
        heard += not wait
    assert heard < 20
    assert limiter.admit_sign_up("192.0.2.2", 3600.0)[1] == 0
    assert limiter.admit("192.0.2.1", "ada", 3600.0)[1] == 0


def test_a_day_later_nothing_is_held_against_anybody() -> None:
    limiter, now = after([("192.0.2.1", "ada", 1.0, False)] * 500)
    for _ in range(PACE_FOR_NAME.free + 1):
        limiter, wait = limiter.admit("192.0.2.1", "ada", now + 86_400)
        assert wait == 0


def test_the_limiter_forgets_the_oldest_when_it_is_full() -> None:
    limiter = Limiter()
    for i in range(0, MOST_REMEMBERED + 500):
        limiter, _ = limiter.admit(f"10.{i >> 16}.{(i >> 8) & 255}.{i & 255}", f"ada{i}", float(i))
    assert len(limiter.tries) == MOST_REMEMBERED
    assert ("10.0.0.0", "name ada0") not in limiter.tries


def test_addresses_of_one_ipv6_customer_count_as_one() -> None:
    assert address_group("2001:db8::1") == address_group("2001:db8::ffff:1%eth0") == "2001:db8::/64"
    assert address_group("::1") == "::/64"
    assert address_group("2001:db8:0:1::1") != address_group("2001:db8::1")
    assert address_group("::ffff:192.0.2.1") == "192.0.2.1"
    assert address_group("@unix") == "@unix"


@pytest.mark.parametrize("kind", list(LinkKind))
def test_a_link_is_open_until_used_replaced_or_expired(kind: LinkKind) -> None:
    link = Link(kind, "local:1", expires_at=LINK_LIFE_S[kind])
    assert link.state(LINK_LIFE_S[kind] - 1) is LinkState.OPEN
    assert link.state(LINK_LIFE_S[kind]) is LinkState.EXPIRED
    assert Link(kind, "local:1", 10, used_at=5).state(99) is LinkState.USED
    assert Link(kind, "local:1", 10, replaced_at=5).state(6) is LinkState.REPLACED


def test_the_stored_form_of_a_token_does_not_hold_it() -> None:
    assert "secret" not in token_hash("secret")
    assert token_hash("secret") != token_hash("secre")
    assert len(token_hash("\ud800")) == 64


def test_waits_read_well() -> None:
    assert [seconds_in_words(s) for s in (1, 40, 119, 120, 300)] == [
        "1 second",
        "40 seconds",
        "119 seconds",
        "2 minutes",
        "5 minutes",
    ]
