"""Signing in with GitLab, on a real hub, by the way a browser goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from labdock.core.login import AccessRules
from tests.hub.signing_in import Site, choose, kind, on_hub, running_site, set_out, sign_in, with_query
from tests.providers.gitlab import LASTS_S, GitLab

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = AccessRules(admins=("mia",), people=("kim@example.edu",), groups=("Vision/gpu", "lab"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: Any) -> AsyncIterator[Site[GitLab]]:
    async with running_site(tmp_path_factory.mktemp("gitlab"), GitLab(), "gitlab", RULES) as running:
        yield running


async def test_a_member_of_a_group_gets_in_by_its_full_path(site: Site[GitLab]) -> None:
    ada = site.provider.join("ada", "vision", "vision/gpu")
    browser, _ = await sign_in(site, ada.id)
    assert await browser.who() == "ada"
    account = site.hub.store.find("ada")
    assert account is not None
    assert account.identity == f"gitlab:{ada.id}"
    assert account.groups == {"Vision/gpu"}


async def test_a_group_of_another_path_opens_nothing(site: Site[GitLab]) -> None:
    for name, groups in (("bob", ("gpu", "vision")), ("ben", ("other/lab", "lab/sub")), ("bea", ())):
        _, answer = await sign_in(site, site.provider.join(name, *groups).id)
        assert (answer.status, kind(answer)) == (403, "unlisted")


async def test_an_address_on_the_list_counts_only_once_it_is_verified(site: Site[GitLab]) -> None:
    kim = site.provider.join("notkim", email="kim@example.edu", verified=False)
    _, answer = await sign_in(site, kim.id)
    assert kind(answer) == "unlisted"
    kim.verified = True
    browser, _ = await sign_in(site, kim.id)
    assert await browser.who() == "notkim"


async def test_a_renamed_login_keeps_its_account_and_a_stranger_under_the_old_one_gets_another(
    site: Site[GitLab],
) -> None:
    rosa = site.provider.join("rosa", "lab")
    await sign_in(site, rosa.id)
    rosa.username = "rosalind"
    browser, _ = await sign_in(site, rosa.id)
    assert await browser.who() == "rosa"
    browser, _ = await sign_in(site, site.provider.join("rosa", "lab").id)
    assert await browser.who() == "rosa-2"


async def test_a_stranger_with_an_administrator_s_old_login_is_no_administrator(site: Site[GitLab]) -> None:
    mia = site.provider.join("mia")
    browser, _ = await sign_in(site, mia.id)
    assert (await browser.get("/hub/people")).status == 200
    mia.username = "mia-of-old"
    browser, _ = await sign_in(site, site.provider.join("mia", "lab").id)
    assert await browser.who() == "mia-2"
    assert (await browser.get("/hub/people")).status == 403


async def test_an_answer_without_the_id_lets_nobody_in(site: Site[GitLab]) -> None:
    nora = site.provider.join("nora", "lab")
    site.provider.leaves_out = {"sub"}
    try:
        _, answer = await sign_in(site, nora.id)
    finally:
        site.provider.leaves_out = set()
    assert (answer.status, kind(answer)) == (500, "no-identity")


async def test_wrong_client_scope_and_refusal_are_each_told(site: Site[GitLab]) -> None:
    authenticator = site.authenticator
    right, authenticator.client_secret = authenticator.client_secret, "not-the-secret"
    try:
        with site.afresh():
            answer = await site.hub.browser().get("/hub/oauth_login")
    finally:
        authenticator.client_secret = right
    assert (answer.status, kind(answer)) == (500, "wrong-secret")
    _, answer = await sign_in(site, "")
    assert kind(answer) == "said-no"
    site.provider.scopes = frozenset({"openid"})
    try:
        trip = await choose(site, await set_out(site.hub.browser()), "")
    finally:
        site.provider.scopes = GitLab.scopes
    answer = await trip.come_back()
    assert (answer.status, kind(answer)) == (500, "wrong-scope")
    assert "openid profile email" in site.hub.lines.text


async def test_forged_state_used_code_and_another_browser_sign_nobody_in(site: Site[GitLab]) -> None:
    eve = site.provider.join("eve", "lab")
    trip = await choose(site, await set_out(site.hub.browser()), eve.id)
    assert kind(await trip.come_back(site.hub.browser())) == "no-state"
    assert kind(await trip.browser.get(on_hub(with_query(trip.back, state="Zm9yZ2Vk")))) == "no-state"
    code = next(code for code, given in site.provider.codes.items() if given.person == eve.id)
    fresh = await choose(site, await set_out(site.hub.browser()), eve.id)
    answer = await fresh.browser.get(on_hub(with_query(fresh.back, code=code)))
    assert kind(answer) == "code-spent"


async def test_who_leaves_the_group_or_is_blocked_there_is_out(site: Site[GitLab]) -> None:
    for name, change in (("lea", {"groups": ()}), ("lou", {"blocked": True})):
        person = site.provider.join(name, "lab")
        browser, _ = await sign_in(site, person.id)
        for key, value in change.items():
            setattr(person, key, value)
        site.ask_anew()
        assert await browser.who() == ""


async def test_a_token_that_ends_is_renewed_once_however_many_pages_are_asked_for(
    site: Site[GitLab],
) -> None:
    person = site.provider.join("tess", "lab")
    browser, _ = await sign_in(site, person.id)
    renewed = len(site.provider.tokens)
    for round_ in (1, 2):
        site.later.seconds += LASTS_S
        site.ask_anew()
        pages = await asyncio.gather(*(browser.get("/hub/home") for _ in range(6)))
        assert [page.status for page in pages] == [200] * 6
        assert len(site.provider.tokens) == renewed + round_


async def test_an_application_that_was_withdrawn_ends_the_sign_in_when_the_token_does(
    site: Site[GitLab],
) -> None:
    person = site.provider.join("tia", "lab")
    browser, _ = await sign_in(site, person.id)
    for token in site.provider.tokens:
        token.dead = token.dead or token.person == person.id
    site.later.seconds += LASTS_S
    site.ask_anew()
    assert await browser.who() == ""
    # Asked again at once, with the same cookie, the answer is the same, and the provider is left alone.
    asked = len(site.provider.asked)
    assert await browser.who() == ""
    assert len(site.provider.asked) == asked
