"""``labdock down``, ``restart``, ``status`` and ``logs``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from labdock.adapters.agent_api import AgentClient
from labdock.adapters.engine import ContainerFacts, Engine
from labdock.cli.certificates import certificate_facts, certificate_line
from labdock.cli.console import Console
from labdock.cli.instance import Instance, hub_api
from labdock.cli.up import parts_of, run_compose, wait_until_ready
from labdock.core.compose import LABEL_PART, part_container
from labdock.core.errors import EngineError, HostError, LabdockError
from labdock.core.lifecycle import Act, Plan, plan_down
from labdock.core.session import (
    LABEL_IMAGE,
    LABEL_INSTANCE,
    LABEL_PERSON,
    LABEL_ROLE,
    ROLE_SESSION,
    container_name,
)

STOP_GRACE_S = 10


async def sessions_of(engine: Engine, instance: Instance) -> tuple[ContainerFacts, ...]:
    """The containers of people's sessions."""
    return await engine.containers({LABEL_INSTANCE: instance.name, LABEL_ROLE: ROLE_SESSION})


async def plan_for_down(engine: Engine, instance: Instance, *, everything: bool) -> Plan:
    """What ``down`` will do here."""
    parts = tuple(part.name for part in await parts_of(instance, engine))
    sessions = tuple(session.name for session in await sessions_of(engine, instance))
    anything = bool(parts or (everything and (sessions or instance.record)))
    return plan_down(parts=parts, sessions=sessions, everything=everything) if anything else ()


async def take_down(engine: Engine, instance: Instance, plan: Plan, console: Console) -> None:
    """Carry out the plan of ``down``: the parts that start sessions first, the agent last."""
    agent = part_container(instance.name, "agent")
    everything = any(step.act is Act.REMOVE_NETWORKS for step in plan)
    for step in plan:
        if step.act is Act.REMOVE_PARTS:
            with console.step(step.text):
                for name in sorted(step.subject.split(), key=lambda name: name == agent):
                    if everything and name == agent:
                        # Listed anew: somebody may have pressed Start since the plan was made.
                        await _stop_all(engine, await sessions_of(engine, instance))
                    await _stop_and_remove(engine, name)
        elif step.act is Act.REMOVE_NETWORKS:
            with console.step(step.text) as show:
                await _stop_all(engine, await sessions_of(engine, instance))
                if (instance.state / "compose.yaml").exists():
                    # The agent alone may touch the firewall: a short-lived one takes the rules away.
                    run_compose(instance, ("run", "--rm", "--no-deps", "agent", "clean"), on_line=show)
                for network in ("sessions", "edge"):
                    await engine.remove_network(f"{instance.name}-{network}")


async def _stop_all(engine: Engine, sessions: tuple[ContainerFacts, ...]) -> None:
    await asyncio.gather(*(_stop_and_remove(engine, session.name) for session in sessions))


async def _stop_and_remove(engine: Engine, name: str) -> None:
    await engine.stop(name, grace_s=STOP_GRACE_S)
    await engine.remove(name)


async def restart_parts(engine: Engine, instance: Instance, parts: tuple[str, ...], console: Console) -> None:
    """Restart *parts* and wait until everything answers.

    Raises:
        HostError: Labdock is not running.
    """
    running = {part.name for part in await parts_of(instance, engine)}
    for part in parts:
        name = part_container(instance.name, part)
        if name not in running:
            raise HostError(f"The part {part} does not run.", fix="`labdock up` starts it.")
        with console.step(f"Restart {part}"):
            await engine.restart(name, grace_s=STOP_GRACE_S * 2)
    await wait_until_ready(
        instance, engine, console, instance.record.simulated_gpus if instance.record else 0
    )


