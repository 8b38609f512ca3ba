"""Rules of the second factor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.second_factor import (
    CODE_PATTERN,
    RECOVERY_LENGTH,
    RECOVERY_LETTERS,
    STEP_S,
    normal_code,
    recovery_code,
    recovery_hash,
    step_of,
    steps_heard,
)


@given(st.floats(0, 1e10), st.integers(0, 10**9))
def test_no_code_is_heard_twice_and_none_from_far(now: float, last_used: int) -> None:
    heard = steps_heard(now, last_used)
    assert all(step > last_used and abs(step - step_of(now)) <= 1 for step in heard)
    for step in heard:
        assert step not in steps_heard(now + STEP_S, step)


def test_a_clock_that_is_half_a_minute_off_is_heard_and_two_minutes_are_not() -> None:
    assert sorted(steps_heard(3000, 0)) == [99, 100, 101]


@given(st.lists(st.sampled_from(RECOVERY_LETTERS), min_size=RECOVERY_LENGTH, max_size=RECOVERY_LENGTH))
def test_a_recovery_code_is_the_same_however_it_is_typed(letters: list[str]) -> None:
    code = recovery_code(letters)
    assert (
        recovery_hash(code)
        == recovery_hash(code.upper().replace("-", " "))
        == recovery_hash("".join(letters))
    )
    assert not CODE_PATTERN.fullmatch(normal_code(code))
    assert code not in recovery_hash(code)


@pytest.mark.parametrize("typed", ["123456", "123 456", " 123-456 "])
def test_a_code_may_be_typed_with_spaces(typed: str) -> None:
    assert CODE_PATTERN.fullmatch(normal_code(typed))


@given(st.text())
def test_any_text_can_be_compared(typed: str) -> None:
    assert len(normal_code(typed)) <= 300
    assert len(recovery_hash(typed)) == 64
