"""Signing in with a password, on a real hub."""

from __future__ import annotations

import asyncio
import re

import pytest

from labdock.core.accounts import PACE_FOR_NAME, PACE_FOR_NAME_FROM_ANYWHERE
from labdock.hub.sign_in import MOST_AT_ONCE
from tests.hub.conftest import BETTER, CHEAP, GOOD, PUBLIC_URL, Hub

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALERT = re.compile(r'<p class="alert alert-danger login_error"[^>]*>([^<]*)</p>')


def said(text: str) -> str:
    """The error on the sign-in page."""
    found = ALERT.search(text)
    assert found, text
    return found.group(1)


async def test_the_right_password_signs_in_whatever_the_name_s_case(hub: Hub) -> None:
    await hub.member("ada")
    for typed in ("ada", " Ada "):
        browser = hub.browser()
        answer = await browser.sign_in(typed, GOOD)
        assert answer.status == 302
        assert await browser.who() == "ada"


async def test_wrong_password_and_unknown_name_read_the_same(hub: Hub) -> None:
    await hub.member("bea")
    await hub.invite("ben")
    tries = [("bea", "not this one"), ("nobody.here", "not this one"), ("ben", "not this one"), ("b--a", "x")]
    answers = [await hub.browser().sign_in(name, password) for name, password in tries]
    assert {answer.status for answer in answers} == {403}
    assert {said(answer.text) for answer in answers} == {"Wrong name or password."}
    strip = re.compile(r'nonce="[^"]*"|value="[^"]*"|xsrf_token: "[^"]*"|_xsrf=[^"&]*|v=\d+')
    pages = {
        re.sub(re.escape(name), "NAME", strip.sub("", a.text))
        for a, (name, _) in zip(answers, tries, strict=True)
    }
    assert len(pages) == 1


