"""Choosing cards: who gets which, what is refused and with which words, and what must never happen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from labdock.core.allocation import (
    POLICIES,
    Held,
    allocate,
    check_lease,
    check_request,
    offers,
    person_limit,
)
from labdock.core.errors import BadRequestError, NoCardError, RefusedError
from labdock.core.gpus import (
    ALL,
    EXCLUSIVE,
    MIG,
    CardRule,
    GpuRequest,
    GpuRules,
    Holder,
    HolderLimit,
    Inventory,
    Lease,
    Share,
    Sharing,
)
from tests.core.gpu_builders import ADA, BEN, GIB, card, inventory, lease, mig_slice

ONE = GpuRequest(1)
FOUR_SEATS = Share(Sharing.SEATS, 4)


def chosen(
    cards: Inventory,
    *leases: Lease,
    request: GpuRequest = ONE,
    rules: GpuRules | None = None,
    holder: Holder = ADA,
) -> tuple[str, ...]:
    return allocate(cards, Held.of(leases), request, holder, rules or GpuRules(per_session=8))


def test_a_session_without_a_gpu_holds_nothing() -> None:
    assert chosen(inventory(), request=GpuRequest(0)) == ()


def test_a_leased_card_is_not_given_twice() -> None:
    assert chosen(inventory(80, 80), lease("GPU-0")) == ("GPU-1",)
    with pytest.raises(NoCardError, match="0 of 2 such cards are free") as caught:
        chosen(inventory(80, 80), lease("GPU-0"), lease("GPU-1"))
    assert caught.value.waiting_helps
    assert "start without a GPU" in caught.value.fix


def test_seats_let_several_on_a_card_and_no_more() -> None:
    rules = GpuRules(share=FOUR_SEATS)
    three = [lease("GPU-0") for _ in range(3)]
    assert chosen(inventory(80), *three, rules=rules) == ("GPU-0",)
    with pytest.raises(NoCardError, match="0 of 1 such card is free"):
        chosen(inventory(80), *three, lease("GPU-0"), rules=rules)


def test_shared_by_all_gives_every_card_to_everybody_who_asks() -> None:
    cards, rules = inventory(80, 40), GpuRules(share=ALL)
    everything = ("GPU-0", "GPU-1")
    assert chosen(cards, lease(*everything), lease(*everything), rules=rules) == everything
    assert chosen(cards, request=GpuRequest(0), rules=rules) == ()


def test_mig_gives_slices_and_no_whole_card() -> None:
    cards = inventory(card(0), mig_slice(0, of=1), mig_slice(1, of=1))
    rules = GpuRules(share=MIG)
    assert chosen(cards, rules=rules) == ("MIG-1-0",)
    assert chosen(cards, lease("MIG-1-0"), rules=rules) == ("MIG-1-1",)
    with pytest.raises(NoCardError):
        chosen(cards, lease("MIG-1-0"), lease("MIG-1-1"), rules=rules)


def test_a_faulty_card_is_not_given_out_and_the_fault_is_counted() -> None:
    assert chosen(inventory(card(0, fault="It has fallen off the bus."), 80)) == ("GPU-1",)
    with pytest.raises(NoCardError, match="each reports a fault") as caught:
        chosen(inventory(card(0, fault="It has fallen off the bus.")))
    assert not caught.value.waiting_helps


def test_a_machine_without_gpus_says_so() -> None:
    with pytest.raises(NoCardError, match="This machine has no GPU") as caught:
        chosen(inventory())
    assert not caught.value.waiting_helps


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (GpuRequest(1, model="nvidia l4"), ("GPU-1",)),
        (GpuRequest(1, memory_bytes=40 * GIB), ("GPU-2",)),
        (GpuRequest(1, memory_bytes=24 * GIB), ("GPU-1",)),
        (GpuRequest(2), ("GPU-2", "GPU-0")),
        (GpuRequest(2, memory_bytes=1), ("GPU-1", "GPU-2")),
    ],
    ids=["model", "memory", "the-smallest-that-will-do", "of-one-model", "unknown-memory-never-fits"],
)
def test_a_request_gets_what_it_asks_for(request_: GpuRequest, expected: tuple[str, ...]) -> None:
    cards = inventory(card(0, None), card(1, 24, model="NVIDIA L4"), card(2, 80))
    assert chosen(cards, request=request_) == expected


def test_spread_takes_the_emptiest_card_and_pack_the_fullest_with_room() -> None:
    leases = [lease("GPU-0"), lease("GPU-1"), lease("GPU-1")]
    cards = inventory(80, 80, 80)
    assert chosen(cards, *leases, rules=GpuRules(share=FOUR_SEATS)) == ("GPU-2",)
    assert chosen(cards, *leases, rules=GpuRules(share=FOUR_SEATS, place="pack")) == ("GPU-1",)


def test_pack_fills_one_gpu_s_slices_before_another_s() -> None:
    cards = inventory(*(mig_slice(n, of) for of in (0, 1) for n in (0, 1)))
    held = lease("MIG-1-1")
    assert chosen(cards, held, rules=GpuRules(share=MIG, place="pack")) == ("MIG-1-0",)
    assert chosen(cards, held, rules=GpuRules(share=MIG)) == ("MIG-0-0",)


def test_a_rule_for_a_card_counts_before_the_machine_s() -> None:
    rules = GpuRules(cards=(CardRule("0", use=False), CardRule("GPU-1", FOUR_SEATS), CardRule("l4", ALL)))
    cards = inventory(80, 80, card(2, 24, model="NVIDIA L4"))
    assert [rules.share_of(one) for one in cards.cards] == [EXCLUSIVE, FOUR_SEATS, ALL]
    assert chosen(cards, lease("GPU-1"), rules=rules) == ("GPU-1",)
    with pytest.raises(RefusedError, match="kept back"):
        check_lease(cards, (), ("GPU-0",), rules)


def test_a_person_s_limit_counts_all_their_sessions() -> None:
    rules = GpuRules(per_session=2, per_person=2)
    cards = inventory(80, 80, 80, 80)
    first = lease("GPU-0", holder=ADA)
    assert chosen(cards, first, rules=rules) == ("GPU-1",)
    with pytest.raises(NoCardError, match="you hold 1 of the 2 you may hold at once") as caught:
        chosen(cards, first, request=GpuRequest(2), rules=rules)
    assert caught.value.waiting_helps
    # Somebody of the same identity in another instance is somebody else.
    elsewhere = lease("GPU-0", "GPU-1", holder=replace(ADA, instance="other"))
    assert chosen(cards, elsewhere, rules=rules) == ("GPU-2",)


def test_who_is_named_counts_before_their_groups_and_the_highest_group_counts() -> None:
    rules = GpuRules(
        per_person=1,
        limits=(
            HolderLimit(groups=("students",), cards=2),
            HolderLimit(groups=("staff",), cards=3),
            HolderLimit(people=("ada",), cards=0),
        ),
    )
    both = ("staff", "students")
    assert person_limit(replace(ADA, groups=both), rules) == 0
    assert person_limit(replace(BEN, groups=both), rules) == 3
    assert person_limit(BEN, rules) == 1


def test_a_group_s_limit_counts_all_its_members() -> None:
    rules = GpuRules(limits=(HolderLimit(groups=("students",), together=2),))
    student = replace(ADA, groups=("students",))
    others = [lease(f"GPU-{n}", holder=replace(BEN, groups=("students",))) for n in range(2)]
    with pytest.raises(NoCardError, match="the group students holds 2 of the 2"):
        chosen(inventory(80, 80, 80), *others, rules=rules, holder=student)
    assert chosen(inventory(80, 80, 80), *others, rules=rules) == ("GPU-2",)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GpuRequest(3), "gpus"),
        (GpuRequest(1, model="TPU"), "gpu_model"),
        (GpuRequest(1, memory_bytes=81 * GIB), "gpu_memory"),
    ],
)
def test_a_request_that_never_makes_sense_is_refused_by_its_field(request_: GpuRequest, field: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        check_request(request_, inventory(80, 40), GpuRules(per_session=2))
    assert caught.value.field == field


def test_a_request_that_makes_sense_passes() -> None:
    check_request(GpuRequest(2, "nvidia h100", 80 * GIB), inventory(80, 40), GpuRules(per_session=2))
    check_request(ONE, inventory(), GpuRules())


@pytest.mark.parametrize(
    ("uuids", "words"),
    [
        (("GPU-9",), "not there"),
        (("GPU-0", "GPU-0"), "named twice"),
        (("GPU-1",), "fallen off the bus"),
        (("GPU-2",), "taken"),
        (("GPU-0", "GPU-3"), "more than the 1"),
    ],
)
def test_the_last_word_refuses_a_lease_that_breaks_a_rule(uuids: tuple[str, ...], words: str) -> None:
    cards = inventory(80, card(1, fault="It has fallen off the bus."), 80, 80)
    with pytest.raises(RefusedError, match=words) as caught:
        check_lease(cards, (lease("GPU-2"),), uuids, GpuRules())
    assert caught.value.field == "Labels.org.labdock.gpus"


def test_offers_count_what_is_free_of_each_kind() -> None:
    cards = inventory(
        80, card(1, fault="lost"), card(2, 24, model="NVIDIA L4"), card(3, 24, model="NVIDIA L4")
    )
    rules = GpuRules(cards=(CardRule("L4", FOUR_SEATS),))
    found = offers(cards, Held.of([lease("GPU-0"), lease("GPU-2")]), rules)
    assert [(one.label, one.total, one.free, one.faulty) for one in found] == [
        ("NVIDIA H100", 1, 0, 1),
        ("NVIDIA L4", 8, 7, 0),
    ]
    assert offers(cards, Held(), GpuRules(share=ALL))[0].free is None


SHARES = st.sampled_from([EXCLUSIVE, Share(Sharing.SEATS, 2), Share(Sharing.SEATS, 3), MIG])
RULES = st.builds(
    GpuRules,
    share=SHARES,
    cards=st.lists(
        st.builds(
            CardRule, st.sampled_from(["0", "1", "GPU-2", "MIG-3", "H100"]), SHARES | st.none(), st.booleans()
        ),
        max_size=2,
    ).map(tuple),
    per_session=st.integers(1, 3),
    per_person=st.none() | st.integers(0, 3),
    limits=st.lists(
        st.builds(HolderLimit, groups=st.just(("students",)), together=st.integers(0, 3)), max_size=1
    ).map(tuple),
    place=st.sampled_from(sorted(POLICIES)),
)
CARDS = inventory(80, 80, 40, *(mig_slice(n, of=3) for n in range(2)))
PEOPLE = [
    ADA,
    BEN,
    *(Holder("lab", f"local:{n}", f"student{n}", ("students",)) for n in range(3)),
]


@given(rules=RULES, count=st.integers(1, 3), holder=st.sampled_from(PEOPLE), data=st.data())
def test_what_is_chosen_passes_the_last_word(
    rules: GpuRules, count: int, holder: Holder, data: st.DataObject
) -> None:
    uuids = [one.uuid for one in CARDS.cards]
    leases = tuple(lease(uuid) for uuid in data.draw(st.lists(st.sampled_from(uuids), max_size=4)))
    request = GpuRequest(min(count, rules.per_session))
    try:
        given_cards = allocate(CARDS, Held.of(leases), request, holder, rules)
    except NoCardError:
        return
    assert len(given_cards) == request.count
    check_lease(CARDS, leases, given_cards, rules)


@given(st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(["GPU-0", "GPU-1"]))))
def test_counting_one_by_one_is_counting_at_once(held_by: list[tuple[Holder, str]]) -> None:
    leases = [lease(uuid, holder=holder) for holder, uuid in held_by]
    one_by_one = Held()
    for one in leases:
        one_by_one = one_by_one.plus(one)
    assert one_by_one == Held.of(leases)


class Machine(RuleBasedStateMachine):
    """A machine over time: a hub that chooses on what it last read, and an agent that has the last word.

    A container is the only record of a lease. The hub may have read long ago, and forget what it read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.containers: dict[int, Lease] = {}
        self.seen: tuple[Lease, ...] = ()
        self.faults: set[str] = set()
        self.how = GpuRules(share=FOUR_SEATS, cards=(CardRule("0", EXCLUSIVE),), per_session=2, per_person=3)
        self.number = 0

    @property
    def cards(self) -> Inventory:
        return Inventory(
            cards=tuple(
                replace(one, fault="lost" if one.uuid in self.faults else "")
                for one in inventory(80, 80, 40).cards
            )
        )

    @rule()
    def the_hub_reads(self) -> None:
        self.seen = tuple(self.containers.values())

    @rule(holder=st.sampled_from(PEOPLE), count=st.integers(1, 2))
    def start(self, holder: Holder, count: int) -> None:
        try:
            uuids = allocate(self.cards, Held.of(self.seen), GpuRequest(count), holder, self.how)
            check_lease(self.cards, tuple(self.containers.values()), uuids, self.how)
        except (NoCardError, RefusedError):
            return
        self.number += 1
        self.containers[self.number] = lease(*uuids, holder=holder, container=f"c{self.number}")

    @precondition(lambda self: self.containers)
    @rule(data=st.data())
    def stop_or_crash(self, data: st.DataObject) -> None:
        del self.containers[data.draw(st.sampled_from(sorted(self.containers)))]

    @rule()
    def the_machine_restarts(self) -> None:
        self.containers.clear()
        self.seen = ()

    @rule(uuid=st.sampled_from(["GPU-0", "GPU-1", "GPU-2"]))
    def a_fault_comes_or_goes(self, uuid: str) -> None:
        self.faults ^= {uuid}

    @invariant()
    def no_card_has_more_holders_than_seats(self) -> None:
        taken = Counter(uuid for held in self.containers.values() for uuid in held.cards)
        assert taken["GPU-0"] <= 1
        assert all(number <= 4 for number in taken.values())

    @invariant()
    def what_nobody_holds_can_be_had(self) -> None:
        """No lease leaks: a fresh reading finds a card without a holder free for somebody new."""
        taken = {uuid for held in self.containers.values() for uuid in held.cards}
        free = {one.uuid for one in self.cards.cards if not one.fault} - taken
        if free:
            stranger = Holder("lab", "local:new", "new")
            found = allocate(self.cards, Held.of(self.containers.values()), ONE, stranger, self.how)
            check_lease(self.cards, tuple(self.containers.values()), found, self.how)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
