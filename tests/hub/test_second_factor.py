"""The second factor of local accounts, on a real hub."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlsplit

import pyotp
import pytest
import pytest_asyncio

from labdock.core.accounts import PACE_FOR_CODE
from labdock.core.login import AccessRules
from labdock.core.second_factor import RECOVERY_CODES, SECOND_STEP_WITHIN_S, SET_UP_WITHIN_S, STEP_S
from tests.hub.conftest import BETTER, GOOD, Answer, Browser, Hub, running_hub

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: Any) -> AsyncIterator[Hub]:
    async with running_hub(tmp_path_factory.mktemp("hub"), AccessRules(admins=("mia",))) as running:
        yield running


class Phone:
    """An authenticator app that holds one secret, with the hub's clock."""

    def __init__(self, hub: Hub, secret: str) -> None:
        self.hub, self.totp = hub, pyotp.TOTP(secret)

    def code(self, steps: int = 0) -> str:
        return self.totp.at(self.hub.sign_in.admission.now() + steps * STEP_S)

    def fresh(self) -> str:
        """A code that nobody has used: of the next half minute."""
        self.hub.later_s += STEP_S
        return self.code()

    def wrong(self) -> str:
        return next(
            code for code in ("000000", "111111", "222222") if code not in map(self.code, range(-2, 3))
        )


async def act(browser: Browser, act: str, **fields: str) -> Answer:
    page = await browser.get("/hub/second-factor")
    return await browser.post("/hub/second-factor", {"_xsrf": page.xsrf(), "act": act, **fields})


async def set_up(hub: Hub, browser: Browser) -> tuple[Phone, list[str]]:
    assert (await act(browser, "begin", password=GOOD)).status == 303
    page = await browser.get("/hub/second-factor")
    assert "ld-qr" in page.text
    assert 'class="segno"' in page.text
    shown = re.search(r"<code>([A-Z2-7-]+)</code>", page.text)
    assert shown
    phone = Phone(hub, shown.group(1).replace("-", ""))
    done = await act(browser, "confirm", code=phone.fresh())
    assert done.status == 200, done.text
    assert done.headers["Cache-Control"] == "no-store"
    codes = re.findall(r"<li><code>([a-z0-9-]+)</code></li>", done.text)
    assert len(set(codes)) == RECOVERY_CODES
    return phone, codes


async def second(browser: Browser, code: str, query: str = "") -> Answer:
    page = await browser.get("/hub/second-step" + query)
    assert page.status == 200, page.headers
    return await browser.post("/hub/second-step" + query, {"_xsrf": page.xsrf(), "code": code})


async def first(hub: Hub, name: str, query: str = "") -> Browser:
    """A browser in which *name*'s password was right, and the code is asked for."""
    browser = hub.browser()
    answer = await browser.sign_in(name, GOOD, query)
    assert (answer.status, urlsplit(answer.headers["Location"]).path) == (303, "/hub/second-step")
    assert await browser.who() == ""
    return browser


async def test_who_set_it_up_is_asked_for_a_code_after_the_password(hub: Hub) -> None:
    owner = await hub.member("ada")
    elsewhere = hub.browser()
    assert (await elsewhere.sign_in("ada", GOOD)).status == 302
    phone, _ = await set_up(hub, owner)
    assert await owner.who() == "ada"
    assert await elsewhere.who() == ""

    browser = await first(hub, "ada", f"?next={quote('/hub/token')}")
    wrong = await second(browser, phone.wrong())
    assert wrong.status == 403
    assert "not right" in wrong.text
    assert await browser.who() == ""
    entered = await second(browser, phone.fresh(), "?next=%2Fhub%2Ftoken")
    assert (entered.status, entered.headers["Location"]) == (303, "/hub/token")
    assert await browser.who() == "ada"
    # Wrong passwords get nowhere near the code.
    assert (await hub.browser().sign_in("ada", BETTER)).status == 403
    for secret in (phone.totp.secret, phone.code(), GOOD):
        assert secret not in hub.lines.text


