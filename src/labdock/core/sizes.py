"""Sizes as people write them: a number and K, M, G or T, in powers of 1024."""

from __future__ import annotations

import re
from decimal import Decimal

SIZE_PATTERN = r"(?!0+(?:\.0+)?[KMGT])[0-9]{1,6}(?:\.[0-9]{1,3})?[KMGT]"
"""A size other than none, such as 8G or 0.5T; Python and JSON Schema read it alike."""

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_MOST_UNITS = 999_999


def parse_size(text: str) -> int | None:
    """The bytes that *text* says, rounded down; None when it is no size."""
    if not re.fullmatch(SIZE_PATTERN, text):
        return None
    return int(Decimal(text[:-1]) * _UNITS[text[-1]])


def format_size(size_bytes: int) -> str | int:
    """*size_bytes* in the largest unit that says it exactly (``8G``); the number itself if none does."""
    for unit, factor in reversed(_UNITS.items()):
        if size_bytes and size_bytes % factor == 0 and size_bytes // factor <= _MOST_UNITS:
            return f"{size_bytes // factor}{unit}"
    return size_bytes
