"""What handing out GPUs costs, on simulated cards; the stock stack has nothing to compare it with."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from bench.client import Hub
from bench.figures import Figure, Floor, Rule, Unit, compared
from bench.ours import Ours
from labdock.core.allocation import Held, allocate
from labdock.core.errors import HostError
from labdock.core.gpus import Card, GpuRequest, GpuRules, Holder, Inventory, Lease, Share, Sharing

CARDS = 1000
LEASES = 10_000
CHOICES = 101
REFRESHES = 7
FRESH_S = 2.1
"""A little longer than the agent keeps what it has read."""

SETTLED_S = 5.0

ASKING = 200
"""How many ask at once for the four cards."""


def choosing() -> tuple[Figure, Figure]:
    """One choice among CARDS cards with LEASES leases on them, and counting the leases before it.

    Pure computing, in this process.
    """
    cards = tuple(Card(f"GPU-{n}", str(n), "H100", f"{n}", (), 80 * 2**30) for n in range(CARDS))
    leases = tuple(
        Lease(f"c{n}", (f"GPU-{n % CARDS}",), "lab", f"p{n}", f"id{n}", (), 0.0, "") for n in range(LEASES)
    )
    held, inventory = Held.of(leases), Inventory(None, cards)
    rules = GpuRules(share=Share(Sharing.SEATS, 2 * LEASES // CARDS))
    holder = Holder("lab", "somebody", "somebody")
    choose = [_timed(lambda: allocate(inventory, held, GpuRequest(1), holder, rules)) for _ in range(CHOICES)]
    count = [_timed(lambda: Held.of(leases)) for _ in range(CHOICES)]
    return (
        compared(
            "gpu-choose",
            f"Choosing a card among {CARDS:,} with {LEASES:,} leases",
            Unit.MILLISECONDS,
            ours=[1000 * second for second in choose],
            stock=[],
            floor=Floor(Rule.OURS_AT_MOST, 1.0),
        ),
        compared(
            "gpu-count",
            f"Counting those {LEASES:,} leases, once for each reading",
            Unit.MILLISECONDS,
            ours=[1000 * second for second in count],
            stock=[],
        ),
    )


async def refreshing(ours: Ours) -> Figure:
    """What the agent needs to ask the driver, the engine and /proc anew for eight simulated cards."""
    await ours.simulate_gpus(8)
    agent = ours.agent()
    milliseconds = []
    for _ in range(REFRESHES):
        await asyncio.sleep(FRESH_S)
        begun = time.perf_counter()
        report = await agent.gpus()
        milliseconds.append(1000 * (time.perf_counter() - begun))
        if len(report.inventory.cards) != 8:
            raise HostError(f"The agent tells of {len(report.inventory.cards)} cards, not of 8.")
    return compared(
        "gpu-refresh",
        "Inventory of 8 cards, asked anew",
        Unit.MILLISECONDS,
        ours=milliseconds,
        stock=[],
    )


async def starting(hub: Hub, name: str, times: int, limit_s: float) -> tuple[Figure, Figure]:
    """A start with a card and one without, in turn; the difference in percent of the second."""
    with_card: list[float] = []
    without: list[float] = []
    for _ in range(times):
        for seconds, gpus in ((without, 0), (with_card, 1)):
            seconds.append(await hub.start(name, limit_s=limit_s, gpus=gpus))
            await hub.stop(name)
    start = compared("gpu-start", "One start with a GPU", Unit.SECONDS, ours=with_card, stock=[])
    plain = compared("gpu-start-none", "One start without", Unit.SECONDS, ours=without, stock=[])
    extra = None
    if start.ours is not None and plain.ours:
        extra = 100 * (start.ours / plain.ours - 1)
    floor = Floor(Rule.OURS_AT_MOST, 5.0)
    samples = {"with": tuple(with_card), "without": tuple(without)}
    return start, Figure(
        "gpu-start-extra", "… more than one without", Unit.PERCENT, extra, None, floor, samples
    )


async def asking_at_once(ours: Ours, hub: Hub) -> tuple[Figure, Figure]:
    """ASKING people ask at once for four cards: who gets one, and the slowest answer to anybody."""
    await ours.simulate_gpus(4)
    names = [f"ask{number:03}" for number in range(ASKING)]
    await ours.add_people(names)
    answers = await asyncio.gather(*(hub.ask_for_a_gpu(name) for name in names))
    statuses = Counter(status for status, _ in answers)
    # Whoever was told yes gets a container right after the answer.
    await asyncio.sleep(SETTLED_S)
    leases = [lease for lease in (await ours.agent().gpus()).leases if lease.person.startswith("ask")]
    told = statuses[201] + statuses[202] + statuses[503]
    if told != ASKING or len(leases) != 4:
        raise HostError(f"{len(leases)} leases, and the answers were {dict(statuses)}.")
    await hub.stop_all()
    label = f"{ASKING} ask at once for 4 cards"
    return (
        Figure("gpu-crowd-leases", f"{label}: leases", Unit.COUNT, len(leases), None),
        Figure(
            "gpu-crowd-slowest",
            f"{label}: slowest answer",
            Unit.SECONDS,
            max(seconds for _, seconds in answers),
            None,
            Floor(Rule.OURS_AT_MOST, 2.0),
            {"ours": tuple(sorted(seconds for _, seconds in answers))},
        ),
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