async def test_a_code_works_once_and_only_around_its_time(hub: Hub) -> None:
    phone, _ = await set_up(hub, await hub.member("bob"))
    code = phone.fresh()
    assert (await second(await first(hub, "bob"), code)).status == 303
    assert (await second(await first(hub, "bob"), code)).status == 403
    assert (await second(await first(hub, "bob"), phone.code(-1))).status == 403
    assert (await second(await first(hub, "bob"), phone.code(+3))).status == 403
    assert (await second(await first(hub, "bob"), phone.code(+1))).status == 303


async def test_of_many_who_use_one_code_at_the_same_moment_one_gets_in(hub: Hub) -> None:
    phone, codes = await set_up(hub, await hub.member("cleo"))
    for code in (phone.fresh(), codes[0]):
        browsers = [await first(hub, "cleo") for _ in range(4)]
        answers = await asyncio.gather(*(second(browser, code) for browser in browsers))
        assert sorted(answer.status for answer in answers)[:2] == [303, 403]
        assert [answer.status for answer in answers].count(303) == 1


async def test_a_recovery_code_signs_in_once(hub: Hub) -> None:
    owner = await hub.member("dora")
    _, codes = await set_up(hub, owner)
    assert (await second(await first(hub, "dora"), codes[3].upper().replace("-", " "))).status == 303
    assert (await second(await first(hub, "dora"), codes[3])).status == 403
    assert "9 recovery codes are left" in (await owner.get("/hub/second-factor")).text
    other = await hub.member("dora2")
    _, theirs = await set_up(hub, other)
    assert (await second(await first(hub, "dora"), theirs[0])).status == 403
    assert not any(code in hub.lines.text for code in codes)
    assert "dora used a recovery code; 9 are left" in hub.lines.text


async def test_codes_are_guessed_slowly_and_a_known_browser_is_not_slowed_by_that(hub: Hub) -> None:
    owner = await hub.member("eve")
    phone, _ = await set_up(hub, owner)
    thief, statuses = await first(hub, "eve"), []
    for _ in range(PACE_FOR_CODE.free + 3):
        statuses.append((await second(thief, phone.wrong())).status)
    assert statuses == [403] * (PACE_FOR_CODE.free + 1) + [429, 429]
    # From another address it is the same account.
    assert (await second(await first(hub, "eve"), phone.wrong())).status == 429
    await owner.get("/hub/logout")
    assert (await owner.sign_in("eve", GOOD)).status == 303
    assert (await second(owner, phone.fresh())).status == 303


async def test_the_second_step_is_open_for_minutes_and_only_where_the_password_was_right(hub: Hub) -> None:
    owner = await hub.member("fay")
    phone, _ = await set_up(hub, owner)
    assert (await hub.browser().get("/hub/second-step")).headers["Location"] == "/hub/login"
    forged = hub.browser()
    page = await forged.get("/hub/login")
    fields = {"_xsrf": page.xsrf(), "code": phone.fresh()}
    cookie = {"Cookie": f'_xsrf={page.xsrf()}; labdock-second-step="made|up"'}
    answer = await forged.post("/hub/second-step", fields, headers=cookie)
    assert answer.headers.get("Location") == "/hub/login" or answer.status == 403

    late = await first(hub, "fay")
    hub.later_s += SECOND_STEP_WITHIN_S + 1
    assert (await late.get("/hub/second-step")).headers["Location"] == "/hub/login"

    # With the password changed meanwhile, the old one opens nothing.
    stale = await first(hub, "fay")
    page = await owner.get("/hub/password")
    changed = await owner.post("/hub/password", {"_xsrf": page.xsrf(), "present": GOOD, "password": BETTER})
    assert changed.status == 200
    assert (await stale.get("/hub/second-step")).headers["Location"] == "/hub/login"

    # And whoever was refused meanwhile is out.
    browser = hub.browser()
    assert (await browser.sign_in("fay", BETTER)).status == 303
    assert (await hub.api("POST", "/labdock/users/fay/refuse")).status == 200
    assert (await browser.get("/hub/second-step")).headers["Location"] == "/hub/login"


