"""Which images are offered while the hub runs, and what a session is told of a newer one."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import labdock
from labdock.core.errors import HostError, StartError
from labdock.core.session import ImageChoice
from labdock.core.shelf import TRIAL_SUFFIX
from labdock.hub.images import from_state, image_news, images_for, to_state
from tests.hub.conftest import IMAGES, Browser, Hub, until_ready

on_a_hub = pytest.mark.asyncio(loop_scope="module")

CPU, BROKEN = IMAGES
NEWER = replace(CPU, reference="cpu:2", details="Python 3.13, NumPy 2.4, 650 MB", published_at="2026-11-20")
EARLIER = replace(CPU, reference="cpu:0", published_at="2026-10-01")
TRIAL = ImageChoice("cpu@new", "JupyterLab: new, not published yet", "cpu:3", details="655 MB", trial=True)


async def start(hub: Hub, browser: Browser, image: str = "cpu", path: str = "/hub/spawn") -> None:
    name = await browser.who()
    form = await browser.get(path)
    answer = await browser.post(path, {"_xsrf": form.xsrf(), "image": image})
    assert answer.status == 302, answer.text
    # A busy hub answers before the session runs.
    await until_ready(hub, name, path.partition(f"/{name}/")[2])


def news_on(page: str) -> str:
    """What the home page says of newer images, without its markup; empty when it says nothing."""
    return " ".join(
        part.split("</div>")[0].replace("<p>", "").replace("</p>", "").replace("\n", " ")
        for part in page.split('<div class="ld-news" role="status">')[1:]
    )


# --- the start page ---


@on_a_hub
async def test_each_image_is_shown_with_what_it_holds_and_its_limits(hub: Hub) -> None:
    browser = await hub.member("ann")
    page = (await browser.get("/hub/spawn")).text
    assert page.count("Python 3.13, 640 MB") == 1
    assert page.count("4 CPUs, 8 GiB of memory") == 2


@on_a_hub
async def test_what_is_published_is_offered_without_a_restart(hub: Hub) -> None:
    browser = await hub.member("bea")
    with hub.images.changed(NEWER, ImageChoice("torch", "PyTorch", "torch:1", details="5.2 GB")):
        page = (await browser.get("/hub/spawn")).text
        assert "PyTorch" in page
        assert "5.2 GB" in page
        await start(hub, browser, "torch")
    assert 'value="torch"' not in (await browser.get("/hub/spawn/bea/two")).text


@on_a_hub
async def test_the_form_falls_back_to_the_default_when_the_last_image_is_gone(hub: Hub) -> None:
    browser = await hub.member("cat")
    await start(hub, browser, "cpu")
    hub.app.users["cat"].spawner.user_options = {"image": "torch"}
    assert (await hub.api("DELETE", "/users/cat/server")).status == 204
    page = (await browser.get("/hub/spawn")).text
    assert page.count(" checked") == 1
    assert 'value="cpu" required checked' in page


@on_a_hub
async def test_an_image_that_is_gone_is_replaced_when_remembered_and_refused_when_asked_for(hub: Hub) -> None:
    await hub.member("dan")
    with hub.images.changed(CPU, ImageChoice("torch", "PyTorch", "torch:1")):
        chosen = await hub.api("POST", "/users/dan/server", json={"image": "torch"})
        assert chosen.status == 201
    assert (await hub.api("DELETE", "/users/dan/server")).status == 204
    asked = await hub.api("POST", "/users/dan/server", json={"image": "torch"})
    assert (asked.status, asked.json["field"]) == (400, "image")
    remembered = await hub.api("POST", "/users/dan/server")
    assert remembered.status == 201, remembered.text
    assert hub.app.users["dan"].spawner.started_from.id == "cpu"
    # And again: it is no trap that opens only once.
    assert (await hub.api("DELETE", "/users/dan/server")).status == 204
    assert (await hub.api("POST", "/users/dan/server")).status == 201


@on_a_hub
@pytest.mark.parametrize(
    ("broken", "words"), [(False, "No image is offered now"), (True, "The list of images cannot be read")]
)
async def test_without_any_image_page_and_api_say_why(hub: Hub, broken: bool, words: str) -> None:
    name = "eve" if broken else "eli"
    browser = await hub.member(name)
    form = await browser.get("/hub/spawn")
    with hub.images.changed(broken=broken):
        page = await browser.get("/hub/spawn")
        assert page.status == 200
        assert page.text.count(words) == 1
        assert "An administrator" in page.text or "Tell an administrator" in page.text
        assert 'type="submit"' not in page.text
        sent = await browser.post("/hub/spawn", {"_xsrf": form.xsrf(), "image": "cpu"})
        assert sent.status == 503
        assert sent.text.count(words) == 1
        for body in (None, {"image": "cpu"}):
            asked = await hub.api("POST", f"/users/{name}/server", json=body)
            assert asked.status == 503
            assert words in asked.json["message"]
            assert "/run/" not in asked.text
        assert (await browser.get("/hub/home")).status == 200
    if broken:
        assert "images.json cannot be read" in hub.lines.text
    await start(hub, browser)


@on_a_hub
async def test_only_an_administrator_may_try_what_is_not_published(hub: Hub) -> None:
    member, boss = await hub.member("fay"), await hub.member("fia", admin=True)
    with hub.images.changed(CPU, TRIAL):
        shown = (await boss.get("/hub/spawn")).text
        assert "not published yet" in shown
        assert "Only administrators see it" in shown
        page = await member.get("/hub/spawn")
        assert "not published" not in page.text
        assert "cpu:3" not in page.text
        sent = await member.post("/hub/spawn", {"_xsrf": page.xsrf(), "image": "cpu@new"})
        assert sent.status == 400
        # As if it were not there.
        tried = await hub.api("POST", "/users/fay/server", json={"image": "cpu@new"})
        unknown = await hub.api("POST", "/users/fay/server", json={"image": "cpu@old"})
        assert (
            (tried.status, tried.json["field"]) == (unknown.status, unknown.json["field"]) == (400, "image")
        )
        assert tried.json["message"].replace("@new", "@old") == unknown.json["message"]
        # An administrator starts it for themselves, not for others.
        for_other = await boss.get("/hub/spawn/fay/")
        assert "not published" not in for_other.text
        await start(hub, boss, "cpu@new")
        assert news_on((await boss.get("/hub/home")).text) == ""
    with hub.images.changed(replace(NEWER, reference=TRIAL.reference)):
        # Published by now, under its own name: the session runs what everybody gets.
        assert news_on((await boss.get("/hub/home")).text) == ""


# --- a newer image ---


@on_a_hub
async def test_a_running_session_is_told_of_a_newer_image_and_nothing_else_happens(hub: Hub) -> None:
    browser = await hub.member("gus")
    await start(hub, browser)
    await start(hub, browser, path="/hub/spawn/gus/two")
    assert news_on((await browser.get("/hub/home")).text) == ""
    with hub.images.changed(NEWER, BROKEN):
        page = (await browser.get("/hub/home")).text
        assert page.count("A newer image is available") == 2
        assert "JupyterLab: Python 3.13, NumPy 2.4, 650 MB." in page
        assert "Nothing changes until you stop the session and start it again." in page
        assert page.count('data-state="running"') == 2
        assert (await hub.api("DELETE", "/users/gus/server")).status == 204
        assert (await browser.get("/hub/home")).text.count("A newer image is available") == 1
        await start(hub, browser)
        assert (await browser.get("/hub/home")).text.count("A newer image is available") == 1
    with hub.images.changed(broken=True):
        assert news_on((await browser.get("/hub/home")).text) == ""


@on_a_hub
async def test_no_text_of_an_image_becomes_markup(hub: Hub) -> None:
    browser = await hub.member("hal")
    await start(hub, browser)
    evil = replace(NEWER, label="<b>label", details="<i>details", trial=False)
    with hub.images.changed(evil):
        for path in ("/hub/home", "/hub/spawn/hal/two"):
            page = (await browser.get(path)).text
            assert "<b>label" not in page
            assert "<i>details" not in page
            assert "&lt;i&gt;details" in page


@on_a_hub
async def test_a_session_asks_for_itself_and_for_no_other(hub: Hub) -> None:
    browser = await hub.member("ida")
    await hub.member("ivo")
    await start(hub, browser)
    await start(hub, browser, path="/hub/spawn/ida/two")
    assert (await hub.api("POST", "/users/ivo/server", json={})).status == 201
    spawners = hub.app.users["ida"].spawners
    token, other = spawners[""].api_token, spawners["two"].api_token
    path = "/labdock/newer-image"
    assert (await hub.api("GET", path, token)).json == {"message": None, "home": "/hub/home"}
    with hub.images.changed(NEWER):
        told = (await hub.api("GET", path, token)).json["message"]
        assert told.startswith("A newer image is available")
        assert "NumPy 2.4" in told
        assert (await hub.api("GET", f"{path}?server=two", other)).json["message"] == told
        # Its person may ask for each of theirs, by cookie.
        assert (await browser.get(f"/hub/api{path}?server=two", headers={"Referer": hub.base})).status == 200
    assert (await hub.api("GET", f"{path}?server=two", token)).status == 404
    assert (await hub.api("GET", f"{path}?server=three", token)).status == 404
    assert (await hub.api("GET", f"{path}?server=__proto__", token)).status == 404
    # Neither services, nor tokens for something else, nor nobody.
    assert (await hub.api("GET", path)).status == 403
    narrow = hub.app.users["ida"].new_api_token(scopes=["read:users:name!user"])
    assert (await hub.api("GET", path, narrow)).status == 404
    assert (await hub.browser().get(f"/hub/api{path}")).status == 403
    with hub.images.changed(broken=True):
        assert (await hub.api("GET", path, token)).status == 503
    assert (await hub.api("DELETE", "/users/ida/server")).status == 204
    # What does not run gets the current image at its next start anyway.
    assert (await browser.get(f"/hub/api{path}", headers={"Referer": hub.base})).status == 404


UPDATES = Path(labdock.__file__).parent / "images/notebook/root/usr/local/lib/labdock/labdock_updates.py"


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that JupyterLab is given, beside as much of JupyterLab as it needs."""
    announcements = ModuleType("jupyterlab.handlers.announcements")
    announcements.CheckForUpdateABC = object  # type: ignore[attr-defined]
    for name in ("jupyterlab", "jupyterlab.handlers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, announcements.__name__, announcements)
    spec = importlib.util.spec_from_file_location("labdock_updates", UPDATES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checker = module.NewerImage()
    checker.logger = logging.getLogger("test")
    return checker


@on_a_hub
async def test_jupyterlab_shows_what_the_hub_says_and_nothing_when_it_is_away(
    hub: Hub, updates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await hub.member("jon")
    await start(hub, browser, path="/hub/spawn/jon/two")
    token = hub.app.users["jon"].spawners["two"].api_token
    monkeypatch.setenv("JUPYTERHUB_API_URL", f"{hub.base}/hub/api")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", token)
    monkeypatch.setenv("JUPYTERHUB_SERVER_NAME", "two")
    assert await updates() is None
    with hub.images.changed(NEWER):
        message, link = await updates()
        assert message.startswith("A newer image is available")
        assert link == ("Your sessions", "/hub/home")
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "stale")
        assert await updates() is None
        monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
        assert await updates() is None
        monkeypatch.delenv("JUPYTERHUB_API_URL")
        assert await updates() is None


# --- what holds without a hub ---


@pytest.mark.parametrize(
    ("used", "offered", "words"),
    [
        (None, (NEWER,), ""),
        (CPU, (CPU,), ""),
        (CPU, (NEWER,), "A newer image is available"),
        (CPU, (EARLIER,), "was taken back"),
        (CPU, (), "JupyterLab, is not offered any more"),
        (CPU, (BROKEN,), "is not offered any more"),
        (CPU, (CPU, TRIAL), ""),
        (TRIAL, (CPU, TRIAL), ""),
        (TRIAL, (CPU, replace(TRIAL, reference="cpu:4")), "A newer image is available"),
        (TRIAL, (replace(CPU, reference=TRIAL.reference),), ""),
        (TRIAL, (replace(CPU, reference="cpu:4"),), "A newer image is available"),
    ],
)
def test_a_session_is_told_just_when_its_image_is_not_the_current_one(
    used: ImageChoice | None, offered: tuple[ImageChoice, ...], words: str
) -> None:
    news = image_news(used, offered)
    assert (news is None) == (not words)
    assert words in str(news or "")


choices = st.builds(
    ImageChoice,
    id=st.sampled_from(["cpu", "torch", f"cpu{TRIAL_SUFFIX}"]),
    label=st.text(max_size=5),
    reference=st.sampled_from(["a", "b"]),
    published_at=st.sampled_from(["", "2026-11-01", "2026-11-20"]),
)


@given(choices, st.lists(choices, max_size=3, unique_by=lambda one: one.id).map(tuple))
def test_whoever_starts_the_current_image_is_told_nothing(
    used: ImageChoice, offered: tuple[ImageChoice, ...]
) -> None:
    for image in offered:
        assert image_news(image, offered) is None
    known = from_state(to_state(used))
    assert image_news(known, offered) == image_news(used, offered)


def test_images_that_cannot_be_read_are_told_to_people_without_the_machines_paths() -> None:
    def unreadable() -> tuple[ImageChoice, ...]:
        raise HostError("/run/labdock/settings/images.json cannot be read.")

    with pytest.raises(StartError) as told:
        images_for(unreadable, admin=True)
    assert "/run" not in str(told.value)
    assert "`labdock up`" in told.value.fix
