"""Who gets which card: requests, leases and rules in, the chosen cards or the reason why not out."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from labdock.core.errors import BadRequestError, NoCardError, RefusedError
from labdock.core.gpus import (
    LABEL_GPUS,
    Card,
    GpuRequest,
    GpuRules,
    Holder,
    Inventory,
    Lease,
    Share,
    Sharing,
)

T = TypeVar("T")

WITHOUT_GPU = "You can start without a GPU."


@dataclass(frozen=True, slots=True)
class Held:
    """What is held now, counted: leases on each card, and cards per person and group of each instance."""

    cards: Mapping[str, int] = field(default_factory=dict)
    people: Mapping[tuple[str, str], int] = field(default_factory=dict)
    groups: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @staticmethod
    def of(leases: Iterable[Lease]) -> Held:
        """The counts of *leases*, each container's once."""
        cards: Counter[str] = Counter()
        people: Counter[tuple[str, str]] = Counter()
        groups: Counter[tuple[str, str]] = Counter()
        for lease in leases:
            number = len(lease.cards)
            cards.update(lease.cards)
            people[lease.instance, lease.identity] += number
            for group in lease.groups:
                groups[lease.instance, group] += number
        return Held(cards, people, groups)

    def plus(self, lease: Lease) -> Held:
        """The counts with *lease* on top."""

        def more(counts: Mapping[T, int], keys: Iterable[T], number: int) -> dict[T, int]:
            return {**counts, **{key: counts.get(key, 0) + number for key in keys}}

        number = len(lease.cards)
        return Held(
            more(self.cards, lease.cards, 1),
            more(self.people, [(lease.instance, lease.identity)], number),
            more(self.groups, [(lease.instance, group) for group in lease.groups], number),
        )


Key = tuple[float, ...]
"""What places are sorted by, the smallest first."""

POLICIES: Mapping[str, Callable[[int, int, float, int], Key]] = {
    "spread": lambda taken, beside, size, order: (taken, beside, size, order),
    "pack": lambda taken, beside, size, order: (-taken, -beside, size, order),
}
"""What comes first under each policy: ``spread`` shares the load, ``pack`` keeps whole cards free.

Of a card: the seats *taken*, the slices taken *beside* it on its GPU, its *size* (a small card that will do
leaves the large one for who needs it; bytes, infinite when unknown), and its place in the *order* of the bus.
"""


def allocate(
    inventory: Inventory, held: Held, request: GpuRequest, holder: Holder, rules: GpuRules
) -> tuple[str, ...]:
    """The UUIDs of the cards that *holder* gets for *request*, best first by the policy of *rules*.

    Several cards are of one model where that is possible. A card of unknown memory never meets a memory
    minimum. Where cards are shared by all, the answer is every card of those that fit, and no limit counts.

    Raises:
        NoCardError: Too few cards fit or are free, or a limit is reached; with the numbers.
    """
    if request.count == 0:
        return ()
    shares = [(card, rules.share_of(card)) for card in inventory.cards if _fits(card, request)]
    given_out = [(card, share) for card, share in shares if _usable(card, share, rules)]
    bounded = [(card, share.seats) for card, share in given_out if share.seats is not None]
    shared_by_all = tuple(card.uuid for card, share in given_out if share.seats is None)
    if len(bounded) < request.count:
        if shared_by_all:
            return shared_by_all
        raise _never(inventory, request, len(bounded))
    _check_limits(held, request, holder, rules)
    free = [(card, taken) for card, seats in bounded if (taken := held.cards.get(card.uuid, 0)) < seats]
    if len(free) < request.count:
        if shared_by_all:
            return shared_by_all
        raise NoCardError(
            f"You asked for {_wish(request)}; {len(free)} of {len(bounded)} such "
            f"{'card is' if len(bounded) == 1 else 'cards are'} free.",
            fix=f"{WITHOUT_GPU} A card comes free when somebody who holds one stops their session.",
            waiting_helps=True,
        )
    beside: Counter[str] = Counter()
    for card, _ in bounded:
        if card.part_of:
            beside[card.part_of] += held.cards.get(card.uuid, 0)
    policy = POLICIES[rules.place]
    places = [
        (policy(taken, beside[card.part_of] if card.part_of else 0, _size(card), order), card)
        for order, (card, taken) in enumerate(free)
    ]
    return tuple(card.uuid for card in _best(places, request.count))


