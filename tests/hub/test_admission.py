"""Who may come in, on a real hub: approval, refusal, and rights that change while people are in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from labdock.core.accounts import Account, Standing
from labdock.core.admission import NotAdmittedError, Presented, Reason
from labdock.core.errors import HostError
from labdock.core.login import AccessRules
from labdock.hub.accounts import AccountStore
from labdock.hub.admission import Admission
from labdock.hub.rights import keep_rights
from labdock.hub.waiting import COOKIE
from tests.hub.conftest import GOOD, Browser, Hub, until_ready

on_a_hub = pytest.mark.asyncio(loop_scope="module")


async def start(hub: Hub, browser: Browser, name: str) -> None:
    form = await browser.get("/hub/spawn")
    answer = await browser.post("/hub/spawn", {"_xsrf": form.xsrf(), "image": "cpu"})
    assert answer.status == 302, answer.text
    await until_ready(hub, name)


def running(hub: Hub, name: str) -> bool:
    return any(user.name == name and user.active for user in hub.app.users.values())


# --- approval and refusal ---


@on_a_hub
async def test_who_was_refused_is_out_at_once_and_in_again_once_approved(hub: Hub) -> None:
    boss, browser = await hub.member("boss", admin=True), await hub.member("eve")
    token = (await hub.api("POST", "/users/eve/tokens", json={})).json["token"]
    await start(hub, browser, "eve")
    page = await boss.get("/hub/people")
    assert 'href="/hub/people/eve/refuse"' in page.text
    assert "Shut out eve?" in (await boss.get("/hub/people/eve/refuse")).text
    assert (await boss.get("/hub/people/nobody.here/refuse")).status == 404
    assert (await boss.post("/hub/people/eve/refuse", {})).status == 403
    assert await browser.who() == "eve"

    refused = await boss.post("/hub/people/eve/refuse", {"_xsrf": page.xsrf()})
    assert (refused.status, refused.headers["Location"]) == (303, "/hub/people?refused=eve")
    assert not running(hub, "eve")
    assert await browser.who() == ""
    assert (await hub.api("GET", "/user", token=token)).status == 403
    again = hub.browser()
    assert (await again.sign_in("eve", GOOD)).headers["Location"] == "/hub/waiting"
    assert await again.who() == ""
    assert "Not let in" in (await again.get("/hub/waiting")).text
    assert (await hub.api("POST", "/users/eve/server", json={})).status == 403
    link = (await hub.api("POST", "/labdock/users/eve/reset")).json["link"]
    assert (await hub.browser().get(urlsplit(link).path)).status == 404
    assert "Refused" in (await boss.get("/hub/people")).text

    page = await boss.get("/hub/people")
    approved = await boss.post("/hub/people/eve/approve", {"_xsrf": page.xsrf()})
    assert (approved.status, approved.headers["Location"]) == (303, "/hub/people?approved=eve")
    again = hub.browser()
    assert (await again.sign_in("eve", GOOD)).status == 302
    assert await again.who() == "eve"


@on_a_hub
async def test_a_token_that_was_made_too_late_opens_nothing_for_who_is_refused(hub: Hub) -> None:
    await hub.member("lee")
    assert (await hub.api("POST", "/labdock/users/lee/refuse")).status == 200
    # As one that comes of a code which a browser still had.
    user = next(user for user in hub.app.users.values() if user.name == "lee")
    token = user.new_api_token()
    assert (await hub.api("GET", "/user", token=token)).status == 403
    assert (await hub.api("POST", "/users/lee/server", token=token, json={})).status == 403
    assert (await hub.api("POST", "/labdock/users/lee/approve")).status == 200
    assert (await hub.api("GET", "/user", token=token)).status == 200


@on_a_hub
async def test_nobody_refuses_themselves_or_the_last_administrator(hub: Hub) -> None:
    boss = await hub.member("uma", admin=True)
    page = await boss.get("/hub/people")
    answer = await boss.post("/hub/people/uma/refuse", {"_xsrf": page.xsrf()})
    assert answer.status == 409
    assert "cannot remove yourself" in answer.text
    assert (await hub.api("POST", "/labdock/users/nobody.here/refuse")).status == 404
    assert (await hub.api("POST", "/labdock/users/nobody.here/approve")).status == 404
    assert (await boss.post("/hub/people/nobody.here/approve", {"_xsrf": page.xsrf()})).status == 404


@on_a_hub
async def test_only_administrators_approve_and_refuse(hub: Hub) -> None:
    browser = await hub.member("fay")
    await hub.member("guy")
    page = await browser.get("/hub/password")
    for act in ("approve", "refuse"):
        assert (await browser.post(f"/hub/people/guy/{act}", {"_xsrf": page.xsrf()})).status == 403
        assert (await browser.ask("POST", f"/hub/api/labdock/users/guy/{act}", json={})).status == 403
    assert (await browser.ask("POST", "/hub/api/labdock/sweep", json={})).status == 403


@on_a_hub
async def test_an_administrator_acts_in_nobodys_name(hub: Hub) -> None:
    """What they could hold of others would outlive their rights: sessions' connections, tokens, shares."""
    boss, browser = await hub.member("hanna", admin=True), await hub.member("ivo")
    await start(hub, browser, "ivo")
    token = (await hub.api("POST", "/users/hanna/tokens", json={})).json["token"]
    scopes = (await hub.api("GET", "/user", token=token)).json["scopes"]
    assert "admin:users" in scopes
    of_others = [s for s in scopes if s.startswith(("access:servers", "tokens", "shares", "proxy"))]
    assert [scope for scope in of_others if not scope.endswith("user=hanna")] == []
    assert (await hub.api("POST", "/users/ivo/tokens", token=token, json={})).status in {403, 404}
    assert (await hub.api("PATCH", "/proxy", token=token, json={"ip": "127.0.0.1"})).status == 403
    asked = "/hub/api/oauth2/authorize?response_type=code&client_id=jupyterhub-user-ivo"
    callback = "&redirect_uri=%2Fuser%2Fivo%2Foauth_callback"
    assert (await boss.get(asked + callback)).status == 403
    # And what an administrator is for goes on.
    assert (await hub.api("DELETE", "/users/ivo/server", token=token)).status in {202, 204}


