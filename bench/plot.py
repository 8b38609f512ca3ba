"""The figures as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from bench.figures import Figure, Rule, Unit, number

mpl.use("svg")  # before pyplot: there is no screen

from matplotlib import pyplot as plt

OURS, STOCK, FLOOR = "#2c7bb6", "#c9ced6", "#222222"


def draw(figures: Sequence[Figure], path: Path, title: str) -> None:
    """Write an SVG to *path*: each figure that both have, ours as a part of the stock stack's."""
    shown = [figure for figure in figures if figure.ratio is not None and figure.unit is not Unit.COUNT]
    rows = range(len(shown))
    canvas, axes = plt.subplots(figsize=(9, 1.2 + 0.5 * len(shown)), layout="constrained")
    axes.barh(rows, [1.0] * len(shown), color=STOCK, height=0.7, label="stock stack")
    axes.barh(rows, [figure.ratio or 0.0 for figure in shown], color=OURS, height=0.4, label="Labdock")
    floors = [
        (row, figure.floor.limit)
        for row, figure in enumerate(shown)
        if figure.floor is not None and figure.floor.rule is Rule.RATIO_AT_MOST
    ]
    if floors:
        axes.scatter(
            [limit for _, limit in floors],
            [row for row, _ in floors],
            marker="|",
            s=500,
            color=FLOOR,
            label="floor",
            zorder=3,
        )
    for row, figure in enumerate(shown):
        words = f"{number(figure.ours, figure.unit)} of {number(figure.stock, figure.unit)}"
        axes.annotate(
            words, (max(1.0, figure.ratio or 0.0), row), (6, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(rows, [figure.label for figure in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max([1.0, *(figure.ratio or 0.0 for figure in shown)]))
    axes.set_xlabel("part of the stock stack's (less is better)")
    canvas.suptitle(title)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.legend(loc="outside lower center", ncols=3, frameon=False)
    canvas.savefig(path)
    plt.close(canvas)
