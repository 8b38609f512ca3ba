"""The commands of ``labdock``: thin; each gathers facts, shows a plan, applies it, says what is next."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from labdock import __version__
from labdock.adapters import host
from labdock.adapters.config_file import read_config, read_node, write_config
from labdock.adapters.engine import Engine
from labdock.cli import doctor as doctor_module
from labdock.cli import gpus as gpus_module
from labdock.cli import up as up_module
from labdock.cli import verify as verify_module
from labdock.cli.ask_login import Asked, ask_login
from labdock.cli.certificates import certificate, wait_for_certificate
from labdock.cli.console import Console, program
from labdock.cli.context import (
    Context,
    as_json_option,
    dry_run_option,
    pass_context,
    show_plan,
    tell,
    with_engine,
    yes_option,
)
from labdock.cli.image_commands import images
from labdock.cli.instance import Chosen, Instance, config_file, hub_api
from labdock.cli.operate import (
    follow_logs,
    last_words,
    plan_for_down,
    read_status,
    restart_parts,
    show_status,
    take_down,
)
from labdock.cli.people_commands import users
from labdock.cli.secret_commands import secret, write_secret
from labdock.cli.sign_in_check import sign_in_problem
from labdock.core.compose import PARTS, SIMULATION
from labdock.core.config import dump, find_problems
from labdock.core.config_docs import json_schema, reference_markdown, sample_yaml
from labdock.core.errors import ConfigError, HostError, LabdockError
from labdock.core.login import CLIENT_SECRET, LOCAL, METHODS, OAUTH_METHODS
from labdock.core.session import INSTANCE_PATTERN


def _instance_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not INSTANCE_PATTERN.fullmatch(value):
        raise click.BadParameter(
            "use up to 30 of a-z, 0-9 and single '-', beginning with a letter, and not the word 'session'"
        )
    return value


GPU_IMAGES = [
    {"id": "torch", "label": "PyTorch", "base": "builtin/torch", "default": True},
    {"id": "cpu", "label": "Python (CPU)", "base": "builtin/cpu"},
]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labdock")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="State directory. Default: /var/lib/INSTANCE for root, ~/.local/share/INSTANCE for others.",
)
@click.option(
    "--instance",
    callback=_instance_name,
    help="Name of the instance; several live on one engine. Default: labdock.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file. Default: the one used last, or ./labdock.yaml.",
)
@click.option("--verbose", is_flag=True, help="Show every line of the work, and tracebacks.")
@click.pass_context
def cli(
    context: click.Context, state: Path | None, instance: str | None, config: Path | None, verbose: bool
) -> None:
    """One GPU server, the whole lab: a shared notebook server on this machine."""
    context.obj = Context(Chosen(state, instance, config), verbose=verbose)


@cli.command()
@click.option("--name", help="Name of the site.")
@click.option("--url", help="Address people type into the browser.")
@click.option("--listen", help="Address and port to listen on.")
@click.option("--contact", help="Whom people write to.")
@click.option("--login", "method", type=click.Choice(METHODS), help="How people sign in.")
@click.option("--server", help="Address of the sign-in provider, where it is an own one.")
@click.option("--client-id", help="Client id of the application at the sign-in provider.")
@click.option("--admin", "admins", multiple=True, help="An administrator's name; may be repeated.")
@click.option("--memory", help="Memory for one session, such as 8G.")
@click.option("--cpus", help="Processors for one session.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@yes_option
@dry_run_option
@pass_context
def init(
    context: Context,
    name: str | None,
    url: str | None,
    listen: str | None,
    contact: str | None,
    method: str | None,
    server: str | None,
    client_id: str | None,
    admins: tuple[str, ...],
    memory: str | None,
    cpus: str | None,
    force: bool,
    yes: bool,
    dry_run: bool,
) -> None:
    """Write a commented labdock.yaml after a handful of questions."""
    console = context.console()
    path = config_file(context.chosen, os.environ)
    ask = not yes and sys.stdin.isatty()

    def answer(given: str | None, question: str, default: str) -> str:
        if given is not None:
            return given
        return str(click.prompt(question, default=default, err=True)) if ask else default

    url = answer(url, "Address people type into the browser", "http://127.0.0.1:8000")
    method = answer(method, f"How people sign in ({', '.join(METHODS)})", LOCAL)
    login = ask_login(Asked(method, url, server, client_id, admins), answer, console)
    values: dict[str, Any] = {
        "site": {
            "name": answer(name, "Name of the site", "Labdock"),
            "url": url,
            **({"listen": listen} if listen else {}),
            "contact": answer(contact, "Whom people write to (e-mail)", ""),
        },
        "login": login,
        "limits": {
            "memory": answer(memory, "Memory for one session", "8G"),
            "cpus": _number(answer(cpus, "Processors for one session", "4")),
        },
        # On a machine with NVIDIA hardware people come for this; the check tells of a driver that is too old.
        **({"images": GPU_IMAGES} if host.nvidia_folders() else {}),
    }
    text = sample_yaml(values)
    if dry_run:
        console.say(text)
        return
    write_config(path, text, overwrite=force)
    console.say(f"{path} is written.")
    if method in OAUTH_METHODS:
        if ask:
            context.chosen = replace(context.chosen, config=path)
            text = click.prompt("Client secret (not shown)", hide_input=True, err=True)
            write_secret(context.instance().state, CLIENT_SECRET, text)
        else:
            console.say(f"Next: `{program()} secret set {CLIENT_SECRET}` asks for the client secret.")
    console.say(f"Next: read it, then run `{program()} up`.")


def _number(text: str) -> int | float | str:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


@cli.command()
@click.option(
    "--simulate-gpus",
    type=click.IntRange(0, 16),
    help="Simulate this many GPUs, to try Labdock without any; remembered until it is 0.",
)
@as_json_option
@yes_option
@dry_run_option
@pass_context
def up(context: Context, simulate_gpus: int | None, as_json: bool, yes: bool, dry_run: bool) -> None:
    """Set up and start everything, or bring it up to date."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    first = up_module.engine_plan(instance)
    if dry_run and first:
        show_plan(first, console)
        console.note("The rest of the plan needs an engine that answers.")
        return
    if first:
        for step in first:
            console.note(f"{step.text}.")
        console.confirm("Go on?", yes=yes or not sys.stdin.isatty())
        up_module.apply_engine(first, instance, console)
    if dry_run:
        situation = with_engine(lambda engine: up_module.look(instance, engine, simulate_gpus), instance)
        show_plan(situation.plan + situation.images, console)
        return
    host.make_folder(instance.state, mode=0o755)
    with host.lock(instance.state / ".lock"):
        with_engine(lambda engine: _up(engine, instance, console, simulate_gpus), instance)


