"""``python -m bench``: measure, print the table, write ``.out/bench.json`` and ``.out/bench.svg``."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import click

from bench.figures import HEADINGS, markdown_table, plain, table_row
from bench.measure import QUICK, SECTIONS, THOROUGH, Bench
from bench.ours import Ours
from bench.plot import draw
from bench.stage import Stage
from bench.stock import Stock
from labdock.adapters.engine import EngineFacts
from labdock.cli.console import Console
from labdock.cli.instance import engine_socket
from labdock.core.errors import LabdockError

OUT = Path(".out")


@click.command()
@click.option("--quick", is_flag=True, help="Fewer repeats, 10 sessions instead of 25.")
@click.option("--only", help=f"Measure only these, with commas between: {', '.join(SECTIONS)}.")
@click.option(
    "--cold/--no-cold",
    default=None,
    help="Build every image anew at first. Default: yes, but not with --quick.",
)
@click.option("--keep-images", is_flag=True, help="Keep the stock images for the next --no-cold.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(quick: bool, only: str | None, cold: bool | None, keep_images: bool, as_json: bool) -> None:
    """Measure Labdock beside the stock stack, on this machine, in one run."""
    console = Console(as_json=as_json)
    sections = frozenset(only.split(",")) if only else frozenset(SECTIONS)
    if unknown := sorted(sections - set(SECTIONS)):
        raise click.BadParameter(f"There is no {unknown[0]!r}.", param_hint="--only")
    cold = not quick if cold is None else cold
    try:
        result, bench = asyncio.run(
            _run(sections, quick=quick, cold=cold, keep_images=keep_images, console=console)
        )
    except LabdockError as error:
        click.echo(f"{error}", err=True)
        for line in error.details:
            click.echo(f"  {line}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("Interrupted; everything it made is removed.", err=True)
        sys.exit(130)
    OUT.mkdir(exist_ok=True)
    (OUT / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    (OUT / "bench.md").write_text(markdown_table(bench.figures))
    machine = result["machine"]
    title = f"Labdock beside the stock stack ({machine['cpus']} cores, Docker {machine['docker']})"
    draw(bench.figures, OUT / "bench.svg", title)

    def lines() -> None:
        console.say()
        console.table(HEADINGS, map(table_row, bench.figures))
        for problem in bench.problems:
            console.say(f"Did not run: {problem}")
        console.say(f"\nWritten: {OUT}/bench.json, {OUT}/bench.md, {OUT}/bench.svg")

    console.facts(result, lines)
    sys.exit(1 if bench.problems else 0)


async def _run(
    sections: frozenset[str], *, quick: bool, cold: bool, keep_images: bool, console: Console
) -> tuple[dict[str, Any], Bench]:
    """The result as plain values, and the bench that found it."""
    _end_in_order(console)
    started = datetime.now(UTC)
    socket = engine_socket(os.environ)
    run = f"bench-{secrets.token_hex(3)}"
    connector = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=None, sock_connect=5)
    with tempfile.TemporaryDirectory(prefix="labdock-bench-") as folder:
        async with (
            Stage.open(run, socket, keep_images=keep_images) as stage,
            aiohttp.ClientSession(connector=connector, timeout=patience) as http,
        ):
            facts = await stage.engine.facts()
            ours = Ours(stage, Path(folder), http, cold=cold)
            try:
                await ours.prepare()
                stock = Stock(stage, ours.images["base"], socket, http)
                bench = Bench(
                    stage,
                    ours,
                    stock,
                    http,
                    effort=QUICK if quick else THOROUGH,
                    only=sections,
                    console=console,
                )
                try:
                    await bench.run(cold=cold)
                except LabdockError as error:
                    # What was measured before is worth having.
                    bench.give_up(error)
            finally:
                with console.step("Remove everything that was made"):
                    await ours.remove()
    result = {
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(facts),
        "options": {"quick": quick, "cold": cold, "only": sorted(sections)},
        "figures": plain(bench.figures),
        "parts": bench.parts,
        "problems": bench.problems,
    }
    return result, bench


def _machine(facts: EngineFacts) -> dict[str, Any]:
    return {
        "cpus": facts.cpus,
        "memory_gib": round(facts.memory_bytes / 2**30, 1),
        "kernel": platform.release(),
        "docker": facts.version,
        "load_1min": os.getloadavg()[0],
    }


def _end_in_order(console: Console) -> None:
    """Let the first Ctrl-C or termination end the run in order, and ask for patience at the next."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  this runs in one
    asked = False

    def end() -> None:
        nonlocal asked
        console.note("Removing what was made; a moment." if asked else "Ending.")
        if not asked:
            asked = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)


if __name__ == "__main__":
    main()
