"""``labdock verify``: the whole way of a person, for real, step by step."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from labdock.adapters.hub_api import HubApi
from labdock.adapters.visitor import Visitor
from labdock.cli.console import Console
from labdock.cli.instance import Instance
from labdock.cli.up import hub_api
from labdock.core.errors import HubError, LabdockError

Result = TypeVar("Result")

FILE = "labdock-verify.txt"


@dataclass(frozen=True, slots=True)
class Proof:
    """One step: what was done, whether it worked, its seconds, and the cause when it did not."""

    step: str
    ok: bool
    seconds: float
    cause: str = ""


class Report:
    """Runs steps, prints each as it ends, and keeps them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.proofs: list[Proof] = []

    async def prove(self, step: str, work: Awaitable[Result]) -> Result:
        """Await *work* as *step*; its error is kept as the cause and raised on."""
        begun = time.monotonic()
        try:
            result = await work
        except (LabdockError, TimeoutError) as error:
            details = "".join(f"\n      {line}" for line in getattr(error, "details", ()))
            self._keep(step, begun, f"{error or 'It took too long.'}{details}")
            raise
        self._keep(step, begun, "")
        return result

    def _keep(self, step: str, begun: float, cause: str) -> None:
        proof = Proof(step, not cause, round(time.monotonic() - begun, 2), cause)
        self.proofs.append(proof)
        self._console.say(f"{'✓' if proof.ok else '✗'} {step}  {proof.seconds:.2f} s")
        if cause:
            self._console.say(f"    {cause}")


def verify(instance: Instance, *, image: str | None, console: Console) -> dict[str, Any]:
    """Go the whole way with a throw-away person; returns ``{"ok", "steps"}``, printed as it goes."""
    report = Report(console)
    api = hub_api(instance)
    name = f"verify-{secrets.token_hex(3)}"
    ok = asyncio.run(_verify(instance.config.site.url, api, name, image, report))
    result = {"ok": ok, "steps": [asdict(proof) for proof in report.proofs]}
    seconds = sum(proof.seconds for proof in report.proofs)
    words = (
        f"It works: {len(report.proofs)} steps in {seconds:.1f} s."
        if ok
        else "It does not work. Next: `labdock logs hub`, `labdock doctor`."
    )
    console.facts(result, lambda: console.say(words))
    return result


async def _verify(url: str, api: HubApi, name: str, image: str | None, report: Report) -> bool:
    try:
        invitation = await report.prove(f"Invite {name}", asyncio.to_thread(api.add_user, name, admin=False))
    except LabdockError:
        return False
    ok = True
    try:
        async with Visitor.arrive(url) as visitor:
            await _go_the_way(visitor, invitation["link"], name, image, report)
    except (LabdockError, TimeoutError):
        ok = False
    try:
        await report.prove(f"Remove {name} and everything of theirs", _remove(api, name))
    except LabdockError:
        ok = False
    return ok


async def _go_the_way(visitor: Visitor, link: str, name: str, image: str | None, report: Report) -> None:
    prove = report.prove
    mark = secrets.token_hex(8)
    await prove(
        "Open the invitation, set a password, be signed in",
        visitor.set_password(link, name, secrets.token_urlsafe(18)),
    )
    await prove("Start a session", visitor.start(image))
    await prove("Get a token", visitor.take_token())
    kernel = await prove("Start a kernel", visitor.kernel())
    await prove("Run a cell over WebSocket", _expect(visitor.run_cell(kernel, "print(6 * 7)"), "42\n"))
    who = "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name)"
    await prove("Ask the kernel who it is", _expect(visitor.run_cell(kernel, who), f"{name}\n"))
    await prove("Write a file", visitor.write_file(FILE, mark))
    await prove("Stop the session", visitor.stop())
    await prove("Start it again", visitor.start(image))
    await prove("Read the file back", _expect(visitor.read_file(FILE), mark))
    await prove("Stop the session for good", visitor.stop())


async def _expect(answer: Awaitable[str], wanted: str) -> None:
    got = await answer
    if got != wanted:
        raise HubError(f"Expected {wanted!r}, got {got!r}.")


async def _remove(api: HubApi, name: str) -> None:
    await asyncio.to_thread(api.remove_user, name, home="delete")
    if any(user["name"] == name for user in await asyncio.to_thread(api.users)):
        raise HubError(f"{name} is still listed after the removal.")
