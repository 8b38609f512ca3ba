"""``labdock users``: let people in, list them, shut them out, remove them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from labdock.adapters import host
from labdock.adapters.agent_api import AgentClient
from labdock.adapters.hub_api import HubApi
from labdock.cli.console import Console
from labdock.cli.context import Context, as_json_option, dry_run_option, pass_context, yes_option
from labdock.cli.instance import hub_api
from labdock.cli.operate import home_question
from labdock.core.errors import AccountError, BadRequestError, LabdockError
from labdock.core.login import LOCAL
from labdock.core.people_list import Entry, parse_people


@click.group()
def users() -> None:
    """Let people in, list them, shut them out, remove them."""


@users.command("add")
@click.argument("who", metavar="NAME")
@click.option("--admin", is_flag=True, help="Make the person an administrator.")
@click.option("--as", "name", default="", help="What they are called here, if they sign in as somebody else.")
@as_json_option
@pass_context
def users_add(context: Context, who: str, admin: bool, name: str, as_json: bool) -> None:
    """Let NAME in.

    With local accounts it makes the account and prints its invitation link. Otherwise NAME is what the person
    signs in as (a login, or an e-mail address that is verified there); with --as they get the account of that
    name here, also one that was made before people signed in so.
    """
    console = context.console(as_json=as_json)
    made = hub_api(context.instance()).add_user(who, admin=admin, name=name)
    console.facts(made, lambda: _say_added(console, who, made))


def _say_added(console: Console, who: str, made: dict[str, Any]) -> None:
    if made["link"]:
        _say_link(console, f"{who} is invited. Send this link (once, until {made['expires_at']}):", made)
    else:
        console.say(f"{who} is let in: the first who signs in so becomes {made['name']} here, for good.")


@users.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@as_json_option
@dry_run_option
@pass_context
def users_import(context: Context, file: Path, as_json: bool, dry_run: bool) -> None:
    """Let everybody in FILE in: comma-separated, with a first line that names the columns name, admin and as.

    Whoever is here already stays as they are, so a file may be imported again. With local accounts the
    invitation links are printed.
    """
    console = context.console(as_json=as_json)
    instance = context.instance()
    text = host.read_text(file)
    if text is None:
        raise BadRequestError(f"{file} is not there.", field="file")
    local = instance.config.login.method == LOCAL
    entries = parse_people(text, file=file.name, local=local)
    api = hub_api(instance)
    people = api.users()
    known = _known(people, local=local)
    new = [
        entry for entry in entries if (entry.who.lower(), "") not in known and ("", entry.name) not in known
    ]
    if dry_run:
        for entry in new:
            console.say(f"  would: Let {entry.who} in{' as administrator' if entry.admin else ''}")
        if not new:
            console.say("Nothing to do: everybody is here already.")
        return
    added = _add_all(api, new)
    facts = {"added": added, "known": [entry.who for entry in entries if entry not in new]}
    console.facts(facts, lambda: _say_imported(console, facts))


def _known(people: list[dict[str, Any]], *, local: bool) -> set[tuple[str, str]]:
    """Who is here already: what they sign in as, or their name here, the other one empty.

    Where people sign in elsewhere, the name alone means somebody else by chance, and an account that nobody
    signs in to so may be given to somebody.
    """
    if local:
        return {(person["name"], "") for person in people}
    signs_in = [person for person in people if person["login"]]
    words = {word.lower() for person in signs_in for word in (person["login"], person["email"]) if word}
    return {(word, "") for word in words} | {("", person["name"]) for person in signs_in}


def _add_all(api: HubApi, entries: list[Entry]) -> list[dict[str, Any]]:
    """Let *entries* in, one by one.

    Raises:
        LabdockError: The first that cannot be; it says how many are in, and what to do with the file.
    """
    added = []
    for entry in entries:
        try:
            added.append(api.add_user(entry.who, admin=entry.admin, name=entry.name))
        except LabdockError as error:
            raise LabdockError(
                f"{entry.who} (line {entry.line}): {error.message}",
                fix=f"{len(added)} of {len(entries)} were let in; mend the line and import the file again."
                + "".join(f"\n  {made['name']}: {made['link']}" for made in added if made["link"]),
            ) from error
    return added


def _say_imported(console: Console, facts: dict[str, Any]) -> None:
    for made in facts["added"]:
        console.say(f"{made['name']}: {made['link'] or 'is let in'}")
    console.say(f"{len(facts['added'])} let in, {len(facts['known'])} were here already.")


@users.command("list")
@as_json_option
@pass_context
def users_list(context: Context, as_json: bool) -> None:
    """List everybody with an account, and who waits for approval."""
    console = context.console(as_json=as_json)
    people = hub_api(context.instance()).users()
    console.facts(people, lambda: _show_people(console, people))


def _show_people(console: Console, people: list[dict[str, Any]]) -> None:
    elsewhere = any(person["login"] for person in people)
    console.table(
        ("Name", *(("Signs in as",) if elsewhere else ()), "Administrator", "State", "Session", "Last seen"),
        (
            (
                p["name"],
                *((p["login"],) if elsewhere else ()),
                "yes" if p["admin"] else "",
                p["state"],
                p["session"],
                p["last_activity"] or "never",
            )
            for p in people
        ),
    )
    waiting = [person["name"] for person in people if person["state"] == "waiting"]
    if waiting:
        console.say(
            f"\nNext: `labdock users approve {waiting[0]}` lets in, "
            f"`labdock users refuse {waiting[0]}` keeps out."
        )


@users.command("approve")
@click.argument("name")
@as_json_option
@pass_context
def users_approve(context: Context, name: str, as_json: bool) -> None:
    """Let NAME in, who waits, was refused, or is on no list any more."""
    console = context.console(as_json=as_json)
    done = hub_api(context.instance()).approve(name)
    console.facts(done, lambda: console.say(f"{name} is let in."))


@users.command("refuse")
@click.argument("name")
@as_json_option
@yes_option
@dry_run_option
@pass_context
def users_refuse(context: Context, name: str, as_json: bool, yes: bool, dry_run: bool) -> None:
    """Keep NAME out, whatever the lists say: sessions, tokens and sign-ins end; the home is kept."""
    console = context.console(as_json=as_json)
    if dry_run:
        console.say(f"  would: End the sessions, tokens and sign-ins of {name}, and keep them out")
        return
    console.confirm(f"Shut {name} out?", yes=yes)
    done = hub_api(context.instance()).refuse(name)
    console.facts(
        done, lambda: console.say(f"{name} is out. `labdock users approve {name}` lets them in again.")
    )


@users.command("reset")
@click.argument("name")
@click.option(
    "--second-factor", is_flag=True, help="Take a lost second factor away instead; the password stays."
)
@as_json_option
@pass_context
def users_reset(context: Context, name: str, second_factor: bool, as_json: bool) -> None:
    """Print a link with which NAME sets a new password.

    With --second-factor, NAME signs in with the password alone from now on: for who lost their phone.
    """
    console = context.console(as_json=as_json)
    if second_factor:
        done = hub_api(context.instance()).take_second_factor(name)
        console.facts(done, lambda: console.say(f"{name} signs in with the password alone now."))
        return
    made = hub_api(context.instance()).reset_user(name)
    console.facts(
        made, lambda: _say_link(console, f"Send {name} this link (once, until {made['expires_at']}):", made)
    )


@users.command("remove")
@click.argument("name")
@click.option("--home", type=click.Choice(["keep", "delete"]), help="What becomes of the person's files.")
@as_json_option
@yes_option
@dry_run_option
@pass_context
def users_remove(
    context: Context, name: str, home: str | None, as_json: bool, yes: bool, dry_run: bool
) -> None:
    """Remove an account, end its sessions and sign-ins; ask what becomes of the home.

    Whoever is on a list of labdock.yaml, or may ask, can come again as somebody new: `labdock users refuse
    NAME` keeps them out.
    """
    console = context.console(as_json=as_json)
    home = home or home_question(name, yes=yes)
    if dry_run:
        console.say(f"  would: End the sessions and sign-ins of {name}, remove the account, {home} the home")
        return
    console.confirm(f"Remove {name} and {home} the home?", yes=yes)
    done = hub_api(context.instance()).remove_user(name, home=home)
    kept = f"The home is kept in {done['home']}." if done["home"] else "The home is deleted."
    console.facts(
        done,
        lambda: console.say(
            f"{name} is removed. {kept if done['home'] or home == 'delete' else 'There was no home.'}"
        ),
    )


@users.command("home")
@click.argument("name")
@click.option(
    "--fill-from",
    type=click.Path(path_type=Path),
    help="Copy what is in this folder into the home, which must be empty.",
)
@as_json_option
@pass_context
def users_home(context: Context, name: str, fill_from: Path | None, as_json: bool) -> None:
    """Print where NAME's home is, and the number its files belong to; make it if they were never here."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    found = [person for person in hub_api(instance).users() if person["name"] == name]
    if not found:
        raise AccountError(f"There is nobody called {name!r}.", fix="`labdock users list` shows everybody.")
    account = found[0]
    if account["state"] in {"waiting", "refused"}:
        fix = f"`labdock users approve {name}` lets them in."
        raise AccountError(f"{name} is {account['state']}.", fix=fix)
    person = asyncio.run(AgentClient(instance.agent_socket).person(account["identity"], name))
    home = Path(instance.places.homes) / person.home
    if fill_from is not None:
        if account["session"] != "none":
            raise AccountError(f"{name} has a session running.", fix="Stop it first, on the People page.")
        with console.step(f"Copy {fill_from} to {home}") as show:
            host.fill_folder(home, fill_from, uid=person.uid, on_line=show)
    console.facts(
        {"name": name, "home": str(home), "uid": person.uid},
        lambda: console.say(f"{home}  (uid and gid {person.uid})"),
    )


def _say_link(console: Console, text: str, made: dict[str, Any]) -> None:
    console.say(text)
    console.say(f"  {made['link']}")
