"""What tests do in Chromium; screenshots go to ``.out/screenshots``, or to what LABDOCK_SCREENSHOTS names."""

from __future__ import annotations

import os
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.stack import PASSWORD

SHOTS = Path(os.environ.get("LABDOCK_SCREENSHOTS", ".out/screenshots"))
PATIENCE_MS = 20_000


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def must_be_accessible(page: Page) -> None:
    """No serious finding of axe on what the page shows now."""
    found = Axe().run(page).response["violations"]
    serious = [
        f"{v['id']}: {v['help']} ({v['nodes'][0]['html'][:100]})"
        for v in found
        if v["impact"] in {"serious", "critical"}
    ]
    assert not serious, "\n".join(serious)


def start_session(page: Page, path: str) -> None:
    """Press the start page's button, and wait until the notebook at *path* is there."""
    page.get_by_role("button", name="Start session").click()
    page.wait_for_url(f"**{path}*", timeout=120_000, wait_until="domcontentloaded")


def accept_invitation(page: Page, link: str) -> None:
    page.goto(link)
    page.locator("#password").fill(PASSWORD)
    page.locator("form button.btn-primary").click()
    expect(page.get_by_role("heading", name="Start a session")).to_be_visible()


def run_cell(page: Page, code: str) -> None:
    """Put *code* into the first cell and run it."""
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
    cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first
    # In edit mode first: the keys mean something else outside.
    cell.click()
    expect(page.get_by_text("Mode: Edit")).to_be_visible()
    cell.fill(code)
    cell.press("Shift+Enter")
