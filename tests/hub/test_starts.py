"""Starts that ask for GPUs, on a real hub: chosen or refused in the request itself, and nothing left over."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from jupyterhub import orm

from labdock.core.gpus import CardRule, Driver, GpuRules, Share, Sharing, Trouble
from tests.core.gpu_builders import ADA, card, inventory, lease
from tests.hub.conftest import Answer, Browser, Hub

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNCHECKED: list[Any] = ["²", "9" * 5000, True, -1, 10**400, [1], {"a": 1}]


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def machine(hub: Hub) -> AsyncIterator[None]:
    """Two free cards before each test, and no session or hold after it."""
    agent = hub.agent
    agent.inventory, agent.trouble, agent.away = inventory(80, 80), None, False
    agent.leases.clear()
    yield
    agent.away = False
    agent.leases[:] = [one for one in agent.leases if one.instance == "test"]
    for user in list(hub.app.users.values()):
        for server in [name for name, spawner in user.spawners.items() if spawner.active]:
            path = f"/users/{user.name}/" + (f"servers/{server}" if server else "server")
            assert (await hub.api("DELETE", path)).status in (202, 204)
    # What is still starting or stopping.
    async with asyncio.timeout(10):
        while await held(hub):
            await asyncio.sleep(0.05)


async def held(hub: Hub) -> list[str]:
    """Who holds cards, as everybody is told it."""
    told = (await hub.api("GET", "/labdock/gpus")).json
    return [holder["person"] for one in told["cards"] for holder in one["held_by"]]


def taken(hub: Hub, *uuids: str) -> None:
    """Somebody of another instance holds these."""
    hub.agent.leases.append(lease(*uuids, holder=replace(ADA, instance="elsewhere", person="olga")))


async def start(hub: Hub, name: str, **options: Any) -> Answer:
    return await hub.api("POST", f"/users/{name}/server", json={"image": "cpu", **options})


async def submit(browser: Browser, path: str = "/hub/spawn", **fields: str) -> Answer:
    page = await browser.get(path)
    return await browser.post(path, {"_xsrf": page.xsrf(), "image": "cpu", **fields})


def main_of(page: Answer) -> str:
    return page.text.split("<main")[1].split("</main>")[0]


async def test_a_crowd_gets_every_card_once_and_everybody_else_an_answer(hub: Hub) -> None:
    names = [f"crowd{n}" for n in range(30)]
    for name in names:
        hub.store.add(name, admin=False, now=0)
        assert (await hub.api("POST", f"/users/{name}")).status == 201
    answers = await asyncio.gather(*(start(hub, name, gpus=1) for name in names))
    counted = Counter(answer.status for answer in answers)
    assert counted[201] + counted[202] == 2
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) == 28
    assert {answer.json["reason"] for answer in refused} == {"no-card"}
    assert all("0 of 2 such cards are free" in answer.json["message"] for answer in refused)
    holders = await held(hub)
    assert len(set(holders)) == len(holders) == 2


async def test_a_refused_start_leaves_nothing_in_the_hub(hub: Hub) -> None:
    await hub.member("noa")
    taken(hub, "GPU-0", "GPU-1")
    kinds = (orm.Server, orm.APIToken, orm.OAuthClient)
    await start(hub, "noa", gpus=0, image="broken")
    before = [hub.app.db.query(kind).count() for kind in kinds]
    assert (await start(hub, "noa", gpus=1)).status == 503
    assert [hub.app.db.query(kind).count() for kind in kinds] == before
    user = hub.app.users["noa"]
    assert not user.spawner.active
    assert user.spawner.orm_spawner.user_options == {"gpus": 0, "image": "broken"}


async def test_two_presses_are_one_start_and_one_lease(hub: Hub) -> None:
    await hub.member("twice")
    answers = await asyncio.gather(*(start(hub, "twice", gpus=1) for _ in range(3)))
    assert {answer.status for answer in answers} <= {201, 202}
    assert await held(hub) == ["twice"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gpus": -1}, "gpus"),
        ({"gpus": 1e9}, "gpus"),
        ({"gpus": True}, "gpus"),
        ({"gpus": "1; rm -rf"}, "gpus"),
        ({"gpus": [1]}, "gpus"),
        ({"gpus": 3}, "gpus"),
        ({"gpus": 1, "gpu_model": "NVIDIA T4"}, "gpu_model"),
        ({"gpus": 1, "gpu_memory": "81G"}, "gpu_memory"),
        ({"gpus": 1, "gpu_memory": "much"}, "gpu_memory"),
        ({"gpu": 1}, "gpu"),
    ],
)
async def test_nonsense_is_a_400_that_names_the_field(hub: Hub, options: dict[str, Any], field: str) -> None:
    if hub.store.find("nils") is None:
        await hub.member("nils")
    refused = await start(hub, "nils", **options)
    assert (refused.status, refused.json["field"]) == (400, field)
    assert await held(hub) == []


async def test_a_model_is_found_however_it_is_written(hub: Hub) -> None:
    hub.agent.inventory = inventory(card(0), card(1, 16, model="NVIDIA T4"))
    await hub.member("moe")
    assert (await start(hub, "moe", gpus="1", gpu_model="nvidia t4", gpu_memory="16G")).status == 201
    assert hub.agent.leases[0].cards == ("GPU-1",)


async def test_who_asks_for_nothing_gets_no_gpu_by_the_api(hub: Hub) -> None:
    await hub.member("cpu-only")
    before = hub.agent.asked
    assert (await start(hub, "cpu-only")).status == 201
    assert hub.agent.asked == before
    assert await held(hub) == []


@pytest.mark.parametrize("what", ["away", "trouble"])
async def test_without_a_driver_or_an_agent_a_session_starts_without_a_gpu(hub: Hub, what: str) -> None:
    name = f"no-{what}"
    browser = await hub.member(name)
    if what == "away":
        hub.agent.away = True
    else:
        hub.agent.trouble = Trouble("mismatch", "The library is 570, the module 550.", "Restart the machine.")
    refused = await start(hub, name, gpus=1)
    assert refused.status == 503
    page = await browser.get("/hub/spawn")
    assert page.status == 200
    assert len(re.findall('name="gpu"', page.text)) == 1
    assert re.search("No GPU can be chosen|Nothing is known of the GPUs", page.text)
    assert (await submit(browser, gpu="")).status == 302


async def test_the_page_says_who_has_the_cards_and_starts_without_one_by_one_press(hub: Hub) -> None:
    browser = await hub.member("pia")
    taken(hub, "GPU-0", "GPU-1")
    hub.lines.text = ""
    refused = await submit(browser, gpu="NVIDIA H100", image="broken")
    assert refused.status == 503
    shown = main_of(refused)
    assert "0 of 2 such cards are free" in shown
    assert re.search(r"<details[^>]* open>.*olga: 2 × NVIDIA H100, 80 GiB, since 2026-", shown, re.S)
    # The choice is kept, so that the one press starts the image that was meant.
    assert re.search('value="broken" required checked', shown)
    button = re.search(r'<button type="submit"[^>]*form="spawn_form" name="(\w+)" value="(\w+)"', shown)
    assert button
    assert "Traceback" not in hub.lines.text
    assert (await submit(browser, gpu="NVIDIA H100", **{button[1]: button[2]})).status == 302
    assert hub.app.users["pia"].spawner.user_options == {"image": "cpu", "gpus": 0}


async def test_a_slow_look_at_the_cards_still_ends_in_the_answer_to_the_request(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await hub.member("sid")
    taken(hub, "GPU-0", "GPU-1")
    page = await browser.get("/hub/spawn")
    ask = hub.agent.gpus

    async def slowly() -> Any:
        # JupyterHub's page of starts waits for one second.
        await asyncio.sleep(1.1)
        return await ask()

    monkeypatch.setattr(hub.agent, "gpus", slowly)
    refused = await browser.post("/hub/spawn", {"_xsrf": page.xsrf(), "image": "cpu", "gpu": "any"})
    assert refused.status == 503


async def test_a_further_session_is_refused_on_its_own_page(hub: Hub) -> None:
    browser = await hub.member("nan")
    assert (await submit(browser, gpu="any", gpus="2")).status == 302
    refused = await submit(browser, "/hub/spawn/nan/two", gpu="any", image="broken")
    assert refused.status == 503
    assert re.search('value="broken" required checked', refused.text)
    assert await held(hub) == ["nan", "nan"]


async def test_what_jupyterhub_refuses_after_the_choice_gives_the_card_back(hub: Hub) -> None:
    await hub.member("late")
    # A start that fails inside JupyterHub, after the cards were chosen.
    assert (await start(hub, "late", gpus=2, image="broken")).status == 503
    assert await held(hub) == []
    hub.app.tornado_application.settings["active_server_limit"] = 1
    try:
        await hub.member("first")
        assert (await start(hub, "first")).status == 201
        assert (await start(hub, "late", gpus=2)).status == 429
    finally:
        hub.app.tornado_application.settings["active_server_limit"] = 0
    assert await held(hub) == []


@pytest.mark.parametrize("value", UNCHECKED, ids=lambda value: type(value).__name__)
async def test_options_that_nobody_checked_do_not_break_the_start_page(hub: Hub, value: object) -> None:
    number = UNCHECKED.index(value)
    name = f"odd{number}"
    browser = await hub.member(name)
    made = await hub.api("PUT", f"/users/{name}/servers/x", json={"user_options": {"gpus": value}})
    assert made.status == 201
    page = await browser.get(f"/hub/spawn/{name}/x")
    assert page.status == 200
    assert len(re.findall(r'name="gpu"[^>]*checked', page.text)) == 1


async def test_the_first_time_a_free_card_is_chosen_and_later_the_last_choice(hub: Hub) -> None:
    browser = await hub.member("fred")

    async def chosen() -> str:
        found = re.findall(r'name="gpu" value="([^"]*)" checked', (await browser.get("/hub/spawn")).text)
        assert len(found) == 1
        return str(found[0])

    assert await chosen() == "NVIDIA H100"
    taken(hub, "GPU-0", "GPU-1")
    assert await chosen() == ""
    hub.agent.leases.clear()
    assert (await submit(browser, gpu="")).status == 302
    assert (await hub.api("DELETE", "/users/fred/server")).status == 204
    assert await chosen() == ""


async def test_cards_of_one_model_shared_in_two_ways_are_one_choice(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await hub.member("uma")
    rules = GpuRules(cards=(CardRule("1", Share(Sharing.SEATS, 4)),))
    user = hub.app.users["uma"]
    monkeypatch.setattr(user.spawner, "settings", replace(user.spawner.settings, gpus=rules))
    page = (await browser.get("/hub/spawn")).text
    assert "1 of 1 free; 4 of 4 seats free" in page
    assert re.findall('name="gpu" value="([^"]*)"', page) == ["", "NVIDIA H100"]
    assert len(re.findall(r'name="gpu"[^>]*checked', page)) == 1


async def test_home_tells_what_a_session_holds_and_when_it_is_to_be_started_anew(hub: Hub) -> None:
    browser = await hub.member("hal")
    hub.agent.inventory = replace(hub.agent.inventory, driver=Driver("570.86.15", None, (), (), "/usr/lib"))
    assert (await submit(browser, gpu="NVIDIA H100")).status == 302
    home = await browser.get("/hub/home")
    assert "1 × NVIDIA H100, 80 GiB" in home.text
    assert "driver was updated" not in home.text
    hub.agent.inventory = replace(hub.agent.inventory, driver=Driver("580.1", None, (), (), "/usr/lib"))
    assert "driver was updated" in (await browser.get("/hub/home")).text
    hub.agent.away = True
    assert (await browser.get("/hub/home")).status == 200


async def test_whoever_is_signed_in_is_told_of_the_cards_and_nobody_else(hub: Hub) -> None:
    browser = await hub.member("gus")
    assert (await submit(browser, gpu="any")).status == 302
    told = await browser.get("/hub/api/labdock/gpus")
    holders = [[holder["person"] for holder in one["held_by"]] for one in told.json["cards"]]
    assert holders == [["gus"], []]
    assert told.json["mine"][0]["cards"] == ["GPU-0"]
    assert "local:" not in told.text
    assert (await hub.browser().get("/hub/api/labdock/gpus")).status == 403
