"""A lab on HTTPS whose people sign in with GitHub, in Chromium: a member, a stranger, somebody shut out.

The certificate is Pebble's, by ACME; the GitHub is a server of the tests' own.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.browsing import PATIENCE_MS, must_be_accessible, run_cell, shoot, start_session
from tests.pebble import Pebble, running_pebble
from tests.providers.github import GitHub
from tests.providers.serving import Authority, serving
from tests.stack import Stack, bridge_address, free_port, make_stack, take_down

pytestmark = pytest.mark.browser


class Lab:
    """A Labdock at https://localhost whose people sign in with a GitHub of the tests' own."""

    def __init__(self, stack: Stack, github: GitHub, browser: Browser, plain_port: int) -> None:
        self.stack = stack
        self.github = github
        self.browser = browser
        self.plain_port = plain_port
        self.pebble: Pebble | None = None
        self.contexts: list[BrowserContext] = []

    @property
    def url(self) -> str:
        return f"https://localhost:{self.stack.port}"

    def page(self) -> Page:
        """A new page of a browser of its own."""
        context = self.browser.new_context(
            base_url=self.url,
            viewport={"width": 1200, "height": 750},
            # Neither Pebble nor the tests' GitHub is known to Chromium; who issued what is asked elsewhere.
            ignore_https_errors=True,
        )
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        self.contexts.append(context)
        return context.new_page()

    def sign_in(self, login: str, page: Page | None = None) -> Page:
        """Go from the home page to GitHub and back, as *login*."""
        page = page or self.page()
        page.goto("/")
        page.get_by_role("link", name="Sign in with GitHub").click()
        page.get_by_role("button", name=f"Continue as {login}", exact=True).click()
        return page

    def state_of(self, name: str) -> str:
        found = [person["state"] for person in self.stack.api.users() if person["name"] == name]
        return found[0] if found else "unknown"

    def session_of(self, name: str) -> str:
        found = [person["session"] for person in self.stack.api.users() if person["name"] == name]
        return found[0] if found else "unknown"

    def configure(self, **login: object) -> None:
        """Write the file anew, with these settings of ``login`` too."""
        lines = "".join(f"  {key}: {value}\n" for key, value in login.items())
        assert self.pebble is not None
        self.stack.config.write_text(
            f"""\
site:
  name: Vision Lab
  contact: admin@lab.example
  url: {self.url}
  https: auto
  listen: 127.0.0.1:{self.stack.port}
  listen_http: 127.0.0.1:{self.plain_port}
  acme: {{directory: "{self.pebble.directory}", authority: "{self.pebble.authority}"}}
limits: {{cpus: 2, memory: 1G, shm: 256M, pids: 512}}
login:
  method: github
  client_id: {next(iter(self.github.applications))}
  server: {self.github.url}
  authority: authority.pem
  admins: [mia]
  organizations: [vision-lab]
{lines}"""
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, engine_socket: Path, browser: Browser) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("github")
    authority = Authority()
    stack, plain_port = make_stack(folder, engine_socket, "github"), free_port()
    # Where Chromium, and the hub and the edge in their containers, reach both.
    here = bridge_address(engine_socket)
    (folder / "pebble").mkdir()
    with (
        serving(GitHub(), authority, folder, host=here) as github,
        running_pebble(folder / "pebble", here, http_port=plain_port, tls_port=stack.port) as pebble,
    ):
        lab = Lab(stack, github, browser, plain_port)
        lab.pebble = pebble
        github.join("Mia")
        github.join("kim", "vision-lab", name="Kim Lee")
        github.join("stranger", name="Sam Stranger")
        application = github.register(f"{lab.url}/hub/oauth_callback")
        (folder / "authority.pem").write_text(authority.pem)
        lab.configure(approve="true")
        refused = stack.labdock("up")
        assert refused.returncode == 1
        assert "`labdock secret set client_secret` asks for it" in refused.stderr
        set_secret(stack, application.secret)
        try:
            done = stack.labdock("up")
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
            assert "People sign in with GitHub; mia administer" in done.stdout
            yield lab
        finally:
            for context in lab.contexts:
                context.close()
            take_down(stack)


def set_secret(stack: Stack, text: str) -> None:
    command = stack.command("secret", "set", "client_secret")
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert text not in done.stdout + done.stderr


def test_the_certificate_was_issued_by_acme_for_this_name(lab: Lab) -> None:
    shown = lab.stack.facts("certificate", "show")
    assert shown["issuer"].startswith("Pebble Intermediate")
    assert "localhost" in shown["names"]
    page = lab.page()
    page.goto(f"http://localhost:{lab.plain_port}/hub/login")
    expect(page).to_have_url(re.compile(f"^{lab.url}/"))


