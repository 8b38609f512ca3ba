"""``labdock secret``: what must not stand in labdock.yaml."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from labdock.adapters import host
from labdock.cli.context import Context, as_json_option, pass_context
from labdock.cli.instance import Instance
from labdock.core.compose import SERVICE_UID
from labdock.core.errors import BadRequestError
from labdock.core.secret import GIVEN_SECRETS, check_secret


@click.group()
def secret() -> None:
    """Set what must not stand in labdock.yaml: client secrets, passwords, keys."""


@secret.command("set")
@click.argument("name", type=click.Choice(tuple(GIVEN_SECRETS)))
@pass_context
def secret_set(context: Context, name: str) -> None:
    """Ask for the secret NAME (or read it from standard input) and keep it, readable by Labdock alone."""
    console = context.console()
    instance = context.instance()
    if sys.stdin.isatty():
        text = click.prompt(f"{GIVEN_SECRETS[name]} (not shown)", hide_input=True, err=True)
    else:
        text = sys.stdin.read(100_000)
    write_secret(instance.state, name, text)
    console.say(f"{name} is kept in {instance.state / 'secrets' / name}, readable by Labdock alone.")
    console.say("Next: `labdock up` takes it into use.")


@secret.command("list")
@as_json_option
@pass_context
def secret_list(context: Context, as_json: bool) -> None:
    """List the secrets that can be set, and since when each is; never what they are."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    since = set_since(instance)
    facts: list[dict[str, Any]] = [
        {"name": name, "meaning": meaning, "set_at": _moment(since.get(name))}
        for name, meaning in GIVEN_SECRETS.items()
    ]
    console.facts(
        facts,
        lambda: console.table(
            ("Name", "What it is", "Set"), ((f["name"], f["meaning"], f["set_at"] or "no") for f in facts)
        ),
    )


def write_secret(state: Path, name: str, text: str) -> None:
    """Keep *text* as the secret *name* of the instance in *state*, with mode 0600, for the hub to read.

    Raises:
        BadRequestError: It cannot be a secret.
    """
    value = check_secret(name, text)
    # The hub runs as this user, also where `labdock up` has not made anything yet.
    service = os.geteuid() or SERVICE_UID
    host.make_folder(state, mode=0o755)
    host.make_folder(state / "secrets", mode=0o700, uid=service)
    host.write_file(state / "secrets" / name, value + "\n", mode=0o600, uid=service)


def set_since(instance: Instance) -> dict[str, int]:
    """When each secret that somebody set was written, in nanoseconds of Unix time."""
    found = {}
    for name in GIVEN_SECRETS:
        try:
            found[name] = (instance.state / "secrets" / name).stat().st_mtime_ns
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise BadRequestError(
                f"The secrets in {instance.state} may not be read.",
                field="state",
                fix="Run as the user who ran `labdock up`.",
            ) from error
    return found


def _moment(nanoseconds: int | None) -> str | None:
    if nanoseconds is None:
        return None
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).isoformat()