async def test_an_unknown_name_costs_as_much_work_as_a_wrong_password(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hub.member("cleo")
    checked: list[str] = []

    def count(stored: str, password: str) -> bool:
        checked.append(stored.rsplit("$", 2)[0])
        return False

    monkeypatch.setattr(hub.sign_in, "_matches", count)
    for name in ("cleo", "nobody.here", "NOT a name"):
        await hub.sign_in.check(name, "not this one", "203.0.113.77")
    assert len(checked) == 3
    assert len(set(checked)) == 1


async def test_nobody_gets_in_with_an_empty_form(hub: Hub) -> None:
    browser = hub.browser()
    page = await browser.get("/hub/login")
    for fields in ({}, {"username": "ada"}, {"password": GOOD}, {"username": "", "password": ""}):
        answer = await browser.post("/hub/login", {"_xsrf": page.xsrf(), **fields})
        assert answer.status == 400
        assert said(answer.text) == "Enter your name and your password."


async def test_nobody_signs_up_by_the_name_of_a_configured_administrator(hub: Hub) -> None:
    assert (await hub.browser().sign_in("carl", GOOD)).status == 403
    assert hub.store.find("carl") is None
    browser = await hub.member("carl")
    assert (await browser.get("/hub/people")).status == 200


async def test_the_sixth_wrong_try_waits_and_then_the_right_password_is_heard(hub: Hub) -> None:
    await hub.member("dora")
    browser = hub.browser("203.0.113.1")
    for _ in range(PACE_FOR_NAME.free + 1):
        assert (await browser.sign_in("dora", "not this one")).status == 403
    refused = await browser.sign_in("dora", GOOD)
    assert refused.status == 429
    assert said(refused.text) == "Too many failed tries. Try again in 1 second."
    assert refused.headers["Retry-After"] == "1"

    elsewhere = hub.browser("203.0.113.2")
    assert (await elsewhere.sign_in("dora", GOOD)).status == 302

    hub.later_s += 1
    assert (await browser.sign_in("dora", GOOD)).status == 302


async def test_a_made_up_address_counts_only_from_the_proxy(hub: Hub) -> None:
    await hub.member("dirk")
    for i in range(PACE_FOR_NAME.free + 1):
        guess = await hub.browser(f"203.0.113.{100 + i}", peer="127.0.0.9").sign_in("dirk", "not this one")
        assert guess.status == 403
    one_more = await hub.browser("203.0.113.200", peer="127.0.0.9").sign_in("dirk", GOOD)
    assert one_more.status == 429
    assert (await hub.browser("203.0.113.200").sign_in("dirk", GOOD)).status == 302


async def test_who_shares_an_address_cannot_lock_out_a_browser_that_was_here_before(hub: Hub) -> None:
    known = hub.browser("203.0.113.60")
    assert (await known.use_link(await hub.invite("dan"), GOOD)).status == 303
    await known.get("/hub/logout")
    attacker = hub.browser("203.0.113.60")
    while (await attacker.sign_in("dan", "not this one")).status != 429:
        pass
    assert (await hub.browser("203.0.113.60").sign_in("dan", GOOD)).status == 429
    assert (await known.sign_in("dan", GOOD)).status == 302


async def test_many_machines_that_guess_one_password_are_slowed_together_and_the_owner_is_not(
    hub: Hub,
) -> None:
    known = await hub.member("dean")
    await known.get("/hub/logout")
    for i in range(PACE_FOR_NAME_FROM_ANYWHERE.free + 1):
        assert (await hub.browser(f"192.0.2.{i + 1}").sign_in("dean", "not this one")).status == 403
    assert (await hub.browser("192.0.2.250").sign_in("dean", "not this one")).status == 429
    assert (await hub.browser("192.0.2.250").sign_in("ada", GOOD)).status == 302
    assert (await known.sign_in("dean", GOOD)).status == 302


async def test_the_mark_of_one_account_helps_at_no_other(hub: Hub) -> None:
    await hub.member("dot")
    attacker = hub.browser("203.0.113.61")
    assert (await attacker.use_link(await hub.invite("dud"), GOOD)).status == 303
    heard = 0
    for _ in range(PACE_FOR_NAME.free + 3):
        await attacker.get("/hub/logout")
        heard += (await attacker.sign_in("dot", "not this one")).status == 403
    assert heard == PACE_FOR_NAME.free + 1


async def test_a_flood_from_everywhere_keeps_nobody_out_who_was_here_before(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await hub.member("flo")
    await known.get("/hub/logout")
    monkeypatch.setattr(hub.sign_in, "_checking", MOST_AT_ONCE)
    refused = await hub.browser().sign_in("flo", GOOD)
    assert refused.status == 429
    assert said(refused.text) == "Too many people sign in at this moment. Try again in 10 seconds."
    assert (await known.sign_in("flo", GOOD)).status == 302
    monkeypatch.undo()
    assert hub.sign_in._checking == 0
    assert (await hub.browser().sign_in("flo", GOOD)).status == 302


async def test_a_burst_of_guesses_is_not_all_checked(hub: Hub) -> None:
    await hub.member("eve")
    browser = hub.browser("203.0.113.3")
    page = await browser.get("/hub/login")
    fields = {"_xsrf": page.xsrf(), "username": "eve", "password": "not this one"}
    answers = await asyncio.gather(*(browser.post("/hub/login", fields) for _ in range(40)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(403) == PACE_FOR_NAME.free + 1
    assert statuses.count(429) == 40 - statuses.count(403)


async def test_checking_a_password_does_not_hold_up_the_hub(hub: Hub) -> None:
    """While a check takes its time in its thread, another page is answered."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = hub.sign_in._matches

    def slow(stored: str, password: str) -> bool:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(20)
        return real(stored, password)

    hub.sign_in._matches = slow  # type: ignore[method-assign]  # a slow check without burning the CPU
    try:
        checking = asyncio.create_task(hub.browser().sign_in("ada", "not this one"))
        await asyncio.sleep(0.2)
        assert (await hub.browser().get("/hub/login")).status == 200
        assert not checking.done()
        release.set()
        assert (await checking).status == 403
    finally:
        hub.sign_in._matches = real  # type: ignore[method-assign]  # as above


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example", "http:evil.example"],
)
async def test_signing_in_never_leads_to_another_site(hub: Hub, target: str) -> None:
    if hub.store.find("fay") is None:
        await hub.member("fay")
    answer = await hub.browser().sign_in("fay", GOOD, query=f"?next={target}")
    location = answer.headers["Location"]
    assert answer.status == 302
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))
    assert "evil.example" not in location or location.startswith("/%5C")


async def test_a_forged_host_gets_no_redirect_to_itself(hub: Hub) -> None:
    await hub.member("gil")
    browser = hub.browser()
    page = await browser.get("/hub/login")
    fields = {"_xsrf": page.xsrf(), "username": "gil", "password": GOOD}
    answer = await browser.post(
        "/hub/login?next=http://evil.example/steal", fields, headers={"Host": "evil.example"}
    )
    assert answer.status == 302
    assert answer.headers["Location"].startswith("/hub/")
    made = await hub.api(
        "POST",
        "/labdock/users",
        json={"name": "gus"},
        headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"},
    )
    assert made.json["link"].startswith(PUBLIC_URL + "/hub/link/")


async def test_a_sign_in_form_from_elsewhere_is_refused(hub: Hub) -> None:
    browser = hub.browser()
    await browser.get("/hub/login")
    answer = await browser.post("/hub/login", {"username": "ada", "password": GOOD})
    assert answer.status == 403
    assert await browser.who() == ""


async def test_rights_taken_away_end_while_signed_in(hub: Hub) -> None:
    browser = await hub.member("hal", admin=True)
    assert (await browser.get("/hub/people")).status == 200
    with hub.store._sessions.begin() as session:
        session.connection().exec_driver_sql("update labdock_accounts set admin = false where name = 'hal'")
    user = next(user for user in hub.app.users.values() if user.name == "hal")
    user._auth_refreshed -= hub.app.authenticator.auth_refresh_age + 1
    assert (await browser.get("/hub/people")).status == 403


async def test_jupyterhub_s_own_ways_of_making_and_removing_people_are_closed(hub: Hub) -> None:
    await hub.member("ida")
    made = await hub.api("POST", "/users/zoe", json={})
    assert made.status == 400
    assert (await hub.browser().sign_in("zoe", GOOD)).status == 403
    gone = await hub.api("DELETE", "/users/ida")
    assert gone.status == 409
    assert "People page" in gone.json["message"]
    assert (await hub.browser().sign_in("ida", GOOD)).status == 302


async def test_what_is_stored_of_a_password_is_argon2id(hub: Hub) -> None:
    await hub.member("jan")
    stored = hub.store.password_hash("jan") or ""
    assert stored.startswith("$argon2id$")
    assert GOOD not in stored
    assert CHEAP.verify(stored, GOOD)


async def test_no_password_reaches_the_log(hub: Hub) -> None:
    await hub.member("kim", password="a password nobody logs")
    await hub.browser().sign_in("kim", "wrong password nobody logs")
    await hub.browser().sign_in("typed in the name field", BETTER)
    await hub.browser().sign_in("typedinthename", BETTER)
    for secret in ("nobody logs", "typed in the name", "typedinthename", GOOD, BETTER):
        assert secret not in hub.lines.text
    assert "Failed sign-in as kim from" in hub.lines.text
    assert "Failed sign-in as nobody we know from" in hub.lines.text
