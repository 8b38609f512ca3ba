"""Signing in with GitHub, on a real hub, by the way a browser goes."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from labdock.core.login import AccessRules
from labdock.hub import provider_base
from labdock.hub.rights import keep_rights
from tests.hub.conftest import until_ready
from tests.hub.signing_in import Site, choose, kind, on_hub, running_site, set_out, sign_in, with_query
from tests.providers.github import GitHub, Organization

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = AccessRules(
    admins=("mia",), people=("kim",), organizations=("vision-lab",), teams=("institute:gpu-users",)
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: Any) -> AsyncIterator[Site[GitHub]]:
    github = GitHub()
    github.organizations["vision-lab"] = Organization()
    github.organizations["institute"] = Organization(teams={"gpu-users": set()})
    async with running_site(tmp_path_factory.mktemp("github"), github, "github", RULES) as running:
        yield running


def look_anew(site: Site[GitHub]) -> None:
    """Let everybody's rights be looked at with the next page, and the provider be left alone."""
    for user in site.hub.app.users.values():
        user._auth_refreshed = None


# Who gets in.


async def test_a_member_of_the_organization_signs_in_and_comes_to_the_page_they_wanted(
    site: Site[GitHub],
) -> None:
    ada = site.provider.join("Ada", "vision-lab")
    browser, answer = await sign_in(site, ada.id, "?next=%2Fhub%2Ftoken")
    assert answer.status == 302
    assert answer.headers["Location"] == "/hub/token"
    assert await browser.who() == "ada"
    account = site.hub.store.find("ada")
    assert account is not None
    assert account.identity == f"github:{ada.id}"
    assert account.groups == {"vision-lab"}


async def test_a_member_of_the_team_gets_in_and_one_of_its_organization_alone_does_not(
    site: Site[GitHub],
) -> None:
    tom, tim = site.provider.join("tom", "institute"), site.provider.join("tim", "institute")
    site.provider.organizations["institute"].teams["gpu-users"].add(tom.id)
    browser, _ = await sign_in(site, tom.id)
    assert await browser.who() == "tom"
    _, answer = await sign_in(site, tim.id)
    assert (answer.status, kind(answer)) == (403, "unlisted")


async def test_who_was_invited_to_the_organization_and_has_not_agreed_is_no_member(
    site: Site[GitHub],
) -> None:
    ivy = site.provider.join("ivy")
    site.provider.organizations["vision-lab"].members[ivy.id] = "pending"
    _, answer = await sign_in(site, ivy.id)
    assert kind(answer) == "unlisted"
    site.provider.organizations["vision-lab"].members[ivy.id] = "active"
    browser, _ = await sign_in(site, ivy.id)
    assert await browser.who() == "ivy"


async def test_a_listed_person_and_an_administrator_need_no_organization(site: Site[GitHub]) -> None:
    browser, _ = await sign_in(site, site.provider.join("kim").id)
    assert (await browser.get("/hub/people")).status == 403
    browser, _ = await sign_in(site, site.provider.join("Mia").id)
    assert (await browser.get("/hub/people")).status == 200


async def test_who_is_let_in_by_login_gets_no_account_that_only_has_the_same_name(
    site: Site[GitHub],
) -> None:
    # Of the time before people signed in with GitHub.
    old = site.hub.store.add("nell", admin=False, now=1)
    for _ in range(2):
        made = await site.hub.api("POST", "/labdock/users", json={"name": "nell"})
        assert (made.status, made.json["name"]) == (201, "nell-2")
    browser, _ = await sign_in(site, site.provider.join("nell").id)
    assert await browser.who() == "nell-2"
    known = await site.hub.api("POST", "/labdock/users", json={"name": "nell"})
    assert (known.status, "known here already, as nell-2" in known.text) == (409, True)
    # An administrator's word connects them.
    made = await site.hub.api("POST", "/labdock/users", json={"name": "nell-gh", "as": "nell"})
    assert (made.status, made.json["name"]) == (201, "nell")
    browser, _ = await sign_in(site, site.provider.join("nell-gh").id)
    assert await browser.who() == "nell"
    again = site.hub.store.find("nell")
    assert again is not None
    assert again.identity == old.identity


