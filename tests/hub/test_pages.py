"""The pages and the REST API, on a real hub."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub import orm, roles

from labdock.core.accounts import LinkKind
from labdock.core.errors import EngineError, StartError
from labdock.core.gpus import Driver, GpuReport, Lease, Way
from labdock.core.session import Limits
from labdock.hub import pages
from labdock.hub.cards import Cards
from tests.core.gpu_builders import card, inventory, lease
from tests.hub.conftest import (
    BETTER,
    GOOD,
    IMAGES,
    PUBLIC_URL,
    SETTINGS,
    Browser,
    FakeAgent,
    Hub,
    until_ready,
)

on_a_hub = pytest.mark.asyncio(loop_scope="module")


def path_of(link: str) -> str:
    return urlsplit(link).path


# --- links ---


@on_a_hub
async def test_an_invitation_sets_a_password_and_signs_in(hub: Hub) -> None:
    link = await hub.invite("ada")
    assert link.startswith(f"{PUBLIC_URL}/hub/link/")
    browser = hub.browser()
    page = await browser.get(path_of(link))
    assert page.status == 200
    assert "Welcome, ada" in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    entered = await browser.use_link(link, GOOD)
    assert (entered.status, entered.headers["Location"]) == (303, "/hub/spawn")
    assert await browser.who() == "ada"
    assert (await hub.browser().sign_in("ada", GOOD)).status == 302


@on_a_hub
async def test_looking_at_a_link_does_not_use_it_up(hub: Hub) -> None:
    made = await hub.api("POST", "/labdock/first-link", json={})
    browser = hub.browser()
    for _ in range(3):
        page = await browser.get(path_of(made.json["link"]))
        assert page.status == 200
        assert "Sign in as mia" in page.text
        assert await browser.who() == ""
    assert (await browser.use_link(made.json["link"])).status == 303
    assert await browser.who() == "mia"


@on_a_hub
async def test_one_link_lets_one_in_of_many_at_the_same_moment(hub: Hub) -> None:
    link = await hub.invite("bea")
    browsers = [hub.browser() for _ in range(8)]
    forms = [(await browser.get(path_of(link))).xsrf() for browser in browsers]
    answers = await asyncio.gather(
        *(
            browser.post(path_of(link), {"_xsrf": form, "password": f"{GOOD} {i}"})
            for i, (browser, form) in enumerate(zip(browsers, forms, strict=True))
        )
    )
    statuses = [answer.status for answer in answers]
    assert (statuses.count(303), statuses.count(410)) == (1, 7)
    winner = statuses.index(303)
    assert [await browser.who() for browser in browsers].count("bea") == 1
    assert (await hub.browser().sign_in("bea", f"{GOOD} {winner}")).status == 302


@on_a_hub
async def test_a_dead_link_says_why_and_what_to_do(hub: Hub) -> None:
    used = await hub.invite("cleo")
    await hub.browser().use_link(used, GOOD)
    replaced = (await hub.api("POST", "/labdock/users/cleo/reset")).json["link"]
    expired = (await hub.api("POST", "/labdock/users/cleo/reset")).json["link"]
    hub.later_s += 24 * 3600
    expected = [
        (path_of(used), 410, "This link was used already"),
        (path_of(replaced), 410, "This link was replaced"),
        (path_of(expired), 410, "This link has expired"),
        ("/hub/link/no-such-token", 404, "There is no such link"),
        ("/hub/link/", 404, "There is no such link"),
        ("/hub/link/a/b/c", 404, "There is no such link"),
    ]
    browser = hub.browser()
    token = (await browser.get("/hub/login")).xsrf()
    for path, status, words in expected:
        for answer in (await browser.get(path), await browser.post(path, {"_xsrf": token, "password": GOOD})):
            assert answer.status == status
            assert words in answer.text
    assert await browser.who() == ""


@on_a_hub
async def test_a_refused_password_leaves_the_link_open(hub: Hub) -> None:
    link = await hub.invite("dan")
    browser = hub.browser()
    refused = await browser.use_link(link, "short")
    assert refused.status == 400
    assert "The password has 5 characters. Use 10 to 256" in refused.text
    assert await browser.who() == ""
    assert (await browser.use_link(link, GOOD)).status == 303


@on_a_hub
async def test_a_link_s_form_from_elsewhere_uses_nothing_up(hub: Hub) -> None:
    link = await hub.invite("eli")
    browser = hub.browser()
    await browser.get(path_of(link))
    assert (await browser.post(path_of(link), {"password": GOOD})).status == 403
    assert (await browser.post(path_of(link), {"_xsrf": "made up", "password": GOOD})).status == 403
    assert (await browser.use_link(link, GOOD)).status == 303


@on_a_hub
async def test_a_link_never_leads_to_another_site(hub: Hub) -> None:
    link = await hub.invite("fay")
    browser = hub.browser()
    page = await browser.get(path_of(link))
    fields = {"_xsrf": page.xsrf(), "password": GOOD, "next": "https://evil.example/"}
    answer = await browser.post(path_of(link) + "?next=//evil.example", fields)
    assert (answer.status, answer.headers["Location"]) == (303, "/hub/spawn")


@on_a_hub
async def test_a_reset_signs_out_everywhere_else_and_ends_the_old_password(hub: Hub) -> None:
    before = await hub.member("gil")
    assert await before.who() == "gil"
    link = (await hub.api("POST", "/labdock/users/gil/reset")).json["link"]
    assert await before.who() == "gil"
    after = hub.browser()
    assert (await after.use_link(link, BETTER)).status == 303
    assert await before.who() == ""
    assert await after.who() == "gil"
    assert (await hub.browser().sign_in("gil", GOOD)).status == 403
    assert (await hub.browser().sign_in("gil", BETTER)).status == 302


@on_a_hub
async def test_no_token_reaches_the_log(hub: Hub) -> None:
    links = []
    browser = hub.browser()
    for path, body in (
        ("users", {"name": "hal"}),
        ("users/hal/reset", None),
        ("first-link", None),
    ):
        link = (await hub.api("POST", f"/labdock/{path}", json=body)).json["link"]
        links.append(link)
        await browser.get(path_of(link) + "?redirects=1")
        await browser.use_link(link, GOOD)
        await browser.get(path_of(link) + "/more", headers={"Referer": link})
        await browser.post(path_of(link), {"password": GOOD}, headers={"Sec-Fetch-Mode": "cors"})
    assert len(links) == 3
    for link in links:
        token = path_of(link).rsplit("/", 1)[1]
        assert len(token) >= 43
        assert token not in hub.lines.text
    assert "GET /hub/link/[secret]" in hub.lines.text


# --- one's own password ---


@on_a_hub
async def test_a_password_changes_with_the_present_one_and_signs_out_elsewhere(hub: Hub) -> None:
    here = await hub.member("ian")
    there = hub.browser()
    await there.sign_in("ian", GOOD)
    form = (await here.get("/hub/password")).xsrf()
    wrong = await here.post("/hub/password", {"_xsrf": form, "present": "not this one", "password": BETTER})
    assert wrong.status == 400
    assert "not your present password" in wrong.text
    weak = await here.post("/hub/password", {"_xsrf": form, "present": GOOD, "password": "short"})
    assert weak.status == 400
    assert await there.who() == "ian"
    done = await here.post("/hub/password", {"_xsrf": form, "present": GOOD, "password": BETTER})
    assert done.status == 200
    assert "Your password is set" in done.text
    assert await here.who() == "ian"
    assert await there.who() == ""
    assert (await hub.browser().sign_in("ian", BETTER)).status == 302


@on_a_hub
async def test_guessing_the_present_password_is_slowed(hub: Hub) -> None:
    browser = await hub.member("jan")
    form = (await browser.get("/hub/password")).xsrf()
    fields = {"_xsrf": form, "present": "not this one", "password": BETTER}
    statuses = [(await browser.post("/hub/password", fields)).status for _ in range(8)]
    assert statuses == [400] * 6 + [429] * 2


@on_a_hub
async def test_the_first_password_needs_no_present_one_and_the_page_asks_for_it(hub: Hub) -> None:
    browser = hub.browser()
    store, now = hub.store, hub.sign_in.admission.now()
    store.add("first", admin=True, now=0)
    store.use_link(store.make_link("first", LinkKind.SIGNIN, now=now)[0], now=now)
    link = f"{PUBLIC_URL}/hub/link/{store.make_link('first', LinkKind.SIGNIN, now=now)[0]}"
    await browser.use_link(link)
    assert "You have no password yet" in (await browser.get("/hub/home")).text
    page = await browser.get("/hub/password")
    assert 'name="present"' not in page.text
    assert (await browser.post("/hub/password", {"_xsrf": page.xsrf(), "password": GOOD})).status == 200
    assert "You have no password yet" not in (await browser.get("/hub/home")).text
    assert 'name="present"' in (await browser.get("/hub/password")).text


@on_a_hub
async def test_a_password_form_from_elsewhere_is_refused(hub: Hub) -> None:
    browser = await hub.member("kim")
    answer = await browser.post("/hub/password", {"present": GOOD, "password": BETTER})
    assert answer.status == 403
    assert (await hub.browser().sign_in("kim", GOOD)).status == 302


# --- people: the API ---


@on_a_hub
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", "body"),
        ("[1]", "body"),
        ("null", "body"),
        ("{}", "name"),
        ('{"name": 7}', "name"),
        ('{"name": ""}', "name"),
        ('{"name": "Ada"}', "name"),
        ('{"name": "a--b"}', "name"),
        ('{"name": "root"}', "name"),
        ('{"name": "../etc"}', "name"),
        ('{"name": "zed", "admin": "yes"}', "admin"),
        ('{"name": "zed", "admin": null}', "admin"),
        ('{"name": "zed", "password": "x"}', "password"),
        ("\xff\xfe", "body"),
    ],
)
async def test_a_bad_body_is_refused_with_its_field(hub: Hub, body: str, field: str) -> None:
    answer = await hub.api("POST", "/labdock/users", data=body.encode("latin-1"))
    assert answer.status == 400
    assert answer.json["field"] == field
    assert answer.json["message"]
    assert hub.store.find("zed") is None


@on_a_hub
async def test_the_api_tells_everybody_with_state_and_session(hub: Hub) -> None:
    await hub.invite("lea")
    browser = await hub.member("leo", admin=True)
    await start(hub, browser, "cpu")
    listed = {person["name"]: person for person in (await hub.api("GET", "/labdock/users")).json}
    assert list(listed) == sorted(listed)
    lea, leo = listed["lea"], listed["leo"]
    assert {k: lea[k] for k in ("admin", "state", "last_activity", "session")} == {
        "admin": False,
        "state": "invited",
        "last_activity": None,
        "session": "none",
    }
    assert (leo["admin"], leo["state"], leo["session"]) == (True, "active", "running")
    for moment in (leo["created_at"], leo["last_activity"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", moment)
    of_the_provider = {"identity", "login", "email", "full_name", "second_factor"}
    assert set(lea) == {"name", "admin", "state", "created_at", "last_activity", "session"} | of_the_provider


@on_a_hub
async def test_a_name_that_is_taken_is_a_conflict(hub: Hub) -> None:
    await hub.invite("max")
    answer = await hub.api("POST", "/labdock/users", json={"name": "max"})
    assert answer.status == 409
    assert "already somebody called 'max'" in answer.json["message"]


@on_a_hub
async def test_nobody_can_be_reset_or_removed(hub: Hub) -> None:
    for method, path in (
        ("POST", "/labdock/users/nobody.here/reset"),
        ("DELETE", "/labdock/users/nobody.here?home=keep"),
    ):
        answer = await hub.api(method, path)
        assert (answer.status, answer.json["message"]) == (404, "There is nobody called 'nobody.here'.")


@on_a_hub
async def test_a_new_link_for_who_never_came_is_an_invitation_again(hub: Hub) -> None:
    old = await hub.invite("ned")
    new = (await hub.api("POST", "/labdock/users/ned/reset")).json["link"]
    assert "This link was replaced" in (await hub.browser().get(path_of(old))).text
    assert "Welcome, ned" in (await hub.browser().get(path_of(new))).text


@on_a_hub
async def test_the_first_link_works_again_and_for_the_same_person(hub: Hub) -> None:
    first = (await hub.api("POST", "/labdock/first-link")).json
    identity = hub.store.find("mia")
    second = (await hub.api("POST", "/labdock/first-link", json={})).json
    assert first["name"] == second["name"] == "mia"
    now = hub.store.find("mia")
    assert now is not None and identity is not None
    assert now.identity == identity.identity
    assert hub.sign_in.admission.is_admin(now)
    assert "This link was replaced" in (await hub.browser().get(path_of(first["link"]))).text
    browser = hub.browser()
    await browser.use_link(second["link"])
    assert (await browser.get("/hub/people")).status == 200
    bad = await hub.api("POST", "/labdock/first-link", json={"name": "eve"})
    assert (bad.status, bad.json["field"]) == (400, "name")


@on_a_hub
async def test_the_api_and_the_people_page_are_for_administrators_alone(hub: Hub) -> None:
    browser = await hub.member("olaf")
    await hub.invite("otto")
    xsrf = (await browser.get("/hub/password")).xsrf()
    asks = [
        ("GET", "/hub/api/labdock/users"),
        ("POST", "/hub/api/labdock/users"),
        ("POST", "/hub/api/labdock/users/otto/reset"),
        ("POST", "/hub/api/labdock/users/olaf/reset"),
        ("DELETE", "/hub/api/labdock/users/otto?home=delete"),
        ("POST", "/hub/api/labdock/first-link"),
        ("GET", "/hub/people"),
        ("POST", "/hub/people"),
        ("POST", "/hub/people/otto/reset"),
        ("GET", "/hub/people/otto/remove"),
        ("POST", "/hub/people/otto/remove"),
        ("POST", "/hub/people/olaf/stop"),
    ]
    token = (await hub.api("POST", "/users/olaf/tokens", json={})).json["token"]
    stranger = hub.browser()
    for method, path in asks:
        signed_in = await browser.ask(method, path, headers={"X-XSRFToken": xsrf})
        by_token = await stranger.ask(method, path, headers={"Authorization": f"token {token}"})
        nobody = await stranger.ask(method, path)
        assert signed_in.status == 403
        assert by_token.status in (302, 403)
        assert nobody.status in (302, 403)
        assert "link/" not in signed_in.text + by_token.text + nobody.text
    assert hub.store.find("otto") is not None


@on_a_hub
async def test_the_scope_alone_makes_nobody_an_administrator(hub: Hub) -> None:
    browser = await hub.member("pia")
    await hub.member("boss", admin=True)
    roles.create_role(hub.app.db, {"name": "people", "scopes": ["admin:users"]})
    roles.grant_role(hub.app.db, orm.User.find(hub.app.db, "pia"), "people")
    xsrf = (await browser.get("/hub/people")).xsrf()
    asks = [
        ("POST", "/hub/api/labdock/users", {"name": "evil", "admin": True}),
        ("POST", "/hub/api/labdock/users/boss/reset", None),
        ("DELETE", "/hub/api/labdock/users/boss?home=keep", None),
        ("POST", "/hub/api/labdock/first-link", None),
    ]
    for method, path, body in asks:
        answer = await browser.ask(method, path, headers={"X-XSRFToken": xsrf}, json=body)
        assert answer.status == 403, (path, answer.text)
    assert (await browser.post("/hub/people/boss/reset", {"_xsrf": xsrf})).status == 403
    invited = await browser.ask(
        "POST", "/hub/api/labdock/users", headers={"X-XSRFToken": xsrf}, json={"name": "ok"}
    )
    assert invited.status == 201


# --- people: removing ---


@on_a_hub
async def test_removing_somebody_ends_everything_of_theirs(hub: Hub) -> None:
    browser = await hub.member("quin")
    account = hub.store.find("quin")
    assert account is not None
    token = (await hub.api("POST", "/users/quin/tokens", json={})).json["token"]
    await start(hub, browser, "cpu")
    await start(hub, browser, "cpu", server="second")
    user = next(user for user in hub.app.users.values() if user.name == "quin")
    spawners = list(user.spawners.values())
    assert [spawner.ready for spawner in spawners] == [True, True]
    reset = (await hub.api("POST", "/labdock/users/quin/reset")).json["link"]

    unsaid = await hub.api("DELETE", "/labdock/users/quin")
    assert (unsaid.status, unsaid.json["field"]) == (400, "home")
    gone = await hub.api("DELETE", "/labdock/users/quin?home=keep")
    assert (gone.status, gone.json) == (200, {"name": "quin", "home": "/srv/homes/kept"})

    assert hub.agent.removed[-1] == (account.identity, False)
    assert [spawner.runner for spawner in spawners] == [None, None]
    assert await browser.who() == ""
    assert (
        await hub.browser().ask("GET", "/hub/api/user", headers={"Authorization": f"token {token}"})
    ).status == 403
    assert (await hub.browser().sign_in("quin", GOOD)).status == 403
    assert (await hub.browser().get(path_of(reset))).status == 404
    assert (await hub.api("GET", "/users/quin")).status == 404
    again = await hub.member("quin")
    assert await again.who() == "quin"
    renewed = hub.store.find("quin")
    assert renewed is not None
    assert renewed.identity != account.identity


@on_a_hub
async def test_a_session_that_is_just_starting_is_ended_too(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await hub.member("rob")
    user = next(user for user in hub.app.users.values() if user.name == "rob")
    begun = asyncio.Event()

    async def never() -> None:
        begun.set()
        await asyncio.sleep(600)

    user.spawner.start = never
    starting = asyncio.create_task(start(hub, browser, "cpu"))
    await begun.wait()
    gone = await asyncio.wait_for(hub.api("DELETE", "/labdock/users/rob?home=delete"), 10)
    assert (gone.status, gone.json) == (200, {"name": "rob", "home": ""})
    starting.cancel()
    assert hub.agent.removed[-1][1] is True


@on_a_hub
async def test_while_somebody_is_removed_they_can_neither_sign_in_nor_start(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await hub.member("sue")
    reset = (await hub.api("POST", "/labdock/users/sue/reset")).json["link"]
    form = (await browser.get("/hub/spawn")).xsrf()
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(identity: str, *, delete_home: bool) -> str:
        arrived.set()
        await go_on.wait()
        return ""

    monkeypatch.setattr(hub.agent, "remove_person", slowly)
    removing = asyncio.create_task(hub.api("DELETE", "/labdock/users/sue?home=delete"))
    await arrived.wait()
    assert (await hub.browser().sign_in("sue", GOOD)).status == 403
    assert (await hub.browser().get(path_of(reset))).status == 404
    assert (await browser.post("/hub/spawn", {"_xsrf": form, "image": "cpu"})).status in (302, 403)
    twice = await hub.api("DELETE", "/labdock/users/sue?home=keep")
    assert twice.status == 409
    go_on.set()
    assert (await removing).status == 200
    assert not any(user.name == "sue" for user in hub.app.users.values())


@on_a_hub
async def test_when_the_agent_fails_the_account_stays_to_try_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hub.member("tom")

    async def fail(identity: str, *, delete_home: bool) -> str:
        raise EngineError("The engine does not answer.", fix="Try again.")

    with monkeypatch.context() as patched:
        patched.setattr(hub.agent, "remove_person", fail)
        answer = await hub.api("DELETE", "/labdock/users/tom?home=keep")
        assert (answer.status, answer.json["message"]) == (503, "The engine does not answer. Try again.")
    assert (await hub.browser().sign_in("tom", GOOD)).status == 302
    assert (await hub.api("DELETE", "/labdock/users/tom?home=keep")).status == 200


@on_a_hub
async def test_an_administrator_removes_neither_themselves_nor_by_a_forged_form(hub: Hub) -> None:
    boss = await hub.member("uma", admin=True)
    await hub.member("udo")
    assert "Cancel" in (await boss.get("/hub/people/udo/remove")).text
    forged = await boss.post("/hub/people/udo/remove", {"home": "delete"})
    assert forged.status == 403
    xsrf = (await boss.get("/hub/people/udo/remove")).xsrf()
    unsaid = await boss.post("/hub/people/udo/remove", {"_xsrf": xsrf})
    assert unsaid.status == 400
    assert "Choose what becomes of the home" in unsaid.text
    own = await boss.post("/hub/people/uma/remove", {"_xsrf": xsrf, "home": "keep"})
    assert own.status == 409
    assert "cannot remove yourself" in own.text
    done = await boss.post("/hub/people/udo/remove", {"_xsrf": xsrf, "home": "keep"})
    assert (done.status, done.headers["Location"]) == (303, "/hub/people?removed=udo")
    assert "udo was removed" in (await boss.get("/hub/people?removed=udo")).text
    assert (await boss.get("/hub/people/udo/remove")).status == 404


# --- people: the page ---


@on_a_hub
async def test_the_people_page_invites_and_resets_with_a_link_shown_once(hub: Hub) -> None:
    boss = await hub.member("vera", admin=True)
    xsrf = (await boss.get("/hub/people")).xsrf()
    made = await boss.post("/hub/people", {"_xsrf": xsrf, "name": "vic", "admin": "yes"})
    link = re.search(r'value="(http[^"]*/hub/link/[^"]+)"', made.text)
    assert link
    assert link.group(1) not in (await boss.get("/hub/people")).text
    guest = hub.browser()
    await guest.use_link(link.group(1), GOOD)
    assert (await guest.get("/hub/people")).status == 200
    reset = await boss.post("/hub/people/vic/reset", {"_xsrf": xsrf})
    assert "Link for vic" in reset.text
    for path, fields in (("/hub/people", {"name": "viv"}), ("/hub/people/vic/reset", {})):
        assert (await boss.post(path, fields)).status == 403
    assert hub.store.find("viv") is None


@on_a_hub
@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x>', "vera2 ", "ADA"])
async def test_what_was_typed_comes_back_escaped(hub: Hub, name: str) -> None:
    boss = hub.browser()
    await boss.use_link((await hub.api("POST", "/labdock/first-link")).json["link"])
    xsrf = (await boss.get("/hub/people")).xsrf()
    answer = await boss.post("/hub/people", {"_xsrf": xsrf, "name": name})
    assert answer.status == (200 if name == "vera2 " else 409)
    assert "<script>alert" not in answer.text
    assert "<img src=x" not in answer.text
    told = await boss.get("/hub/people?removed=%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in told.text


@on_a_hub
async def test_an_administrator_stops_somebody_s_sessions_on_the_people_page(hub: Hub) -> None:
    boss = await hub.member("wanda", admin=True)
    browser = await hub.member("wes")
    await start(hub, browser, "cpu")
    await start(hub, browser, "cpu", server="second")
    page = await boss.get("/hub/people")
    assert 'action="/hub/people/wes/stop"' in page.text
    assert (await boss.post("/hub/people/wes/stop", {})).status == 403
    done = await boss.post("/hub/people/wes/stop", {"_xsrf": page.xsrf()})
    assert (done.status, done.headers["Location"]) == (303, "/hub/people?stopped=wes")
    page = await boss.get("/hub/people?stopped=wes")
    assert "wes has no session running now." in page.text
    assert 'action="/hub/people/wes/stop"' not in page.text
    assert await browser.who() == "wes"
    assert (await boss.post("/hub/people/nobody.here/stop", {"_xsrf": page.xsrf()})).status == 404


# --- starting a session ---


async def start(hub: Hub, browser: Browser, image: str, server: str = "") -> None:
    """Start a session with the form, and wait until it runs: a busy hub answers before that."""
    name = await browser.who()
    path = f"/hub/spawn/{name}/{server}" if server else "/hub/spawn"
    form = await browser.get(path)
    answer = await browser.post(path, {"_xsrf": form.xsrf(), "image": image})
    assert answer.status == 302, answer.text
    await until_ready(hub, name, server)


@on_a_hub
async def test_the_start_page_offers_the_images_and_remembers_the_last(hub: Hub) -> None:
    browser = await hub.member("will")
    page = (await browser.get("/hub/spawn")).text
    chosen = re.search(r'value="cpu" required checked', page)
    assert chosen
    assert "Broken &lt;b&gt;one&lt;/b&gt;" in page
    assert page.count("4 CPUs, 8 GiB of memory") == 2
    assert page.count('type="submit"') == 1
    await browser.post("/hub/spawn", {"_xsrf": (await browser.get("/hub/spawn")).xsrf(), "image": "broken"})
    assert re.search(r'value="broken" required checked', (await browser.get("/hub/spawn")).text)


@on_a_hub
async def test_a_failed_start_tells_its_cause_at_once_and_on_the_start_page(hub: Hub) -> None:
    browser = await hub.member("xia")
    form = await browser.get("/hub/spawn")
    failed = await browser.post("/hub/spawn", {"_xsrf": form.xsrf(), "image": "broken"})
    assert failed.status == 503
    waiting = await browser.get("/hub/spawn-pending/xia")
    opened_again = await browser.get("/hub/spawn")
    for page in (failed, waiting, opened_again):
        assert page.text.count("The container ended at once.") == 1
        assert "Choose another image." in page.text
        assert "line 1\n&lt;i&gt;line 2&lt;/i&gt;" in page.text
        assert "spawn failed" not in page.text.lower()
    await start(hub, browser, "cpu")
    assert "The container ended at once." not in (await browser.get("/hub/home")).text


@on_a_hub
@pytest.mark.parametrize("fields", [{"image": "nope"}, {"image": "<script>"}, {"image": "cpu", "cpus": "8"}])
async def test_a_start_form_that_makes_no_sense_is_refused_with_a_sentence(
    hub: Hub, fields: dict[str, str]
) -> None:
    if hub.store.find("yan") is None:
        await hub.member("yan")
    browser = hub.browser()
    await browser.sign_in("yan", GOOD)
    form = await browser.get("/hub/spawn")
    answer = await browser.post("/hub/spawn", {"_xsrf": form.xsrf(), **fields})
    assert answer.status == 400
    assert "There is no image" in answer.text or "Unknown option" in answer.text
    assert "<script>" not in answer.text.split("<main")[1].split("</main>")[0]
    by_api = await hub.api("POST", "/users/yan/server", json=fields)
    assert by_api.status == 400
    assert by_api.json["message"].startswith(("There is no image", "Unknown option"))
    assert (await browser.post("/hub/spawn", {"image": "cpu"})).status == 403


@on_a_hub
async def test_home_stops_the_session_that_it_shows(hub: Hub) -> None:
    browser = await hub.member("zoe")
    await start(hub, browser, "cpu")
    await start(hub, browser, "cpu", server="second")
    page = await browser.get("/hub/home")
    stops = re.findall(r'data-ld-stop="([^"]+)"', page.text)
    assert stops == ["/hub/api/users/zoe/server", "/hub/api/users/zoe/servers/second"]
    xsrf = re.search(r'xsrf_token: "([^"]+)"', page.text)
    assert xsrf
    answer = await browser.ask("DELETE", stops[1], headers={"X-XSRFToken": xsrf.group(1)})
    assert answer.status == 204
    page = await browser.get("/hub/home")
    assert re.findall(r'data-ld-stop="([^"]+)"', page.text) == ["/hub/api/users/zoe/server"]


@on_a_hub
async def test_the_waiting_page_stops_the_named_session_it_waits_for(hub: Hub) -> None:
    browser = await hub.member("abe")
    await browser.get("/hub/spawn/abe/slow")
    user = next(user for user in hub.app.users.values() if user.name == "abe")
    begun = asyncio.Event()

    async def never() -> None:
        begun.set()
        await asyncio.sleep(600)

    user.spawners["slow"].start = never
    form = await browser.get("/hub/spawn/abe/slow")
    answer = await browser.post("/hub/spawn/abe/slow", {"_xsrf": form.xsrf(), "image": "cpu"})
    assert answer.headers["Location"].startswith("/hub/spawn-pending/abe/slow")
    page = await browser.get("/hub/spawn-pending/abe/slow")
    assert 'data-ld-stop="/hub/api/users/abe/servers/slow"' in page.text
    assert 'href="/hub/spawn/abe/slow" hidden' in page.text
    assert 'data-progress-url="/hub/api/users/abe/servers/slow/progress?_xsrf=' in page.text
    assert (await hub.api("DELETE", "/labdock/users/abe?home=keep")).status == 200


# --- what holds without a hub ---


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(NAMES, NAMES, st.lists(NAMES, max_size=40))
def test_no_text_of_a_failure_becomes_markup(message: str, fix: str, lines: list[str]) -> None:
    html = pages.failure_html(
        StartError(f"<b>{message}", fix=f"<i>{fix}", details=tuple(f"<u>{x}" for x in lines))
    )
    for tag in ("<b>", "<i>", "<u>"):
        assert tag not in html
    assert html.count("&lt;u&gt;") <= 20 + message.count("<u>") + fix.count("<u>")


@given(st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=3), max_size=4))
def test_any_form_becomes_options_that_can_be_stored(form: dict[str, list[str]]) -> None:
    json.dumps(pages.options_from_form(form))
    assert "_xsrf" not in pages.options_from_form({**form, "_xsrf": ["x"]})


@given(st.one_of(st.none(), NAMES, st.lists(NAMES), st.integers()))
def test_the_start_form_always_has_one_image_chosen(last: object) -> None:
    spawner = SimpleNamespace(
        settings=SETTINGS,
        cards=Cards(FakeAgent(), "test", SETTINGS.gpus),
        user_options={"image": last},
        images=lambda: IMAGES,
        user=SimpleNamespace(name="ada", admin=False, groups=[]),
        start_progress=SimpleNamespace(failure=None),
    )
    assert asyncio.run(pages.options_form(spawner)).count("checked") == 1


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(cpus=4, memory_bytes=8 * 2**30), "4 CPUs, 8 GiB of memory"),
        (Limits(cpus=1, memory_bytes=512 * 2**20), "1 CPU, 512 MiB of memory"),
        (Limits(cpus=0.5, memory_bytes=int(1.5 * 2**30)), "0.5 CPUs, 1.5 GiB of memory"),
        (Limits(cpus=None, memory_bytes=None), "all CPUs, all memory"),
    ],
)
def test_limits_read_well(limits: Limits, words: str) -> None:
    assert pages.limits_in_words(limits) == words


def test_the_page_for_a_hub_that_is_away_needs_nothing_else() -> None:
    html = pages.UNAVAILABLE_PAGE.read_text()
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert 'http-equiv="refresh"' in html


def test_no_page_speaks_of_spawning() -> None:
    for template in sorted((pages.HERE / "templates").glob("*.html")):
        shown = re.sub(r"\{#.*?#\}|\{[%{].*?[%}]\}|<[^>]*>", " ", template.read_text(), flags=re.S)
        assert not re.search(r"spawn|\bserver|\bcull|OOM", shown, re.I), template.name


def report_of(*leases: Lease, **cards: str) -> GpuReport:
    """Cards GPU-0 and GPU-1, with *leases*; ``fault`` is GPU-1's, ``driver`` the driver's version now."""
    two = inventory(card(0), card(1, fault=cards.get("fault", "")))
    driver = Driver(cards.get("driver", "570.86.15"), None, (), (), "/usr/lib")
    return GpuReport(replace(two, driver=driver), leases, Way.DEVICES)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (report_of(lease("GPU-0")), ""),
        (report_of(lease("GPU-0"), driver="580.1"), "driver was updated"),
        (report_of(lease("GPU-9")), "not there any more"),
        (report_of(lease("GPU-1"), fault="It has fallen off the bus."), "reports a fault"),
    ],
    ids=["well", "updated", "gone", "faulty"],
)
def test_a_session_whose_card_is_not_as_it_was_is_told_to_start_anew(report: GpuReport, words: str) -> None:
    held = pages.held_gpus(report, "lab-session-ben")
    assert held is not None
    assert words in held.notice
    assert bool(words) == bool(held.notice)
    assert pages.held_gpus(report, "lab-session-eve") is None


@pytest.mark.parametrize(("limit", "most"), [(None, 2), (5, 2), (1, 1), (0, 1)])
def test_the_form_offers_no_more_cards_than_somebody_may_hold(limit: int | None, most: int) -> None:
    form = pages.gpu_form(report_of(), SETTINGS, {"gpus": 2}, limit)
    assert form is not None
    assert (form.most, form.number) == (most, most)


def test_people_are_told_of_a_fault_and_not_how_to_mend_it() -> None:
    form = pages.gpu_form(report_of(fault="Reset it as root."), SETTINGS, {}, None)
    assert form is not None
    assert form.notes == ("1 GPU reports a fault and is not given out.",)
