"""HTTPS in Chromium: a certificate is replaced while a page is connected to its kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.e2e.browsing import accept_invitation, shoot, start_session
from tests.e2e.secure import Pair, Secure

pytestmark = pytest.mark.browser

OPEN = """
async (user) => {
    const base = `/user/${user}/`;
    const token = document.cookie.match(/_xsrf=([^;]+)/)?.[1] ?? "";
    const made = await fetch(`${base}api/kernels`, {
        method: "POST", headers: {"X-XSRFToken": token, "Content-Type": "application/json"},
        body: JSON.stringify({name: "python3"}),
    });
    const kernel = (await made.json()).id;
    window.channel = new WebSocket(`wss://${location.host}${base}api/kernels/${kernel}/channels`);
    window.closed = 0;
    window.channel.addEventListener("close", () => { window.closed += 1; });
    await new Promise((opened) => window.channel.addEventListener("open", opened));
}
"""
ASK = """
async () => {
    const id = crypto.randomUUID();
    const header = {
        msg_id: id, msg_type: "kernel_info_request", username: "", session: id, date: "", version: "5.3",
    };
    const answered = new Promise((resolve) => {
        window.channel.addEventListener("message", (event) => {
            const told = typeof event.data === "string" && JSON.parse(event.data);
            if (told && told.parent_header.msg_id === id) resolve(true);
        });
    });
    window.channel.send(JSON.stringify(
        {header, parent_header: {}, metadata: {}, content: {}, channel: "shell", buffers: []}));
    const late = new Promise((resolve) => setTimeout(() => resolve(false), 15000));
    return await Promise.race([answered, late]);
}
"""


@pytest.fixture
def page(browser: Browser, secure: Secure, pair: Pair) -> Iterator[Page]:
    """A page in a browser that takes the lab's certificates."""
    pair.put(pair.authority.issue("localhost"))
    secure.configure(https={"cert": str(pair.cert), "key": str(pair.key)})
    secure.up()
    context: BrowserContext = browser.new_context(base_url=secure.url, ignore_https_errors=True)
    yield context.new_page()
    context.close()


def test_a_page_stays_connected_to_its_kernel_while_the_certificate_is_replaced(
    page: Page, secure: Secure, pair: Pair
) -> None:
    try:
        accept_invitation(page, secure.stack.invite("ada"))
        start_session(page, "/user/ada/lab")
        # Whatever the page itself has loaded by now: it is the connection from its origin that matters.
        page.evaluate(OPEN, "ada")
        assert page.evaluate(ASK)
        before = secure.fingerprint()
        pair.put(pair.authority.issue("localhost"))
        secure.until_replaced(before, 20)
        assert page.evaluate(ASK)
        assert page.evaluate("window.closed") == 0
        # And a page that is opened now comes by the new one.
        page.goto("/hub/home")
        shoot(page, "https-home")
    finally:
        secure.stack.remove("ada")
