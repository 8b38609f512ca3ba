"""The load of simulated cards: within what a card can do, the same whenever it is computed, and lifelike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labdock.simulation.load import SPELL_S, Load, idle, load_at
from labdock.simulation.machine import MODELS, Model

TIMES = st.floats(0, 4e9, allow_nan=False)
CARDS = st.tuples(st.sampled_from(sorted(MODELS)).map(MODELS.__getitem__), st.integers(0, 31), st.text())


def a_day(number: int) -> list[Load]:
    model = MODELS["h100"]
    return [load_at(model, number, "lab", 1.8e9 + second) for second in range(0, 86_400, 2)]


@given(card=CARDS, time_s=TIMES)
def test_no_card_does_more_than_it_can(card: tuple[Model, int, str], time_s: float) -> None:
    model, number, seed = card
    load = load_at(model, number, seed, time_s)
    assert 0 <= load.memory_utilization <= load.utilization <= 100
    assert 0 <= load.memory_used <= model.memory_bytes
    assert 25 <= load.temperature <= 85
    assert model.power_mw[0] <= load.power <= model.power_mw[1]
    assert (load.fan > 0) is model.fan


@given(card=CARDS, time_s=TIMES)
def test_the_same_moment_has_the_same_load(card: tuple[Model, int, str], time_s: float) -> None:
    assert load_at(*card, time_s) == load_at(*card, time_s)


@given(card=CARDS, time_s=TIMES)
def test_heat_and_memory_change_in_small_steps(card: tuple[Model, int, str], time_s: float) -> None:
    model, *_ = card
    before, after = load_at(*card, time_s), load_at(*card, time_s + 2)
    assert abs(after.temperature - before.temperature) <= 4
    assert abs(after.memory_used - before.memory_used) <= model.memory_bytes * 0.12


def test_every_card_works_and_rests_within_a_day() -> None:
    for number in range(4):
        day = a_day(number)
        assert any(load.utilization > 85 for load in day)
        assert any(load.utilization == 0 for load in day)
        assert any(load.utilization == 0 and load.memory_used for load in day), "holds memory and rests"
        assert 20 < sum(load.utilization for load in day) / len(day) < 80


def test_no_two_cards_do_the_same() -> None:
    days = [a_day(number)[: SPELL_S * 4] for number in range(8)]
    assert len({tuple(day) for day in days}) == len(days)


def test_an_idle_card_draws_its_least() -> None:
    assert idle(MODELS["h100"]).power == MODELS["h100"].power_mw[0]