async def _up(engine: Engine, instance: Instance, console: Console, simulate_gpus: int | None) -> None:
    situation = await up_module.look(instance, engine, simulate_gpus)
    up_module.check_first(situation, instance, await engine.facts())
    await up_module.Applier(situation, instance, engine, console).apply()
    await up_module.wait_until_ready(instance, engine, console, situation.deployment.simulated_gpus)
    no_certificate = await wait_for_certificate(instance, engine, console)
    no_sign_in = await asyncio.to_thread(sign_in_problem, instance)
    url = instance.config.site.url
    login = instance.config.login
    first_admin = login.admins[0]
    link = None
    if login.method == LOCAL:
        api = hub_api(instance)
        known = {user["name"]: user["state"] for user in api.users()}
        link = api.first_link() if known.get(first_admin, "invited") == "invited" else None
    gpus = gpus_module.in_words(await gpus_module.read_report(instance))
    keeper = await up_module.bring_images(situation, instance, engine, console)
    changed = bool(situation.plan + situation.images)
    offered = {
        image.id: shelf.release.words()
        for image in instance.config.images
        if (shelf := keeper.shelves.of(image.id)).release is not None
    }
    held_back = [
        line.image.id
        for line in situation.lines
        if line.making.version in keeper.shelves.of(line.image.id).withdrawn
    ]
    report = {
        "url": url,
        "changed": changed,
        "sign_in_link": link["link"] if link else None,
        "gpus": gpus,
        "images": offered,
        "held_back_images": held_back,
        "failed_images": {name: str(error) for name, error in keeper.failures.items()},
        "certificate_problem": str(no_certificate) if no_certificate else None,
        "sign_in_problem": str(no_sign_in) if no_sign_in else None,
    }

    def lines() -> None:
        console.say("" if changed else "Everything is as it should be: nothing changed.")
        console.say(f"Labdock runs at {url}")
        if instance.config.site.https == "internal":
            console.say(f"Browsers warn until they know its root: `{program()} certificate root` prints it.")
        console.say(gpus)
        for name, words in offered.items():
            console.say(f"Image {name}: {words}")
        for name in held_back:
            console.say(
                f"Image {name}: a newer one was rolled back. "
                f"`{program()} images publish {name}` offers it again."
            )
        if link:
            console.say(f"Sign in as {first_admin} (once, within an hour):\n  {link['link']}")
            console.say(
                f"Next: open the link. Then `{program()} users add NAME` invites somebody; "
                f"`{program()} verify` proves it all works."
            )
        elif login.method != LOCAL:
            label = situation.deployment.login.label
            console.say(f"People sign in with {label}; {', '.join(login.admins)} administer.")
            console.say(f"Next: open the address and sign in. `{program()} verify` proves the rest.")
        else:
            console.say(
                f"Next: `{program()} users add NAME` invites somebody; `{program()} status` shows what runs."
            )

    console.facts(report, lines)
    problems = [error for error in (no_certificate, no_sign_in) if error is not None]
    failures = [*keeper.failures.values(), *problems]
    for error in failures:
        tell(error)
    if failures:
        raise SystemExit(1)


