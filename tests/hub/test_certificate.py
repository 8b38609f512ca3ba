"""Administrators are told on their pages that the certificate comes to its end; others are not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from labdock.adapters.agent_api import AgentClient
from labdock.core.certificate import Certificate, Served
from labdock.hub.certificate import CertificateNotice

DAY = 86_400


@dataclass
class Person:
    admin: bool


@pytest.mark.parametrize(
    ("days", "told"), [(60, ""), (9, "ends in 9 days and has not been renewed"), (-2, "ended 2 days ago")]
)
async def test_the_notice_is_for_administrators_alone(tmp_path: Path, days: int, told: str) -> None:
    now = 1_800_000_000
    ends = now + days * DAY
    served = Served((Certificate(("gpu",), "gpu", "CA", ends - 90 * DAY, ends, False, False, "A"),), "")

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=served.to_json(), content_type="application/json")

    app = web.Application()
    app.router.add_get("/labdock/certificate", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "agent.sock")).start()
    notice = CertificateNotice(AgentClient(tmp_path / "agent.sock"), clock=lambda: now)
    try:
        await notice.look()
    finally:
        await runner.cleanup()
    assert bool(notice.text) == bool(told)
    assert told in notice.for_person(Person(admin=True))
    assert notice.for_person(Person(admin=False)) == ""
    assert notice.for_person(None) == ""


async def test_without_an_answer_nothing_is_claimed(tmp_path: Path) -> None:
    notice = CertificateNotice(AgentClient(tmp_path / "nobody.sock"))
    await notice.look()
    assert notice.for_person(Person(admin=True)) == ""
