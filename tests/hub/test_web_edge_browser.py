"""The hub's pages in Chromium, under its content security policy: nothing on them is blocked, or fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pyotp
import pytest
import pytest_asyncio
from jupyterhub import orm
from playwright.async_api import Page, async_playwright, expect

from labdock.core.login import AccessRules
from tests.chromium import PROGRAM
from tests.hub.conftest import GOOD, Hub, running_hub, until_ready

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

RULES = AccessRules(admins=("mia",), approve=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: Any) -> AsyncIterator[Hub]:
    async with running_hub(tmp_path_factory.mktemp("hub"), RULES) as running:
        yield running


class Watched:
    """A page of Chromium, and what it complained of."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.complaints: list[str] = []
        page.on("console", lambda said: self.note(said.type, f"{said.text} ({page.url})"))
        page.on("pageerror", lambda error: self.note("error", f"{error} ({page.url})"))

    def note(self, kind: str, text: str) -> None:
        # A page whose own status says that something failed is in the console as that.
        if kind == "error" and "Failed to load resource: the server responded with a status of" not in text:
            self.complaints.append(text)

    async def open(self, path: str, *, status: int = 200) -> None:
        answer = await self.page.goto(self.base + path)
        assert answer is not None
        assert answer.status == status, path
        await self.page.wait_for_load_state("networkidle")
        # Scripts ran: the one in the page, and those that it loads.
        assert await self.page.evaluate("typeof window.jhdata") == "object", path

    async def enter(self, link: str) -> None:
        await self.open(urlsplit(link).path)
        await self.page.locator("#password").fill(GOOD)
        await self.page.locator("main form button.btn-primary").click()
        await expect(self.page.get_by_role("heading", name="Start a session")).to_be_visible()


@pytest_asyncio.fixture(loop_scope="module")
async def watched(hub: Hub) -> AsyncIterator[Watched]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        context = await chromium.new_context()
        yield Watched(await context.new_page(), hub.base)
        await chromium.close()


async def test_no_page_is_hurt_by_the_policy(hub: Hub, watched: Watched) -> None:
    page = watched.page
    for path in ("/hub/login", "/hub/sign-up", "/hub/waiting"):
        await watched.open(path)
    await watched.open("/hub/link/nonsense", status=404)
    await watched.enter(await hub.invite("root-of-all", admin=True))
    await hub.invite("somebody")
    for path in (
        "/hub/home",
        "/hub/password",
        "/hub/people",
        "/hub/people/somebody/remove",
        "/hub/token",
        "/hub/admin",
    ):
        await watched.open(path)
        assert not watched.complaints, path
    # JupyterHub's own React page has drawn its table.
    await expect(page.get_by_role("row", name="root-of-all")).to_be_visible()

    # Its scripts ask the API with the token of the page.
    await watched.open("/hub/token")
    await page.locator("#token-note").fill("for a script")
    await page.locator("#request-token-form button[type=submit]").click()
    await expect(page.locator("#token-result")).to_be_visible()

    # The start form is sent, and what runs is stopped by our own script.
    await watched.open("/hub/spawn")
    await page.locator("input[name=image][value=broken]").check()
    await page.locator("main form button.btn-primary").first.click()
    await expect(page.get_by_text("The container ended at once.")).to_be_visible()
    assert (await hub.api("POST", "/users/root-of-all/server", json={"image": "cpu"})).status in (201, 202)
    await until_ready(hub, "root-of-all")
    await watched.open("/hub/home")
    await page.locator("#stop").click()
    await expect(page.get_by_role("link", name="Start session")).to_be_visible()
    await watched.open("/hub/user/root-of-all/", status=424)
    assert not watched.complaints


async def test_somebody_asks_is_let_in_and_sets_up_a_second_factor(hub: Hub, watched: Watched) -> None:
    page = watched.page
    await watched.open("/hub/login")
    await page.get_by_role("link", name="Ask for one").click()
    await page.get_by_label("Name to sign in with").fill("newcomer")
    await page.locator("#password").fill(GOOD)
    await page.get_by_role("button", name="Ask to be let in").click()
    await expect(page.get_by_role("heading", name="Waiting for approval")).to_be_visible()
    assert (await hub.api("POST", "/labdock/users/newcomer/approve")).status == 200
    # The page looks by itself.
    await expect(page.get_by_role("heading", name="You were let in")).to_be_visible(timeout=20_000)
    await page.get_by_role("link", name="Sign in", exact=True).click()
    await expect(page.locator("#username_input")).to_have_value("newcomer")
    await page.locator("#password").fill(GOOD)
    await page.locator("#login_submit").click()
    await expect(page.get_by_role("heading", name="Start a session")).to_be_visible()

    await watched.open("/hub/password")
    await page.get_by_role("link", name="Second factor").click()
    await page.locator("#password").fill(GOOD)
    await page.get_by_role("button", name="Set up").click()
    box = await page.locator(".ld-qr svg").bounding_box()
    assert box is not None
    assert box["width"] > 150
    secret = (await page.locator("main code").inner_text()).replace("-", "")
    await page.locator("#code").fill(pyotp.TOTP(secret).now())
    await page.get_by_role("button", name="Confirm").click()
    await expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    code = await page.locator(".ld-codes code").first.inner_text()

    await watched.open("/hub/logout")
    await page.locator("#username_input").fill("newcomer")
    await page.locator("#password").fill(GOOD)
    await page.locator("#login_submit").click()
    await expect(page.get_by_role("heading", name="Your code")).to_be_visible()
    await page.locator("#code").fill(code)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
    assert not watched.complaints


async def test_the_question_whether_a_service_may_know_somebody_works(hub: Hub, watched: Watched) -> None:
    await watched.enter(await hub.invite("asked", admin=True))
    client = orm.OAuthClient(
        identifier="service-asking", redirect_uri=f"{hub.base}/hub/home", description="a service", secret="x"
    )
    client.allowed_scopes = ["self"]
    hub.app.db.add(orm.Service(name="asking", oauth_client=client))
    hub.app.db.commit()
    await watched.open("/hub/api/oauth2/authorize?client_id=service-asking&response_type=code&state=s")
    await watched.page.locator("form button[type=submit]").first.click()
    await watched.page.wait_for_url("**/hub/home?*code=*")
    assert not watched.complaints


async def test_a_script_that_somebody_puts_into_a_page_does_not_run(hub: Hub, watched: Watched) -> None:
    page = watched.page
    await watched.open("/hub/login")
    await page.evaluate(
        """() => {
          window.ran = [];
          const add = (html) => document.querySelector("main").insertAdjacentHTML("beforeend", html);
          add('<img src="x:" onerror="ran.push(1)">');
          const inline = document.createElement("script");
          inline.textContent = "ran.push(2)";
          document.body.append(inline);
          const far = document.createElement("script");
          far.src = "data:text/javascript,ran.push(3)";
          document.body.append(far);
        }"""
    )
    await page.wait_for_timeout(300)
    assert await page.evaluate("ran") == []
    assert any("Content Security Policy" in text for text in watched.complaints)


async def test_a_form_that_somebody_puts_into_a_page_goes_nowhere(hub: Hub, watched: Watched) -> None:
    page = watched.page
    await watched.open("/hub/login")
    await page.evaluate(
        """() => {
          const form = document.createElement("form");
          form.action = "http://127.0.0.1:9/steal";
          form.method = "post";
          document.body.append(form);
          form.submit();
        }"""
    )
    await page.wait_for_timeout(300)
    assert urlsplit(page.url).path == "/hub/login"
    assert any("form-action" in text or "Content Security Policy" in text for text in watched.complaints)