async def test_no_link_goes_past_the_second_factor(hub: Hub) -> None:
    phone, _ = await set_up(hub, await hub.member("gil"))
    reset = (await hub.api("POST", "/labdock/users/gil/reset")).json["link"]
    browser = hub.browser()
    answer = await browser.use_link(reset, BETTER)
    assert (answer.status, answer.headers["Location"]) == (303, "/hub/second-step")
    assert await browser.who() == ""
    assert (await second(browser, phone.fresh())).status == 303
    assert await browser.who() == "gil"

    made = await hub.api("POST", "/labdock/first-link", json={})
    mia = hub.browser()
    assert (await mia.use_link(made.json["link"])).status == 303
    page = await mia.get("/hub/password")
    assert (await mia.post("/hub/password", {"_xsrf": page.xsrf(), "password": GOOD})).status == 200
    phone, _ = await set_up(hub, mia)
    made = await hub.api("POST", "/labdock/first-link", json={})
    other = hub.browser()
    assert (await other.use_link(made.json["link"])).headers["Location"] == "/hub/second-step"
    assert await other.who() == ""


async def test_the_api_gives_no_token_for_a_password_alone(hub: Hub) -> None:
    await set_up(hub, await hub.member("hal"))
    body = {"auth": {"username": "hal", "password": GOOD}}
    for path in ("/hub/api/users/hal/tokens", "/hub/api/authorizations/token"):
        answer = await hub.browser().ask("POST", path, json={**body, "username": "hal", "password": GOOD})
        assert answer.status not in (200, 201), path
        assert "token" not in (answer.json or {})


async def test_it_is_begun_and_turned_off_with_the_password_alone(hub: Hub) -> None:
    owner = await hub.member("ida")
    assert (await act(owner, "begin", password=BETTER)).status == 400
    assert "ld-qr" not in (await owner.get("/hub/second-factor")).text
    assert (await act(owner, "begin", password=GOOD)).status == 303
    # Begun and not confirmed: nothing has changed.
    assert (await hub.browser().sign_in("ida", GOOD)).status == 302
    wrong = await act(owner, "confirm", code="12345")
    assert wrong.status == 400
    assert "clock" in wrong.text
    phone, _ = await set_up(hub, owner)
    again = await act(owner, "begin", password=GOOD)
    assert again.status == 409
    assert (await act(owner, "confirm", code=phone.fresh())).status == 400
    assert (await act(owner, "off", password=BETTER)).status == 400
    await first(hub, "ida")
    assert (await act(owner, "off", password=GOOD)).status == 303
    assert (await hub.browser().sign_in("ida", GOOD)).status == 302
    assert (await act(owner, "dance")).status == 400


async def test_a_secret_that_was_not_confirmed_is_shown_for_minutes_only(hub: Hub) -> None:
    owner = await hub.member("ike")
    assert (await act(owner, "begin", password=GOOD)).status == 303
    page = await owner.get("/hub/second-factor")
    shown = re.search(r"<code>([A-Z2-7-]+)</code>", page.text)
    assert shown
    hub.later_s += SET_UP_WITHIN_S + 2 * STEP_S
    assert shown.group(1) not in (await owner.get("/hub/second-factor")).text
    phone = Phone(hub, shown.group(1).replace("-", ""))
    assert (await act(owner, "confirm", code=phone.code())).status == 400
    assert (await hub.browser().sign_in("ike", GOOD)).status == 302
    await set_up(hub, owner)


async def test_guessing_the_password_to_turn_it_off_is_slowed(hub: Hub) -> None:
    owner = await hub.member("jan")
    await set_up(hub, owner)
    statuses = [(await act(owner, "off", password="not this one")).status for _ in range(8)]
    assert statuses[-1] == 429
    assert await first(hub, "jan")


