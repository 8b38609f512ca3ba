"""Rules of the second factor of local accounts: codes of an authenticator app, and recovery codes.

The app's codes are those of RFC 6238 with six digits and steps of 30 seconds, which every app knows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

STEP_S = 30
CODE_PATTERN = re.compile("[0-9]{6}")

RECOVERY_CODES = 10
RECOVERY_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
"""Letters and digits that nobody takes for others."""
RECOVERY_LENGTH = 16

SET_UP_WITHIN_S = 900
"""How long a secret that no code has confirmed is shown: who finds the browser open later must not see it."""

SECOND_STEP_WITHIN_S = 300
"""How long somebody whose password was right has for the code."""


def step_of(now: float) -> int:
    """The number of the step that *now*, in Unix seconds, lies in."""
    return int(now) // STEP_S


def steps_heard(now: float, last_used: int) -> Sequence[int]:
    """The steps whose codes are taken at *now*: this one and its neighbours, as clocks differ; the likeliest
    first. A code is good once, so none up to *last_used*.
    """
    here = step_of(now)
    return [step for step in (here, here - 1, here + 1) if step > last_used]


def normal_code(typed: str) -> str:
    """*typed* as codes are compared: without spaces and hyphens, in lower case."""
    return re.sub(r"[\s-]+", "", typed[:100]).lower()


def recovery_code(letters: Sequence[str]) -> str:
    """The recovery code of *letters* as it is shown: in fours."""
    text = "".join(letters)
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


def recovery_hash(code: str) -> str:
    """What is stored of a recovery *code*: its SHA-256 in hex. 79 random bits need no salt."""
    return hashlib.sha256(normal_code(code).encode("utf-8", "replace")).hexdigest()
