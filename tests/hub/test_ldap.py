"""Signing in with a directory, a real OpenLDAP, on a real hub."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ldap3
import pytest
import pytest_asyncio

from labdock.core.accounts import PACE_FOR_NAME
from labdock.core.login import AccessRules
from labdock.hub.provider_ldap import MOST_WAITING
from labdock.hub.rights import keep_rights
from tests.hub.conftest import GOOD, Answer, Browser, until_ready
from tests.hub.signing_in import Site, site_of
from tests.providers.ldap import GROUPS, LISTS, LOOKUP, PEOPLE, Ldap, running_ldap
from tests.providers.serving import Application, Authority

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.programs]

RULES = AccessRules(
    admins=("mia",), people=("kim",), groups=("gpu", f"cn=Guests, {LISTS}", "poets", f"cn=two,{GROUPS}")
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: Any) -> AsyncIterator[Site[Ldap]]:
    folder: Path = tmp_path_factory.mktemp("ldap")
    authority = Authority()
    with running_ldap(folder, authority) as directory:
        for name in ("gpu", "gpu-alumni"):
            directory.add(f"cn={name},{GROUPS}", ["groupOfNames"], cn=name, member=LOOKUP)
        directory.add(f"cn=poets,{GROUPS}", ["posixGroup"], cn="poets", gidNumber=4000)
        directory.add(f"cn=two,{GROUPS}", ["groupOfUniqueNames"], cn="two", uniqueMember=LOOKUP)
        for name in ("gpu", "guests"):
            directory.add(f"cn={name},{LISTS}", ["groupOfNames"], cn=name, member=LOOKUP)
        application = Application("", directory.lookup_password, "")
        login = {"user_base": PEOPLE, "group_base": GROUPS, "lookup_dn": LOOKUP, "label": "Lab Directory"}
        async with site_of(folder, directory, application, authority, "ldap", RULES, **login) as running:
            yield running


async def enter(site: Site[Ldap], name: str, password: str = GOOD) -> tuple[Browser, Answer]:
    browser = site.hub.browser()
    return browser, await browser.sign_in(name, password)


def said(answer: Answer) -> str:
    found = re.search(r'<p class="alert alert-danger login_error"[^>]*>([^<]*)</p>', answer.text)
    assert found, answer.text
    return html.unescape(found.group(1))


@contextmanager
def settings(site: Site[Ldap], **changed: Any) -> Iterator[None]:
    """Other settings meanwhile; they are frozen for everybody else."""
    login = site.authenticator.wiring.login
    before = {name: getattr(login, name) for name in changed}
    for name, value in changed.items():
        object.__setattr__(login, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(login, name, value)


@contextmanager
def another_authority(site: Site[Ldap]) -> Iterator[None]:
    """The directory's certificate is signed by nobody known meanwhile."""
    directory = site.authenticator.directory
    right, directory.authority = directory.authority, Authority("Another").pem
    try:
        yield
    finally:
        directory.authority = right


async def test_a_member_of_a_group_gets_in_with_the_password_of_the_directory(site: Site[Ldap]) -> None:
    dn = site.provider.join("ada", GOOD, "gpu", displayName="Ada L.")
    browser, answer = await enter(site, "ADA")
    assert answer.status == 302, answer.text
    assert await browser.who() == "ada"
    account = site.hub.store.find("ada")
    assert account is not None
    assert re.fullmatch(r"ldap:[0-9a-f]{8}-[0-9a-f-]{27}", account.identity)
    assert (account.full_name, account.groups) == ("Ada L.", frozenset({"gpu"}))
    assert dn not in account.identity


async def test_the_page_says_whose_password_it_wants(site: Site[Ldap]) -> None:
    page = await site.hub.browser().get("/hub/login")
    assert "your password of Lab Directory" in page.text
    assert "link" not in page.text.rpartition("text-body-secondary")[2].partition("</p>")[0]


async def test_members_are_found_in_each_way_that_directories_write_them(site: Site[Ldap]) -> None:
    poet = site.provider.join("poe", GOOD)
    site.provider.change(f"cn=poets,{GROUPS}", memberUid=[(ldap3.MODIFY_ADD, ["poe"])])
    two = site.provider.join("tom", GOOD)
    site.provider.change(f"cn=two,{GROUPS}", uniqueMember=[(ldap3.MODIFY_ADD, [two])])
    assert poet != two
    for name in ("poe", "tom"):
        browser, _ = await enter(site, name)
        assert await browser.who() == name


