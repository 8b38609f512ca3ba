"""Only what nobody claims is removed."""

from __future__ import annotations

from typing import cast

from labdock.adapters.engine import ContainerFacts, Engine
from labdock.hub.orphans import remove_orphans


class FakeEngine:
    """Containers by name; one more is made and claimed between the list and the question."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    async def containers(self, labels: dict[str, str]) -> tuple[ContainerFacts, ...]:
        assert labels == {"org.labdock.instance": "lab", "org.labdock.role": "session"}
        return tuple(ContainerFacts(name, name, "image", "running", "", {}) for name in self.names)

    async def remove(self, name: str) -> None:
        self.names.remove(name)


async def test_only_what_nobody_claims_is_removed() -> None:
    engine = FakeEngine("ada", "bob", "left")
    await remove_orphans(cast(Engine, engine), "lab", lambda: {"ada", "bob", "eve"})
    assert engine.names == ["ada", "bob"]