def test_a_member_of_the_organization_signs_in_and_runs_a_cell(lab: Lab) -> None:
    page = lab.page()
    page.goto("/")
    expect(page.get_by_role("link", name="Sign in with GitHub")).to_be_visible()
    must_be_accessible(page)
    shoot(page, "sign-in-github")
    lab.sign_in("kim", page)
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
    start_session(page, "/user/kim/lab")
    page.get_by_text("Python 3 (ipykernel)").first.click()
    run_cell(page, "import getpass; print('I am', getpass.getuser())")
    expect(page.locator(".jp-OutputArea-output").first).to_contain_text("I am kim")
    shoot(page, "github-cell")


def test_a_stranger_waits_and_is_approved_in_the_browser(lab: Lab) -> None:
    stranger = lab.sign_in("stranger")
    expect(stranger.get_by_role("heading", name="Waiting for approval")).to_be_visible()
    expect(stranger.get_by_role("main")).to_contain_text("admin@lab.example")
    must_be_accessible(stranger)
    shoot(stranger, "waiting")
    stranger.goto("/hub/home")
    expect(stranger.get_by_role("heading", name="Hello")).to_have_count(0)

    admin = lab.sign_in("Mia")
    expect(admin.get_by_role("link", name="People 1 waiting for approval")).to_be_visible()
    admin.goto("/hub/people")
    must_be_accessible(admin)
    shoot(admin, "requests")
    stranger.goto("/hub/waiting")
    admin.get_by_role("button", name="Approve stranger").click()
    expect(admin.get_by_role("status").first).to_contain_text("stranger is let in.")
    # The waiting page takes them in by itself: GitHub knows them still.
    stranger.get_by_role("button", name="Continue as stranger").click()
    expect(stranger.get_by_role("heading", name="Start a session")).to_be_visible()


def test_who_is_shut_out_is_out_within_seconds(lab: Lab) -> None:
    page = lab.sign_in("kim")
    expect(page).to_have_url(re.compile("/hub/(home|spawn)|/user/kim"))
    page.goto("/user/kim/lab")
    expect(page.locator("#jp-main-dock-panel")).to_be_visible()
    admin = lab.sign_in("Mia")
    admin.goto("/hub/people")
    admin.get_by_role("link", name="Shut out kim").click()
    must_be_accessible(admin)
    admin.get_by_role("button", name="Shut out kim").click()
    expect(admin.get_by_role("status").first).to_contain_text("kim is shut out")
    expect(admin.get_by_role("row").filter(has_text="kim")).to_contain_text("Refused")
    shoot(admin, "shut-out")
    assert lab.stack.container_id(f"{lab.stack.instance}-session-kim") is None
    page.goto("/user/kim/lab")
    expect(page.get_by_role("link", name="Sign in with GitHub")).to_be_visible()
    lab.sign_in("kim", page)
    expect(page.get_by_role("heading", name="You may not come in")).to_be_visible()
    shoot(page, "refused")
    admin.goto("/hub/people")
    admin.get_by_role("button", name="Let in kim").click()
    lab.sign_in("kim", page)
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()


def test_an_organization_taken_out_of_the_file_shuts_its_members_out_without_a_restart(lab: Lab) -> None:
    github = lab.github
    github.join("lee", "vision-lab")
    page = lab.sign_in("lee")
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
    hub = lab.stack.container_id(f"{lab.stack.instance}-hub")
    try:
        text = lab.stack.config.read_text()
        lab.stack.config.write_text(text.replace("organizations: [vision-lab]", "organizations: [chem]"))
        assert lab.stack.labdock("up").returncode == 0
        for _ in range(20):
            page.goto("/hub/home")
            if page.get_by_role("link", name="Sign in with GitHub").count():
                break
            page.wait_for_timeout(500)
        expect(page.get_by_role("link", name="Sign in with GitHub")).to_be_visible()
        assert lab.state_of("lee") == "shut out"
        assert lab.stack.container_id(f"{lab.stack.instance}-hub") == hub
    finally:
        lab.configure(approve="true")
        assert lab.stack.labdock("up").returncode == 0


def test_a_login_that_changes_hands_takes_no_home_along(lab: Lab) -> None:
    github = lab.github
    ann = github.join("ann", "vision-lab")
    page = lab.sign_in("ann")
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()
    ann.login = "ann-smith"
    github.join("ann", "vision-lab")
    thief = lab.sign_in("ann")
    expect(thief.get_by_role("heading", name="Start a session")).to_be_visible()
    expect(thief.locator("#login_widget")).to_contain_text("ann-2")
    again = lab.sign_in("ann-smith")
    expect(again.locator("#login_widget")).to_contain_text("ann")
    expect(again.locator("#login_widget")).not_to_contain_text("ann-2")


def test_verify_and_doctor_know_how_people_sign_in(lab: Lab) -> None:
    assert lab.pebble is not None
    done = lab.stack.labdock("verify", SSL_CERT_FILE=str(lab.pebble.root))
    assert done.returncode == 0, done.stdout
    assert "Open a sign-in link, be signed in" in done.stdout
    assert lab.stack.facts("status")["waiting"] == []
    listed = lab.stack.labdock("users", "list").stdout
    assert "ann-smith" in listed