async def test_a_group_of_the_same_name_elsewhere_opens_nothing(site: Site[Ldap]) -> None:
    dn = site.provider.join("eve", GOOD)
    site.provider.change(f"cn=gpu,{LISTS}", member=[(ldap3.MODIFY_ADD, [dn])])
    site.provider.change(f"cn=gpu-alumni,{GROUPS}", member=[(ldap3.MODIFY_ADD, [dn])])
    _, answer = await enter(site, "eve")
    assert answer.status == 403
    assert "does not expect eve" in said(answer)


async def test_a_group_anywhere_opens_the_door_by_its_whole_name(site: Site[Ldap]) -> None:
    dn = site.provider.join("gil", GOOD)
    site.provider.change(f"cn=guests,{LISTS}", member=[(ldap3.MODIFY_ADD, [dn])])
    browser, _ = await enter(site, "gil")
    assert await browser.who() == "gil"


async def test_a_wrong_password_and_an_unknown_name_read_and_cost_the_same(site: Site[Ldap]) -> None:
    site.provider.join("bea", GOOD, "gpu")
    answers = [(await enter(site, name, "not this one"))[1] for name in ("bea", "nobody", "b e a")]
    assert {(answer.status, said(answer)) for answer in answers} == {(403, "Wrong name or password.")}
    tried: list[str] = []
    real = site.authenticator._is_password

    def count(dn: str, password: str) -> bool:
        tried.append(dn)
        return bool(real(dn, password))

    site.authenticator._is_password = count
    try:
        await enter(site, "bea", "not this one")
        await enter(site, "nobody", "not this one")
    finally:
        del site.authenticator._is_password
    assert tried == [f"uid=bea,{PEOPLE}", f"uid=nobody,{PEOPLE}"]


async def test_an_empty_password_is_no_proof(site: Site[Ldap]) -> None:
    dn = site.provider.join("emil", GOOD, "gpu")
    for password in ("", " ", "\0", "\0\0"):
        _, answer = await enter(site, "emil", password)
        assert answer.status in (400, 403)
    assert site.authenticator._is_password(dn, "") is False
    assert site.hub.store.find("emil") is None


async def test_a_name_is_never_read_as_a_filter(site: Site[Ldap]) -> None:
    site.provider.join("ines", GOOD, "gpu")
    for name in (
        "*",
        "in*",
        "ines)(uid=*",
        "*)(|(objectClass=*",
        "ines\\2a",
        "ines)(&",
        "ines,ou=people",
        "\\69nes",
    ):
        _, answer = await enter(site, name)
        assert (answer.status, said(answer)) == (403, "Wrong name or password."), name
    assert site.hub.store.find("ines") is None


async def test_a_name_with_signs_of_its_own_signs_in(site: Site[Ldap]) -> None:
    site.provider.join("o(d)d*", GOOD, "gpu")
    browser, answer = await enter(site, "o(d)d*")
    assert answer.status == 302, answer.text
    assert await browser.who() == "odd"


async def test_a_renamed_login_keeps_its_account_and_a_stranger_under_the_old_one_gets_another(
    site: Site[Ldap],
) -> None:
    dn = site.provider.join("mia", GOOD)
    browser, _ = await enter(site, "mia")
    assert (await browser.get("/hub/people")).status == 200
    dn = site.provider.rename(dn, "mia.married")
    browser, _ = await enter(site, "mia.married")
    assert await browser.who() == "mia"

    site.provider.join("mia", GOOD, "gpu")
    browser, _ = await enter(site, "mia")
    assert await browser.who() == "mia-2"
    assert (await browser.get("/hub/people")).status == 403


async def test_a_login_that_was_deleted_and_given_anew_is_another_account(site: Site[Ldap]) -> None:
    dn = site.provider.join("dan", GOOD, "gpu")
    await enter(site, "dan")
    site.provider.delete(dn)
    # The group still names the entry of old, so it has the new one.
    site.provider.join("dan", GOOD)
    browser, _ = await enter(site, "dan")
    assert await browser.who() == "dan-2"


