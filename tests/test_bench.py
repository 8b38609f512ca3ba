"""What the bench makes of its numbers: medians, ratios, floors, the table, the kernel's counters."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.cgroups import counters, find_cgroup
from bench.figures import (
    HEADINGS,
    Crowd,
    Figure,
    Floor,
    Rule,
    Unit,
    compared,
    crowd_figures,
    markdown_table,
    number,
    plain,
    ratio,
    table_row,
)
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.errors import HostError

positive = st.floats(min_value=0.001, max_value=1e6)

V1 = """\
9:name=systemd:/docker/f650
4:memory:/docker/f650
2:cpu,cpuacct:/docker/f650
0::/docker/f650
"""


def figure(ours: float | None, stock: float | None, floor: Floor | None = None) -> Figure:
    return Figure("start", "One start", Unit.SECONDS, ours, stock, floor)


def test_one_slow_start_does_not_move_the_figure() -> None:
    found = compared("start", "One start", Unit.SECONDS, ours=[1.0, 1.1, 60.0], stock=[3.0, 2.0, 2.1])
    assert (found.ours, found.stock) == (1.1, 2.1)
    assert found.samples["ours"] == (1.0, 1.1, 60.0)


def test_what_was_not_measured_is_unknown_and_not_zero() -> None:
    found = compared("form", "Click", Unit.SECONDS, ours=[1.0], stock=[])
    assert (found.stock, found.ratio) == (None, None)


@given(positive, positive)
def test_a_ratio_below_one_means_that_ours_is_less(ours: float, stock: float) -> None:
    found = ratio(ours, stock)
    assert found is not None
    assert (found < 1) == (ours < stock)


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratio(1.0, 0.0) is None


@pytest.mark.parametrize(
    ("floor", "ours", "stock", "met"),
    [
        (Floor(Rule.RATIO_AT_MOST, 0.45), 0.9, 2.0, True),
        (Floor(Rule.RATIO_AT_MOST, 0.45), 0.91, 2.0, False),
        (Floor(Rule.RATIO_AT_MOST, 0.45), 0.9, None, None),
        (Floor(Rule.OURS_AT_MOST, 400), 400, 100, True),
        (Floor(Rule.OURS_AT_MOST, 400), 401, 9999, False),
        (Floor(Rule.OURS_AT_MOST, 400), None, 100, None),
        (Floor(Rule.OURS_AT_LEAST, 25), 25, 2, True),
        (Floor(Rule.OURS_AT_LEAST, 25), 24, 2, False),
    ],
)
def test_a_floor_is_met_up_to_its_limit(
    floor: Floor, ours: float | None, stock: float | None, met: bool | None
) -> None:
    assert figure(ours, stock, floor).met is met


@given(positive, positive, positive, positive)
def test_a_ratio_floor_does_not_depend_on_the_machine(
    ours: float, stock: float, limit: float, speed: float
) -> None:
    # Away from the limit itself, where rounding decides.
    if abs(ours / stock - limit) > 1e-6 * limit:
        floor = Floor(Rule.RATIO_AT_MOST, limit)
        assert floor.met(ours, stock) == floor.met(ours * speed, stock * speed)


def test_a_crowd_takes_as_long_as_its_last_one() -> None:
    crowd = Crowd(3, (1.0, 7.5, 2.0), limit_s=180.0)
    assert (crowd.ready, crowd.wall_s) == (3, 7.5)


def test_a_crowd_in_which_one_fails_takes_until_the_limit() -> None:
    crowd = Crowd(3, (1.0, None, 2.0), limit_s=180.0)
    assert (crowd.ready, crowd.wall_s) == (2, 180.0)


def test_all_of_a_crowd_must_be_ready_in_every_round() -> None:
    good, bad = Crowd(2, (1.0, 1.0), 180.0), Crowd(2, (1.0, None), 180.0)
    ready, wall = crowd_figures(
        "crowd", "2 at once", [good, bad, good], [good], all_ready=True, most_ratio=0.4
    )
    assert (ready.ours, ready.met) == (1, False)
    assert (wall.ours, wall.ratio, wall.met) == (1.0, 1.0, False)


def test_the_table_says_what_was_missed_and_what_is_missing() -> None:
    floor = Floor(Rule.RATIO_AT_MOST, 0.45)
    assert table_row(figure(2.0, 4.0, floor)) == (
        "One start",
        "2.00 s",
        "4.00 s",
        "0.50",
        "ratio ≤ 0.45",
        "NOT MET",
    )
    assert table_row(figure(1.0, None, floor)) == ("One start", "1.00 s", "–", "–", "ratio ≤ 0.45", "unknown")
    assert table_row(figure(1.0, 4.0))[-2:] == ("", "")


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.756, Unit.SECONDS, "0.76 s"),
        (18.44, Unit.SECONDS, "18.4 s"),
        (559.3, Unit.MEGABYTES, "559 MB"),
        (25.0, Unit.COUNT, "25"),
        (None, Unit.COUNT, "–"),
    ],
)
def test_numbers_are_shown_with_three_digits_at_most(value: float | None, unit: Unit, words: str) -> None:
    assert number(value, unit) == words


def test_every_row_of_the_markdown_table_has_every_column() -> None:
    text = markdown_table([figure(1.0, 2.0), figure(None, None)])
    assert {line.count("|") for line in text.splitlines()} == {len(HEADINGS) + 1}


def test_the_json_carries_ratio_and_verdict() -> None:
    (value,) = plain([figure(1.0, 4.0, Floor(Rule.RATIO_AT_MOST, 0.45))])
    assert (value["ratio"], value["met"], value["floor"]["limit"]) == (0.25, True, 0.45)


def test_cgroup_1_is_found_by_controller(tmp_path: Path) -> None:
    found = find_cgroup(V1, tmp_path)
    assert found.version == 1
    assert found.memory == tmp_path / "memory/docker/f650"
    assert found.cpu == tmp_path / "cpuacct/docker/f650"


def test_cgroup_2_is_found_by_its_one_line(tmp_path: Path) -> None:
    found = find_cgroup("0::/system.slice/docker-f650.scope\n", tmp_path)
    assert found.version == 2
    assert found.memory == found.cpu == tmp_path / "system.slice/docker-f650.scope"


def test_a_kernel_that_counts_nothing_is_an_error_and_not_zero() -> None:
    with pytest.raises(HostError):
        find_cgroup("9:name=systemd:/docker/f650\n")


def test_memory_leaves_out_the_file_cache_in_both_versions(tmp_path: Path) -> None:
    for version, usage, stat in (
        ("0::/two\n", "two/memory.current", "inactive_file 30\n"),
        (V1, "memory/docker/f650/memory.usage_in_bytes", "inactive_file 9\ntotal_inactive_file 30\n"),
    ):
        place = tmp_path / usage
        place.parent.mkdir(parents=True)
        place.write_text("130\n")
        (place.parent / "memory.stat").write_text(stat)
        assert find_cgroup(version, tmp_path).memory_bytes() == 100


def test_cpu_time_is_in_seconds_in_both_versions(tmp_path: Path) -> None:
    for version, path, text in (
        ("0::/two\n", "two/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
        (V1, "cpuacct/docker/f650/cpuacct.usage", "2500000000\n"),
    ):
        place = tmp_path / path
        place.parent.mkdir(parents=True)
        place.write_text(text)
        assert find_cgroup(version, tmp_path).cpu_seconds() == 2.5


def test_counters_are_read_by_name() -> None:
    assert counters("cache 1\ninactive_file 22\n\n") == {"cache": 1, "inactive_file": 22}
