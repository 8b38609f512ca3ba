"""A session that was started when the site had another address: nobody is led there, and Home says why."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.hub.conftest import GOOD, Browser, Hub
from tests.hub.test_images import start

pytestmark = pytest.mark.asyncio(loop_scope="module")

OLD = "http://old.example:8000/user/{name}/"
NOTICE = "it cannot be opened any more"


async def led_to(hub: Hub, name: str, target: str = "") -> str:
    """Where *name* is led who signs in to see *target*."""
    answer = await hub.browser().sign_in(name, GOOD, f"?next={quote(target, safe='')}" if target else "")
    assert answer.status == 302, answer.text
    return str(answer.headers["Location"])


async def one_with_a_session(hub: Hub, name: str, *, moved: bool) -> Browser:
    browser = await hub.member(name)
    await start(hub, browser)
    session = hub.app.users[name].spawners[""]
    session.opened_at = OLD.format(name=name) if moved else session.public_url
    return browser


async def test_whoever_signs_in_lands_on_home_and_reads_what_to_do(hub: Hub) -> None:
    browser = await one_with_a_session(hub, "gus", moved=True)
    assert await led_to(hub, "gus") == "/hub/home"
    for path in ("/hub/", "/hub/login", "/hub/spawn"):
        assert (await browser.get(path)).headers["Location"] == "/hub/home", path
    page = (await browser.get("/hub/home")).text
    assert NOTICE in page
    assert "Open session" not in page
    assert 'id="stop"' in page


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("gil", "/user/gil/lab"),
        ("gwen", "/hub/api/oauth2/authorize?client_id=jupyterhub-user-gwen&response_type=code"),
    ],
)
async def test_nobody_is_led_into_it_by_an_address_of_before(hub: Hub, name: str, target: str) -> None:
    await one_with_a_session(hub, name, moved=True)
    assert await led_to(hub, name, target) == "/hub/home"
    assert await led_to(hub, name, "/hub/token") == "/hub/token"


async def test_started_again_it_is_opened_as_ever(hub: Hub) -> None:
    browser = await one_with_a_session(hub, "hal", moved=True)
    await start(hub, browser, path="/hub/spawn/hal/two")
    assert (await led_to(hub, "hal", "/user/hal/two/lab")).endswith("/user/hal/two/lab")
    assert (await hub.api("DELETE", "/users/hal/server")).status == 204
    await start(hub, browser)
    page = (await browser.get("/hub/home")).text
    assert NOTICE not in page
    assert page.count("Open session") == 2
    assert (await led_to(hub, "hal")).endswith("/user/hal/")


async def test_a_session_that_is_where_it_was_started_is_opened(hub: Hub) -> None:
    browser = await one_with_a_session(hub, "ida", moved=False)
    assert (await led_to(hub, "ida")).endswith("/user/ida/")
    assert "Open session" in (await browser.get("/hub/home")).text
