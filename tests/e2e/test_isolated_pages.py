"""Each person at a host name of their own, in Chromium: what one person's page cannot do to another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

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
from tests.stack import PASSWORD, Stack, free_port, make_stack, take_down

pytestmark = pytest.mark.browser

# Browsers lead every name below localhost to this machine.
SITE = "lab.localhost"
FETCH = """
async ([address, options]) => {
    try {
        const answer = await fetch(address, {credentials: "include", ...options});
        return answer.status;
    } catch (error) {
        return error.name;
    }
}
"""

KERNELS = """
async (address) => {
    const token = document.cookie.match(/_xsrf=([^;]+)/)[1];
    const answer = await fetch(address, {headers: {"X-XSRFToken": token}});
    return (await answer.json()).map((kernel) => kernel.id);
}
"""


def bring_up(stack: Stack, port_http: int, *, isolate_pages: bool) -> None:
    site = {
        "url": f"https://{SITE}:{stack.port}",
        "https": "internal",
        "listen": f"127.0.0.1:{stack.port}",
        "listen_http": f"127.0.0.1:{port_http}",
        "isolate_pages": isolate_pages,
    }
    stack.config.write_text(
        f"site: {json.dumps(site)}\nlogin: {{admins: [mia]}}\nlimits: {{memory: 1G, shm: 256M}}\n"
    )
    done = stack.labdock("up")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def stack(engine_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = make_stack(tmp_path_factory.mktemp("isolated"), engine_socket, "i")
    try:
        bring_up(made, free_port(), isolate_pages=True)
        yield made
    finally:
        take_down(made)


@pytest.fixture
def pages(browser: Browser, stack: Stack) -> Iterator[tuple[Page, Page]]:
    """Pages of two browsers, one for each person."""
    contexts = [
        browser.new_context(base_url=f"https://{SITE}:{stack.port}", ignore_https_errors=True)
        for _ in range(2)
    ]
    expect.set_options(timeout=PATIENCE_MS)
    for context in contexts:
        context.set_default_timeout(PATIENCE_MS)
    yield contexts[0].new_page(), contexts[1].new_page()
    for context in contexts:
        context.close()


def start(page: Page, stack: Stack, name: str, host: str) -> str:
    """Start a session of *name*; returns its address, which must be at *host*."""
    accept_invitation(page, stack.invite(name))
    base = f"https://{host}.{SITE}:{stack.port}/user/{name}/"
    start_session(page, f"{base}lab")
    return base


def run_in_notebook(page: Page, code: str, *, printed: str) -> None:
    run_cell(page, code)
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text(printed)


def test_a_page_of_one_person_can_neither_read_nor_act_in_the_session_of_another(
    pages: tuple[Page, Page], stack: Stack
) -> None:
    page, bobs = pages
    site = f"https://{SITE}:{stack.port}"
    ada = start(page, stack, "ada", "ada")
    page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click()
    run_in_notebook(page, "answer = 6 * 7; print(answer)", printed="42")
    notebook = page.url
    assert notebook.endswith(".ipynb")
    shoot(page, "isolated-notebook")
    bob = start(bobs, stack, "bob.b", "bob--b")

    # Ada is lured to a page of Bob's, whose session may serve what he likes: here, a page of its icon, with
    # the scripts of this test. From one that was never served, Chromium lets no request reach this machine.
    lured = page.context.new_page()
    lured.goto(f"{bob}static/favicons/favicon.ico")
    assert lured.evaluate(FETCH, [f"{bob}api", {}]) == 200
    kernels = f"{ada}api/kernels"
    before = page.evaluate(KERNELS, kernels)
    assert len(before) == 1
    for address in (kernels, f"{ada}api/contents", f"{site}/hub/home", f"{site}/hub/api/user"):
        assert lured.evaluate(FETCH, [address, {}]) == "TypeError"
    for address in (kernels, f"{site}/hub/spawn/ada", f"{site}/hub/api/users/ada/server"):
        # Browsers send such a request; it lacks what only a page at Ada's own host can read.
        with lured.expect_response(address) as refused:
            lured.evaluate(FETCH, [address, {"method": "POST", "mode": "no-cors", "body": "{}"}])
        assert refused.value.status == 403
    assert page.evaluate(KERNELS, kernels) == before
    # Nor is the hub to be had at Bob's host, where his page could reach into it.
    lured.goto(f"{bob.partition('/user/')[0]}/hub/home")
    assert lured.url == f"{site}/hub/home"

    # What is the site's own goes on working.
    for part in ("hub", "proxy"):
        assert stack.labdock("restart", part).returncode == 0
    page.reload()
    run_in_notebook(page, "print('still', answer)", printed="still 42")
    # Addresses from before, or typed by hand, lead there too.
    lured.goto(f"{site}/user/ada/lab")
    lured.wait_for_url(f"{ada}lab*", wait_until="domcontentloaded")
    lured.goto("/hub/home")
    lured.get_by_role("button", name="Stop session").click()
    expect(lured.locator(".ld-state")).to_have_text("Not running")
    page.goto(f"{ada}lab")
    expect(page.get_by_role("heading", name="not running")).to_be_visible()
    shoot(page, "isolated-not-running")
    bobs.goto("/hub/logout")
    assert bobs.evaluate(FETCH, [f"{site}/hub/api/user", {}]) == 403
    bobs.goto(f"{bob}lab")
    expect(bobs.get_by_role("button", name="Sign in")).to_be_visible()


def test_verify_goes_the_whole_way_at_a_host_of_its_own(stack: Stack) -> None:
    done = stack.labdock("verify")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_a_session_from_before_the_names_were_given_up_is_told_to_be_started_anew(
    pages: tuple[Page, Page], stack: Stack
) -> None:
    page, other = pages
    start(page, stack, "cleo", "cleo")
    bring_up(stack, free_port(), isolate_pages=False)
    other.goto(f"https://{SITE}:{stack.port}/user/cleo/lab")
    other.get_by_role("button", name="Sign in").click()
    other.get_by_label("Name").fill("cleo")
    other.get_by_label("Password").fill(PASSWORD)
    other.locator("form button.btn-primary").click()
    expect(other.get_by_role("status").filter(has_text="cannot be opened any more")).to_be_visible()
    must_be_accessible(other)
    shoot(other, "moved")
    other.get_by_role("button", name="Stop session").click()
    expect(other.locator(".ld-state")).to_have_text("Not running")
    other.get_by_role("link", name="Start session").click()
    start_session(other, f"https://{SITE}:{stack.port}/user/cleo/lab")