def _usable(card: Card, share: Share, rules: GpuRules) -> bool:
    """Whether anybody may get *card* at all."""
    return not card.fault and not is_kept(card, share, rules)


def is_kept(card: Card, share: Share, rules: GpuRules) -> bool:
    """Whether *rules* keep *card* from everybody: for the host, or whole where slices are shared."""
    return rules.keeps(card) or (share.kind is Sharing.MIG and not card.part_of)


def _fits(card: Card, request: GpuRequest) -> bool:
    if request.model and card.label.casefold() != request.model.casefold():
        return False
    if request.memory_bytes is None:
        return True
    return card.memory_bytes is not None and card.memory_bytes >= request.memory_bytes


def _size(card: Card) -> float:
    return float("inf") if card.memory_bytes is None else card.memory_bytes


def _best(places: list[tuple[Key, Card]], count: int) -> list[Card]:
    """*count* of *places*, of one label if enough of them are; each key stands there once."""
    if count > 1:
        alike: dict[str, list[tuple[Key, Card]]] = {}
        for place in places:
            alike.setdefault(place[1].label, []).append(place)
        enough = [heapq.nsmallest(count, group) for group in alike.values() if len(group) >= count]
        if enough:
            return [card for _, card in min(enough)]
    return [card for _, card in heapq.nsmallest(count, places)]


def _check_limits(held: Held, request: GpuRequest, holder: Holder, rules: GpuRules) -> None:
    most = person_limit(holder, rules)
    has = held.people.get((holder.instance, holder.identity), 0)
    if most is not None and has + request.count > most:
        raise NoCardError(
            f"You asked for {_cards(request.count)}; you hold {has} of the {most} you may hold at once.",
            fix=f"Stop another session of yours first. {WITHOUT_GPU}" if has else WITHOUT_GPU,
            waiting_helps=request.count <= most,
        )
    for limit in rules.limits:
        for group in limit.groups:
            if limit.together is None or group not in holder.groups:
                continue
            together = held.groups.get((holder.instance, group), 0)
            if together + request.count > limit.together:
                raise NoCardError(
                    f"You asked for {_cards(request.count)}; the group {group} holds {together} of the "
                    f"{limit.together} it may hold at once.",
                    fix=f"Somebody of the group has to stop first. {WITHOUT_GPU}",
                    waiting_helps=request.count <= limit.together,
                )


def person_limit(holder: Holder, rules: GpuRules) -> int | None:
    """The most cards *holder* may hold at once; None for any number.

    An entry that names the person counts first, then the most generous of their groups, then ``per_person``.
    """
    own = [one.cards for one in rules.limits if one.cards is not None and holder.person in one.people]
    if own:
        return own[0]
    by_group = [
        one.cards for one in rules.limits if one.cards is not None and set(one.groups) & set(holder.groups)
    ]
    return max(by_group) if by_group else rules.per_person


def _never(inventory: Inventory, request: GpuRequest, fitting: int) -> NoCardError:
    """Why *request* cannot be met however long one waits."""
    faulty = sum(bool(card.fault) for card in inventory.cards)
    if not inventory.cards:
        message = "This machine has no GPU."
    elif faulty and len(inventory.cards) == faulty:
        message = f"None of this machine's {_cards(faulty)} can be given out: each reports a fault."
    else:
        message = f"You asked for {_wish(request)}; this machine gives out {fitting} of that kind."
        if faulty:
            message += f" {_cards(faulty)} {'reports' if faulty == 1 else 'report'} a fault."
    return NoCardError(message, fix=WITHOUT_GPU, waiting_helps=False)


