"""A lab with local accounts in Chromium: requests, a second factor, and a lost phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browsing import (
    PATIENCE_MS,
    accept_invitation,
    must_be_accessible,
    run_cell,
    shoot,
    start_session,
)
from tests.stack import PASSWORD, Stack, make_stack, take_down

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, engine_socket: Path) -> Iterator[Stack]:
    stack = make_stack(tmp_path_factory.mktemp("local"), engine_socket, "local")
    text = stack.config.read_text()
    stack.config.write_text(text.replace("login: {admins: [mia]}", "login: {admins: [mia], approve: true}"))
    try:
        done = stack.labdock("up")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        yield stack
    finally:
        take_down(stack)


def new_page(browser: Browser, lab: Stack) -> Page:
    context = browser.new_context(base_url=lab.url, viewport={"width": 1200, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    return context.new_page()


def sign_in(page: Page, name: str) -> None:
    page.goto("/hub/login")
    page.locator("#username_input").fill(name)
    page.locator("#password").fill(PASSWORD)
    page.locator("#login_submit").click()


def checked(page: Page, name: str) -> None:
    must_be_accessible(page)
    shoot(page, name)


def ask_for(page: Page, name: str) -> None:
    page.goto("/hub/login")
    page.get_by_role("link", name="Ask for one").click()
    checked(page, "sign-up")
    page.get_by_label("Name to sign in with").fill(name)
    page.get_by_label("Full name").fill("Mia Somebody")
    page.locator("#password").fill(PASSWORD)
    page.get_by_role("button", name="Ask to be let in").click()
    expect(page.get_by_role("heading", name="Waiting for approval")).to_be_visible()


def set_up_second_factor(page: Page) -> tuple[pyotp.TOTP, str]:
    """The authenticator app, and one of the recovery codes."""
    page.goto("/hub/second-factor")
    checked(page, "second-factor")
    page.locator("#password").fill(PASSWORD)
    page.get_by_role("button", name="Set up").click()
    expect(page.locator(".ld-qr svg")).to_be_visible()
    checked(page, "second-factor-qr")
    phone = pyotp.TOTP(page.locator("main code").inner_text().replace("-", ""))
    page.locator("#code").fill(phone.now())
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator(".ld-codes li")).to_have_count(10)
    checked(page, "recovery-codes")
    return phone, page.locator(".ld-codes code").first.inner_text()


def give_code(page: Page, code: str) -> None:
    expect(page.get_by_role("heading", name="Your code")).to_be_visible()
    page.locator("#code").fill(code)
    page.get_by_role("button", name="Sign in").click()


def test_who_asks_for_an_administrators_name_is_let_in_under_another_and_is_none(
    lab: Stack, browser: Browser
) -> None:
    admin, page = new_page(browser, lab), new_page(browser, lab)
    accept_invitation(admin, lab.invite("boss", admin=True))
    ask_for(page, "mia")
    # It looks like any other request until it is granted.
    expect(page.get_by_role("main")).not_to_contain_text("mia-2")
    admin.goto("/hub/people")
    expect(admin.get_by_role("main")).to_contain_text("would be mia-2 here")
    admin.get_by_role("button", name="Approve mia-2").click()
    expect(page.get_by_role("heading", name="You were let in")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text("Sign in with the name mia-2")
    checked(page, "let-in")
    page.get_by_role("link", name="Sign in", exact=True).click()
    page.locator("#password").fill(PASSWORD)
    page.locator("#login_submit").click()
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
    expect(page.get_by_role("link", name="People")).to_have_count(0)


def test_a_code_leads_to_a_cell_and_a_lost_phone_is_helped_by_an_administrator_alone(
    lab: Stack, browser: Browser
) -> None:
    page = new_page(browser, lab)
    accept_invitation(page, lab.invite("ada"))
    phone, recovery = set_up_second_factor(page)
    page.goto("/hub/logout")
    sign_in(page, "ada")
    checked(page, "second-step")
    give_code(page, "000000")
    expect(page.get_by_role("alert")).to_contain_text("not right")
    give_code(page, recovery)
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
    start_session(page, "/user/ada/lab")
    page.get_by_text("Python 3 (ipykernel)").first.click()
    run_cell(page, "import getpass; print('I am', getpass.getuser())")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("I am ada")

    other = new_page(browser, lab)
    other.goto(str(lab.api.reset_user("ada")["link"]))
    other.locator("#password").fill(PASSWORD)
    other.locator("main form button.btn-primary").click()
    expect(other.get_by_role("heading", name="Your code")).to_be_visible()
    done = lab.labdock("users", "reset", "ada", "--second-factor")
    assert done.stdout == "ada signs in with the password alone now.\n", done.stderr
    sign_in(other, "ada")
    expect(other).to_have_url(re.compile("/user/ada/"))
    log = lab.labdock("logs", "hub").stdout
    assert "The second factor of ada was taken away by labdock-cli" in log
    assert not [secret for secret in (PASSWORD, phone.secret, recovery) if secret in log]
