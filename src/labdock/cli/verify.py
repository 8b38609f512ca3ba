"""``labdock verify``: the whole way of a person, for real, step by step."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, TypeVar

from labdock.adapters.agent_api import AgentClient
from labdock.adapters.hub_api import HubApi
from labdock.adapters.visitor import Visitor
from labdock.cli.console import Console
from labdock.cli.instance import Instance, hub_api
from labdock.core.allocation import Held, allocate
from labdock.core.errors import DriverError, HubError, LabdockError
from labdock.core.gpus import GpuRequest, GpuRules, Holder
from labdock.core.login import LOCAL

Result = TypeVar("Result")

FILE = "labdock-verify.txt"
NOTHING_COMPUTES = "nothing that computes on a GPU"
"""What ``images/check/compute`` says of an image without a framework that it knows."""
FREE_CARD = "Find a card that is free"
COMPUTE_TIMEOUT_S = 300.0
"""The first use of a large framework on a GPU loads gigabytes and compiles."""


Way = Callable[[Visitor, str, str | None, "Report"], Awaitable[None]]
"""What is proven with a person who is signed in: visitor, name, image, report."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One step: what was done, whether it worked, its seconds, and the cause when it did not."""

    step: str
    ok: bool
    seconds: float
    cause: str = ""


class Report:
    """Runs steps, prints each as it ends, if there is a *console*, and keeps them."""

    def __init__(self, console: Console | None) -> None:
        self._say = console.say if console is not None else lambda text: None
        self.proofs: list[Proof] = []
        self.shown: list[str] = []

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

    def show(self, text: str) -> None:
        """What a step printed, below it."""
        self.shown.append(text)
        for line in text.rstrip().splitlines():
            self._say(f"    {line}")

    def _keep(self, step: str, begun: float, cause: str) -> None:
        proof = Proof(step, not cause, round(time.monotonic() - begun, 2), cause)
        self.proofs.append(proof)
        self._say(f"{'✓' if proof.ok else '✗'} {step}  {proof.seconds:.2f} s")
        if cause:
            self._say(f"    {cause}")


def verify(instance: Instance, *, image: str | None, gpu: bool, console: Console) -> dict[str, Any]:
    """Go the whole way with a throw-away person; returns ``{"ok", "steps"}``, printed as it goes.

    With *gpu* the session gets a card, and a cell must see that card and no other.
    """
    report = Report(console)
    ok = asyncio.run(go_the_way(instance, image, report, gpu=gpu))
    result = {"ok": ok, "steps": [asdict(proof) for proof in report.proofs]}
    seconds = sum(proof.seconds for proof in report.proofs)
    words = (
        f"It works: {len(report.proofs)} steps in {seconds:.1f} s."
        if ok
        else "It does not work. Next: `labdock logs hub`, `labdock doctor`."
    )
    console.facts(result, lambda: console.say(words))
    return result


async def go_the_way(
    instance: Instance, image: str | None, report: Report, *, gpu: bool, admin: bool = False
) -> bool:
    """Whether every step worked, of a throw-away person's whole way or, with *gpu*, of a card's.

    An *admin* may also start from an image that is not published yet.
    """
    api, name = hub_api(instance), f"verify-{secrets.token_hex(3)}"
    agent = AgentClient(instance.agent_socket)
    way = partial(_prove_gpu, agent, instance.config.gpus) if gpu else _prove_session
    local = instance.config.login.method == LOCAL
    return await _verify(instance, api, name, image, report, way, admin=admin, local=local)


