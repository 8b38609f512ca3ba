"""Asking for a local account, on a real hub."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from labdock.core.accounts import PACE_FOR_SIGN_UP, Standing
from labdock.core.admission import MOST_WAITING
from labdock.core.login import AccessRules
from labdock.hub import accounts
from tests.hub.conftest import BETTER, GOOD, Answer, Browser, Hub, running_hub

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = AccessRules(admins=("mia", "carl"), approve=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: Any) -> AsyncIterator[Hub]:
    async with running_hub(tmp_path_factory.mktemp("hub"), RULES) as running:
        yield running


@pytest.fixture(autouse=True)
def rules_as_they_were(hub: Hub) -> Iterator[None]:
    yield
    hub.rules.now = RULES


async def ask(browser: Browser, name: str, password: str = GOOD, **more: str) -> Answer:
    page = await browser.get("/hub/sign-up")
    assert page.status == 200, page.text
    return await browser.post(
        "/hub/sign-up", {"_xsrf": page.xsrf(), "name": name, "password": password, **more}
    )


def plain(answer: Answer, name: str) -> str:
    """The page without what differs between any two visits."""
    strip = re.compile(r'xsrf_token: "[^"]*"|name="_xsrf" value="[^"]*"|v=\d+|nonce="[^"]*"')
    return re.sub(rf"\b{re.escape(name)}\b", "NAME", strip.sub("", answer.text))


async def test_who_asks_waits_is_approved_and_signs_in_with_the_password_chosen(hub: Hub) -> None:
    boss, browser = await hub.member("boss", admin=True), hub.browser()
    assert 'href="/hub/sign-up"' in (await browser.get("/hub/login")).text
    asked = await ask(browser, "Ada", full_name="Ada  Lovelace", email="Ada@Example.edu")
    assert (asked.status, asked.headers["Location"]) == (303, "/hub/waiting")
    assert "Waiting for approval" in (await browser.get("/hub/waiting")).text
    # Again from the same browser: there is one request, and its page.
    assert (await browser.get("/hub/sign-up")).headers["Location"] == "/hub/waiting"

    assert (await browser.sign_in("ada", GOOD)).status == 403
    assert await browser.who() == ""
    page = await boss.get("/hub/people")
    assert "Ada Lovelace" in page.text
    assert "ada@example.edu" in page.text
    assert (await boss.post("/hub/people/ada/approve", {"_xsrf": page.xsrf()})).status == 303

    told = await browser.get("/hub/waiting")
    assert "You were let in" in told.text
    assert 'href="/hub/login?username=ada"' in told.text
    assert (await browser.sign_in("ada", GOOD)).status == 302
    assert await browser.who() == "ada"
    ada = hub.store.find("ada") or pytest.fail()
    assert (ada.admin, ada.state) == (False, "active")


@pytest.mark.parametrize("name", ["carl", "mia", "root", "agent", "taken"])
async def test_a_name_that_is_an_administrators_reserved_or_taken_is_answered_like_a_free_one(
    hub: Hub, name: str
) -> None:
    if hub.store.find("taken") is None:
        await hub.member("taken")
    before = hub.store.find(name)
    free, other = hub.browser(), hub.browser()
    answers = await ask(free, f"free-{name}"), await ask(other, name)
    assert {answer.status for answer in answers} == {303}
    assert {answer.headers["Location"] for answer in answers} == {"/hub/waiting"}
    waiting = [await browser.get("/hub/waiting") for browser in (free, other)]
    assert plain(waiting[0], f"free-{name}") == plain(waiting[1], name)
    assert hub.store.find(name) == before

    made = hub.store.find(f"{name}-2")
    assert made is not None
    assert made.standing is Standing.WAITING
    approved = await hub.api("POST", f"/labdock/users/{name}-2/approve")
    assert approved.status == 200
    assert f"<strong>{name}-2</strong>" in (await other.get("/hub/waiting")).text
    assert (await other.sign_in(f"{name}-2", GOOD)).status == 302
    assert await other.who() == f"{name}-2"
    assert (await other.get("/hub/people")).status == 403
    told = {person["name"]: person["login"] for person in (await hub.api("GET", "/labdock/users")).json}
    assert told[f"{name}-2"] == ""
    assert told[f"free-{name}"] == f"free-{name}"
    assert (await hub.browser().sign_in(name, GOOD)).status == (302 if name == "taken" else 403)


async def test_nobody_becomes_administrator_by_having_asked_for_the_name_first(hub: Hub) -> None:
    browser = hub.browser()
    await ask(browser, "nina")
    hub.rules.now = AccessRules(admins=("mia", "nina"), approve=True)
    assert (await browser.sign_in("nina", GOOD)).status == 403
    assert await browser.who() == ""
    told = await hub.api("POST", "/labdock/users/nina/approve")
    assert told.status == 409
    assert "login.admins" in told.json["message"]
    boss = await hub.member("boss2", admin=True)
    page = await boss.get("/hub/people")
    shown = await boss.post("/hub/people/nina/approve", {"_xsrf": page.xsrf()})
    assert shown.status == 409
    assert "login.admins" in shown.text
    hub.rules.now = RULES
    assert (await hub.api("POST", "/labdock/users/nina/approve")).status == 200


async def test_without_approval_nobody_can_ask(hub: Hub) -> None:
    hub.rules.now = AccessRules(admins=("mia",))
    browser = hub.browser()
    login = await browser.get("/hub/login")
    assert "/hub/sign-up" not in login.text
    assert (await browser.get("/hub/sign-up")).status == 404
    fields = {"_xsrf": login.xsrf(), "name": "zed", "password": GOOD}
    assert (await browser.post("/hub/sign-up", fields)).status == 404
    assert hub.store.find("zed") is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "no spaces"}, "cannot be a name"),
        ({"name": "../hub"}, "cannot be a name"),
        ({"name": "a" * 33}, "cannot be a name"),
        ({"name": ""}, "cannot be a name"),
        ({"full_name": "x" * 81}, "full name"),
        ({"full_name": "a\u202eb"}, "full name"),
        ({"email": "nobody"}, "no e-mail address"),
        ({"email": "a@" + "b" * 260}, "no e-mail address"),
        ({"password": "short"}, "5 characters"),
        ({"password": "password123"}, "first that somebody would guess"),
        ({"name": "fredrik", "password": "fredrik was here"}, "your name"),
    ],
)
async def test_what_cannot_be_is_told_with_the_rest_kept(hub: Hub, fields: dict[str, str], says: str) -> None:
    browser = hub.browser()
    answer = await ask(browser, **{"name": "fred", "email": "f@example.edu", "full_name": "<b>F", **fields})
    assert answer.status == 400
    assert says in answer.text
    assert "<b>F" not in answer.text
    assert hub.store.find("fred") is None
    assert fields.get("password", GOOD) not in answer.text


async def test_requests_from_one_address_are_few(hub: Hub) -> None:
    answers = []
    for i in range(PACE_FOR_SIGN_UP.free + 3):
        answers.append(await ask(hub.browser("203.0.113.70"), f"many{i}"))
    assert [a.status for a in answers] == [303] * (PACE_FOR_SIGN_UP.free + 1) + [429] * 2
    assert "Retry-After" in answers[-1].headers
    assert (await ask(hub.browser("203.0.113.71"), "another")).status == 303


async def test_a_full_list_of_requests_takes_no_more(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MOST_WAITING", 0)
    assert MOST_WAITING > 0
    answer = await ask(hub.browser(), "late")
    assert answer.status == 503
    assert "no more can" in answer.text
    assert hub.store.find("late") is None


async def test_a_form_from_elsewhere_asks_for_nothing(hub: Hub) -> None:
    browser = hub.browser()
    await browser.get("/hub/sign-up")
    assert (await browser.post("/hub/sign-up", {"name": "forged", "password": GOOD})).status == 403
    assert hub.store.find("forged") is None


async def test_the_password_one_chose_does_not_tell_whether_the_name_was_free(hub: Hub) -> None:
    await hub.member("owned")
    for name in ("owned", "unowned", "mia"):
        browser = hub.browser()
        await ask(browser, name, BETTER)
        made = max((a for a in hub.store.everybody() if a.login == name), key=lambda account: account.name)
        for act in ("", "refuse"):
            if act:
                assert (await hub.api("POST", f"/labdock/users/{made.name}/{act}")).status == 200
            answer = await hub.browser().sign_in(name, BETTER)
            assert answer.status == 403, (name, act)
            assert "Wrong name or password." in answer.text
        assert "Not let in" in (await browser.get("/hub/waiting")).text


async def test_no_password_of_a_request_reaches_the_log(hub: Hub) -> None:
    await ask(hub.browser(), "quiet", "a phrase nobody logs")
    assert "quiet asks to be let in" in hub.lines.text
    assert "nobody logs" not in hub.lines.text