async def test_nobody_is_expected_by_an_address_that_github_does_not_tell(site: Site[GitHub]) -> None:
    made = await site.hub.api("POST", "/labdock/users", json={"name": "olaf@example.edu"})
    assert (made.status, made.json["field"]) == (400, "name")
    assert "GitHub tells none" in made.json["message"]


async def test_whom_an_administrator_expects_gets_the_account_and_stays_in(site: Site[GitHub]) -> None:
    made = await site.hub.api("POST", "/labdock/users", json={"name": "nina-gh", "as": "nina"})
    assert made.status == 201, made.text
    browser, _ = await sign_in(site, site.provider.join("nina-gh").id)
    assert await browser.who() == "nina"
    site.ask_anew()
    assert await browser.who() == "nina"


async def test_nothing_but_memberships_is_asked_for_and_those_only_while_they_matter(
    site: Site[GitHub],
) -> None:
    trip = await set_out(site.hub.browser())
    assert trip.asked["scope"] == "read:org"
    with site.rules(organizations=(), teams=()):
        trip = await set_out(site.hub.browser())
        assert trip.asked.get("scope", "") == ""


async def test_the_callback_is_the_site_s_own_whatever_the_request_says(site: Site[GitHub]) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    sent = await site.hub.browser().get("/hub/oauth_login", headers=headers)
    assert "evil" not in sent.headers["Location"]
    assert "lab.example%3A8000%2Fhub%2Foauth_callback" in sent.headers["Location"]


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example"]
)
async def test_signing_in_never_leads_to_another_site(site: Site[GitHub], target: str) -> None:
    person = next((p for p in site.provider.people.values() if p.login == "fay"), None)
    person = person or site.provider.join("fay", "vision-lab")
    _, answer = await sign_in(site, person.id, f"?next={target}")
    location = answer.headers["Location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))


# Whose account it is.


async def test_a_renamed_login_keeps_its_account_and_a_stranger_under_the_old_one_gets_another(
    site: Site[GitHub],
) -> None:
    rosa = site.provider.join("rosa", "vision-lab")
    await sign_in(site, rosa.id)
    rosa.login = "rosalind"
    browser, _ = await sign_in(site, rosa.id)
    assert await browser.who() == "rosa"

    stranger = site.provider.join("rosa", "vision-lab")
    browser, _ = await sign_in(site, stranger.id)
    assert await browser.who() == "rosa-2"
    old, new = site.hub.store.find("rosa"), site.hub.store.find("rosa-2")
    assert old is not None
    assert new is not None
    assert (old.identity, new.identity) == (f"github:{rosa.id}", f"github:{stranger.id}")


async def test_a_login_that_was_deleted_and_registered_anew_gets_another_account(site: Site[GitHub]) -> None:
    first = site.provider.join("dan", "vision-lab")
    await sign_in(site, first.id)
    site.provider.delete(first)
    second = site.provider.join("dan", "vision-lab")
    browser, _ = await sign_in(site, second.id)
    assert await browser.who() == "dan-2"


async def test_a_stranger_with_an_administrator_s_old_login_is_no_administrator(site: Site[GitHub]) -> None:
    with site.rules(admins=("mia", "boss")):
        boss = site.provider.join("boss")
        browser, _ = await sign_in(site, boss.id)
        assert (await browser.get("/hub/people")).status == 200
        boss.login = "boss-of-old"
        stranger = site.provider.join("boss")
        _, answer = await sign_in(site, stranger.id)
        assert kind(answer) == "unlisted"
        site.provider.organizations["vision-lab"].members[stranger.id] = "active"
        browser, _ = await sign_in(site, stranger.id)
        assert await browser.who() == "boss-2"
        assert (await browser.get("/hub/people")).status == 403


async def test_an_answer_without_the_id_lets_nobody_in(site: Site[GitHub]) -> None:
    mia = site.provider.join("noid", "vision-lab")
    site.provider.leaves_out = {"id"}
    try:
        _, answer = await sign_in(site, mia.id)
    finally:
        site.provider.leaves_out = set()
    assert (answer.status, kind(answer)) == (500, "no-identity")
    assert site.hub.store.find("noid") is None


# Who does not.


async def test_a_stranger_is_told_that_nobody_expects_them(site: Site[GitHub]) -> None:
    browser, answer = await sign_in(site, site.provider.join("stranger").id)
    assert (answer.status, kind(answer)) == (403, "unlisted")
    assert "GitHub knows you as stranger" in answer.text
    assert "admin@lab.example" in answer.text
    assert "Use another account" in answer.text
    assert await browser.who() == ""


async def test_whoever_uses_another_account_is_asked_which(site: Site[GitHub]) -> None:
    sent = await site.hub.browser().get("/hub/oauth_login?other=yes")
    assert "prompt=select_account" in sent.headers["Location"]


async def test_a_stranger_waits_and_gets_in_once_approved(site: Site[GitHub]) -> None:
    wanda = site.provider.join("wanda")
    with site.rules(approve=True, admins=("mia", "warden")):
        browser, answer = await sign_in(site, wanda.id)
        assert answer.headers["Location"] == "/hub/waiting"
        page = await browser.get("/hub/waiting")
        assert "Waiting for approval" in page.text
        admin, _ = await sign_in(site, site.provider.join("warden").id)
        people = await admin.get("/hub/people")
        assert "wanda" in people.text
        approved = await admin.post("/hub/people/wanda/approve", {"_xsrf": people.xsrf()})
        assert approved.status == 303
        browser, _ = await sign_in(site, wanda.id)
        assert await browser.who() == "wanda"


async def test_each_way_to_keep_memberships_back_is_told_apart(site: Site[GitHub]) -> None:
    lab = site.provider.organizations["vision-lab"]
    otto = site.provider.join("otto", "vision-lab")
    lab.lets_in = set()
    try:
        _, answer = await sign_in(site, otto.id)
        assert (answer.status, kind(answer)) == (403, "membership-hidden")
        assert "Ask an owner of vision-lab" in answer.text
        assert "Third-party access" in site.hub.lines.text
        lab.lets_in, lab.saml = None, True
        _, answer = await sign_in(site, otto.id)
        assert kind(answer) == "membership-hidden"
        assert "SAML single sign-on" in site.hub.lines.text
    finally:
        lab.lets_in, lab.saml = None, False
    trip = await set_out(site.hub.browser())
    trip.at_provider = with_query(trip.at_provider, scope=None)
    answer = await (await choose(site, trip, otto.id)).come_back()
    assert kind(answer) == "membership-hidden"
    assert "lacks the scope read:org" in site.hub.lines.text
    site.provider.rate_limit_used_up = True
    try:
        _, answer = await sign_in(site, otto.id)
    finally:
        site.provider.rate_limit_used_up = False
    assert (answer.status, kind(answer)) == (503, "provider-rate-limit")
    assert 1000 < int(answer.headers["Retry-After"]) <= 1200
    browser, _ = await sign_in(site, otto.id)
    assert await browser.who() == "otto"


async def test_who_is_on_a_list_gets_in_though_memberships_cannot_be_seen(site: Site[GitHub]) -> None:
    lena = site.provider.join("lena")
    site.provider.organizations["vision-lab"].lets_in = set()
    try:
        with site.rules(people=("lena",)):
            browser, _ = await sign_in(site, lena.id)
            assert await browser.who() == "lena"
    finally:
        site.provider.organizations["vision-lab"].lets_in = None


# What is set up wrongly, or fails.


async def test_a_wrong_client_id_and_a_wrong_secret_are_told_before_github_s_own_dead_end(
    site: Site[GitHub],
) -> None:
    authenticator = site.authenticator
    right = authenticator.client_id, authenticator.client_secret
    for wrong, word, fix in (
        (("nobody", right[1]), "wrong-client", "login.client_id"),
        ((right[0], "not-the-secret"), "wrong-secret", "labdock secret set client_secret"),
    ):
        authenticator.client_id, authenticator.client_secret = wrong
        with site.afresh():
            answer = await site.hub.browser().get("/hub/oauth_login")
        assert (answer.status, kind(answer)) == (500, word)
        assert "nothing is wrong with your account" in answer.text
        assert fix in site.hub.lines.text
    authenticator.client_id, authenticator.client_secret = right
    assert (await site.hub.browser().get("/hub/oauth_login")).status == 302


async def test_a_secret_that_was_changed_meanwhile_is_told_at_the_way_back(site: Site[GitHub]) -> None:
    person = site.provider.join("sue", "vision-lab")
    trip = await choose(site, await set_out(site.hub.browser()), person.id)
    secret, site.application.secret = site.application.secret, "changed"
    try:
        answer = await trip.come_back()
    finally:
        site.application.secret = secret
    assert (answer.status, kind(answer)) == (500, "wrong-secret")


async def test_a_wrong_callback_is_told_with_the_right_one(site: Site[GitHub]) -> None:
    site.application.callback += "/of/old"
    try:
        trip = await choose(site, await set_out(site.hub.browser()), "")
    finally:
        site.application.callback = site.application.callback.removesuffix("/of/old")
    answer = await trip.browser.get(on_hub(trip.back.replace("/of/old", "")))
    assert (answer.status, kind(answer)) == (500, "wrong-callback")
    assert "Set it there to exactly http://lab.example:8000/hub/oauth_callback" in site.hub.lines.text


async def test_who_says_no_at_github_is_told_so_and_may_try_again(site: Site[GitHub]) -> None:
    _, answer = await sign_in(site, "", "?next=%2Fhub%2Ftoken")
    assert (answer.status, kind(answer)) == (403, "said-no")
    assert "/hub/oauth_login?next=%2Fhub%2Ftoken" in answer.text


async def test_a_github_that_is_down_is_a_page_that_says_so_before_and_after(site: Site[GitHub]) -> None:
    person = site.provider.join("dora", "vision-lab")
    trip = await choose(site, await set_out(site.hub.browser()), person.id)
    site.provider.down = True
    try:
        answer = await trip.come_back()
        assert (answer.status, kind(answer)) == (503, "provider-down")
        assert answer.headers["Retry-After"] == "60"
        with site.afresh():
            answer = await site.hub.browser().get("/hub/oauth_login")
            assert (answer.status, kind(answer)) == (503, "provider-down")
    finally:
        site.provider.down = False


async def test_a_slow_github_holds_up_one_sign_in_for_so_long_and_nobody_else(
    site: Site[GitHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(site.authenticator.http_request_kwargs, "request_timeout", 1.0)
    site.provider.slow_s = 4
    try:
        with site.afresh():
            waiting = asyncio.create_task(site.hub.browser().get("/hub/oauth_login"))
            await asyncio.sleep(0.2)
            assert (await site.hub.browser().get("/hub/login")).status == 200
            assert not waiting.done()
            answer = await waiting
    finally:
        site.provider.slow_s = 0
    assert (answer.status, kind(answer)) == (503, "provider-down")


async def test_a_github_with_a_certificate_of_nobody_known_is_told_nothing(site: Site[GitHub]) -> None:
    asked = len(site.provider.asked)
    kwargs = site.authenticator.http_request_kwargs
    trusted, kwargs["ssl_options"] = kwargs["ssl_options"], ssl.create_default_context()
    try:
        with site.afresh():
            answer = await site.hub.browser().get("/hub/oauth_login")
    finally:
        kwargs["ssl_options"] = trusted
    assert (answer.status, kind(answer)) == (502, "provider-not-trusted")
    assert len(site.provider.asked) == asked
    assert "login.authority" in site.hub.lines.text


async def test_a_secret_and_a_token_go_nowhere_but_where_they_were_meant_to(site: Site[GitHub]) -> None:
    person = site.provider.join("ruth", "vision-lab")
    for path in ("/login/oauth/access_token", "/api/v3/user"):
        trip = await choose(site, await set_out(site.hub.browser()), person.id)
        site.provider.moved = {path: f"{site.provider.url}/elsewhere"}
        try:
            answer = await trip.come_back()
        finally:
            site.provider.moved = {}
        assert (answer.status, kind(answer)) == (502, "strange-answer")
    assert not [asked for asked in site.provider.asked if "elsewhere" in asked]


# Attacks.


async def test_a_forged_or_missing_state_signs_nobody_in(site: Site[GitHub]) -> None:
    eve = site.provider.join("eve", "vision-lab")
    for state in (None, "", "x", "eyJzdGF0ZV9pZCI6ICJtYWRlIHVwIn0=", "W10=", "ä" * 9, "A" * 9000):
        trip = await choose(site, await set_out(site.hub.browser()), eve.id)
        forged = with_query(trip.back, state=state)
        answer = await trip.browser.get(on_hub(forged))
        assert (answer.status, kind(answer)) == (400, "no-state")
        assert await trip.browser.who() == ""


async def test_the_way_back_in_another_browser_signs_nobody_in(site: Site[GitHub]) -> None:
    """Login CSRF: an attacker's own sign-in must not be finished in somebody else's browser."""
    mallory = site.provider.join("mallory", "vision-lab")
    victim = site.hub.browser()
    await set_out(victim)
    trip = await choose(site, await set_out(site.hub.browser()), mallory.id)
    answer = await trip.come_back(victim)
    assert (answer.status, kind(answer)) == (400, "no-state")
    assert await victim.who() == ""


async def test_a_code_is_good_for_one_sign_in(site: Site[GitHub]) -> None:
    cleo = site.provider.join("cleo", "vision-lab")
    trip = await choose(site, await set_out(site.hub.browser()), cleo.id)
    assert (await trip.come_back()).status == 302
    # The same browser goes back: it is signed in and stays so.
    again = await trip.come_back()
    assert (again.status, again.headers["Location"]) == (302, "/hub/home")
    # The used code with a fresh state, in another browser.
    code = next(code for code, given in site.provider.codes.items() if given.person == cleo.id)
    fresh = await choose(site, await set_out(site.hub.browser()), cleo.id)
    answer = await fresh.browser.get(on_hub(with_query(fresh.back, code=code)))
    assert (answer.status, kind(answer)) == (400, "code-spent")
    assert await fresh.browser.who() == ""


async def test_a_code_made_for_another_application_or_another_sign_in_is_refused(site: Site[GitHub]) -> None:
    cora = site.provider.join("cora", "vision-lab")
    other = site.provider.register(site.application.callback)
    stolen = await set_out(site.hub.browser())
    stolen.at_provider = with_query(stolen.at_provider, client_id=other.client_id)
    await choose(site, stolen, cora.id)
    elsewhere = await choose(site, await set_out(site.hub.browser()), cora.id)
    for victim in (stolen, elsewhere):
        fresh = await choose(site, await set_out(site.hub.browser()), cora.id)
        code = with_query(victim.back).partition("code=")[2].partition("&")[0]
        answer = await fresh.browser.get(on_hub(with_query(fresh.back, code=code)))
        assert (answer.status, kind(answer)) == (400, "code-spent")


async def test_a_form_with_a_code_in_it_is_no_way_in(site: Site[GitHub]) -> None:
    browser = site.hub.browser()
    page = await browser.get("/hub/waiting")
    page = await browser.get("/hub/login")
    xsrf = re.search(r'xsrf_token: "([^"]+)"', page.text)
    assert xsrf, page.text
    fields = {"_xsrf": xsrf.group(1), "code": "x", "state": "x", "username": "mia", "password": "x"}
    answer = await browser.post("/hub/login", fields)
    assert answer.status == 400
    assert "Sign in with GitHub" in answer.text


async def test_the_callback_of_another_site_is_no_way_in(site: Site[GitHub]) -> None:
    trip = await set_out(site.hub.browser())
    trip.at_provider = with_query(trip.at_provider, redirect_uri="https://evil.example/hub/oauth_callback")
    await choose(site, trip, "")
    assert trip.back.startswith("http://lab.example:8000/hub/oauth_callback?error=redirect_uri_mismatch")


async def test_what_a_made_up_error_says_is_not_shown(site: Site[GitHub]) -> None:
    trip = await choose(site, await set_out(site.hub.browser()), "")
    words = "<b>Call 0900 now</b>"
    answer = await trip.browser.get(
        on_hub(with_query(trip.back, error="<i>odd</i>", error_description=words))
    )
    assert kind(answer) == "strange-answer"
    assert "0900" not in answer.text + site.hub.lines.text.rpartition("error_description")[0][-200:]
    assert "<i>odd" not in answer.text


# Later on.


async def test_who_leaves_the_organization_is_out_also_with_a_token(site: Site[GitHub]) -> None:
    lea = site.provider.join("lea", "vision-lab")
    browser, _ = await sign_in(site, lea.id)
    page = await browser.get("/hub/spawn")
    made = await browser.ask(
        "POST", "/hub/api/users/lea/tokens", headers={"X-XSRFToken": page.xsrf()}, json={}
    )
    assert made.status == 201, made.text
    token = made.json["token"]
    assert (await site.hub.api("GET", "/user", token=token)).status == 200

    del site.provider.organizations["vision-lab"].members[lea.id]
    assert await browser.who() == "lea"
    site.ask_anew()
    assert (await site.hub.api("GET", "/user", token=token)).status == 403
    assert await browser.who() == ""
    started = await site.hub.api("POST", "/users/lea/server", json={"image": "cpu"})
    assert started.status == 403


async def test_who_leaves_the_organization_loses_the_session_that_runs(site: Site[GitHub]) -> None:
    lia = site.provider.join("lia", "vision-lab")
    await sign_in(site, lia.id)
    made = await site.hub.api("POST", "/users/lia/tokens", json={})
    started = await site.hub.api("POST", "/users/lia/server", json={"image": "cpu"})
    assert started.status in (201, 202), started.text
    await until_ready(site.hub, "lia")

    async def sweep() -> None:
        assert (await site.hub.api("POST", "/labdock/sweep", json={})).status == 200

    care = asyncio.create_task(keep_rights(site.hub.sign_in.admission.state, sweep, every_s=0.05))
    try:
        await asyncio.sleep(0.3)
        assert (await site.hub.api("GET", "/users/lia")).json["server"] is not None
        del site.provider.organizations["vision-lab"].members[lia.id]
        site.ask_anew()
        # As the session asks with its own token, whether somebody has a page open or not.
        assert (await site.hub.api("GET", "/user", token=made.json["token"])).status == 403
        async with asyncio.timeout(10):
            while (await site.hub.api("GET", "/users/lia")).json["server"] is not None:
                await asyncio.sleep(0.05)
    finally:
        care.cancel()


async def test_a_token_ends_with_the_sign_in_that_github_does_not_confirm(site: Site[GitHub]) -> None:
    lil = site.provider.join("lil", "vision-lab")
    browser, _ = await sign_in(site, lil.id)
    made = await site.hub.api("POST", "/users/lil/tokens", json={})
    token = made.json["token"]
    assert (await site.hub.api("GET", "/user", token=token)).status == 200
    for given in site.provider.tokens:
        given.dead = given.dead or given.person == lil.id
    site.ask_anew()
    assert (await site.hub.api("GET", "/user", token=token)).status == 403
    # Nor is it good again a little later.
    look_anew(site)
    assert (await site.hub.api("GET", "/user", token=token)).status == 403
    assert await browser.who() == ""
    await sign_in(site, lil.id)
    assert (await site.hub.api("GET", "/user", token=token)).status == 200


async def test_whom_an_administrator_shuts_out_is_out_at_once_with_cookie_and_token(
    site: Site[GitHub],
) -> None:
    rob = site.provider.join("rob", "vision-lab")
    browser, _ = await sign_in(site, rob.id)
    page = await browser.get("/hub/spawn")
    made = await browser.ask(
        "POST", "/hub/api/users/rob/tokens", headers={"X-XSRFToken": page.xsrf()}, json={}
    )
    token = made.json["token"]
    # Another sign-in that is still on its way.
    trip = await choose(site, await set_out(site.hub.browser()), rob.id)
    with site.rules(admins=("mia", "root")):
        admin, _ = await sign_in(site, site.provider.join("root").id)
        people = await admin.get("/hub/people")
        refused = await admin.post("/hub/people/rob/refuse", {"_xsrf": people.xsrf()})
        assert refused.status == 303
    assert await browser.who() == ""
    assert (await site.hub.api("GET", "/user", token=token)).status == 403
    answer = await trip.come_back()
    assert (answer.status, kind(answer)) == (403, "refused")
    assert await trip.browser.who() == ""


async def test_an_administrator_of_the_file_gets_and_loses_the_rights_while_signed_in(
    site: Site[GitHub],
) -> None:
    browser, _ = await sign_in(site, site.provider.join("amy", "vision-lab").id)
    for admins, status in ((("mia", "amy"), 200), (("mia",), 403)):
        with site.rules(admins=admins):
            look_anew(site)
            assert (await browser.get("/hub/people")).status == status


async def test_a_github_that_is_down_keeps_people_in_and_is_not_asked_at_every_page(
    site: Site[GitHub],
) -> None:
    hal = site.provider.join("hal", "vision-lab")
    browser, _ = await sign_in(site, hal.id)
    for switch in ("down", "rate_limit_used_up"):
        setattr(site.provider, switch, True)
        try:
            site.ask_anew()
            asked = len(site.provider.asked)
            for _ in range(3):
                assert await browser.who() == "hal"
                look_anew(site)
            assert len(site.provider.asked) - asked <= 3
        finally:
            setattr(site.provider, switch, False)


async def test_a_github_that_fails_halfway_is_no_news_of_a_membership(site: Site[GitHub]) -> None:
    ida = site.provider.join("ida", "vision-lab")
    browser, _ = await sign_in(site, ida.id)
    site.provider.failing = {"/api/v3/user/memberships/orgs/vision-lab"}
    try:
        site.ask_anew()
        assert await browser.who() == "ida"
        # At the sign-in it neither lets anybody in nor ends what was known of them.
        again, _ = await sign_in(site, ida.id)
        look_anew(site)
        assert await again.who() == await browser.who() == "ida"
        new = site.provider.join("ilse", "vision-lab")
        _, answer = await sign_in(site, new.id)
        assert (answer.status, kind(answer)) == (503, "provider-down")
    finally:
        site.provider.failing = set()
    browser, _ = await sign_in(site, new.id)
    assert await browser.who() == "ilse"


async def test_an_organization_that_hides_its_members_ends_nobody_s_work_for_half_a_day(
    site: Site[GitHub],
) -> None:
    jan = site.provider.join("jan", "vision-lab")
    browser, _ = await sign_in(site, jan.id)
    lab = site.provider.organizations["vision-lab"]
    lab.lets_in = set()
    try:
        for hours in (6, 5):
            site.later.seconds += hours * 3600
            site.ask_anew()
            assert await browser.who() == "jan"
            # A sign-in meanwhile confirms nothing.
            again, _ = await sign_in(site, jan.id)
            assert await again.who() == "jan"
        site.later.seconds += 2 * 3600
        site.ask_anew()
        assert await browser.who() == ""
        _, answer = await sign_in(site, jan.id)
        assert kind(answer) == "membership-hidden"
    finally:
        lab.lets_in = None
    browser, _ = await sign_in(site, jan.id)
    assert await browser.who() == "jan"


async def test_a_slow_github_holds_up_no_page_for_long_and_its_word_counts_once_it_comes(
    site: Site[GitHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_base, "PATIENCE_S", 0.5)
    liv = site.provider.join("liv", "vision-lab")
    browser, _ = await sign_in(site, liv.id)
    del site.provider.organizations["vision-lab"].members[liv.id]
    site.provider.slow_s = 1.5
    try:
        site.ask_anew()
        async with asyncio.timeout(2.5):
            assert await browser.who() == "liv"
            assert await browser.who() == "liv"
        async with asyncio.timeout(20):
            while site.authenticator._asking:
                await asyncio.sleep(0.1)
    finally:
        site.provider.slow_s = 0
    look_anew(site)
    assert await browser.who() == ""


async def test_who_takes_the_permission_back_at_github_signs_in_again(site: Site[GitHub]) -> None:
    pia = site.provider.join("pia", "vision-lab")
    browser, _ = await sign_in(site, pia.id)
    for token in site.provider.tokens:
        token.dead = token.dead or token.person == pia.id
    site.ask_anew()
    assert await browser.who() == ""
    browser, _ = await sign_in(site, pia.id)
    assert await browser.who() == "pia"


async def test_a_member_starts_a_session(site: Site[GitHub]) -> None:
    sam = site.provider.join("sam", "vision-lab")
    browser, _ = await sign_in(site, sam.id)
    form = await browser.get("/hub/spawn")
    await browser.post("/hub/spawn", {"_xsrf": form.xsrf(), "image": "cpu", "gpu": ""})
    await until_ready(site.hub, "sam")


async def test_no_secret_code_or_token_is_in_the_log(site: Site[GitHub]) -> None:
    text = site.hub.lines.text
    assert site.application.client_id in text or "OAuth redirect" in text
    assert site.application.secret not in text
    assert not [code for code in site.provider.codes if code in text]
    assert not [token for token in site.provider.tokens if token.access in text]