def _wish(request: GpuRequest) -> str:
    words = _cards(request.count)
    if request.model:
        words += f" ({request.model})"
    if request.memory_bytes is not None:
        words += f" with {request.memory_bytes / 2**30:g} GiB or more"
    return words


def _cards(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def check_request(request: GpuRequest, inventory: Inventory, rules: GpuRules) -> None:
    """Refuse a *request* that no free card could ever make sensible.

    Raises:
        BadRequestError: ``gpus`` is more than one session may have, ``gpu_model`` is none there is, or
            ``gpu_memory`` more than any card has.
    """
    if request.count > rules.per_session:
        raise BadRequestError(
            f"You asked for {_cards(request.count)}; one session may have {rules.per_session}.",
            field="gpus",
            fix=f"Ask for 0 to {rules.per_session}.",
        )
    if not inventory.cards:
        return
    models = inventory.models()
    if request.model and request.model.casefold() not in {model.casefold() for model in models}:
        raise BadRequestError(
            f"There is no GPU called {request.model[:60]!r} here.",
            field="gpu_model",
            fix=f"Choose one of: {', '.join(models)}.",
        )
    largest = max((card.memory_bytes or 0 for card in inventory.cards), default=0)
    wanted = request.memory_bytes or 0
    if 0 < largest < wanted:
        raise BadRequestError(
            f"No GPU here has {wanted / 2**30:g} GiB of memory.",
            field="gpu_memory",
            fix=f"The largest has {largest / 2**30:g} GiB.",
        )


def check_lease(
    inventory: Inventory, leases: tuple[Lease, ...], cards: tuple[str, ...], rules: GpuRules
) -> None:
    """Refuse to give *cards* (UUIDs) to one more container beside *leases*: the agent's last word.

    Raises:
        RefusedError: A card is unknown, named twice, faulty, kept or has no free seat, or there are more
            than one session may have.
    """

    def refuse(reason: str) -> RefusedError:
        return RefusedError(f"Labels.{LABEL_GPUS}: {reason}", field=f"Labels.{LABEL_GPUS}")

    if len(set(cards)) != len(cards):
        raise refuse("a card is named twice.")
    taken = Held.of(leases).cards
    counted = 0
    for uuid in cards:
        card = inventory.find(uuid)
        if card is None:
            raise refuse("names a card that is not there.")
        if card.fault:
            raise refuse(f"{uuid} is not given out: {card.fault}")
        share = rules.share_of(card)
        if is_kept(card, share, rules):
            raise refuse(f"{uuid} is kept back by the configuration.")
        seats = share.seats
        counted += seats is not None
        if seats is not None and taken.get(uuid, 0) >= seats:
            raise refuse(f"all {seats} seats of {uuid} are taken." if seats > 1 else f"{uuid} is taken.")
    if counted > rules.per_session:
        raise refuse(f"{counted} cards are more than the {rules.per_session} that one session may have.")


@dataclass(frozen=True, slots=True)
class Offer:
    """Cards of one kind that can be chosen: *free* of *total* seats (cards where each has one seat).

    *free* is None where everybody shares all of them; *faulty* cards are in neither number.
    """

    label: str
    memory_bytes: int | None
    share: Share
    total: int
    free: int | None
    faulty: int = 0


def offers(inventory: Inventory, held: Held, rules: GpuRules) -> tuple[Offer, ...]:
    """What can be chosen, in order of index: one offer for each model, memory and way of sharing."""
    kinds: dict[tuple[str, int | None, Share], list[Card]] = {}
    for card in inventory.cards:
        share = rules.share_of(card)
        if not is_kept(card, share, rules):
            kinds.setdefault((card.label, card.memory_bytes, share), []).append(card)
    found = []
    for (label, memory_bytes, share), cards in kinds.items():
        well = [card for card in cards if not card.fault]
        seats = share.seats
        free = None
        if seats is not None:
            free = sum(max(0, seats - held.cards.get(card.uuid, 0)) for card in well)
        found.append(
            Offer(label, memory_bytes, share, len(well) * (seats or 1), free, len(cards) - len(well))
        )
    return tuple(found)