# --- the rules change while people are in ---


@on_a_hub
async def test_an_administrator_who_is_taken_out_of_the_file_is_none_any_more(hub: Hub) -> None:
    browser = await hub.member("carl")
    token = (await hub.api("POST", "/users/carl/tokens", json={"scopes": ["admin:users"]})).json["token"]
    assert (await browser.get("/hub/people")).status == 200
    assert (await hub.api("GET", "/labdock/users", token=token)).status == 200
    was = hub.rules.now
    hub.rules.now = replace(was, admins=("somebody",))
    try:
        swept = await hub.api("POST", "/labdock/sweep")
        assert swept.json == {"shut_out": [], "changed": ["carl"]}
        assert (await browser.get("/hub/people")).status == 403
        assert (await hub.api("GET", "/labdock/users", token=token)).status == 403
        assert (await browser.get("/hub/home")).status == 200
    finally:
        hub.rules.now = was
    assert (await hub.api("POST", "/labdock/sweep")).json["changed"] == ["carl"]
    assert (await browser.get("/hub/people")).status == 200


@on_a_hub
async def test_a_hub_user_without_an_account_is_shut_out(hub: Hub) -> None:
    browser = await hub.member("hal")
    await start(hub, browser, "hal")
    hub.store.remove("hal")
    swept = await hub.api("POST", "/labdock/sweep")
    assert swept.json["shut_out"] == ["hal"]
    assert not running(hub, "hal")
    assert await browser.who() == ""
    assert (await hub.api("POST", "/labdock/sweep")).json == {"shut_out": [], "changed": []}


