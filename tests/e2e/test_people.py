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


async def test_an_empty_home_is_filled_from_a_folder_before_its_owner_comes(
    stack: Stack, guests: Guests
) -> None:
    old = stack.folder / "volume"
    (old / "work").mkdir(parents=True, exist_ok=True)
    (old / "work/notes.txt").write_text("as before")
    async with guests("ada") as ada:
        done = stack.labdock("users", "home", "ada", "--fill-from", str(old))
        assert done.returncode == 0, done.stderr
        again = stack.labdock("users", "home", "ada", "--fill-from", str(old))
        assert again.returncode == 1
        assert "is not empty" in again.stderr
        await ada.start(None)
        await ada.take_token()
        assert await ada.read_file("work/notes.txt") == "as before"
        kernel = await ada.kernel()
        owner = await ada.run_cell(
            kernel, "import os; print(os.stat('work/notes.txt').st_uid == os.getuid())"
        )
        assert owner == "True\n"
        await ada.write_file("work/notes.txt", "and now")
        running = stack.labdock("users", "home", "ada", "--fill-from", str(old))
        assert "has a session running" in running.stderr
    assert stack.labdock("users", "home", "nobody.here").returncode == 1


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
