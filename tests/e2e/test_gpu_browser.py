"""GPUs in the browser: two people, a card each, and what somebody sees when none is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
from tests.stack import Stack

pytestmark = pytest.mark.browser


@contextmanager
def page_of(
    browser: Browser, stack: Stack, name: str, *, width: int = 1200, dark: bool = False
) -> Iterator[Page]:
    """A browser of *name*'s own, who is invited and signed in, and removed at the end."""
    stack.remove(name)
    context = browser.new_context(
        base_url=stack.url,
        viewport={"width": width, "height": 750},
        color_scheme="dark" if dark else "light",
    )
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    try:
        page = context.new_page()
        accept_invitation(page, stack.invite(name))
        yield page
    finally:
        context.close()
        stack.remove(name)


def start_with_gpu(page: Page, name: str) -> str:
    """Start *name*'s session with one card, run ``!nvidia-smi -L`` in a cell: the UUID seen there."""
    page.get_by_role("radio", name=re.compile("H100")).check()
    start_session(page, f"/user/{name}/lab")
    page.locator('.jp-LauncherCard[data-category="Notebook"]').first.click()
    run_cell(page, "!nvidia-smi\n!nvidia-smi -L")
    output = page.locator(".jp-OutputArea-output").first
    expect(output).to_contain_text("UUID: GPU-")
    expect(output).to_contain_text("SIMULATED")
    shown = output.inner_text()
    (uuid,) = re.findall(r"UUID: (GPU-[0-9a-f-]+)", shown)
    return str(uuid)


def test_two_people_see_one_card_each_and_not_the_same(browser: Browser, gpu_stack: Stack) -> None:
    with ExitStack() as opened:
        ada = opened.enter_context(page_of(browser, gpu_stack, "ada"))
        ben = opened.enter_context(page_of(browser, gpu_stack, "ben"))
        must_be_accessible(ada)
        shoot(ada, "gpu-start")
        seen = {"ada": start_with_gpu(ada, "ada")}
        shoot(ada, "gpu-notebook-ada")
        seen["ben"] = start_with_gpu(ben, "ben")
        shoot(ben, "gpu-notebook-ben")
        assert seen["ada"] != seen["ben"]
        holders = {
            holder["person"]: card["uuid"]
            for card in gpu_stack.facts("gpus")["cards"]
            for holder in card["holders"]
        }
        assert holders == seen
        ada.goto("/hub/home")
        expect(ada.get_by_role("main")).to_contain_text("Holds 1 × NVIDIA H100")
        must_be_accessible(ada)
        shoot(ada, "gpu-home")


def test_when_no_card_is_left_the_page_has_the_numbers_the_holders_and_a_way_on(
    browser: Browser, gpu_stack: Stack
) -> None:
    with ExitStack() as opened:
        for name in ("ada", "ben"):
            page = opened.enter_context(page_of(browser, gpu_stack, name))
            page.get_by_role("radio", name=re.compile("H100")).check()
            page.get_by_label("How many").fill("2")
            start_session(page, f"/user/{name}/lab")
        eve = opened.enter_context(page_of(browser, gpu_stack, "eve"))
        # The first time, with nothing free, nothing is what is chosen.
        expect(eve.get_by_role("radio", name="No GPU")).to_be_checked()
        eve.get_by_role("radio", name=re.compile("H100")).check()
        eve.get_by_role("button", name="Start session").click()
        main = eve.get_by_role("main")
        expect(main).to_contain_text("0 of 4")
        must_be_accessible(eve)
        expect(main).to_contain_text("ada: 2 × NVIDIA H100")
        shoot(eve, "gpu-none-free")
        eve.get_by_role("button", name="Start without a GPU").click()
        eve.wait_for_url("**/user/eve/lab**")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_choice_of_gpus_fits_a_small_screen(browser: Browser, gpu_stack: Stack, dark: bool) -> None:
    with page_of(browser, gpu_stack, "ada", width=320, dark=dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        must_be_accessible(page)
        shoot(page, f"gpu-small-{'dark' if dark else 'light'}")
