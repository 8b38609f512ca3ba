"""Which images the site offers, which it offered before, and which an administrator tries: values.

A *release* is an image that was checked and published under one of the ids of ``labdock.yaml``. The engine
holds each under a reference of the instance's own, so that nobody else's clean-up can take it away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from labdock.core.errors import BadRequestError
from labdock.core.session import ImageChoice

TRIAL_SUFFIX = "@new"
"""What ends the id of an image that only administrators may start, before it is published."""

KEPT_RELEASES = 10
"""How many releases of an image are remembered; how many are kept on the disk, `prune` says."""


@dataclass(frozen=True, slots=True)
class Release:
    """An image as it was published: the engine's *reference*, when (RFC 3339, UTC), and what it holds.

    *size_bytes* is what the engine counts, layers shared with others included. *headline* names what people
    choose it for, with versions: (("Python", "3.13"), ("PyTorch", "2.15.0")). *cuda* is the CUDA version
    its libraries are of, "" for none.
    """

    reference: str
    published_at: str
    size_bytes: int
    headline: tuple[tuple[str, str], ...] = ()
    cuda: str = ""

    @property
    def version(self) -> str:
        """The content that the reference names, in a word: the digest in its tag."""
        return self.reference.rpartition(":")[2]

    def words(self) -> str:
        """For the start page: "Python 3.13, PyTorch 2.15.0, CUDA 13.0, 5.2 GB"."""
        parts = [f"{name} {version}" for name, version in self.headline]
        parts += [f"CUDA {self.cuda}"] if self.cuda else []
        return ", ".join([*parts, format_gb(self.size_bytes)])


def format_gb(size_bytes: int) -> str:
    """*size_bytes* as people compare images: "640 MB", "5.2 GB"; in powers of 1000, as the engine does."""
    if size_bytes < 999_500_000:
        return f"{size_bytes / 1e6:.0f} MB"
    return f"{size_bytes / 1e9:.1f} GB"


@dataclass(frozen=True, slots=True)
class Shelf:
    """The releases of one image, oldest first, the one that new sessions get, and what is not to come back.

    *current* is the reference of one of *releases*, "" before the first. *withdrawn* are contents (the
    digests of their tags) that were rolled back: `labdock up` does not publish them again by itself.
    *trial* is what administrators may start before it is published. *edition* counts how often everything
    was to be fetched anew; it is part of what the image is made from.
    """

    releases: tuple[Release, ...] = ()
    current: str = ""
    withdrawn: tuple[str, ...] = ()
    trial: Release | None = None
    edition: int = 0

    @property
    def release(self) -> Release | None:
        """What new sessions get."""
        return next((one for one in self.releases if one.reference == self.current), None)

    def publish(self, release: Release) -> Shelf:
        """New sessions get *release*; a trial of the same content is over."""
        others = tuple(one for one in self.releases if one.reference != release.reference)
        trial = self.trial if self.trial and self.trial.version != release.version else None
        return replace(
            self,
            releases=(*others, release)[-KEPT_RELEASES:],
            current=release.reference,
            withdrawn=tuple(version for version in self.withdrawn if version != release.version),
            trial=trial,
        )

    def trying(self, release: Release | None) -> Shelf:
        """Administrators may start *release*, and nobody else; None ends that."""
        return replace(self, trial=release)

    def anew(self) -> Shelf:
        """What is built next fetches everything anew that has no fixed version."""
        return replace(self, edition=self.edition + 1)

    def before(self) -> Release | None:
        """The release that a rollback goes back to; None when there is none."""
        earlier = self.earlier()
        return earlier[-1] if earlier else None

    def earlier(self) -> tuple[Release, ...]:
        """The releases before the current one that were not withdrawn, oldest first."""
        index = next((i for i, one in enumerate(self.releases) if one.reference == self.current), 0)
        return tuple(one for one in self.releases[:index] if one.version not in self.withdrawn)

    def rollback(self) -> Shelf:
        """New sessions get the release before the current one, which is withdrawn.

        Raises:
            BadRequestError: There is none before it.
        """
        earlier, now = self.before(), self.release
        if earlier is None or now is None:
            raise BadRequestError(
                "There is no earlier release to go back to.",
                field="image",
                fix="`labdock images list` shows how many earlier ones each image has.",
            )
        return replace(self, current=earlier.reference, withdrawn=(*self.withdrawn, now.version))

    def kept(self, earlier: int) -> tuple[Release, ...]:
        """What is not to be pruned: the current release, *earlier* ones to go back to, and what is tried."""
        before = self.earlier()
        kept = (*before[max(0, len(before) - earlier) :], self.release, self.trial)
        return tuple(one for one in kept if one is not None)

    def without(self, references: Iterable[str]) -> Shelf:
        """Without the releases called *references*, whose images are gone."""
        gone = set(references)
        left = tuple(one for one in self.releases if one.reference not in gone)
        return replace(self, releases=left, current=self.current if self.current not in gone else "")


@dataclass(frozen=True, slots=True)
class Shelves:
    """Everything an instance remembers of its images, by id."""

    by_id: Mapping[str, Shelf] = field(default_factory=dict)

    def of(self, image: str) -> Shelf:
        return self.by_id.get(image, Shelf())

    def having(self, image: str, shelf: Shelf) -> Shelves:
        """With *shelf* for *image*."""
        return Shelves({**self.by_id, image: shelf})

    def to_json(self) -> str:
        return (
            json.dumps({name: asdict(shelf) for name, shelf in sorted(self.by_id.items())}, indent=2) + "\n"
        )

    @staticmethod
    def from_json(text: str) -> Shelves:
        """What ``to_json`` wrote.

        Raises:
            ValueError, TypeError, KeyError: It is something else.
        """
        return Shelves(
            {
                name: Shelf(
                    releases=tuple(_release(one) for one in data["releases"]),
                    current=data["current"],
                    withdrawn=tuple(data["withdrawn"]),
                    trial=None if data["trial"] is None else _release(data["trial"]),
                    edition=data["edition"],
                )
                for name, data in json.loads(text).items()
            }
        )


def _release(data: Mapping[str, Any]) -> Release:
    headline = tuple((str(name), str(version)) for name, version in data["headline"])
    return Release(**{**data, "headline": headline})


@dataclass(frozen=True, slots=True)
class Offered:
    """One line of the section ``images``, as far as it matters to whoever chooses."""

    id: str
    label: str
    default: bool


def choices(offered: Iterable[Offered], shelves: Shelves) -> tuple[ImageChoice, ...]:
    """What people may choose from: the current release of each that has one, and the trials.

    If the site's default has no release yet, the first that has one is the default.
    """
    found: list[ImageChoice] = []
    for one in offered:
        shelf = shelves.of(one.id)
        if shelf.release is not None:
            found.append(
                ImageChoice(
                    one.id,
                    one.label,
                    shelf.current,
                    one.default,
                    details=shelf.release.words(),
                    published_at=shelf.release.published_at,
                )
            )
        if shelf.trial is not None:
            found.append(
                ImageChoice(
                    one.id + TRIAL_SUFFIX,
                    f"{one.label}: new, not published yet",
                    shelf.trial.reference,
                    details=shelf.trial.words(),
                    trial=True,
                    published_at=shelf.trial.published_at,
                )
            )
    public = [choice for choice in found if not choice.trial]
    if public and not any(choice.default for choice in public):
        first = found.index(public[0])
        found[first] = replace(found[first], default=True)
    return tuple(found)


def allowed(offered: Iterable[Offered], shelves: Shelves) -> dict[str, tuple[str, ...]]:
    """What a session labelled with an image's id may run: every release remembered, so that a start that
    was chosen just before a change still succeeds."""
    found: dict[str, tuple[str, ...]] = {}
    for one in offered:
        shelf = shelves.of(one.id)
        if shelf.releases:
            found[one.id] = tuple(release.reference for release in shelf.releases)
        if shelf.trial is not None:
            found[one.id + TRIAL_SUFFIX] = (shelf.trial.reference,)
    return found


def choices_to_json(images: Iterable[ImageChoice]) -> str:
    """For the hub's ``images.json``."""
    return json.dumps({"images": [asdict(image) for image in images]}, indent=2) + "\n"


def choices_from_json(text: str) -> tuple[ImageChoice, ...]:
    """What ``choices_to_json`` wrote."""
    return tuple(ImageChoice(**image) for image in json.loads(text)["images"])


def allowed_to_json(images: Mapping[str, tuple[str, ...]]) -> str:
    """For the agent's ``images.json``."""
    return json.dumps({"allowed": images}, indent=2) + "\n"


def allowed_from_json(text: str) -> dict[str, tuple[str, ...]]:
    """What ``allowed_to_json`` wrote."""
    return {name: tuple(references) for name, references in json.loads(text)["allowed"].items()}
