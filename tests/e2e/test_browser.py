"""The whole way in Chromium: the one-time link, an invited person, a session, a notebook cell, stop."""

import os
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.e2e.browsing import (
    PATIENCE_MS,
    accept_invitation,
    must_be_accessible,
    run_cell,
    shoot,
    start_session,
)
from tests.stack import PASSWORD, Stack

pytestmark = pytest.mark.browser


@pytest.fixture
def context(browser: Browser, stack: Stack) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=stack.url, viewport={"width": 1200, "height": 750})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def ada(stack: Stack) -> Iterator[str]:
    """Ada's invitation; she is removed afterwards."""
    stack.remove("ada")
    yield stack.invite("ada")
    stack.remove("ada")


def test_the_first_administrators_link_signs_in_at_once_and_only_once(
    context: BrowserContext, stack: Stack
) -> None:
    link = str(stack.api.first_link()["link"])
    page = context.new_page()
    page.goto(link)
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
    expect(page.get_by_role("link", name="People")).to_be_visible()
    page.goto("/hub/people")
    expect(page.get_by_role("heading", name="People")).to_be_visible()
    must_be_accessible(page)
    shoot(page, "people")
    context.clear_cookies()
    page.goto(link)
    expect(page.get_by_role("main")).to_contain_text("used")
    expect(page.get_by_role("link", name="People")).to_have_count(0)


def test_an_administrator_invites_somebody_on_the_page(context: BrowserContext, stack: Stack) -> None:
    stack.remove("grace")
    try:
        page = context.new_page()
        page.goto(str(stack.api.first_link()["link"]))
        expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
        page.goto("/hub/people")
        page.get_by_label("Invite somebody by name").fill("grace")
        page.get_by_role("button", name="Make a link").click()
        expect(page.get_by_role("textbox", name="Link for grace")).to_have_value(re.compile("/hub/link/"))
        page.get_by_label("Invite somebody by name").fill("Not A Name")
        page.get_by_role("button", name="Make a link").click()
        expect(page.locator(".is-invalid, [role=alert]").first).to_be_visible()
    finally:
        stack.remove("grace")


def test_an_invited_person_runs_a_cell_and_stops(context: BrowserContext, ada: str, stack: Stack) -> None:
    page = context.new_page()
    page.goto(ada)
    must_be_accessible(page)
    shoot(page, "invitation")
    accept_invitation(page, ada)
    must_be_accessible(page)
    shoot(page, "start")
    page.get_by_role("button", name="Start session").click()
    expect(page.locator('[data-step="image"][data-state="done"]')).to_be_visible()
    must_be_accessible(page)
    shoot(page, "starting")

    page.wait_for_url("**/user/ada/lab**")
    page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click()
    run_cell(page, "import getpass, platform; print(getpass.getuser(), 'on', platform.node(), 6 * 7)")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("ada on session-ada 42")
    shoot(page, "notebook")

    page.goto("/hub/home")
    expect(page.locator(".ld-state")).to_have_text("Running")
    must_be_accessible(page)
    page.get_by_role("button", name="Stop session").click()
    expect(page.locator(".ld-state")).to_have_text("Not running")
    assert stack.container_id(f"{stack.instance}-session-ada") is None


def test_the_page_reconnects_and_the_kernel_remembers_after_the_hub_restarts(
    context: BrowserContext, ada: str, stack: Stack
) -> None:
    page = context.new_page()
    accept_invitation(page, ada)
    start_session(page, "/user/ada/lab")
    page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click()
    run_cell(page, "answer = 6 * 7; print('kept')")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("kept")
    assert stack.labdock("restart", "hub").returncode == 0
    assert stack.labdock("restart", "proxy").returncode == 0
    run_cell(page, "print('still', answer)")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("still 42")


def test_a_failed_start_shows_the_cause_the_last_lines_and_a_way_on(
    context: BrowserContext, ada: str, stack: Stack
) -> None:
    page = context.new_page()
    accept_invitation(page, ada)
    start_session(page, "/user/ada/lab")
    (home,) = (stack.state / "storage/homes").glob("ada-*")
    settings = home / ".jupyter/jupyter_server_config.py"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("raise SystemExit('<b>broken</b> settings')\n")
    for path in (settings.parent, settings):
        os.chown(path, home.stat().st_uid, home.stat().st_gid)
    page.goto("/hub/home")
    page.get_by_role("button", name="Stop session").click()
    expect(page.locator(".ld-state")).to_have_text("Not running")
    page.goto("/hub/spawn")
    page.get_by_role("button", name="Start session").click()
    expect(page.get_by_role("main")).to_contain_text("exit code 1")
    expect(page.get_by_role("main")).to_contain_text("<b>broken</b> settings")
    expect(page.get_by_role("link", name="Try again")).to_be_visible()
    must_be_accessible(page)
    shoot(page, "failed")


def test_a_wrong_password_is_told_and_a_right_one_gets_in(context: BrowserContext, ada: str) -> None:
    page = context.new_page()
    accept_invitation(page, ada)
    context.clear_cookies()
    page.goto("/hub/login")
    must_be_accessible(page)
    page.get_by_label("Name").fill("ada")
    page.locator("#password").fill("not this one at all")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert").first).to_be_visible()
    page.get_by_label("Name").fill("ada")
    page.locator("#password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_small_screen_in_both_colour_schemes(
    browser: Browser, ada: str, stack: Stack, scheme: str
) -> None:
    context = browser.new_context(
        base_url=stack.url,
        viewport={"width": 320, "height": 640},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    accept_invitation(page, ada)
    for path in ("/hub/spawn", "/hub/home", "/hub/password", "/hub/token"):
        page.goto(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 320, f"{path} is {width} px wide"
        must_be_accessible(page)
    page.goto("/hub/spawn")
    shoot(page, f"small-{scheme}")
    context.close()