@cli.command()
@click.option("--all", "everything", is_flag=True, help="Also stop people's sessions.")
@as_json_option
@yes_option
@dry_run_option
@pass_context
def down(context: Context, everything: bool, as_json: bool, yes: bool, dry_run: bool) -> None:
    """Stop Labdock; people's sessions go on unless --all."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    plan = with_engine(lambda engine: plan_for_down(engine, instance, everything=everything), instance)
    if dry_run or not plan:
        show_plan(plan, console)
        return
    if not as_json:
        for step in plan:
            console.note(f"  {step.text}")
    console.confirm("Do that?", yes=yes)
    with host.lock(instance.state / ".lock"):
        with_engine(lambda engine: take_down(engine, instance, plan, console), instance)
    console.facts(
        {"stopped": [step.subject for step in plan]},
        lambda: console.say(
            "Stopped. Homes, accounts and settings are kept. Next: `labdock up` starts it again."
        ),
    )


@cli.command()
@click.argument("part", required=False, type=click.Choice((*PARTS, SIMULATION)))
@dry_run_option
@pass_context
def restart(context: Context, part: str | None, dry_run: bool) -> None:
    """Restart one part or all; sessions and their kernels go on."""
    console = context.console()
    instance = context.instance()
    parts = (part,) if part else instance.parts
    if dry_run:
        console.say(f"  would: Restart {', '.join(parts)}")
        return
    if instance.record is None:
        raise HostError(f"There is no Labdock in {instance.state} yet.", fix="Run `labdock up`.")
    with host.lock(instance.state / ".lock"):
        with_engine(lambda engine: restart_parts(engine, instance, parts, console), instance)
    console.say(f"Restarted: {', '.join(parts)}. Sessions went on.")


@cli.command()
@as_json_option
@pass_context
def status(context: Context, as_json: bool) -> None:
    """Show what runs: parts, sessions, address."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    found = with_engine(lambda engine: read_status(engine, instance), instance)
    console.facts(found, lambda: show_status(found, console))
    if not found["ok"]:
        raise SystemExit(1)


