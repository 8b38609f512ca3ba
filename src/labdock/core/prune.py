"""Which of the engine's images nobody needs any more."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

CONTENT = re.compile(r"labdock/(?!debian:)[a-z0-9-]+:[0-9a-f]{12}")
"""A tag that names content: of Labdock's own images and of a lab's, of every instance on the engine."""

CLAIM = re.compile(r"labdock-(?P<instance>[a-z0-9-]+)/[a-z0-9-]+:[0-9a-f]{12}")
"""A tag by which an instance says that it needs an image."""


@dataclass(frozen=True, slots=True)
class Images:
    """What the engine has: each reference and its image's id, and what containers use, running or not, as
    references and as ids."""

    by_reference: Mapping[str, str]
    in_use: frozenset[str]


def plan_prune(
    images: Images, *, instance: str, kept: frozenset[str], wanted: frozenset[str]
) -> tuple[str, ...]:
    """The references to take away, claims first.

    *kept* are the claims that *instance* still needs, *wanted* the tags that it would build next. Another
    instance's claims, what it claims, and what a container uses are left alone.
    """
    claims = tuple(
        reference
        for reference, image in sorted(images.by_reference.items())
        if (found := CLAIM.fullmatch(reference)) is not None
        and found["instance"] == instance
        and reference not in kept
        and not images.in_use & {reference, image}
    )
    claimed = {
        image
        for reference, image in images.by_reference.items()
        if CLAIM.fullmatch(reference) and reference not in claims
    }
    contents = tuple(
        reference
        for reference, image in sorted(images.by_reference.items())
        if CONTENT.fullmatch(reference)
        and reference not in wanted
        and image not in claimed
        and not images.in_use & {reference, image}
    )
    return claims + contents
