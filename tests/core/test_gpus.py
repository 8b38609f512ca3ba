"""The values that agent, hub and command line hand each other."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.gpus import (
    ALL,
    MIG,
    Card,
    CardRule,
    Driver,
    DriverFile,
    GpuReport,
    GpuRules,
    HolderLimit,
    Inventory,
    Lease,
    Node,
    Share,
    Sharing,
    Trouble,
    Way,
)

texts = st.text(max_size=12)
numbers = st.integers(0, 2**40)
pairs = st.none() | st.tuples(st.integers(0, 99), st.integers(0, 99))
nodes = st.lists(st.builds(Node, texts, texts, numbers, numbers), max_size=3).map(tuple)
cards = st.builds(Card, texts, texts, texts, texts, nodes, st.none() | numbers, pairs, texts, texts, texts)
files = st.lists(st.builds(DriverFile, texts, texts), max_size=3).map(tuple)
drivers = st.builds(Driver, texts, pairs, files, nodes, texts)
words = st.lists(texts, max_size=3).map(tuple)
leases = st.builds(Lease, texts, words, texts, texts, texts, words, st.floats(0, 2e9), texts)
inventories = st.builds(Inventory, st.none() | drivers, st.lists(cards, max_size=3).map(tuple), st.booleans())
shares = st.builds(Share, st.sampled_from(Sharing), st.none() | st.integers(1, 99))
limits = st.builds(HolderLimit, words, words, st.none() | numbers, st.none() | numbers)
rules = st.builds(
    GpuRules,
    shares,
    st.lists(st.builds(CardRule, texts, st.none() | shares, st.booleans()), max_size=3).map(tuple),
    numbers,
    st.none() | numbers,
    st.lists(limits, max_size=3).map(tuple),
    texts,
    texts,
)


@given(
    st.builds(
        GpuReport,
        inventories,
        st.lists(leases, max_size=3).map(tuple),
        st.none() | st.sampled_from(Way),
        st.none() | st.builds(Trouble, texts, texts, texts),
    )
)
def test_a_report_arrives_as_it_was_sent(report: GpuReport) -> None:
    assert GpuReport.from_json(report.to_json()) == report


@given(rules)
def test_the_rules_arrive_as_they_were_written(written: GpuRules) -> None:
    assert GpuRules.from_data(asdict(written)) == written


def test_a_session_is_outdated_when_the_driver_of_its_card_is_another_and_both_are_known() -> None:
    driver = Driver("570.86.15", None, (), (), "")
    lease = Lease("c", ("GPU-1",), "", "ada", "", (), 0.0, "550.54.14")
    unknown = Lease("c", ("GPU-1",), "", "", "", (), 0.0, "")
    current = Lease("c", ("GPU-1",), "", "ada", "", (), 0.0, "570.86.15")
    foreign = Lease("c", ("GPU-2",), "test", "eve", "", (), 0.0, "615.36.01")
    report = GpuReport(Inventory(driver, (Card("GPU-1", "0", "", "", ()),)), (), None)
    assert [report.outdated(one) for one in (lease, unknown, current, foreign)] == [True, False, False, False]
    assert not GpuReport(Inventory(), (), None).outdated(lease)


WHOLE = Card("GPU-aa", "0", "NVIDIA A100", "0000:01:00.0", ())
SLICE = Card("MIG-bb", "1:0", "NVIDIA H100", "0000:02:00.0", (), part_of="GPU-cc", profile="1g.10gb")


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ("0", "whole"),
        ("1", "slice"),
        ("GPU-a", "whole"),
        ("GPU-c", "slice"),
        ("MIG-b", "slice"),
        ("h100", "slice"),
    ],
)
def test_a_rule_names_a_card_by_index_uuid_or_model_and_a_slice_by_its_gpu_too(rule: str, fits: str) -> None:
    assert [CardRule(rule).fits(card) for card in (WHOLE, SLICE)] == [fits == "whole", fits == "slice"]


def test_the_first_rule_that_names_a_card_holds_for_its_share() -> None:
    several = GpuRules(cards=(CardRule("A100", ALL), CardRule("0", MIG), CardRule("1", use=False)))
    assert several.share_of(WHOLE) == ALL
    assert several.share_of(SLICE) == several.share
    assert (several.keeps(WHOLE), several.keeps(SLICE)) == (False, True)


def test_a_slice_is_called_by_its_size_too() -> None:
    assert Inventory(cards=(WHOLE, SLICE, WHOLE)).models() == ("NVIDIA A100", "NVIDIA H100 (1g.10gb)")