@on_a_hub
async def test_a_session_that_does_not_stop_keeps_nobody_elses_tokens_alive(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {}
    for name in ("jan", "kay"):
        await start(hub, await hub.member(name), name)
        tokens[name] = (await hub.api("POST", f"/users/{name}/tokens", json={})).json["token"]
    stuck = asyncio.Event()

    async def never(now: bool = False) -> None:
        await stuck.wait()

    user = next(user for user in hub.app.users.values() if user.name == "jan")
    monkeypatch.setattr(user.spawner, "stop", never)
    hub.store.remove("jan")
    hub.store.remove("kay")
    sweeping = asyncio.create_task(hub.api("POST", "/labdock/sweep"))
    try:
        async with asyncio.timeout(20):
            while running(hub, "kay"):
                await asyncio.sleep(0.05)
        for token in tokens.values():
            assert (await hub.api("GET", "/user", token=token)).status == 403
    finally:
        stuck.set()
    assert (await sweeping).status in {200, 503}


@on_a_hub
async def test_many_requests_are_dismissed_at_once(hub: Hub) -> None:
    boss = await hub.member("lola", admin=True)
    page = await boss.get("/hub/people")
    assert "Dismiss all" not in page.text
    assert (await boss.post("/hub/people/dismiss", {})).status == 403
    other = await hub.member("olga")
    own = await other.get("/hub/password")
    assert (await other.post("/hub/people/dismiss", {"_xsrf": own.xsrf()})).status == 403
    for number in range(5):
        hub.store.enrol(Presented(f"local:{number}", f"bot{number}"), Standing.WAITING, now=number + 10**9)
    page = await boss.get("/hub/people")
    assert "Dismiss all" in page.text
    assert (await boss.post("/hub/people/dismiss", {"_xsrf": page.xsrf()})).status == 303
    assert not [account for account in hub.store.everybody() if account.name.startswith("bot")]


@on_a_hub
async def test_an_address_puts_no_words_into_a_message(hub: Hub) -> None:
    boss = await hub.member("nina", admin=True)
    page = await boss.get("/hub/people?approved=you+won.+Call+555")
    assert "you won" not in page.text


# --- the waiting page ---


@on_a_hub
async def test_the_waiting_page_is_about_this_browsers_request_alone(hub: Hub) -> None:
    browser = hub.browser()
    page = await browser.get("/hub/waiting")
    assert "Nobody asked from this browser" in page.text
    await browser.ask("GET", "/hub/waiting", cookies={COOKIE: "local:made-up"})
    told = await browser.get("/hub/waiting?state")
    assert told.json == {"state": "unknown"}


# --- the service, without a hub ---


@pytest_asyncio.fixture
async def github(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AccountStore]:
    store = AccountStore(f"sqlite:///{tmp_path_factory.mktemp('github')}/hub.sqlite", "github")
    yield store
    store.close()


RULES = AccessRules(admins=("mia",), organizations=("vision-lab",), approve=True)
MIA = Presented("github:1", "Mia")
STRANGER = Presented("github:9", "stranger", email="s@else.example")


async def refused(admission: Admission, presented: Presented) -> Reason:
    with pytest.raises(NotAdmittedError) as caught:
        await admission.admit(presented)
    return caught.value.reason


async def test_a_stranger_waits_once_and_is_in_once_approved(github: AccountStore) -> None:
    admission = Admission(github, lambda: RULES)
    assert await refused(admission, STRANGER) is Reason.WAITING
    assert await refused(admission, replace(STRANGER, login="renamed")) is Reason.WAITING
    (waiting,) = github.everybody()
    assert (waiting.name, waiting.state, waiting.login) == ("stranger", "waiting", "renamed")
    assert await admission.find("stranger") is None
    github.set_standing("stranger", Standing.ADDED)
    account = await admission.admit(STRANGER)
    assert (account.name, admission.is_admin(account)) == ("stranger", False)


async def test_without_approval_strangers_leave_no_trace(github: AccountStore) -> None:
    admission = Admission(github, lambda: replace(RULES, approve=False))
    assert await refused(admission, STRANGER) is Reason.UNLISTED
    assert github.everybody() == ()


async def test_who_left_the_organization_is_out_and_who_was_refused_stays_out(github: AccountStore) -> None:
    admission = Admission(github, lambda: replace(RULES, approve=False))
    member = replace(STRANGER, groups=frozenset({"vision-lab"}))
    account = await admission.admit(member)
    assert account.standing is Standing.LISTED
    assert await refused(admission, STRANGER) is Reason.UNLISTED
    assert await admission.find(account.name) is None
    await admission.admit(member)
    github.set_standing(account.name, Standing.REFUSED)
    assert await refused(admission, member) is Reason.REFUSED


async def test_a_stranger_with_the_administrators_old_login_is_no_administrator(github: AccountStore) -> None:
    admission = Admission(github, lambda: RULES)
    mia = await admission.admit(MIA)
    assert admission.is_admin(mia)
    await admission.admit(replace(MIA, login="mia-smith"))
    assert await refused(admission, Presented("github:666", "mia")) is Reason.WAITING
    github.set_standing("mia-2", Standing.ADDED)
    thief = await admission.admit(Presented("github:666", "mia"))
    assert (thief.name, admission.is_admin(thief)) == ("mia-2", False)
    again = await admission.admit(replace(MIA, login="mia-smith"))
    assert (again.name, admission.is_admin(again)) == ("mia", True)


async def test_rules_that_cannot_be_read_leave_the_last_ones_in_force(github: AccountStore) -> None:
    found: list[AccessRules] = [RULES]

    def rules() -> AccessRules:
        if not found:
            raise HostError("access.json cannot be read.")
        return found[0]

    admission = Admission(github, rules)
    await admission.admit(MIA)
    found.clear()
    assert await admission.find("mia") is not None
    found.append(replace(RULES, admins=("kim",), approve=False))
    assert await admission.find("mia") is None


async def test_rights_are_swept_at_the_start_and_at_each_change_until_it_worked() -> None:
    rules = [RULES]
    swept: list[AccessRules] = []
    fails = [True]

    async def sweep() -> None:
        if fails:
            fails.pop()
            raise OSError("the hub is busy")
        swept.append(rules[0])

    task = asyncio.create_task(keep_rights(lambda: rules[0], sweep, every_s=0.01))
    try:
        async with asyncio.timeout(10):
            while len(swept) < 1:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert swept == [RULES]
            rules[0] = AccessRules()
            while len(swept) < 2:
                await asyncio.sleep(0.01)
        assert swept == [RULES, AccessRules()]
    finally:
        task.cancel()


async def test_somebody_who_is_being_removed_is_not_let_in(github: AccountStore) -> None:
    admission = Admission(github, lambda: RULES)
    account: Account = await admission.admit(MIA)
    admission.leaving.add(account.name)
    with pytest.raises(NotAdmittedError):
        await admission.admit(MIA)
