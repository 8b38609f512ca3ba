"""``labdock doctor``: what is wrong, and what to do about it; changes nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.agent_api import AgentClient
from labdock.adapters.engine import Engine
from labdock.cli.console import Console
from labdock.cli.doctor_gpus import examine_gpus
from labdock.cli.doctor_site import examine_site
from labdock.cli.instance import Chosen, Instance, engine_socket, find_instance, hub_api
from labdock.cli.sign_in_check import look_at_sign_in
from labdock.cli.up import DISK_NEEDED_BYTES, parts_of
from labdock.core.compose import LABEL_PART
from labdock.core.errors import LabdockError
from labdock.core.finding import Finding

OLDEST_PYTHON = (3, 11)
KNOWN_SYSTEMS = {("debian", "12"), ("debian", "13"), ("ubuntu", "24.04")}
DISK_LOW_BYTES = 2 * 2**30


def examine(chosen: Chosen, environment: Mapping[str, str]) -> list[Finding]:
    """Look at the machine, the engine, and this instance; a later check needs the earlier ones."""
    findings = [_system(), _python()]
    try:
        instance = find_instance(chosen, environment)
    except LabdockError as error:
        return [
            *findings,
            Finding("configuration", False, "; ".join((error.message, *error.details)), error.fix),
        ]
    where = str(instance.config_path) if instance.config_path else "no file: defaults"
    findings.append(Finding("configuration", True, where))
    findings += look_at_sign_in(instance)
    findings.append(_socket(engine_socket(environment)))
    if not findings[-1].ok:
        return findings
    return findings + asyncio.run(_engine_and_instance(instance))


def show(findings: list[Finding], console: Console) -> None:
    """The findings for people, the way out below each that is not fine."""
    for finding in findings:
        console.say(f"{'✓' if finding.ok else '✗'} {finding.check}: {finding.seen}")
        if not finding.ok and finding.fix:
            console.say(f"    {finding.fix}")
    wrong = sum(not finding.ok for finding in findings)
    console.say("Nothing is wrong." if not wrong else f"{wrong} of {len(findings)} checks need you.")


def _system() -> Finding:
    release = host.read_os_release()
    seen = release.get("PRETTY_NAME", "unknown system")
    known = (release.get("ID", ""), release.get("VERSION_ID", "")) in KNOWN_SYSTEMS
    return Finding("system", True, seen if known else f"{seen} (tried on Debian 12 and 13 and Ubuntu 24.04)")


def _python() -> Finding:
    seen = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", sys.version_info >= OLDEST_PYTHON, seen, "Labdock needs Python 3.11 or newer.")


def _socket(path: Path) -> Finding:
    try:
        answers = host.socket_answers(path)
    except LabdockError as error:
        return Finding("engine", False, error.message, error.fix)
    if answers:
        return Finding("engine", True, f"answers at {path}")
    return Finding(
        "engine", False, f"nobody answers at {path}", "`labdock up` as root installs and starts it."
    )


async def _engine_and_instance(instance: Instance) -> list[Finding]:
    findings = []
    async with Engine(instance.engine_socket) as engine:
        try:
            facts = await engine.facts()
        except LabdockError as error:
            return [Finding("engine version", False, error.message, error.fix)]
        findings.append(
            Finding("engine version", True, f"Docker {facts.version}, API {facts.api[0]}.{facts.api[1]}")
        )
        findings += _disk(Path(facts.root_dir), instance)
        if instance.record is None:
            return [
                *findings,
                Finding("instance", False, f"there is none in {instance.state}", "Run `labdock up`."),
            ]
        parts = {part.labels.get(LABEL_PART): part for part in await parts_of(instance, engine)}
        for part in instance.parts:
            seen = parts[part].status if part in parts else "not there"
            if part in parts and parts[part].health == "unhealthy":
                seen += ", unhealthy"
            ok = part in parts and parts[part].status == "running" and parts[part].health != "unhealthy"
            findings.append(
                Finding(
                    f"part {part}", ok, seen, f"Run `labdock up`; `labdock logs {part}` shows what it said."
                )
            )
        found = await examine_gpus(instance, engine, facts)
        found += await examine_site(instance, engine)
    findings += await _agent(instance)
    findings += found
    findings.append(_hub(instance))
    findings.append(_secrets(instance))
    return findings


def _disk(root: Path, instance: Instance) -> list[Finding]:
    found = []
    for name, path, needed in (
        ("disk for images", root, DISK_NEEDED_BYTES),
        ("disk for homes", Path(instance.places.storage), DISK_LOW_BYTES),
    ):
        free = host.free_bytes(path)
        found.append(
            Finding(
                name,
                free >= needed,
                f"{free / 2**30:.1f} GiB free at {path}",
                f"Make room: at least {needed / 2**30:.0f} GiB.",
            )
        )
    return found


async def _agent(instance: Instance) -> list[Finding]:
    try:
        problems = await AgentClient(instance.agent_socket).health()
    except LabdockError as error:
        return [Finding("agent answers", False, error.message, "`labdock restart agent`")]
    if not problems:
        return [
            Finding("agent", True, "the rules that keep sessions apart and the list of images are in place")
        ]
    return [Finding("agent", False, problem, "`labdock logs agent` says more.") for problem in problems]


def _hub(instance: Instance) -> Finding:
    try:
        healthy = hub_api(instance).healthy()
    except LabdockError as error:
        return Finding("site", False, error.message, error.fix)
    return Finding("hub", healthy, "answers" if healthy else "does not answer", "`labdock logs hub`")


def _secrets(instance: Instance) -> Finding:
    """Whether others may read the secrets."""
    folder = instance.state / "secrets"
    if not folder.is_dir():
        return Finding("secrets", False, f"there are none in {folder}", "Run `labdock up`.")
    if os.geteuid() != 0 and not os.access(folder, os.R_OK):
        return Finding("secrets", True, "not readable by you")
    loose = [path.name for path in sorted(folder.iterdir()) if path.stat().st_mode & 0o077]
    return Finding(
        "secrets",
        not loose,
        f"readable by others: {', '.join(loose)}" if loose else "readable by their owner alone",
        f"chmod 600 {folder}/*",
    )
