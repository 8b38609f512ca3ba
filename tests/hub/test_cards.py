"""Choosing cards in the hub: one picture for all who ask at once, and holds that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.errors import BadRequestError, DriverError, EngineError, NoCardError
from labdock.core.gpus import (
    GpuReport,
    GpuRequest,
    GpuRules,
    Holder,
    HolderLimit,
    Inventory,
    Lease,
    Share,
    Sharing,
    Trouble,
    Way,
)
from labdock.hub.cards import Cards, Hold
from tests.core.gpu_builders import ADA, BEN, inventory, lease

ONE = GpuRequest(1)


async def turns(number: int) -> None:
    """Let everybody else run *number* times."""
    for _ in range(number):
        await asyncio.sleep(0)


@dataclass
class Machine:
    """An agent and its engine: cards, and containers by name; a reading takes as many turns as told."""

    inventory: Inventory = field(default_factory=lambda: inventory(80, 80))
    containers: dict[str, Lease] = field(default_factory=dict)
    trouble: Trouble | None = None
    away: bool = False
    before: int = 0
    after: int = 0
    readings: int = 0

    async def gpus(self) -> GpuReport:
        self.readings += 1
        await turns(self.before)
        if self.away:
            raise EngineError("The agent does not answer.")
        seen = tuple(self.containers.values())
        await turns(self.after)
        return GpuReport(self.inventory, seen, Way.DEVICES, self.trouble)

    def cards(self, rules: GpuRules | None = None) -> Cards:
        return Cards(self, "lab", rules or GpuRules(per_session=8), clock=lambda: 1_790_000_000.0)


def people(number: int) -> list[Holder]:
    return [Holder("lab", f"local:{n}", f"p{n}") for n in range(number)]


async def ask(cards: Cards, holder: Holder, request: GpuRequest = ONE) -> Hold:
    return await cards.hold(request, holder, f"lab-session-{holder.person}")


async def test_what_was_chosen_and_is_not_made_yet_is_held() -> None:
    cards = Machine().cards()
    first, second = await ask(cards, ADA), await ask(cards, BEN)
    assert {first.cards, second.cards} == {("GPU-0",), ("GPU-1",)}
    with pytest.raises(NoCardError, match="0 of 2"):
        await ask(cards, Holder("lab", "local:3", "cleo"))


async def test_two_hundred_who_ask_at_once_get_four_cards_by_one_reading() -> None:
    machine = Machine(inventory(80, 80, 80, 80), before=3, after=3)
    cards = machine.cards()
    answers = await asyncio.gather(*(ask(cards, one) for one in people(200)), return_exceptions=True)
    chosen = [answer.cards for answer in answers if isinstance(answer, Hold)]
    assert sorted(chosen) == [("GPU-0",), ("GPU-1",), ("GPU-2",), ("GPU-3",)]
    assert sum(isinstance(answer, NoCardError) for answer in answers) == 196
    assert machine.readings == 1


async def test_nobody_is_answered_by_a_reading_that_began_before_they_asked() -> None:
    machine = Machine(inventory(80), {"x": lease("GPU-0")}, after=5)
    cards = machine.cards()
    early = asyncio.create_task(ask(cards, ADA))
    await turns(3)
    # The first reading has seen the lease and is on its way back.
    del machine.containers["x"]
    late = asyncio.create_task(ask(cards, BEN))
    with pytest.raises(NoCardError):
        await early
    assert (await late).cards == ("GPU-0",)
    assert machine.readings == 2


async def test_all_who_come_during_a_reading_share_the_one_after_it() -> None:
    machine = Machine(inventory(80, 80), before=10, after=10)
    cards = machine.cards()
    asking = []
    for one in people(10):
        asking.append(asyncio.create_task(ask(cards, one)))
        await turns(1)
    await asyncio.gather(*asking, return_exceptions=True)
    assert machine.readings == 2


async def test_a_container_made_while_a_reading_is_under_way_still_counts_in_it() -> None:
    machine = Machine(inventory(80), after=6)
    cards = machine.cards()
    hold = await ask(cards, ADA)
    asked = asyncio.create_task(ask(cards, BEN))
    await turns(4)
    # The reading has seen no container; now there is one, and its hold has ended.
    machine.containers["lab-session-ada"] = hold.lease
    cards.end(hold)
    with pytest.raises(NoCardError):
        await asked


async def test_an_ended_hold_frees_the_card_and_ending_it_again_does_nothing() -> None:
    cards = Machine(inventory(80)).cards()
    first = await ask(cards, ADA)
    cards.end(first)
    second = await ask(cards, BEN)
    cards.end(first)
    with pytest.raises(NoCardError):
        await ask(cards, Holder("lab", "local:3", "cleo"))
    assert second.cards == ("GPU-0",)


async def test_a_hold_whose_container_is_seen_counts_once() -> None:
    machine = Machine(inventory(80))
    cards = machine.cards(GpuRules(share=Share(Sharing.SEATS, 2)))
    hold = await ask(cards, ADA)
    machine.containers["lab-session-ada"] = hold.lease
    assert len((await cards.look()).leases) == 1
    assert (await ask(cards, BEN)).cards == ("GPU-0",)


async def test_what_ones_own_left_over_container_holds_is_free_for_its_next_start() -> None:
    machine = Machine(inventory(80), {"x": lease("GPU-0", holder=ADA)})
    cards = machine.cards()
    with pytest.raises(NoCardError):
        await ask(cards, BEN)
    assert (await ask(cards, ADA)).cards == ("GPU-0",)


async def test_what_is_shown_counts_the_holds_and_forgets_the_ended() -> None:
    cards = Machine().cards()
    hold = await ask(cards, ADA)
    (shown,) = (await cards.look()).leases
    assert (shown.person, shown.cards, shown.since_s) == ("ada", hold.cards, 1_790_000_000.0)
    cards.end(hold)
    assert (await cards.look()).leases == ()


async def test_limits_count_the_holds() -> None:
    cards = Machine().cards(GpuRules(per_session=2, limits=(HolderLimit(groups=("vision",), together=1),)))
    ada, ben = replace(ADA, groups=("vision",)), replace(BEN, groups=("vision",))
    await ask(cards, ada)
    with pytest.raises(NoCardError, match="the group vision holds 1 of the 1"):
        await ask(cards, ben)


async def test_an_impossible_wish_is_a_bad_request_and_holds_nothing() -> None:
    cards = Machine().cards(GpuRules())
    for request, wrong in ((GpuRequest(2), "gpus"), (GpuRequest(1, "NVIDIA T4"), "gpu_model")):
        with pytest.raises(BadRequestError) as refused:
            await ask(cards, ADA, request)
        assert refused.value.field == wrong
    assert (await cards.look()).leases == ()


async def test_a_driver_in_trouble_is_told_with_both_ways_out() -> None:
    trouble = Trouble("mismatch", "The library is 570, the module 550.", "Restart the machine.")
    cards = Machine(trouble=trouble).cards()
    with pytest.raises(DriverError) as refused:
        await ask(cards, ADA)
    assert refused.value.kind == "mismatch"
    assert "The library is 570" in str(refused.value)
    assert "without a GPU" in refused.value.fix
    assert "Restart the machine." in refused.value.fix


async def test_an_agent_that_is_away_is_told_to_all_who_wait_and_asked_again_by_the_next() -> None:
    machine = Machine(away=True, before=2)
    cards = machine.cards()
    answers = await asyncio.gather(*(ask(cards, one) for one in people(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [EngineError] * 3
    machine.away = False
    assert (await ask(cards, ADA)).cards == ("GPU-0",)


@pytest.mark.parametrize("turn", range(8))
async def test_whoever_stops_waiting_holds_nothing_and_disturbs_nobody(turn: int) -> None:
    machine = Machine(inventory(80), before=2, after=2)
    cards = machine.cards()
    leaves, stays = (asyncio.create_task(ask(cards, one)) for one in people(2))
    await turns(turn)
    if not leaves.done():
        leaves.cancel()
        assert (await stays).cards == ("GPU-0",)
    assert len((await cards.look()).leases) <= 1


@dataclass(frozen=True)
class Life:
    """One start: when it asks, how long each step takes in turns, and how it ends."""

    at: int
    gpus: int
    making: int
    living: int
    fate: str
    cancelled_at: int


LIVES = st.builds(
    Life,
    at=st.integers(0, 12),
    gpus=st.integers(1, 2),
    making=st.integers(0, 6),
    living=st.integers(0, 12),
    fate=st.sampled_from(["runs", "refused", "cancelled"]),
    cancelled_at=st.integers(0, 20),
)


@given(st.lists(LIVES, max_size=12), st.integers(0, 4), st.integers(0, 4), st.sampled_from([1, 2]))
def test_no_seat_is_given_twice_and_no_hold_is_left(
    lives: list[Life], before: int, after: int, seats: int
) -> None:
    share = Share(Sharing.SEATS, seats) if seats > 1 else Share()
    machine = Machine(before=before, after=after)

    async def live(number: int, life: Life, cards: Cards, check: Callable[[], None]) -> None:
        await turns(life.at)
        holder = Holder("lab", f"local:{number}", f"p{number}")
        try:
            hold = await ask(cards, holder, GpuRequest(life.gpus))
        except NoCardError:
            return
        try:
            await turns(life.making)
            if life.fate == "refused":
                return
            machine.containers[hold.lease.container] = hold.lease
            check()
        finally:
            cards.end(hold)
        try:
            await turns(life.living)
        finally:
            del machine.containers[hold.lease.container]

    async def all_lives() -> None:
        cards = machine.cards(GpuRules(share=share, per_session=2))

        def check() -> None:
            for card in machine.inventory.cards:
                on_it = [one for one in machine.containers.values() if card.uuid in one.cards]
                assert len(on_it) <= seats, f"{card.uuid} has {len(on_it)} holders"

        tasks = [asyncio.create_task(live(n, life, cards, check)) for n, life in enumerate(lives)]

        async def cancel(task: asyncio.Task[None], life: Life) -> None:
            await turns(life.cancelled_at)
            task.cancel()

        cancelling = [
            cancel(task, life) for task, life in zip(tasks, lives, strict=True) if life.fate == "cancelled"
        ]
        await asyncio.gather(*cancelling)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        assert (await cards.look()).leases == ()
        assert len((await ask(cards, ADA, GpuRequest(2))).cards) == 2

    asyncio.run(all_lives())


async def test_a_page_does_without_an_answer_that_is_late_or_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("labdock.hub.cards.GLANCE_S", 0.01)
    assert await Machine(away=True).cards().glance() is None
    machine = Machine(before=1_000_000)
    assert await machine.cards().glance() is None
    assert await Machine().cards().glance() is not None
