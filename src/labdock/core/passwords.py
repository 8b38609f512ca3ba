"""Which passwords local accounts may have: length, and how soon somebody would guess them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from labdock.core.errors import BadRequestError

PASSWORD_MIN = 10
PASSWORD_MAX = 256

GUESSES_MIN = 10**8
"""How many guesses must be needed. The pace of tries lets a whole botnet make far fewer in a year."""

PART_MIN = 4
"""A shorter word about the person may be a part of a password by chance."""

Guesses = Callable[[str, Sequence[str]], float]
"""How many guesses a password is good for, where the words given count among the first ones tried."""


def normal_password(password: str) -> str:
    """*password* in Unicode's NFKC, so that "é" is the same on every keyboard."""
    return unicodedata.normalize("NFKC", password)


def words_about(
    name: str, *, login: str = "", email: str = "", full_name: str = "", site: str = ""
) -> Mapping[str, str]:
    """What a password of this person must not contain: each word, and what it is."""
    told = {
        site: "the name of this site",
        name: "your name",
        login: "your name",
        email: "your e-mail address",
        email.partition("@")[0]: "your e-mail address",
        full_name: "your name",
    }
    told |= dict.fromkeys(full_name.split(), "your name")
    return {word: what for word, what in told.items() if word}


def check_password(password: str, *, words: Mapping[str, str], guesses: Guesses) -> str:
    """The normal form of *password*, if a person whom *words* are about may use it.

    Length and hardness to guess are what count (NIST SP 800-63B-4, 3.1.1.2): no rule asks for digits or
    capitals.

    Raises:
        BadRequestError: Too short, too long, unprintable, easily guessed, or with one of *words* in it.
    """
    normal = normal_password(password)
    if not PASSWORD_MIN <= len(normal) <= PASSWORD_MAX:
        count = "more than a thousand" if len(normal) > 1000 else len(normal)
        raise BadRequestError(
            f"The password has {count} characters.",
            field="password",
            fix=f"Use {PASSWORD_MIN} to {PASSWORD_MAX}; a few words with spaces are fine.",
        )
    if not normal.isprintable():
        raise BadRequestError(
            "The password holds a character that cannot be typed.",
            field="password",
            fix="Use letters, digits, signs and spaces.",
        )
    said = _squeezed(normal)
    for word, what in words.items():
        if len(_squeezed(word)) >= PART_MIN and _squeezed(word) in said:
            raise BadRequestError(
                f"The password contains {what}.",
                field="password",
                fix="Whoever tries yours knows that too: use words that have nothing to do with it.",
            )
    if guesses(normal, tuple(words)) < GUESSES_MIN:
        raise BadRequestError(
            "The password is one of the first that somebody would guess.",
            field="password",
            fix="Use a few words that do not belong together.",
        )
    return normal


def _squeezed(text: str) -> str:
    """*text* as it reads without signs, spaces and case."""
    return re.sub(r"[\W_]+", "", normal_password(text).casefold())
