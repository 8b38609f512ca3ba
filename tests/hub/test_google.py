"""Signing in with Google, on a real hub, by the way a browser goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from labdock.core.login import AccessRules
from tests.hub.signing_in import Site, choose, kind, on_hub, running_site, set_out, sign_in, with_query
from tests.providers.google import LASTS_S, Google

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = AccessRules(admins=("mia@example.edu",), people=("kim@gmail.com",), domains=("example.edu",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: Any) -> AsyncIterator[Site[Google]]:
    async with running_site(tmp_path_factory.mktemp("google"), Google(), "google", RULES) as running:
        yield running


async def test_an_account_that_the_domain_manages_gets_in(site: Site[Google]) -> None:
    ada = site.provider.join("Ada@Example.edu")
    browser, _ = await sign_in(site, ada.id)
    assert await browser.who() == "ada"
    account = site.hub.store.find("ada")
    assert account is not None
    assert account.identity == f"google:{ada.id}"
    assert account.groups == {"example.edu"}


async def test_an_address_of_the_domain_that_it_does_not_manage_opens_nothing(site: Site[Google]) -> None:
    """Somebody made an account with the address they had there once, and kept it."""
    gone = site.provider.join("gone@example.edu", managed=False)
    _, answer = await sign_in(site, gone.id)
    assert (answer.status, kind(answer)) == (403, "unlisted")


async def test_another_domain_opens_nothing_however_it_is_called(site: Site[Google]) -> None:
    for address in ("eve@evil.com", "eve@example.edu.evil.com", "eve@notexample.edu"):
        _, answer = await sign_in(site, site.provider.join(address).id)
        assert kind(answer) == "unlisted"


async def test_an_address_that_is_not_verified_is_nobody_s(site: Site[Google]) -> None:
    for address in ("mia@example.edu", "kim@gmail.com"):
        _, answer = await sign_in(site, site.provider.join(address, verified=False).id)
        assert (answer.status, kind(answer)) == (403, "no-verified-email")
    assert site.hub.store.find("mia") is None


async def test_a_listed_address_outside_of_the_domain_gets_in(site: Site[Google]) -> None:
    browser, _ = await sign_in(site, site.provider.join("kim@gmail.com", managed=False).id)
    assert await browser.who() == "kim"


async def test_an_address_that_is_given_to_somebody_else_is_another_account(site: Site[Google]) -> None:
    mia = site.provider.join("mia@example.edu")
    browser, _ = await sign_in(site, mia.id)
    assert (await browser.get("/hub/people")).status == 200
    mia.email = "mia.married@example.edu"
    browser, _ = await sign_in(site, mia.id)
    assert await browser.who() == "mia"

    browser, _ = await sign_in(site, site.provider.join("mia@example.edu").id)
    assert await browser.who() == "mia-2"
    assert (await browser.get("/hub/people")).status == 403


async def test_an_answer_without_the_id_lets_nobody_in(site: Site[Google]) -> None:
    nora = site.provider.join("nora@example.edu")
    site.provider.leaves_out = {"id"}
    try:
        _, answer = await sign_in(site, nora.id)
    finally:
        site.provider.leaves_out = set()
    assert (answer.status, kind(answer)) == (500, "no-identity")


async def test_a_wrong_client_id_and_a_wrong_secret_are_told_apart(site: Site[Google]) -> None:
    authenticator = site.authenticator
    right = authenticator.client_id, authenticator.client_secret
    for wrong, word in (((right[0], "not-it"), "wrong-secret"), (("nobody", right[1]), "wrong-client")):
        authenticator.client_id, authenticator.client_secret = wrong
        with site.afresh():
            answer = await site.hub.browser().get("/hub/oauth_login")
        assert (answer.status, kind(answer)) == (500, word)
    authenticator.client_id, authenticator.client_secret = right


async def test_forged_state_used_code_and_another_browser_sign_nobody_in(site: Site[Google]) -> None:
    eve = site.provider.join("eva@example.edu")
    trip = await choose(site, await set_out(site.hub.browser()), eve.id)
    assert kind(await trip.come_back(site.hub.browser())) == "no-state"
    assert kind(await trip.browser.get(on_hub(with_query(trip.back, state="Zm9yZ2Vk")))) == "no-state"
    code = next(code for code, given in site.provider.codes.items() if given.person == eve.id)
    fresh = await choose(site, await set_out(site.hub.browser()), eve.id)
    answer = await fresh.browser.get(on_hub(with_query(fresh.back, code=code)))
    assert kind(answer) == "code-spent"
    _, answer = await sign_in(site, "")
    assert kind(answer) == "said-no"


async def test_who_leaves_the_domain_is_out_also_long_after_the_token_ended(site: Site[Google]) -> None:
    lea = site.provider.join("lea@example.edu")
    # The second sign-in brings no refresh token; the first one's is kept.
    for _ in range(2):
        browser, _ = await sign_in(site, lea.id)
    site.later.seconds += LASTS_S
    site.ask_anew()
    assert await browser.who() == "lea"
    lea.hd = ""
    site.later.seconds += LASTS_S
    site.ask_anew()
    assert await browser.who() == ""


async def test_an_account_that_is_deleted_there_is_out(site: Site[Google]) -> None:
    lou = site.provider.join("lou@example.edu")
    browser, _ = await sign_in(site, lou.id)
    del site.provider.people[lou.id]
    site.later.seconds += LASTS_S
    site.ask_anew()
    assert await browser.who() == ""


async def test_who_cannot_be_asked_about_again_signs_in_again_after_half_a_day(site: Site[Google]) -> None:
    ned = site.provider.join("ned@example.edu")
    trip = await set_out(site.hub.browser())
    trip.at_provider = with_query(trip.at_provider, access_type=None)
    browser = (await choose(site, trip, ned.id)).browser
    assert (await trip.come_back()).status == 302
    for hours, who in ((11, "ned"), (2, "")):
        site.later.seconds += hours * 3600
        site.ask_anew()
        assert await browser.who() == who
