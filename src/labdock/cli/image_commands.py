"""``labdock images``: list, build, check, try, publish, rollback, prune, save, load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from labdock.adapters import host
from labdock.adapters.engine import Engine
from labdock.adapters.hub_api import HubApi
from labdock.cli import store
from labdock.cli.console import Console
from labdock.cli.context import (
    Context,
    as_json_option,
    dry_run_option,
    pass_context,
    tell,
    with_engine,
    yes_option,
)
from labdock.cli.images import Checked, Keeper, list_images
from labdock.cli.instance import Instance, hub_api
from labdock.cli.shelves import Line, read_line, read_lines, read_shelves
from labdock.cli.up import keeper_of, read_images
from labdock.core.errors import HostError, HubError, LabdockError
from labdock.core.finding import Finding
from labdock.core.image import ImageSet
from labdock.core.shelf import TRIAL_SUFFIX, Shelves, format_gb

Result = TypeVar("Result")


@click.group()
def images() -> None:
    """Build, check, publish and take back the images that sessions start from."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a command on images works with."""

    instance: Instance
    engine: Engine
    console: Console
    images: ImageSet
    lines: tuple[Line, ...]
    shelves: Shelves

    def keeper(self) -> Keeper:
        return keeper_of(self.instance, self.engine, self.console, self.lines, self.shelves)

    def chosen(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The images called *names*; all of the configuration when none is named."""
        return tuple(store.one_of(self.lines, name).image.id for name in names) or tuple(
            line.image.id for line in self.lines
        )


@dataclass(frozen=True, slots=True)
class Each(Generic[Result]):
    """What came of several images: what was done, and why the others failed."""

    done: dict[str, Result]
    failed: dict[str, LabdockError]

    def why(self) -> dict[str, str]:
        return {image: str(error) for image, error in self.failed.items()}

    def end(self) -> None:
        """Tell what failed, and end with 1 if anything did."""
        for error in self.failed.values():
            tell(error)
        if self.failed:
            raise SystemExit(1)


async def each(names: tuple[str, ...], work: Callable[[str], Awaitable[Result]]) -> Each[Result]:
    """Do *work* for each of *names*; one that fails keeps none of the others from it."""
    found: Each[Result] = Each({}, {})
    for image in names:
        try:
            found.done[image] = await work(image)
        except LabdockError as error:
            found.failed[image] = error
    return found


def _work(
    context: Context, console: Console, work: Callable[[Work], Awaitable[Result]], *, files: bool = True
) -> Result:
    """Run *work* on this instance; without *files*, what the images are made from is not looked at.

    So a line with a mistake in it does not stand in the way of a rollback.
    """
    instance = context.instance()
    if instance.record is None:
        raise HostError(f"There is no Labdock in {instance.state} yet.", fix="Run `labdock up`.")

    async def whole(engine: Engine) -> Result:
        built_in, shelves = read_images(), read_shelves(instance)
        lines = read_lines(instance, built_in, shelves) if files else ()
        return await work(Work(instance, engine, console, built_in, lines, shelves))

    return with_engine(whole, instance)


def _must_be_known(work: Work, image: str) -> None:
    known = tuple(one.id for one in work.instance.config.images)
    if image not in known:
        raise store.unknown_image(image, known)


@contextmanager
def _alone(context: Context) -> Iterator[None]:
    with host.lock(context.instance().state / ".lock"):
        yield


@images.command("list")
@as_json_option
@pass_context
def images_list(context: Context, as_json: bool) -> None:
    """Show every image: what it holds, since when it is offered, how many sessions run from it."""
    console = context.console(as_json=as_json)
    rows = _work(
        context, console, lambda work: list_images(work.instance, work.engine, work.lines, work.shelves)
    )
    console.facts(
        [row.as_dict() for row in rows],
        lambda: console.table(
            ("Image", "State", "Published (UTC)", "Version", "What is in it", "Sessions", "Earlier"),
            (
                (
                    row.id,
                    row.state,
                    row.published_at[:16].replace("T", " "),
                    row.version,
                    row.holds,
                    str(row.sessions),
                    str(row.earlier),
                )
                for row in rows
            ),
        ),
    )


@images.command("build")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@click.option("--fresh", is_flag=True, help="Fetch anew what has no fixed version: base, packages.")
@as_json_option
@pass_context
def images_build(context: Context, names: tuple[str, ...], fresh: bool, as_json: bool) -> None:
    """Build images as labdock.yaml says now, and offer them to nobody yet; without a name, all."""
    console = context.console(as_json=as_json)

    async def build(work: Work) -> Each[bool]:
        return await each(work.chosen(names), work.keeper().build)

    async def build_anew(work: Work) -> Each[bool]:
        async def one(image: str) -> bool:
            # Remembered when it is built: a build that fails leaves everything as it was.
            shelf = work.shelves.of(image).anew()
            line = read_line(
                work.instance,
                store.one_of(work.lines, image).image,
                work.images,
                work.shelves.having(image, shelf),
            )
            keeper = keeper_of(work.instance, work.engine, console, (line,), read_shelves(work.instance))
            await keeper.build(image, fresh=True)
            keeper.remember(image, shelf)
            return True

        return await each(work.chosen(names), one)

    with _alone(context):
        built = _work(context, console, build_anew if fresh else build)

    def lines() -> None:
        for image, changed in built.done.items():
            console.say(f"{image}: {'built' if changed else 'is built already, nothing changed'}.")
        if built.done:
            chosen = " ".join(built.done)
            console.say(f"Next: `labdock images check {chosen}`, then `labdock images publish {chosen}`.")

    console.facts({"built": built.done, "failed": built.why()}, lines)
    built.end()


def show_findings(image: str, findings: tuple[Finding, ...], console: Console) -> None:
    """The findings for people, with the way out below each that is not fine."""
    console.say(f"{image}:")
    for finding in findings:
        console.say(f"  {'✓' if finding.ok else '✗'} {finding.check}: {finding.seen}")
        if not finding.ok:
            console.say(f"      {finding.fix}")


@images.command("check")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@as_json_option
@pass_context
def images_check(context: Context, names: tuple[str, ...], as_json: bool) -> None:
    """Look into built images: versions, conflicts, CUDA, imports, start time, size; without a name, all."""
    console = context.console(as_json=as_json)

    async def check(work: Work) -> Each[Checked]:
        keeper = work.keeper()

        async def one(image: str) -> Checked:
            await keeper.build(image)
            return await keeper.inspect(image, anew=True)

        return await each(work.chosen(names), one)

    with _alone(context):
        checked = _work(context, console, check)
    ok = not checked.failed and all(one.ok for one in checked.done.values())

    def lines() -> None:
        for image, one in checked.done.items():
            show_findings(image, one.findings, console)
        publish = f"labdock images publish {' '.join(checked.done)}"
        console.say(f"Every check passed. Next: `{publish}`." if ok else "Not fit to be published.")

    plain = {
        image: {"ok": one.ok, "findings": [asdict(finding) for finding in one.findings]}
        for image, one in checked.done.items()
    }
    console.facts({"ok": ok, "images": plain, "failed": checked.why()}, lines)
    checked.end()
    if not ok:
        raise SystemExit(1)


@images.command("publish")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@as_json_option
@pass_context
def images_publish(context: Context, names: tuple[str, ...], as_json: bool) -> None:
    """Build and check images, and make them the choice for new sessions; without a name, all."""
    console = context.console(as_json=as_json)

    async def publish(work: Work) -> Each[str]:
        keeper = work.keeper()

        async def one(image: str) -> str:
            await keeper.build(image)
            await keeper.check(image)
            return (await keeper.publish(image)).words()

        return await each(work.chosen(names), one)

    with _alone(context):
        published = _work(context, console, publish)

    def lines() -> None:
        if published.done:
            console.say(
                "Sessions that run stay as they are. Next: `labdock images list`; "
                "`labdock images rollback IMAGE` takes it back."
            )

    console.facts({"published": published.done, "failed": published.why()}, lines)
    published.end()


@images.command("rollback")
@click.argument("image")
@as_json_option
@dry_run_option
@pass_context
def images_rollback(context: Context, image: str, as_json: bool, dry_run: bool) -> None:
    """Give new sessions the release before the current one of IMAGE again."""
    console = context.console(as_json=as_json)

    async def roll_back(work: Work) -> dict[str, str]:
        _must_be_known(work, image)
        shelf = work.shelves.of(image).rollback()
        release = shelf.release
        assert release is not None  # noqa: S101  a rollback goes to a release
        if not await work.engine.has_image(release.reference):
            raise HostError(
                f"The release before, {release.version}, is not on this machine any more.",
                fix="Bring its line in labdock.yaml back, then `labdock images publish`.",
            )
        if not dry_run:
            work.keeper().remember(image, shelf)
        return {"image": image, "version": release.version, "holds": release.words()}

    with _alone(context):
        done = _work(context, console, roll_back, files=False)
    would = "would be" if dry_run else "is"
    console.facts(
        done,
        lambda: console.say(
            f"{image}: {done['version']} ({done['holds']}) {would} what new sessions get."
            + (
                ""
                if dry_run
                else f" `labdock up` leaves it so; `labdock images publish {image}` goes forward again."
            )
        ),
    )


@images.command("try")
@click.argument("image")
@click.option("--person", help="The administrator to start it for. Default: the first.")
@click.option("--end", is_flag=True, help="Offer it to administrators no more.")
@as_json_option
@pass_context
def images_try(context: Context, image: str, person: str | None, end: bool, as_json: bool) -> None:
    """Build IMAGE and start it for an administrator alone, before it is published."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    who = person or instance.config.login.admins[0]

    async def try_out(work: Work) -> dict[str, str]:
        _must_be_known(work, image)
        keeper = work.keeper()
        if end:
            keeper.remember(image, work.shelves.of(image).trying(None))
            return {"image": image, "url": ""}
        await keeper.build(image)
        release = await keeper.try_out(image)
        api: HubApi = hub_api(instance)
        try:
            with console.step(f"Start it for {who}"):
                await asyncio.to_thread(api.start_session, who, {"image": image + TRIAL_SUFFIX})
        except HubError as error:
            # Nobody is left with an offer that nobody knows of.
            keeper.remember(image, work.shelves.of(image))
            raise HubError(
                f"{image} cannot be started for {who}: {error.message.rstrip('.')}.",
                fix=f"If {who} has a session, stop it first; whoever never signed in cannot be started for.",
            ) from error
        return {"image": image, "url": f"{instance.config.site.url}/hub/home", "holds": release.words()}

    with _alone(context):
        done = _work(context, console, try_out, files=not end)
    console.facts(
        done,
        lambda: console.say(
            f"{image} is not offered to administrators any more; a session that runs goes on."
            if end
            else f"{who}'s session starts from it ({done['holds']}). Sign in as {who}: {done['url']}\n"
            f"Next: `labdock images publish {image}`, or `labdock images try {image} --end`."
        ),
    )


@images.command("prune")
@click.option(
    "--keep",
    default=1,
    show_default=True,
    type=click.IntRange(0, 9),
    help="How many earlier releases of each image to keep for a rollback.",
)
@as_json_option
@yes_option
@dry_run_option
@pass_context
def images_prune(context: Context, keep: int, as_json: bool, yes: bool, dry_run: bool) -> None:
    """Remove images that nobody needs: never one that a container uses or another instance claims."""
    console = context.console(as_json=as_json)

    async def look(work: Work) -> tuple[str, ...]:
        return await store.look_for_unneeded(
            work.instance, work.engine, work.lines, work.shelves, work.images, earlier=keep
        )

    with _alone(context):
        unneeded = _work(context, console, look)
        if dry_run or not unneeded:
            words = [f"  would: Remove {one}" for one in unneeded] or ["Nothing to remove."]
            console.facts({"would_remove": list(unneeded)}, lambda: console.say("\n".join(words)))
            return
        if not as_json:
            for one in unneeded:
                console.note(f"  {one}")
        console.confirm(f"Remove these {len(unneeded)}?", yes=yes)
        done = _work(
            context,
            console,
            lambda work: store.prune(work.instance, work.engine, work.shelves, unneeded, console),
        )
    console.facts(
        done,
        lambda: console.say(
            f"Removed {store.counted(done['removed'])}; {format_gb(done['freed_bytes'])} freed."
        ),
    )


@images.command("save")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@as_json_option
@pass_context
def images_save(context: Context, file: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write images to FILE, for a machine without a network; without a name, all that Labdock runs."""
    console = context.console(as_json=as_json)
    path = file.absolute()

    async def save(work: Work) -> dict[str, Any]:
        chosen = work.chosen(names) if names else ()
        return await store.save(work.engine, work.lines, work.shelves, work.images, path, chosen, console)

    done = _work(context, console, save)
    console.facts(
        done,
        lambda: console.say(
            f"{done['file']}: {store.counted(done['images'])}, {format_gb(done['size_bytes'])}. "
            f"Next, there: `labdock images load {file.name}`."
        ),
    )


@images.command("load")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json_option
@pass_context
def images_load(context: Context, file: Path, as_json: bool) -> None:
    """Take the images in a FILE that was saved on another machine."""
    console = context.console(as_json=as_json)
    done = with_engine(lambda engine: store.load(engine, file.absolute(), console), context.instance())

    def lines() -> None:
        for reference in done["images"]:
            console.say(reference)
        console.say("Next: `labdock up`, which publishes what labdock.yaml names.")

    console.facts(done, lines)
