"""What all commands share: the options before the command, an engine to work with, a plan to show."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from labdock.adapters.engine import Engine
from labdock.cli.console import Console
from labdock.cli.instance import Chosen, Instance, find_instance
from labdock.core.errors import LabdockError
from labdock.core.lifecycle import Plan

Result = TypeVar("Result")


class Context:
    """What all commands share: the options before the command, and the console they speak through."""

    def __init__(self, chosen: Chosen, *, verbose: bool) -> None:
        self.chosen = chosen
        self.verbose = verbose

    def console(self, *, as_json: bool = False) -> Console:
        return Console(as_json=as_json, verbose=self.verbose)

    def instance(self) -> Instance:
        return find_instance(self.chosen, os.environ)


pass_context = click.make_pass_decorator(Context)
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show the plan and change nothing.")


def with_engine(work: Callable[[Engine], Coroutine[Any, Any, Result]], instance: Instance) -> Result:
    """Run *work* with the instance's engine."""

    async def whole() -> Result:
        async with Engine(instance.engine_socket) as engine:
            return await work(engine)

    return asyncio.run(whole())


def show_plan(plan: Plan, console: Console) -> None:
    """The plan, a step a line; as JSON a list of acts."""
    steps = [{"act": step.act.value, "subject": step.subject, "text": step.text} for step in plan]

    def lines() -> None:
        for step in plan:
            console.say(f"  would: {step.text}")
        if not plan:
            console.say("Nothing to do.")

    console.facts(steps, lines)


def tell(error: LabdockError) -> None:
    """*error* for people, on standard error."""
    click.echo(f"labdock: {error}", err=True)
    for line in error.details:
        click.echo(f"    {line}", err=True)
