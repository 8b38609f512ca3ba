"""Cards, leases and rules for tests, with what does not matter filled in."""

from __future__ import annotations

from labdock.core.gpus import Card, Holder, Inventory, Lease, Node

GIB = 2**30
ADA = Holder("lab", "local:1", "ada")
BEN = Holder("lab", "local:2", "ben")


def card(number: int, gib: float | None = 80, *, model: str = "NVIDIA H100", fault: str = "") -> Card:
    """Card *number*, a whole GPU with *gib* GiB of memory (None: unknown)."""
    return Card(
        uuid=f"GPU-{number}",
        index=str(number),
        model=model,
        bus=f"0000:{number:02x}:00.0",
        nodes=(Node(f"/dev/nvidia{number}", f"/dev/nvidia{number}", 195, number),),
        memory_bytes=None if gib is None else int(gib * GIB),
        compute=(9, 0),
        fault=fault,
    )


def mig_slice(number: int, of: int, profile: str = "1g.10gb") -> Card:
    """Slice *number* of GPU *of*."""
    return Card(
        uuid=f"MIG-{of}-{number}",
        index=f"{of}:{number}",
        model="NVIDIA H100",
        bus=f"0000:{of:02x}:00.0",
        nodes=(Node(f"/dev/nvidia{of}", f"/dev/nvidia{of}", 195, of),),
        memory_bytes=10 * GIB,
        part_of=f"GPU-{of}",
        profile=profile,
    )


def inventory(*cards: Card | float) -> Inventory:
    """An inventory of *cards*; a number stands for a whole GPU with so many GiB."""
    return Inventory(
        cards=tuple(one if isinstance(one, Card) else card(n, one) for n, one in enumerate(cards))
    )


def lease(*uuids: str, holder: Holder = BEN, container: str = "") -> Lease:
    """*holder*'s lease on the cards *uuids*."""
    return Lease(
        container=container or f"{holder.instance}-session-{holder.person}",
        cards=uuids,
        instance=holder.instance,
        person=holder.person,
        identity=holder.identity,
        groups=holder.groups,
        since_s=1_790_000_000.0,
        driver="570.86.15",
    )
