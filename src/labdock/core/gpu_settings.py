"""The section ``gpus`` of ``labdock.yaml``; what is read is ``core.gpus.GpuRules``, with its defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from labdock.core.gpus import ALL, EXCLUSIVE, MIG, CardRule, GpuRules, HolderLimit, Share, Sharing
from labdock.core.people import NAME_PATTERN
from labdock.core.settings import (
    Either,
    ListOf,
    Plain,
    Reading,
    Record,
    Value,
    Wrong,
    choice,
    describe,
    flag,
    line_of_text,
    number_or_none,
    settings_of,
    text_value,
    whole_number,
)

MOST_CARDS = 1024
"""More than any machine has."""

_SHARES = {"exclusive": EXCLUSIVE, "all": ALL, "mig": MIG}
_SHARE_WORDS = choice(
    *_SHARES,
    not_yet={
        "turns": "Taking turns on a card is not part of this version: write exclusive or {seats: 2}.",
    },
)
_SEATS_HINT = "For seats say how many: {seats: 2}."


def _read_share(value: Plain) -> object | Wrong:
    found = _SHARE_WORDS.convert(value)
    if isinstance(found, Wrong):
        return replace(found, hint=found.hint or _SEATS_HINT)
    return _SHARES[str(found)]


@dataclass(frozen=True, slots=True)
class _Seats:
    """Declares ``share: {seats: N}``."""

    seats: int = field(
        metadata=describe(
            whole_number(2, 1000), help="How many sessions may be on a card at once.", example=4
        )
    )


def _share(*, optional: bool) -> Either:
    """The kind of a setting that says how cards are shared; an *optional* one may be null."""
    words = Value(
        _SHARE_WORDS.words,
        {"enum": [*_SHARES, None]} if optional else _SHARE_WORDS.schema,
        _read_share,
        lambda share: share.kind.value,
        optional,
    )
    seats = Record(settings_of(_Seats), lambda seats: Share(Sharing.SEATS, seats))
    return Either(words, seats, lambda share: share is not None and share.kind is Sharing.SEATS)


@dataclass(frozen=True, slots=True)
class _CardSettings:
    """Declares an item of ``gpus.cards``."""

    card: str = field(
        metadata=describe(
            text_value(
                "a card: a UUID or its beginning, an index such as 0, or words of a model",
                r"[A-Za-z0-9](?:[A-Za-z0-9 ._()-]{0,78}[A-Za-z0-9.)])?",
                hint='Write it in quotes: "0", "GPU-8f0c" or "A100".',
            ),
            help="Which cards: a UUID or the beginning of one, an index in quotes, or words of the model. "
            "An index may change when a card is added; a UUID never does.",
            example="GPU-8f0c",
        )
    )
    share: Share | None = field(
        default=None,
        metadata=describe(
            _share(optional=True),
            help="How these cards are shared.",
            example="all",
            derived="as gpus.share says",
        ),
    )
    use: bool = field(
        default=True,
        metadata=describe(
            flag(),
            help="Whether sessions get these cards at all; false keeps them for the machine itself.",
            example=False,
        ),
    )


@dataclass(frozen=True, slots=True)
class _LimitSettings:
    """Declares an item of ``gpus.limits``."""

    people: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(text_value("a person's name", NAME_PATTERN.pattern), named="name"),
            help="People the line is for, by name.",
            example=["ada"],
        ),
    )
    groups: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(line_of_text(100), named="group"),
            help="Groups whose members the line is for; groups are JupyterHub's.",
            example=["students"],
        ),
    )
    cards: int | None = field(
        default=None,
        metadata=describe(
            number_or_none(0, MOST_CARDS),
            help="The most cards each of them may hold at once. "
            "A line with the person's name counts before their groups, and of several groups the highest; "
            "none leaves the number to the other lines.",
            example=2,
            unit="cards",
        ),
    )
    together: int | None = field(
        default=None,
        metadata=describe(
            number_or_none(0, MOST_CARDS),
            help="The most cards that the members of one of the groups may hold at once between them.",
            example=4,
            unit="cards",
        ),
    )


def _finish_card(reading: Reading) -> None:
    if reading.values.get("share", False) is None and reading.values.get("use", False):
        wrong = Wrong("says nothing about the card", "Add share: exclusive, for example, or use: false.")
        reading.findings.add(reading.node, reading.path, wrong)


def _finish_limit(reading: Reading) -> None:
    people, groups = reading.values.get("people"), reading.values.get("groups")
    if people == () and groups == ():
        wrong = Wrong("names nobody", "Add people: [NAME] or groups: [NAME].")
        reading.findings.add(reading.node, reading.path, wrong)
    if groups == () and reading.values.get("together") is not None:
        reading.refuse("together", "is for groups, and no group is named", "Add groups: [NAME].")
    if reading.values.get("cards", 0) is None and reading.values.get("together", 0) is None:
        wrong = Wrong("says no number", "Add cards: 1 or together: 4.")
        reading.findings.add(reading.node, reading.path, wrong)


@dataclass(frozen=True, slots=True)
class _GpuSettings:
    """Declares the section."""

    share: Share = field(
        default=EXCLUSIVE,
        metadata=describe(
            _share(optional=False),
            help="Who may be on a card at the same time. "
            "With exclusive one session; with {seats: 4} up to four, who share its memory without a wall; "
            "with mig one session on each MIG slice, and nobody on a whole card; "
            "with all everybody who asks for a GPU gets every card, without any promise.",
            example={"seats": 4},
        ),
    )
    cards: tuple[CardRule, ...] = field(
        default=(),
        metadata=describe(
            ListOf(
                Record(settings_of(_CardSettings), CardRule, _finish_card),
                named="card",
                unique=lambda rule: rule.card,
            ),
            help="Exceptions for single cards or models. "
            "Of several lines with share that fit a card the first holds; "
            "use: false in any of them keeps the card back.",
            example=[{"card": "A100", "share": "mig"}],
        ),
    )
    per_session: int = field(
        default=GpuRules().per_session,
        metadata=describe(
            whole_number(1, MOST_CARDS),
            help="The most cards one session may ask for.",
            example=2,
            unit="cards",
        ),
    )
    per_person: int | None = field(
        default=GpuRules().per_person,
        metadata=describe(
            number_or_none(0, MOST_CARDS),
            help="The most cards one person may hold at once in all their sessions. "
            "Cards shared by all count too, and are given whatever the limits say.",
            example=2,
            unit="cards",
        ),
    )
    limits: tuple[HolderLimit, ...] = field(
        default=(),
        metadata=describe(
            ListOf(
                Record(settings_of(_LimitSettings), HolderLimit, _finish_limit),
                named="people and groups",
                unique=lambda limit: f"{limit.people} {limit.groups}",
            ),
            help="Other limits for some people and groups.",
            example=[{"groups": ["students"], "cards": 1, "together": 4}],
        ),
    )
    place: str = field(
        default=GpuRules().place,
        metadata=describe(
            choice("spread", "pack"),
            help="Which card comes first when several would do. "
            "With spread the one with the fewest on it; with pack the fullest that has room, "
            "which keeps whole cards free for who needs several.",
            example="pack",
        ),
    )
    inject: str = field(
        default=GpuRules().inject,
        metadata=describe(
            choice("auto", "cdi", "nvidia", "devices"),
            help="How the engine is told to give a session its cards. "
            "With auto by CDI where the engine has it, otherwise by devices and mounts, "
            "which every engine takes. "
            "The nvidia way needs NVIDIA's container toolkit on the machine.",
            example="devices",
        ),
    )


GPU_SECTION = Record(settings_of(_GpuSettings), GpuRules)
