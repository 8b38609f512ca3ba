"""The simulated machine as a value: its text and the words that change it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.gpus import UUID_PATTERN
from labdock.simulation.machine import (
    CARD_FAULTS,
    LOADS,
    MACHINE_FAULTS,
    MODELS,
    VALUES,
    Machine,
    SimulationError,
    WordError,
    capabilities,
    changed,
    machine_text,
    new_machine,
    parse_machine,
    with_cards,
)

VERSIONS = st.sampled_from(["615.36.01", "580.65.06", "470.256"])

CARD_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "fault": st.sampled_from(["none", *CARD_FAULTS]),
        "load": st.sampled_from(LOADS),
        "mig": st.sampled_from(["off", "on", "1g.10gb", "1g.10gb,2g.20gb,3g.40gb", "7g.80gb"]),
        "processes": st.lists(
            st.builds("{}:{}".format, st.integers(1, 2**22), st.integers(0, 2**40)), max_size=4
        ).map(",".join),
        **{name: st.integers(0, most).map(str) for name, most in VALUES.items()},
    },
)


def _machine(settings: list[dict[str, str]], module: str, library: str, fault: str) -> Machine:
    machine = new_machine("lab", len(settings), ("h100",))
    machine = changed(machine, "driver", {"module": module, "library": library, "cuda": "12.8"})
    machine = changed(machine, "machine", {"fault": fault})
    for number, words in enumerate(settings):
        machine = changed(machine, f"card {number}", words)
    return machine


MACHINES = st.builds(
    _machine,
    st.lists(CARD_SETTINGS, min_size=1, max_size=8),
    VERSIONS,
    VERSIONS,
    st.sampled_from(["none", *MACHINE_FAULTS]),
)


@given(machine=MACHINES)
def test_a_machine_comes_back_from_its_text(machine: Machine) -> None:
    assert parse_machine(machine_text(machine)) == machine


@given(machine=MACHINES, cut=st.integers(0, 10_000))
def test_a_damaged_text_is_refused_or_read_and_nothing_else_happens(machine: Machine, cut: int) -> None:
    text = machine_text(machine)
    try:
        parse_machine(text[: cut % len(text)])
    except SimulationError as error:
        assert "damaged" in str(error)


@given(machine=MACHINES)
def test_no_two_cards_or_slices_share_a_uuid_or_a_capability(machine: Machine) -> None:
    slices = [(card, part) for card in machine.cards for part in card.slices or ()]
    uuids = [machine.uuid(card) for card in machine.cards]
    uuids += [machine.slice_uuid(card, part) for card, part in slices]
    minors = [
        minor
        for card, part in slices
        for minor in capabilities(card.number, part.gpu_instance, part.compute_instance)
    ]
    assert len(set(uuids)) == len(uuids)
    assert all(UUID_PATTERN.fullmatch(uuid) for uuid in uuids)
    assert len(set(minors)) == len(minors)


def test_two_instances_on_one_machine_have_different_cards() -> None:
    ours, theirs = new_machine("ours", 2), new_machine("theirs", 2)
    assert not {ours.uuid(card) for card in ours.cards} & {theirs.uuid(card) for card in theirs.cards}


def test_what_was_set_is_taken_back_by_none() -> None:
    machine = new_machine("lab", 2)
    words = {"fault": "lost", "mig": "on", "utilization": "7", "processes": "1:2", "load": "idle"}
    assert changed(machine, "card 1", words) != machine
    assert changed(changed(machine, "card 1", words), "card 1", dict.fromkeys(words, "none")) == machine


def test_a_new_number_of_cards_keeps_those_that_stay() -> None:
    machine = changed(new_machine("lab", 2), "card 1", {"fault": "ecc"})
    more = with_cards(machine, 4, ("h100",))
    assert more.cards[:2] == machine.cards
    assert [card.number for card in more.cards] == [0, 1, 2, 3]
    assert with_cards(more, 2, ("h100",)) == machine


@pytest.mark.parametrize(
    ("target", "settings", "says"),
    [
        ("card 4", {"fault": "lost"}, "card 0 to card 3"),
        ("card", {"fault": "lost"}, "card 0 to card 3"),
        ("fridge", {"fault": "lost"}, "machine, driver"),
        ("card 0", {"fault": "tired"}, "lost, ecc, remap, gone"),
        ("card 0", {"colour": "red"}, "fault, load, mig"),
        ("card 0", {"utilization": "101"}, "0 to 100"),
        ("card 0", {"utilization": "-1"}, "0 to 100"),
        ("card 0", {"mig": "1g.5gb"}, "1g.10gb"),
        ("card 0", {"mig": "4g.40gb,4g.40gb"}, "do not fit"),
        ("card 0", {"mig": ",".join(["1g.10gb"] * 8)}, "do not fit"),
        ("card 0", {"processes": "many"}, "pid:bytes"),
        ("machine", {"fault": "tired"}, "not-loaded, hung"),
        ("machine", {"version": "1.2"}, "fault"),
        ("driver", {"version": "new"}, "615.36.01"),
        ("driver", {"version": "580.65.06\nfault = hung"}, "615.36.01"),
        ("driver", {"cuda": "13"}, "13.4"),
        ("driver", {"fault": "hung"}, "version, module, library, cuda"),
    ],
)
def test_wrong_words_are_refused_with_what_there_is(target: str, settings: dict[str, str], says: str) -> None:
    with pytest.raises(WordError) as caught:
        changed(new_machine("lab", 4), target, settings)
    assert says in str(caught.value)


def test_a_model_without_mig_says_so() -> None:
    with pytest.raises(WordError, match="has no MIG"):
        changed(new_machine("lab", 1, ("t4",)), "card 0", {"mig": "on"})


@pytest.mark.parametrize("cards", [-1, 0, 33, 10**9])
def test_no_machine_has_nonsense_for_a_number_of_cards(cards: int) -> None:
    with pytest.raises(WordError, match="1 to 32"):
        new_machine("lab", cards)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_says_that_it_is_simulated(model: str) -> None:
    assert "(simulated)" in MODELS[model].name


def test_a_driver_upgrade_moves_both_halves() -> None:
    machine = new_machine("lab", 1)
    assert changed(machine, "driver", {"version": "580.65.06"}) == replace(
        machine, module="580.65.06", library="580.65.06"
    )