async def test_an_administrator_takes_a_lost_one_away_and_that_is_logged(hub: Hub) -> None:
    boss = await hub.member("boss", admin=True)
    owner = await hub.member("kim")
    await set_up(hub, owner)
    told = {p["name"]: p for p in (await hub.api("GET", "/labdock/users")).json}
    assert told["kim"]["second_factor"] is True
    assert told["boss"]["second_factor"] is False
    page = await boss.get("/hub/people")
    path = "/hub/people/kim/second-factor"
    assert f'action="{path}"' in page.text
    assert (await boss.post(path, {})).status == 403
    await first(hub, "kim")
    done = await boss.post(path, {"_xsrf": page.xsrf()})
    assert (done.status, done.headers["Location"]) == (303, "/hub/people?without=kim")
    assert (await hub.browser().sign_in("kim", GOOD)).status == 302
    assert "The second factor of kim was taken away by boss" in hub.lines.text
    assert (await boss.post(path, {"_xsrf": page.xsrf()})).status == 409

    await set_up(hub, owner)
    assert (await hub.api("DELETE", "/labdock/users/kim/second-factor")).status == 200
    assert (await hub.api("DELETE", "/labdock/users/kim/second-factor")).status == 409
    assert (await hub.api("DELETE", "/labdock/users/nobody/second-factor")).status == 404
    assert "The second factor of kim was taken away by labdock" in hub.lines.text


async def test_nobody_else_takes_it_away(hub: Hub) -> None:
    await set_up(hub, await hub.member("lee"))
    other = await hub.member("lou")
    page = await other.get("/hub/second-factor")
    assert (await other.post("/hub/people/lee/second-factor", {"_xsrf": page.xsrf()})).status == 403
    token = (await hub.api("POST", "/users/lou/tokens", json={})).json["token"]
    assert (await hub.api("DELETE", "/labdock/users/lee/second-factor", token=token)).status == 403
    await first(hub, "lee")


async def test_the_secret_is_stored_encrypted_and_opens_no_other_account(hub: Hub) -> None:
    phone, codes = await set_up(hub, await hub.member("max"))
    await set_up(hub, await hub.member("moe"))
    with hub.store.engine.begin() as connection:
        stored = str(connection.exec_driver_sql("select * from labdock_second_factors").fetchall())
        stored += str(connection.exec_driver_sql("select * from labdock_recovery_codes").fetchall())
        assert phone.totp.secret not in stored
        assert not any(code in stored or code.replace("-", "") in stored for code in codes)
        identities = [(hub.store.find(name) or pytest.fail()).identity for name in ("max", "moe")]
        # Whoever can write the database, and not read the key, puts the one's secret into the other's row.
        of_max = "(select secret from labdock_second_factors where identity = ?)"
        connection.exec_driver_sql(
            f"update labdock_second_factors set secret = {of_max} where identity = ?",  # noqa: S608  two constants
            tuple(identities),
        )
    assert (await second(await first(hub, "moe"), phone.fresh())).status == 403
    assert "cannot be read" in hub.lines.text


async def test_with_the_account_goes_its_second_factor(hub: Hub) -> None:
    await set_up(hub, await hub.member("nia"))
    identity = (hub.store.find("nia") or pytest.fail()).identity
    assert (await hub.api("DELETE", "/labdock/users/nia?home=keep")).status == 200
    assert hub.sign_in.admission.second_factors.find(identity) is None
    await hub.member("nia")
    assert (await hub.browser().sign_in("nia", GOOD)).status == 302


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "\t//evil.example"]
)
async def test_the_second_step_never_leads_to_another_site(hub: Hub, target: str) -> None:
    if hub.store.find("pia") is None:
        hub.pia = (await set_up(hub, await hub.member("pia")))[0]  # type: ignore[attr-defined]  # for the next ones
    query = f"?next={quote(target, safe='')}"
    browser = await first(hub, "pia", query)
    answer = await second(browser, hub.pia.fresh(), query)  # type: ignore[attr-defined]  # as above
    assert answer.status == 303
    assert answer.headers["Location"].startswith("/")
    assert not answer.headers["Location"].startswith(("//", "/\\"))
