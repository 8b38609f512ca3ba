"""Numbers → what the bench says: medians, ratios, floors, the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any


class Unit(StrEnum):
    """What a figure counts; the value is the word behind the number."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MEGABYTES = "MB"
    PERCENT = "%"
    COUNT = ""


class Rule(StrEnum):
    """How a floor is read."""

    RATIO_AT_MOST = "ratio ≤"
    OURS_AT_MOST = "≤"
    OURS_AT_LEAST = "≥"


@dataclass(frozen=True, slots=True)
class Floor:
    """What Labdock promised: a rule and its limit, in the figure's unit or as a ratio."""

    rule: Rule
    limit: float

    def met(self, ours: float | None, stock: float | None) -> bool | None:
        """Whether the promise is kept; None when a number that it takes is missing."""
        match self.rule:
            case Rule.RATIO_AT_MOST:
                found = ratio(ours, stock)
                return None if found is None else found <= self.limit
            case Rule.OURS_AT_MOST:
                return None if ours is None else ours <= self.limit
            case Rule.OURS_AT_LEAST:
                return None if ours is None else ours >= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result; a number is None where it was not or could not be measured.

    *samples* holds what *ours* and *stock* are the medians of, in the order measured.
    """

    key: str
    label: str
    unit: Unit
    ours: float | None
    stock: float | None
    floor: Floor | None = None
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return ratio(self.ours, self.stock)

    @property
    def met(self) -> bool | None:
        return None if self.floor is None else self.floor.met(self.ours, self.stock)


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many starts at once got ready, and the seconds until the last one was, or until the limit."""

    asked: int
    seconds: tuple[float | None, ...]
    limit_s: float

    @property
    def ready(self) -> int:
        return sum(second is not None for second in self.seconds)

    @property
    def wall_s(self) -> float:
        return max((self.limit_s if second is None else second for second in self.seconds), default=0.0)


def ratio(ours: float | None, stock: float | None) -> float | None:
    """*ours* by *stock*, or None where one is missing or there is nothing to divide by."""
    return None if ours is None or not stock else ours / stock


def middle(samples: Sequence[float]) -> float | None:
    """The median of *samples*, or None of none."""
    return median(samples) if samples else None


def compared(
    key: str,
    label: str,
    unit: Unit,
    *,
    ours: Sequence[float],
    stock: Sequence[float],
    floor: Floor | None = None,
) -> Figure:
    """The figure of two series: their medians, and the series themselves."""
    samples = {"ours": tuple(ours), "stock": tuple(stock)}
    return Figure(key, label, unit, middle(ours), middle(stock), floor, samples)


def crowd_figures(
    key: str,
    label: str,
    ours: Sequence[Crowd],
    stock: Sequence[Crowd],
    *,
    all_ready: bool = False,
    most_ratio: float | None = None,
) -> tuple[Figure, Figure]:
    """How many of a crowd got ready and how long that took, over all rounds.

    A floor *all_ready* asks it of the worst round; *most_ratio* is one on the median wall times.
    """
    asked = max((crowd.asked for crowd in (*ours, *stock)), default=0)
    ready = Figure(
        f"{key}-ready",
        f"{label}: ready of {asked}, worst round",
        Unit.COUNT,
        min((crowd.ready for crowd in ours), default=None),
        min((crowd.ready for crowd in stock), default=None),
        Floor(Rule.OURS_AT_LEAST, asked) if all_ready else None,
        {
            "ours": tuple(float(crowd.ready) for crowd in ours),
            "stock": tuple(float(crowd.ready) for crowd in stock),
        },
    )
    wall = compared(
        f"{key}-wall",
        f"{label}: until the last is ready",
        Unit.SECONDS,
        ours=[crowd.wall_s for crowd in ours],
        stock=[crowd.wall_s for crowd in stock],
        floor=Floor(Rule.RATIO_AT_MOST, most_ratio) if most_ratio is not None else None,
    )
    return ready, wall


HEADINGS = ("", "Labdock", "stock", "ratio", "floor", "")


def table_row(figure: Figure) -> tuple[str, ...]:
    """The figure as the cells under HEADINGS; what is missing is a dash."""
    floor = figure.floor
    limit = ""
    if floor is not None:
        unit = Unit.COUNT if floor.rule is Rule.RATIO_AT_MOST else figure.unit
        limit = f"{floor.rule} {floor.limit:g} {unit}".strip()
    verdict = {True: "met", False: "NOT MET", None: "" if floor is None else "unknown"}[figure.met]
    return (
        figure.label,
        number(figure.ours, figure.unit),
        number(figure.stock, figure.unit),
        "–" if figure.ratio is None else f"{figure.ratio:.2f}",
        limit,
        verdict,
    )


def number(value: float | None, unit: Unit) -> str:
    """*value* with its unit, three figures of it at most."""
    if value is None:
        return "–"
    digits = 0 if unit is Unit.COUNT or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".strip()


def markdown_table(figures: Sequence[Figure]) -> str:
    """The table as Markdown, for the documentation."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(table_row(figure) for figure in figures)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plain(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures as JSON takes them."""
    return [{**asdict(figure), "ratio": figure.ratio, "met": figure.met} for figure in figures]
