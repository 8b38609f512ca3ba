"""Which passwords may be used."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.errors import BadRequestError
from labdock.core.passwords import (
    GUESSES_MIN,
    PASSWORD_MAX,
    PASSWORD_MIN,
    check_password,
    normal_password,
    words_about,
)

WORDS = words_about(
    "ada-lovelace", email="a.byron@example.edu", full_name="Augusta Ada King", site="Vision Lab"
)


def hard(password: str, words: Sequence[str]) -> float:
    return GUESSES_MIN


def easy(password: str, words: Sequence[str]) -> float:
    return GUESSES_MIN - 1


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("", "0 characters"),
        ("a" * (PASSWORD_MIN - 1), "9 characters"),
        ("x" * (PASSWORD_MAX + 1), "257 characters"),
        ("x" * 10_000_000, "more than a thousand characters"),
        ("tab\there is bad", "cannot be typed"),
        ("null\0null\0null", "cannot be typed"),
        ("I am Ada-Lovelace!", "your name"),
        ("ada.lovelace 123", "your name"),
        ("long live augusta", "your name"),
        ("with A_Byron inside", "your e-mail address"),
        ("the vision laboratory", "the name of this site"),
    ],
)
def test_a_refused_password_is_told_why_and_what_to_do_without_being_repeated(
    password: str, says: str
) -> None:
    with pytest.raises(BadRequestError, match=says) as caught:
        check_password(password, words=WORDS, guesses=hard)
    assert caught.value.field == "password"
    assert caught.value.fix
    assert not password or password not in str(caught.value)


def test_what_is_soon_guessed_is_refused() -> None:
    with pytest.raises(BadRequestError, match="first that somebody would guess"):
        check_password("correct horse battery", words=WORDS, guesses=easy)
    assert check_password("correct horse battery", words=WORDS, guesses=hard) == "correct horse battery"


def test_a_short_name_may_be_part_of_another_word() -> None:
    words = words_about("ada", site="Lab")
    assert check_password("canada slab winter", words=words, guesses=hard)


def test_the_words_about_somebody_count_among_the_first_guesses() -> None:
    asked: list[str] = []

    def note(password: str, words: Sequence[str]) -> float:
        asked.extend(words)
        return GUESSES_MIN

    check_password("correct horse battery", words=WORDS, guesses=note)
    assert {"ada-lovelace", "Augusta", "Ada", "Vision Lab", "a.byron"} <= set(asked)


@given(st.text(min_size=PASSWORD_MIN, max_size=40))
def test_an_accepted_password_is_its_own_normal_form(password: str) -> None:
    try:
        normal = check_password(password, words=WORDS, guesses=hard)
    except BadRequestError:
        return
    assert normal == normal_password(normal)


def test_the_same_letters_from_two_keyboards_are_one_password() -> None:
    assert normal_password("cafe\u0301 au lait") == normal_password("caf\u00e9 au lait")