async def read_status(engine: Engine, instance: Instance) -> dict[str, Any]:
    """What runs, as plain values; ``ok`` when every part runs and the agent has no complaint."""
    facts = await engine.facts()
    found = {part.labels.get(LABEL_PART): part for part in await parts_of(instance, engine)}
    parts = [
        {
            "part": part,
            "status": found[part].status if part in found else "not there",
            "health": found[part].health if part in found else "",
        }
        for part in instance.parts
    ]
    problems: tuple[str, ...] = ()
    if instance.agent_socket.exists():
        try:
            problems = await AgentClient(instance.agent_socket).health()
        except EngineError as error:
            problems = (str(error),)
    try:
        waiting = [person["name"] for person in hub_api(instance).users() if person["state"] == "waiting"]
    except LabdockError:
        # The part that does not answer is told of above.
        waiting = []
    sessions = [
        {
            "person": session.labels.get(LABEL_PERSON, ""),
            "container": session.name,
            "image": session.labels.get(LABEL_IMAGE, ""),
            "status": session.status,
        }
        for session in await sessions_of(engine, instance)
    ]
    certificate = await asyncio.to_thread(certificate_facts, instance)
    served = certificate is None or "problem" not in certificate
    return {
        "ok": all(part["status"] == "running" for part in parts) and not problems and served,
        "url": instance.config.site.url,
        "instance": instance.name,
        "state": str(instance.state),
        "engine": facts.version,
        "parts": parts,
        "problems": list(problems),
        "certificate": certificate,
        "sessions": sessions,
        "waiting": waiting,
    }


def show_status(found: dict[str, Any], console: Console) -> None:
    """The status for people."""
    console.say(
        f"{found['instance']} at {found['url']}  (Docker {found['engine']}, state in {found['state']})\n"
    )
    console.table(
        ("Part", "Status", "Health"), ((p["part"], p["status"], p["health"]) for p in found["parts"])
    )
    console.say()
    if found["sessions"]:
        console.table(
            ("Person", "Image", "Status", "Container"),
            ((s["person"], s["image"], s["status"], s["container"]) for s in found["sessions"]),
        )
    else:
        console.say("No sessions.")
    if found["waiting"]:
        console.say(f"\nWaiting for approval: {', '.join(found['waiting'])} (`labdock users list`)")
    if found["certificate"]:
        console.say(f"\n{certificate_line(found['certificate'])}")
        if found["certificate"].get("notice"):
            console.say(f"Notice: {found['certificate']['notice']}")
    for problem in found["problems"]:
        console.say(f"Problem: {problem}")
    if not found["ok"]:
        console.say("\nNext: `labdock up` brings back what is missing; `labdock doctor` looks for the cause.")


async def last_words(engine: Engine, instance: Instance, person: str, count: int, console: Console) -> bool:
    """Show how *person*'s session ended, when it does not run; False when it runs.

    Raises:
        LabdockError: There is no such session, and none has ended.
    """
    name = container_name(instance.name, person)
    if await engine.inspect(name) is not None:
        return False
    ended = await AgentClient(instance.agent_socket).ended(name) if instance.agent_socket.exists() else None
    if ended is None:
        raise LabdockError(
            f"{person!r} is no part and has no session, now or lately.",
            fix=f"Parts: {', '.join(instance.parts)}.",
        )
    for line in ended.last_lines[-count:]:
        console.say(line)
    # A session that ended well may have had a kernel end for want of memory long before.
    why = ", out of memory" if ended.out_of_memory and ended.exit_code else ""
    console.note(
        f"The session ended {ended.ended_at:%Y-%m-%d %H:%M:%S %Z} with exit code {ended.exit_code}{why}."
    )
    return True


async def follow_logs(
    engine: Engine, instance: Instance, who: str | None, count: int, console: Console, *, follow: bool
) -> None:
    """Show the last *count* lines of *who*, or of every part; with *follow* go on until they stop."""
    if who is None:
        names = {part: part_container(instance.name, part) for part in instance.parts}
    else:
        names = {
            who: part_container(instance.name, who)
            if who in instance.parts
            else container_name(instance.name, who)
        }
    prefix = len(names) > 1

    async def show(label: str, name: str) -> None:
        start = f"{label:{max(map(len, names))}} | " if prefix else ""
        if not follow:
            for line in await engine.last_lines(name, count):
                console.say(start + line)
            return
        async for line in engine.follow_lines(name, count):
            console.say(start + line)

    if follow:
        await asyncio.gather(*(show(label, name) for label, name in names.items()))
    else:
        for label, name in names.items():
            await show(label, name)


def home_question(name: str, *, yes: bool) -> str:
    """Ask what becomes of *name*'s home: keep or delete.

    Raises:
        click.UsageError: Nobody can be asked.
    """
    if yes or not sys.stdin.isatty():
        raise click.UsageError(f"What becomes of the home of {name}? Add --home keep or --home delete.")
    return str(
        click.prompt(f"The home of {name}", type=click.Choice(["keep", "delete"]), default="keep", err=True)
    )
