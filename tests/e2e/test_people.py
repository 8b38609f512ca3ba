"""People come and go by the command line."""

from __future__ import annotations

import pytest

from labdock.adapters.visitor import Visitor
from labdock.core.errors import HubError
from tests.e2e.conftest import Guests
from tests.stack import PASSWORD, Stack


async def test_an_invited_person_gets_in_once_by_the_link(stack: Stack) -> None:
    link = stack.facts("users", "add", "ada")["link"]
    try:
        async with Visitor.arrive(stack.url) as ada:
            await ada.set_password(link, "ada", PASSWORD)
        async with Visitor.arrive(stack.url) as again:
            with pytest.raises(HubError):
                await again.set_password(link, "ada", PASSWORD)
        async with Visitor.arrive(stack.url) as later:
            await later.sign_in("ada", PASSWORD)
        assert {"name": "ada", "state": "active"}.items() <= stack.facts("users", "list")[0].items()
    finally:
        stack.remove("ada")


async def test_a_removed_person_is_out_at_once_and_the_home_is_kept_or_deleted(
    stack: Stack, guests: Guests
) -> None:
    async with guests("ada") as ada:
        await ada.start(None)
        await ada.take_token()
        await ada.write_file("thesis.txt", "ten years of work")
        done = stack.labdock("users", "remove", "ada", "--home", "keep", "--yes")
        assert done.returncode == 0, done.stderr
        assert stack.container_id(f"{stack.instance}-session-ada") is None
        with pytest.raises(HubError):
            await ada.take_token()
        with pytest.raises(HubError):
            await ada.read_file("thesis.txt")
    kept = list((stack.state / "storage/removed").glob("ada-*/thesis.txt"))
    assert [path.read_text() for path in kept] == ["ten years of work"]


async def test_a_new_person_with_an_old_name_gets_a_home_of_their_own(stack: Stack, guests: Guests) -> None:
    async with guests("eve") as first:
        await first.start(None)
        await first.take_token()
        await first.write_file("secret.txt", "mine")
    async with guests("eve") as second:
        await second.start(None)
        await second.take_token()
        with pytest.raises(HubError, match="404"):
            await second.read_file("secret.txt")


def test_removing_asks_what_becomes_of_the_home(stack: Stack) -> None:
    stack.remove("ada")
    stack.invite("ada")
    try:
        done = stack.labdock("users", "remove", "ada", "--yes")
        assert done.returncode == 2
        assert "--home keep or --home delete" in done.stderr
        assert any(user["name"] == "ada" for user in stack.facts("users", "list"))
    finally:
        stack.remove("ada")


@pytest.mark.parametrize("name", ["Ada", "a b", "root", "x" * 33, "../etc", "a--b", "-a"])
def test_a_name_that_cannot_be_is_refused_with_the_rule(stack: Stack, name: str) -> None:
    done = stack.labdock("users", "add", "--", name)
    assert done.returncode == 1
    assert "name" in done.stderr


def test_somebody_unknown_cannot_be_reset(stack: Stack) -> None:
    done = stack.labdock("users", "reset", "nobody-here")
    assert done.returncode == 1
    assert "nobody-here" in done.stderr
