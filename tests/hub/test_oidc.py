"""Signing in with an OpenID Connect provider, the certified one, on a real hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa

from labdock.core.login import AccessRules
from labdock.core.sign_in_trouble import SignInError
from tests.hub.conftest import Answer, Browser
from tests.hub.signing_in import CALLBACK, Site, Trip, kind, on_hub, set_out, site_of, with_query
from tests.providers.oidc import LASTS_S, Oidc, running_oidc
from tests.providers.serving import Authority

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.programs]

RULES = AccessRules(admins=("mia",), people=("kim@example.edu",), groups=("lab", "Vision Lab"))


@asynccontextmanager
async def openid_site(factory: Any, **options: Any) -> AsyncIterator[Site[Oidc]]:
    folder, authority = factory.mktemp("oidc"), Authority()
    login = options.pop("login", {})
    with running_oidc(folder, authority, CALLBACK, **options) as (provider, application):
        more = {"scopes": ("groups",), **login}
        async with site_of(folder, provider, application, authority, "oidc", RULES, **more) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: Any) -> AsyncIterator[Site[Oidc]]:
    """A provider that tells of people at its userinfo endpoint."""
    async with openid_site(tmp_path_factory, method="client_secret_basic") as running:
        yield running


async def choose(site: Site[Oidc], trip: Trip, subject: str) -> Trip:
    trip.back = await site.provider.through(trip.at_provider, subject, site.authority)
    return trip


async def sign_in(site: Site[Oidc], subject: str) -> tuple[Browser, Answer]:
    browser = site.hub.browser()
    return browser, await (await choose(site, await set_out(browser), subject)).come_back()


async def test_a_member_of_a_group_gets_in(site: Site[Oidc]) -> None:
    ada = site.provider.join("ada", "Vision Lab", name="Ada", email="ada@example.edu", email_verified=True)
    browser, answer = await sign_in(site, ada)
    assert answer.status == 302, answer.text
    assert await browser.who() == "ada"
    account = site.hub.store.find("ada")
    assert account is not None
    assert account.identity == f"oidc:{ada}"
    assert account.groups == {"Vision Lab"}
    assert (account.full_name, account.email) == ("Ada", "ada@example.edu")


async def test_a_group_is_told_from_one_that_is_only_like_it(site: Site[Oidc]) -> None:
    for groups in (("LAB",), ("Vision", "Lab"), ("lab/sub",), ()):
        _, answer = await sign_in(site, site.provider.join("eve", *groups))
        assert (answer.status, kind(answer)) == (403, "unlisted")


async def test_groups_are_found_at_the_end_of_a_dotted_path(
    site: Site[Oidc], monkeypatch: pytest.MonkeyPatch
) -> None:
    login = site.authenticator.wiring.login
    assert login.groups_claim == "groups"
    pat = site.provider.join("pat", realm_access={"roles": ["user", "lab"]})
    _, answer = await sign_in(site, pat)
    assert kind(answer) == "unlisted"
    # Frozen for everybody else.
    object.__setattr__(login, "groups_claim", "realm_access.roles")
    try:
        browser, _ = await sign_in(site, pat)
    finally:
        object.__setattr__(login, "groups_claim", "groups")
    assert await browser.who() == "pat"


async def test_a_renamed_login_keeps_its_account_and_a_stranger_under_the_old_one_gets_another(
    site: Site[Oidc],
) -> None:
    mia = site.provider.join("mia")
    browser, _ = await sign_in(site, mia)
    assert (await browser.get("/hub/people")).status == 200
    site.provider.people[mia]["preferred_username"] = "mia.married"
    site.provider.save()
    browser, _ = await sign_in(site, mia)
    assert await browser.who() == "mia"
    browser, _ = await sign_in(site, site.provider.join("mia", "lab"))
    assert await browser.who() == "mia-2"
    assert (await browser.get("/hub/people")).status == 403


async def test_a_subject_of_the_longest_kind_is_told_from_one_that_begins_like_it(site: Site[Oidc]) -> None:
    for end in ("1", "2"):
        site.provider.put("s" * 240 + end, "lang", "lab")
    first, _ = await sign_in(site, "s" * 240 + "1")
    again, _ = await sign_in(site, "s" * 240 + "1")
    other, _ = await sign_in(site, "s" * 240 + "2")
    assert [await browser.who() for browser in (first, again, other)] == ["lang", "lang", "lang-2"]
    account = site.hub.store.find("lang")
    assert account is not None
    assert len(account.identity) <= 64
    site.ask_anew()
    assert await first.who() == "lang"


async def test_an_address_counts_only_if_the_provider_says_that_it_is_verified(site: Site[Oidc]) -> None:
    for claims in ({"email_verified": False}, {}, {"email_verified": "true"}):
        _, answer = await sign_in(site, site.provider.join("kim1", email="kim@example.edu", **claims))
        assert kind(answer) == "unlisted"
    typed = site.provider.join("kim@example.edu", email="kim@example.edu", email_verified=False)
    _, answer = await sign_in(site, typed)
    assert (answer.status, kind(answer)) == (403, "no-verified-email")
    # A user name that somebody chose, beside an address that is theirs or nobody's.
    for email, claims in (
        ("mallory@else.example", {"email_verified": True}),
        ("mallory@else.example", {"email_verified": False}),
        ("", {"email_verified": False}),
    ):
        chosen = site.provider.join("Kim@example.edu", email=email, **claims)
        _, answer = await sign_in(site, chosen)
        assert kind(answer) == ("unlisted" if claims["email_verified"] else "no-verified-email")
    browser, _ = await sign_in(site, site.provider.join("kim", email="kim@example.edu", email_verified=True))
    assert await browser.who() == "kim"


async def test_a_name_that_does_things_to_a_terminal_or_a_log_is_none(site: Site[Oidc]) -> None:
    lines = "zed\nmia signed in\x1b[2J"
    zed = site.provider.join(lines, "lab", email="zed@example.edu", email_verified=True)
    browser, _ = await sign_in(site, zed)
    assert await browser.who() == "zed"
    account = site.hub.store.find("zed")
    assert account is not None
    assert account.login == "zed@example.edu"
    assert lines not in site.hub.lines.text


async def test_what_was_begun_carries_proof_key_state_and_nonce(site: Site[Oidc]) -> None:
    asked = (await set_out(site.hub.browser())).asked
    assert asked["code_challenge_method"] == "S256"
    assert asked["nonce"] and asked["state"] and asked["nonce"] != asked["state"]
    assert asked["scope"] == "openid profile email groups"
    assert asked["redirect_uri"] == CALLBACK


async def test_forged_state_used_code_and_another_browser_sign_nobody_in(site: Site[Oidc]) -> None:
    eve = site.provider.join("eva", "lab")
    trip = await choose(site, await set_out(site.hub.browser()), eve)
    assert kind(await trip.come_back(site.hub.browser())) == "no-state"
    assert kind(await trip.browser.get(on_hub(with_query(trip.back, state="Zm9yZ2Vk")))) == "no-state"

    trip = await choose(site, await set_out(site.hub.browser()), eve)
    assert (await trip.come_back()).status == 302
    fresh = await choose(site, await set_out(site.hub.browser()), eve)
    code = trip.back.partition("code=")[2].partition("&")[0]
    answer = await fresh.browser.get(on_hub(with_query(fresh.back, code=code)))
    assert (answer.status, kind(answer)) == (400, "code-spent")


async def test_a_code_made_for_another_application_is_refused(site: Site[Oidc]) -> None:
    eve = site.provider.join("evi", "lab")
    stolen = await set_out(site.hub.browser())
    stolen.at_provider = with_query(stolen.at_provider, client_id="other")
    await choose(site, stolen, eve)
    answer = await stolen.come_back()
    assert (answer.status, kind(answer)) == (400, "code-spent")


async def test_who_says_no_is_told_so(site: Site[Oidc]) -> None:
    _, answer = await sign_in(site, "")
    assert (answer.status, kind(answer)) == (403, "said-no")


async def test_a_wrong_client_secret_or_callback_is_told_before_the_provider_s_own_dead_end(
    site: Site[Oidc], monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = site.authenticator
    for trait, wrong, word in (
        ("client_id", "nobody", "wrong-secret"),
        ("client_secret", "not-it", "wrong-secret"),
        ("oauth_callback_url", "", "wrong-callback"),
    ):
        right = getattr(authenticator, trait)
        if word == "wrong-callback":
            wiring = authenticator.wiring
            object.__setattr__(wiring, "public_url", "http://elsewhere.example")
        else:
            setattr(authenticator, trait, wrong)
        try:
            with site.afresh():
                answer = await site.hub.browser().get("/hub/oauth_login")
        finally:
            setattr(authenticator, trait, right)
            object.__setattr__(authenticator.wiring, "public_url", "http://lab.example:8000")
        assert (answer.status, kind(answer)) == (500, word)


async def test_a_provider_that_is_not_there_is_told_and_found_once_it_is(
    site: Site[Oidc], monkeypatch: pytest.MonkeyPatch
) -> None:
    login = site.authenticator.wiring.login
    right = login.server
    for server, status, word in (
        ("https://127.0.0.1:1", 503, "provider-down"),
        (f"{right}/nothing", 502, "strange-answer"),
        (right.replace("127.0.0.1", "localhost"), 502, "provider-not-trusted"),
    ):
        site.authenticator.metadata = None
        object.__setattr__(login, "server", server)
        try:
            with site.afresh():
                answer = await site.hub.browser().get("/hub/oauth_login")
        finally:
            object.__setattr__(login, "server", right)
        assert (answer.status, kind(answer)) == (status, word)
    assert (await site.hub.browser().get("/hub/oauth_login")).status == 302


async def test_a_hub_that_was_restarted_on_the_way_signs_in_all_the_same(site: Site[Oidc]) -> None:
    trip = await choose(site, await set_out(site.hub.browser()), site.provider.join("rex", "lab"))
    authenticator = site.authenticator
    authenticator.metadata = authenticator.keys = None
    authenticator.token_url = authenticator.userdata_url = ""
    with site.afresh():
        assert (await trip.come_back()).status == 302
    assert await trip.browser.who() == "rex"


async def test_keys_that_are_not_where_the_provider_says_are_told(site: Site[Oidc]) -> None:
    trip = await choose(site, await set_out(site.hub.browser()), site.provider.join("kay", "lab"))
    before, site.authenticator.keys = site.authenticator.metadata, None
    site.authenticator.metadata = replace(before, keys=f"{site.provider.url}/nowhere")
    try:
        answer = await trip.come_back()
        assert (answer.status, kind(answer)) == (502, "strange-answer")
        assert "its keys cannot be read" in site.hub.lines.text
    finally:
        site.authenticator.metadata = before


async def test_who_leaves_the_group_is_out_and_who_is_deleted_too(site: Site[Oidc]) -> None:
    lea, lou = site.provider.join("lea", "lab"), site.provider.join("lou", "lab")
    first, _ = await sign_in(site, lea)
    second, _ = await sign_in(site, lou)
    site.provider.people[lea]["groups"] = ["guests"]
    del site.provider.people[lou]
    site.provider.save()
    site.ask_anew()
    assert await first.who() == ""
    assert await second.who() == ""


async def test_a_token_that_ends_is_renewed_once_however_many_pages_are_asked_for(site: Site[Oidc]) -> None:
    browser, _ = await sign_in(site, site.provider.join("tess", "lab"))
    for _ in range(2):
        site.later.seconds += LASTS_S
        site.ask_anew()
        pages = await asyncio.gather(*(browser.get("/hub/home") for _ in range(5)))
        assert [page.status for page in pages] == [200] * 5


async def test_an_id_token_that_is_not_the_provider_s_for_us_and_of_now_is_refused(
    site: Site[Oidc],
) -> None:
    authenticator, now = site.authenticator, int(time.time())
    ours = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    theirs = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys = jwt.PyJWKSet.from_dict(
        {"keys": [{**jwt.algorithms.RSAAlgorithm.to_jwk(ours.public_key(), as_dict=True), "kid": "a"}]}
    ).keys
    right = {
        "iss": site.provider.url,
        "aud": authenticator.client_id,
        "sub": "someone",
        "iat": now,
        "exp": now + 300,
        "nonce": "n",
    }

    def signed(key: Any = ours, algorithm: str = "RS256", kid: str = "a", **changed: Any) -> str:
        claims = {name: value for name, value in {**right, **changed}.items() if value is not None}
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})

    before, authenticator.keys = authenticator.keys, keys
    try:
        claims = await authenticator._id_token_claims(signed(), "n")
        assert claims["sub"] == "someone"
        wrong = {
            "another key": signed(theirs),
            "another audience": signed(aud="other"),
            "another issuer": signed(iss="https://evil.example"),
            "of the past": signed(iat=now - 900, exp=now - 600),
            "without an end": signed(exp=None),
            "without a subject": signed(sub=None),
            "another sign-in": signed(nonce="m"),
            "no sign-in": signed(nonce=None),
            "unsigned": signed(None, "none"),
            "a shared secret": signed("x" * 32, "HS256"),
            "no token": "",
            "nonsense": "a.b.c",
        }
        for what, token in wrong.items():
            authenticator.keys = keys
            with pytest.raises(SignInError):
                await authenticator._id_token_claims(token, "n")
                pytest.fail(f"{what} was believed")
        authenticator.keys = keys
        with pytest.raises(SignInError):
            await authenticator._id_token_claims(signed(kid="unknown"), "n")
    finally:
        authenticator.keys = before


async def test_two_answers_about_different_people_sign_in_neither(site: Site[Oidc]) -> None:
    """What somebody's token opens is not believed with another's ID token."""
    owner = site.provider.join("owner", "lab")
    await sign_in(site, owner)
    user = next(user for user in site.hub.app.users.values() if user.name == "owner")
    stolen = (await user.get_auth_state())["access_token"]
    real = site.authenticator.get_token_info

    async def swap(handler: Any, params: Any) -> dict[str, Any]:
        return {**await real(handler, params), "access_token": stolen}

    trip = await choose(site, await set_out(site.hub.browser()), site.provider.join("thief"))
    site.authenticator.get_token_info = swap
    try:
        answer = await trip.come_back()
    finally:
        del site.authenticator.get_token_info
    assert (answer.status, kind(answer)) == (502, "strange-answer")
    assert "different people" in site.hub.lines.text


async def test_no_secret_code_or_token_is_in_the_log(site: Site[Oidc]) -> None:
    assert site.application.secret not in site.hub.lines.text
    assert "eyJhbGciOiJSUzI1NiIs" not in site.hub.lines.text


async def test_a_provider_that_tells_all_in_the_id_token_is_asked_for_a_new_one(
    tmp_path_factory: Any,
) -> None:
    async with openid_site(tmp_path_factory, method="client_secret_post", userinfo=False) as site:
        ada = site.provider.join("ada", "lab")
        browser, answer = await sign_in(site, ada)
        assert answer.status == 302, answer.text
        assert await browser.who() == "ada"
        for groups, who in ((["lab"], "ada"), ([], "")):
            site.provider.people[ada]["groups"] = groups
            site.provider.save()
            site.ask_anew()
            assert await browser.who() == who