@cli.command()
@click.argument("who", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on with each new line.")
@click.option(
    "--lines",
    "-n",
    default=100,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="How many lines back.",
)
@pass_context
def logs(context: Context, who: str | None, follow: bool, lines: int) -> None:
    """Show what a part (agent, proxy, packages, hub, edge) or a session printed; with no name, all parts."""
    console = context.console()
    instance = context.instance()
    if (
        who is not None
        and who not in instance.parts
        and with_engine(lambda engine: last_words(engine, instance, who, lines, console), instance)
        and not follow
    ):
        return
    with_engine(lambda engine: follow_logs(engine, instance, who, lines, console, follow=follow), instance)


@cli.command()
@click.argument("uuids", nargs=-1, metavar="[UUID]...")
@click.option("--docker-args", is_flag=True, help="Print the flags that give a plain `docker run` the cards.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@as_json_option
@pass_context
def gpus(context: Context, uuids: tuple[str, ...], docker_args: bool, watch: bool, as_json: bool) -> None:
    """Show the GPUs: model, memory, who holds them since when."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    if uuids and not docker_args:
        raise click.UsageError("A UUID goes with --docker-args.")
    if watch and docker_args:
        raise click.UsageError("--watch and --docker-args do not go together.")
    if watch:
        try:
            asyncio.run(gpus_module.watch(instance, console))
        except KeyboardInterrupt:
            return
    report = asyncio.run(gpus_module.read_report(instance))
    if docker_args:
        gpus_module.say_docker_arguments(report, uuids, instance, console)
        return
    gpus_module.show_facts(report, instance, console)
    if report.trouble is not None:
        raise SystemExit(1)


@cli.command()
@click.option("--image", help="Image to start the session from. Default: the site's.")
@click.option("--gpu", is_flag=True, help="Start the session with a GPU, and prove that it is the right one.")
@as_json_option
@pass_context
def verify(context: Context, image: str | None, gpu: bool, as_json: bool) -> None:
    """Prove from end to end that it works, with a throw-away person."""
    console = context.console(as_json=as_json)
    report = verify_module.verify(context.instance(), image=image, gpu=gpu, console=console)
    if not report["ok"]:
        raise SystemExit(1)


@cli.command()
@as_json_option
@pass_context
def doctor(context: Context, as_json: bool) -> None:
    """Look for what is wrong with this machine and this Labdock, and say what to do."""
    console = context.console(as_json=as_json)
    findings = doctor_module.examine(context.chosen, os.environ)
    console.facts([finding.as_dict() for finding in findings], lambda: doctor_module.show(findings, console))
    if any(not finding.ok for finding in findings):
        raise SystemExit(1)


@cli.group("config")
def config_group() -> None:
    """Check, show and explain the configuration."""


@config_group.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@as_json_option
@pass_context
def config_check(context: Context, file: Path | None, as_json: bool) -> None:
    """Check labdock.yaml and name every problem at once."""
    console = context.console(as_json=as_json)
    path = file or config_file(context.chosen, os.environ)
    if as_json:
        try:
            problems = [asdict(problem) for problem in find_problems(read_node(path))]
        except ConfigError as error:
            # No settings to speak of: the file is missing, or is no YAML.
            problems = [{"message": line} for line in error.details or (str(error),)]
        console.facts({"file": str(path), "ok": not problems, "problems": problems}, lambda: None)
        if problems:
            raise SystemExit(1)
        return
    read_config(path)
    console.say(f"{path} is fine. Next: `labdock up`.")


@config_group.command("show")
@as_json_option
@pass_context
def config_show(context: Context, as_json: bool) -> None:
    """Show every setting as it applies, defaults included."""
    from labdock.adapters.yaml_text import to_yaml  # noqa: PLC0415  only here

    console = context.console(as_json=as_json)
    settings = dump(context.instance().config)
    console.facts(settings, lambda: console.say(to_yaml(settings).rstrip()))


@config_group.command("docs")
def config_docs() -> None:
    """Print the reference of all settings, as Markdown."""
    click.echo(reference_markdown(), nl=False)


@config_group.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of labdock.yaml, for editors."""
    click.echo(json.dumps(json_schema(), indent=2))


cli.add_command(certificate)
cli.add_command(images)
cli.add_command(users)
cli.add_command(secret)


def main() -> None:
    """Run the command line; exit 0, 1 (failed) or 2 (wrong usage)."""
    try:
        cli.main(prog_name="labdock", standalone_mode=False)
    except click.Abort:  # also Ctrl-C
        click.echo("Stopped. Run the command again to go on.", err=True)
        raise SystemExit(1) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except LabdockError as error:
        if "--verbose" in sys.argv:
            traceback.print_exc()
        tell(error)
        raise SystemExit(1) from None


__all__ = ["cli", "main"]
