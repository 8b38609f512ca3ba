"""Every test here needs the whole stack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from labdock.adapters.visitor import Visitor
from tests.stack import PASSWORD, Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


class Guests(Protocol):
    """``guests("ada")``: a context in which Ada is invited, signed in, and removed at its end."""

    def __call__(self, name: str, *, admin: bool = False) -> AbstractAsyncContextManager[Visitor]: ...


@pytest.fixture
def guests(stack: Stack) -> Guests:
    @asynccontextmanager
    async def guest(name: str, *, admin: bool = False) -> AsyncIterator[Visitor]:
        stack.remove(name)
        try:
            async with Visitor.arrive(stack.url) as visitor:
                await visitor.set_password(stack.invite(name, admin=admin), name, PASSWORD)
                yield visitor
        finally:
            stack.remove(name)

    return guest