async def _verify(
    instance: Instance,
    api: HubApi,
    name: str,
    image: str | None,
    report: Report,
    way: Way,
    *,
    admin: bool,
    local: bool,
) -> bool:
    try:
        make = api.add_user if local else api.throw_away
        invitation = await report.prove(f"Invite {name}", asyncio.to_thread(make, name, admin=admin))
    except LabdockError:
        return False
    ok = True
    gone = f"Remove {name} and everything of theirs"
    try:
        async with Visitor.arrive(instance.config.site.url, root=instance.own_root) as visitor:
            link = invitation["link"]
            if local:
                password = secrets.token_urlsafe(18)
                entered = visitor.set_password(link, name, password)
                await report.prove("Open the invitation, set a password, be signed in", entered)
            else:
                # Nobody can sign in elsewhere for the command line: that one step is not proven.
                await report.prove("Open a sign-in link, be signed in", visitor.use_link(link, name))
            await way(visitor, name, image, report)
    except (LabdockError, TimeoutError):
        ok = False
    finally:
        # Also when somebody presses Ctrl-C: nobody is left behind, and no card is held.
        try:
            await report.prove(gone, _remove(api, name))
        except LabdockError:
            ok = False
    return ok


async def _prove_gpu(
    agent: AgentClient, rules: GpuRules, visitor: Visitor, name: str, image: str | None, report: Report
) -> None:
    prove = report.prove
    await prove(FREE_CARD, _free_card(agent, rules))
    await prove("Start a session with a GPU", visitor.start(image, gpus=1))
    held = await prove("Ask the agent which card it holds", _cards_of(agent, name))
    await prove("Get a token", visitor.take_token())
    kernel = await prove("Start a kernel", visitor.kernel())
    shown = await prove("Run !nvidia-smi in a cell", _output(visitor.run_cell(kernel, "!nvidia-smi")))
    report.show(shown)
    seen = await prove(f"See {' and '.join(held)} there, and no other", _same_cards(visitor, kernel, held))
    report.show(seen)
    if (await agent.gpus()).inventory.simulated:
        report.show("The card is simulated: it computes nothing, so no matrices are multiplied.")
    else:
        script = (Path(str(package_files("labdock"))) / "images/check/compute").read_text()
        answer = visitor.run_cell(kernel, script, timeout_s=COMPUTE_TIMEOUT_S)
        report.show(await prove("Compute on it, and compare with the CPU", answer))
    await prove("Stop the session", visitor.stop())
    await prove("See the card free again", _free_again(agent, name))


async def _free_card(agent: AgentClient, rules: GpuRules) -> None:
    """Do nothing when a card is free.

    Raises:
        NoCardError, DriverError: None is, or none can be given at all.
    """
    report = await agent.gpus()
    if report.trouble is not None:
        raise DriverError(report.trouble.message, kind=report.trouble.kind, fix=report.trouble.fix)
    nobody = Holder("", "", "")
    allocate(report.inventory, Held.of(report.leases), GpuRequest(1), nobody, rules)


async def _cards_of(agent: AgentClient, name: str) -> tuple[str, ...]:
    """The cards that *name*'s session holds."""
    held = [lease.cards for lease in (await agent.gpus()).leases if lease.person == name]
    if len(held) != 1:
        raise HubError(f"{name} holds {len(held)} leases, expected 1.")
    return held[0]


async def _output(answer: Awaitable[str]) -> str:
    text = await answer
    if "not found" in text or not text.strip():
        raise HubError(f"nvidia-smi did not run in the session: {text.strip()[:300]}")
    return text


async def _same_cards(visitor: Visitor, kernel: str, held: tuple[str, ...]) -> str:
    text = await visitor.run_cell(kernel, "!nvidia-smi -L")
    seen = re.findall(r"UUID: ([A-Z]+-[A-Za-z0-9-]+)", text)
    # Above its slices, nvidia-smi lists the GPU they are of.
    if any(uuid.startswith("MIG-") for uuid in held):
        seen = [uuid for uuid in seen if uuid.startswith("MIG-")]
    if sorted(seen) != sorted(held):
        raise HubError(f"The lease is on {', '.join(held)}; the session sees {', '.join(seen) or 'no card'}.")
    return text


async def _free_again(agent: AgentClient, name: str) -> None:
    if any(lease.person == name for lease in (await agent.gpus()).leases):
        raise HubError(f"{name}'s lease is still there after the session was stopped.")


async def _prove_session(visitor: Visitor, name: str, image: str | None, report: Report) -> None:
    prove = report.prove
    mark = secrets.token_hex(8)
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
