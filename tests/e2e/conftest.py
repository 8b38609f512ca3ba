"""Every test here needs the whole stack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, sync_playwright

from labdock.adapters.visitor import Visitor
from tests.chromium import PROGRAM
from tests.e2e.secure import authority, pair, secure  # noqa: F401  fixtures
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
    return guests_of(stack)


@pytest.fixture
def gpu_guests(gpu_stack: Stack) -> Guests:
    """As ``guests``, of the Labdock with GPUs."""
    return guests_of(gpu_stack)


def guests_of(stack: Stack) -> Guests:
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=PROGRAM, args=quiet)
        yield chromium
        chromium.close()