async def test_an_account_that_has_expired_does_not_sign_in_and_is_out(site: Site[Ldap]) -> None:
    dn = site.provider.join("xara", GOOD, "gpu")
    browser, _ = await enter(site, "xara")
    yesterday = int(time.time()) // 86400 - 1
    site.provider.change(dn, shadowExpire=[(ldap3.MODIFY_REPLACE, [str(yesterday)])])
    _, answer = await enter(site, "xara")
    assert answer.status == 403
    assert "disabled in the directory" in said(answer)
    site.ask_anew()
    assert await browser.who() == ""


async def test_who_leaves_the_group_or_the_directory_is_out(site: Site[Ldap]) -> None:
    lea, lou = site.provider.join("lea", GOOD, "gpu"), site.provider.join("lou", GOOD, "gpu")
    first, _ = await enter(site, "lea")
    second, _ = await enter(site, "lou")
    site.provider.change(f"cn=gpu,{GROUPS}", member=[(ldap3.MODIFY_DELETE, [lea])])
    site.provider.delete(lou)
    site.ask_anew()
    assert await first.who() == ""
    assert await second.who() == ""


async def test_whose_entry_is_deleted_or_expires_loses_the_session_that_runs(site: Site[Ldap]) -> None:
    async def sweep() -> None:
        assert (await site.hub.api("POST", "/labdock/sweep", json={})).status == 200

    yesterday = [(ldap3.MODIFY_REPLACE, [str(int(time.time()) // 86400 - 1)])]
    entries = {name: site.provider.join(name, GOOD, "gpu") for name in ("nils", "nele", "noa")}
    for name in entries:
        await enter(site, name)
        await site.hub.api("POST", f"/users/{name}/server", json={"image": "cpu"})
        await until_ready(site.hub, name)
    care = asyncio.create_task(keep_rights(site.hub.sign_in.admission.state, sweep, every_s=0.05))
    try:
        site.provider.delete(entries["nils"])
        site.provider.change(entries["nele"], shadowExpire=yesterday)
        site.ask_anew()
        # As their sessions ask with their own tokens, whether somebody has a page open or not.
        for user in list(site.hub.app.users.values()):
            if user.name in entries:
                await site.authenticator.refresh_user(user)
        async with asyncio.timeout(10):
            while [
                (await site.hub.api("GET", f"/users/{name}")).json["server"] for name in ("nils", "nele")
            ] != [
                None,
                None,
            ]:
                await asyncio.sleep(0.05)
        assert (await site.hub.api("GET", "/users/noa")).json["server"] is not None
    finally:
        care.cancel()
    # Whose account comes back comes in as before.
    site.provider.change(entries["nele"], shadowExpire=[(ldap3.MODIFY_DELETE, [])])
    browser, _ = await enter(site, "nele")
    assert await browser.who() == "nele"


async def test_a_directory_that_is_down_is_told_and_keeps_people_in(site: Site[Ldap]) -> None:
    site.provider.join("hal", GOOD, "gpu")
    browser, _ = await enter(site, "hal")
    site.provider.stop()
    try:
        _, answer = await enter(site, "hal")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "60")
        assert "got no answer" in said(answer)
        site.ask_anew()
        assert await browser.who() == "hal"
    finally:
        site.provider.start()
    browser, _ = await enter(site, "hal")
    assert await browser.who() == "hal"


async def test_a_directory_that_hangs_holds_up_nobody_but_those_who_sign_in(site: Site[Ldap]) -> None:
    async def never(reader: Any, writer: Any) -> None:
        await asyncio.sleep(30)

    site.provider.join("ike", GOOD, "gpu")
    browser, _ = await enter(site, "ike")
    # As few threads for everything else as there are on a machine with two processors.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(6))
    server = await asyncio.start_server(never, "127.0.0.1", 0)
    directory = site.authenticator.directory
    right, directory.port = directory.port, server.sockets[0].getsockname()[1]
    try:
        waiting = [asyncio.create_task(enter(site, f"ike{i}")) for i in range(60)]
        await asyncio.sleep(1)
        async with asyncio.timeout(4):
            assert (await site.hub.browser().get("/hub/login")).status == 200
            assert await browser.who() == "ike"
        early = [task.result()[1] for task in waiting if task.done()]
        assert {answer.status for answer in early} == {503}
        assert len(early) == 60 - MOST_WAITING
        for task in waiting:
            task.cancel()
    finally:
        directory.port = right
        server.close()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(60):
        while site.authenticator._waiting:
            await asyncio.sleep(0.1)


async def test_a_certificate_of_nobody_known_or_for_another_name_is_told_nothing(site: Site[Ldap]) -> None:
    with another_authority(site):
        _, answer = await enter(site, "ada")
    assert answer.status == 502
    assert "is not one that this site trusts" in said(answer)
    assert "login.authority" in site.hub.lines.text
    directory = site.authenticator.directory
    right, directory.host = directory.host, "127.0.0.2"
    try:
        _, answer = await enter(site, "ada")
    finally:
        directory.host = right
    assert answer.status == 502


async def test_starttls_comes_before_anything_is_said(site: Site[Ldap]) -> None:
    directory = site.authenticator.directory
    before = directory.port, directory.encrypted_at_once
    directory.port = int(site.provider.plain_url.rpartition(":")[2])
    directory.encrypted_at_once = False
    try:
        browser, _ = await enter(site, "ada")
        assert await browser.who() == "ada"
        with another_authority(site):
            _, answer = await enter(site, "ada")
        assert answer.status == 502
    finally:
        directory.port, directory.encrypted_at_once = before


async def test_what_is_set_up_wrongly_is_told_to_the_administrator(site: Site[Ldap]) -> None:
    authenticator = site.authenticator
    for place, trait, wrong, fix in (
        (
            authenticator.directory,
            "lookup_dn",
            LOOKUP.replace("labdock", "nobody"),
            "labdock secret set ldap_password",
        ),
        (authenticator, "user_search_base", "ou=persons,dc=lab,dc=example", "login.ldap.users"),
    ):
        right = getattr(place, trait)
        setattr(place, trait, wrong)
        try:
            _, answer = await enter(site, "ada")
        finally:
            setattr(place, trait, right)
        assert answer.status == 500
        assert "nothing is wrong with your account" in said(answer)
        assert fix in site.hub.lines.text
    with settings(site, group_base="ou=clubs,dc=lab,dc=example"):
        _, answer = await enter(site, "ada")
    assert answer.status == 500
    with settings(site, id_attribute="employeeNumber"):
        _, answer = await enter(site, "ada")
    assert answer.status == 500
    assert "has no employeeNumber" in site.hub.lines.text


async def test_a_stranger_of_the_directory_waits_for_approval(site: Site[Ldap]) -> None:
    site.provider.join("wanda", GOOD)
    with site.rules(approve=True):
        browser, answer = await enter(site, "wanda")
        assert (answer.status, answer.headers["Location"]) == (303, "/hub/waiting")
        assert "Waiting for approval" in (await browser.get("/hub/waiting")).text


async def test_guessing_is_slowed_down_for_one_name_from_one_address(site: Site[Ldap]) -> None:
    site.provider.join("gus", GOOD, "gpu")
    browser = site.hub.browser()
    for _ in range(PACE_FOR_NAME.free + 1):
        assert (await browser.sign_in("gus", "not this one")).status == 403
    refused = await browser.sign_in("gus", GOOD)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    browser, _ = await enter(site, "gus")
    assert await browser.who() == "gus"


async def test_strangers_failures_do_not_slow_the_browser_that_signed_in_before(site: Site[Ldap]) -> None:
    site.provider.join("hana", GOOD, "gpu")
    own = site.hub.browser("203.0.113.50")
    assert (await own.sign_in("hana", GOOD)).status == 302
    await own.get("/hub/logout")
    for _ in range(PACE_FOR_NAME.free + 2):
        await site.hub.browser("203.0.113.50").sign_in("hana", "not this one")
    assert (await site.hub.browser("203.0.113.50").sign_in("hana", GOOD)).status == 429
    assert (await own.sign_in("hana", GOOD)).status == 302


async def test_no_password_is_in_the_log(site: Site[Ldap]) -> None:
    assert GOOD not in site.hub.lines.text
    assert site.provider.lookup_password not in site.hub.lines.text
    assert "b e a" not in site.hub.lines.text
