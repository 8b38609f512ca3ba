"""The life of the notebook images: built, looked into, tried, published, rolled back, saved, removed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from labdock.adapters import host
from labdock.adapters.agent_api import AgentClient
from labdock.adapters.engine import Engine, ImageFacts
from labdock.cli.console import Console
from labdock.cli.instance import Instance
from labdock.cli.making import Maker
from labdock.cli.shelves import (
    Line,
    claim_of,
    place_of,
    read_look,
    write_look,
    write_shelves,
)
from labdock.cli.verify import FREE_CARD, NOTHING_COMPUTES, Report, go_the_way
from labdock.core.errors import BuildError, CheckError, EngineError, LabdockError
from labdock.core.finding import Finding
from labdock.core.image import DEBIAN_TAG, Recipe
from labdock.core.image_check import Seen, cuda_of, headline, judge
from labdock.core.lifecycle import Act, Plan, plan_making
from labdock.core.own_image import OWN, asked_for, explain, settings_with_passwords
from labdock.core.session import LABEL_IMAGE, LABEL_INSTANCE, LABEL_ROLE, ROLE_SESSION
from labdock.core.shelf import TRIAL_SUFFIX, Release, Shelf, Shelves

LABEL_FRAMEWORKS = "org.labdock.frameworks"
LABEL_HEADLINE = "org.labdock.headline"
ROLE_CHECK = "check"
LOOK_TIMEOUT_S = 900.0
"""How long a look into an image may take; the largest import several hundred megabytes each."""

_NOBODY = "65534:65534"
_MOST_HEADLINE = 6


@dataclass(frozen=True, slots=True)
class Checked:
    """An image that was looked into: what was seen, what that means, and how it would be told of."""

    findings: tuple[Finding, ...]
    release: Release
    seen: Seen

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Graphics:
    """What this machine asks of an image: the driver's version, the cards and the oldest one's capability."""

    driver: str | None = None
    oldest_compute: tuple[int, int] | None = None
    cards: int = 0
    simulated: bool = False
    trouble: str = ""
    """Why none of this is known, "" where it is."""


class Keeper:
    """Takes the lines of the section ``images`` through their life, and remembers it in *shelves*."""

    def __init__(
        self,
        instance: Instance,
        engine: Engine,
        console: Console,
        lines: Iterable[Line],
        shelves: Shelves,
        hub_version: str,
    ) -> None:
        self._instance = instance
        self._engine = engine
        self._console = console
        self._lines = {line.image.id: line for line in lines}
        recipes = {recipe.tag: recipe for line in self._lines.values() for recipe in line.making.recipes}
        self._maker = Maker(engine, console, recipes)
        self._hub_version = hub_version
        self._failed: dict[str, LabdockError] = {}
        self.shelves = shelves
        self.failures: dict[str, LabdockError] = {}

    async def apply(self, plan: Plan) -> None:
        """Carry out *plan*; what fails for one image is kept in ``failures``, and the others go on."""
        for step in plan:
            if step.image in self.failures:
                # What it was to bring for others too is not there either.
                self._failed.setdefault(step.subject, self.failures[step.image])
                continue
            try:
                match step.act:
                    case Act.GET_DEBIAN:
                        await self._maker.get_debian()
                    case Act.FETCH:
                        await self._maker.fetch(step.subject)
                    case Act.BUILD:
                        await self._build(step.image, step.subject)
                    case Act.CHECK:
                        await self.check(step.image)
                    case Act.PUBLISH:
                        await self.publish(step.image)
                    case _:
                        raise AssertionError(f"{step.act} is no act on an image")
            except LabdockError as error:
                self._failed.setdefault(step.subject, error)
                self.failures[step.image] = error

    async def _build(self, image: str, tag: str) -> None:
        line = self._lines[image]
        recipe = next(recipe for recipe in line.making.recipes if recipe.tag == tag)
        if recipe.parent in self._failed:
            # Another image was to bring it, and could not.
            raise self._failed[recipe.parent]
        if recipe.name.startswith(OWN):
            for setting in settings_with_passwords(line.image, line.own):
                place = place_of(self._instance, line.image, setting, "")
                self._console.note(f"Note: {place} carries a password; people can read it in the image.")
        try:
            await self._maker.build(tag)
        except BuildError as error:
            self._failed[tag] = self._explained(line, recipe, error)
            raise self._failed[tag] from error
        except LabdockError as error:
            self._failed[tag] = error
            raise

    def _explained(self, line: Line, recipe: Recipe, error: BuildError) -> BuildError:
        """*error* with the setting it comes from, where it is one of the lab's."""
        image = line.image
        if not recipe.name.startswith(OWN):
            return error
        mishap = explain(image, line.own, error)
        place = place_of(self._instance, image, mishap.setting, mishap.word)
        return BuildError(
            f"{place}: {mishap.message}",
            fix=f"The image {image.id} that people use stays as it is."
            if self.shelves.of(image.id).release
            else "Mend it, and run the command again.",
            details=error.details,
            step=error.step,
        )

    async def build(self, image: str, *, fresh: bool = False) -> bool:
        """Have the image *image* in the engine; whether there was anything to build.

        With *fresh*, somebody else's image that it stands on is fetched again, if it came from a registry.

        Raises:
            LabdockError: A step failed.
        """
        making = self._lines[image].making
        wanted = {*(recipe.tag for recipe in making.recipes), making.fetched, DEBIAN_TAG} - {""}
        tags = {tag for tag in sorted(wanted) if await self._engine.has_image(tag)}
        if fresh and making.fetched in tags:
            base = await self._engine.image(making.fetched)
            # One without a digest was made on this machine: no registry has it.
            tags -= {making.fetched} if base is not None and base.digests else set()
        steps = plan_making(making, frozenset(tags))
        await self.apply(tuple(steps))
        if image in self.failures:
            raise self.failures.pop(image)
        # Whoever cleans up, of this instance or another, sees that it is needed.
        await self._engine.tag(making.tag, claim_of(self._instance, image, making.version))
        return bool(steps)

    async def check(self, image: str, *, anew: bool = False) -> Checked:
        """Look into the built image, and say what was found; a look is kept, unless it is to be *anew*.

        Raises:
            CheckError: It must not be published as it is.
        """
        checked = await self.inspect(image, anew=anew)
        self._must_be_fit(image, checked)
        return checked

    async def inspect(self, image: str, *, anew: bool = False) -> Checked:
        """As ``check``, whatever is found; what is well so far also computes on a card, if there is one."""
        with self._console.step(f"Check the image {image}"):
            checked = await self.examine(image, anew=anew)
            if not checked.ok or not checked.release.cuda:
                return checked
            return replace(checked, findings=(*checked.findings, await self._compute(image, checked.release)))

    async def _compute(self, image: str, release: Release) -> Finding:
        """What a computation on a card of this machine shows, in a session of a throw-away administrator."""
        graphics = await read_graphics(self._instance)
        if not graphics.cards:
            return Finding("computation", True, "no GPU here: not tried")
        if graphics.simulated:
            return Finding("computation", True, "the GPUs are simulated and compute nothing: not tried")
        before = self.shelves.of(image)
        await self._engine.tag(self._lines[image].making.tag, release.reference)
        self.remember(image, before.trying(release))
        report = Report(None)
        try:
            ok = await go_the_way(self._instance, image + TRIAL_SUFFIX, report, gpu=True, admin=True)
        finally:
            self.remember(image, before)
        failed = next((proof for proof in report.proofs if not proof.ok), None)
        if failed is not None and failed.step == FREE_CARD:
            return Finding("computation", True, f"not tried: {failed.cause}")
        if failed is None and any(NOTHING_COMPUTES in text for text in report.shown):
            return Finding("computation", True, "not tried: no framework in it is known to compute on a GPU")
        seconds = sum(proof.seconds for proof in report.proofs)
        seen = f"{failed.step}: {failed.cause}" if failed else f"as on the CPU, in {seconds:.0f} s"
        return Finding(
            "computation", ok, seen, "`labdock verify --gpu` tries the site's own image the same way."
        )

    def _must_be_fit(self, image: str, checked: Checked) -> None:
        wrong = [finding for finding in checked.findings if not finding.ok]
        if wrong:
            offered = self.shelves.of(image).release is not None
            raise CheckError(
                f"The image {image} is not fit to be published: {len(wrong)} of {len(checked.findings)} "
                "checks failed.",
                fix="People go on with the one before." if offered else "It is not offered to anybody.",
                details=tuple(
                    line for finding in wrong for line in (f"{finding.check}: {finding.seen}", finding.fix)
                ),
            )

    async def examine(self, image: str, *, anew: bool = False) -> Checked:
        """What is seen in the built image and what that means, fit or not; nothing is computed."""
        making = self._lines[image].making
        facts = await self._engine.image(making.tag)
        if facts is None:
            raise EngineError(f"The image {image} ({making.tag}) is not built.", fix="`labdock images build`")
        # By the image, not by what it was made from: that may give other versions on another day.
        seen = None if anew else read_look(self._instance, facts.id)
        if seen is None:
            seen = await self._look(image, making.tag, facts)
            write_look(self._instance, facts.id, seen)
        graphics = await read_graphics(self._instance)
        offered = self.shelves.of(image).release
        before = None
        if offered is not None:
            used = await self._engine.image(offered.reference)
            before = read_look(self._instance, used.id) if used is not None and used.id != facts.id else None
        findings = judge(
            seen,
            size_bytes=facts.size_bytes,
            hub_version=self._hub_version,
            labels=facts.labels,
            driver=graphics.driver,
            oldest_compute=graphics.oldest_compute,
            trouble=graphics.trouble,
            before=before.packages if before else None,
            size_before_bytes=offered.size_bytes if before and offered else None,
        )
        # Of the base's and of the lab's own, the first of each.
        most = _MOST_HEADLINE if not self._packages(image) else _MOST_HEADLINE // 2
        names = (
            *facts.labels.get(LABEL_HEADLINE, "").split()[:most],
            *self._packages(image)[:_MOST_HEADLINE],
        )
        release = Release(
            reference=claim_of(self._instance, image, making.version),
            published_at=datetime.now(UTC).isoformat(timespec="seconds"),
            size_bytes=facts.size_bytes,
            headline=headline(seen, names),
            cuda=cuda_of(seen),
        )
        return Checked(findings, release, seen)

    def _packages(self, image: str) -> tuple[str, ...]:
        """The Python packages that the lab itself asks for in *image*, by their normal names."""
        line = self._lines[image]
        return asked_for(line.image, line.own)

    async def _look(self, image: str, tag: str, facts: ImageFacts) -> Seen:
        script = Path(str(package_files("labdock"))) / "images/check/look"
        wish = {
            "frameworks": facts.labels.get(LABEL_FRAMEWORKS, "").split(),
            "packages": list(self._packages(image)),
        }
        limits = self._instance.config.limits
        ran = await self._engine.run(
            # With a dot, which no instance's and no part's name has.
            f"{self._instance.name}-check.{image}",
            {
                "Image": tag,
                "Entrypoint": [],
                "Cmd": ["/opt/env/bin/python", "-c", script.read_text(), json.dumps(wish)],
                "User": _NOBODY,
                "WorkingDir": "/tmp",  # noqa: S108  the container's own
                # What an image sets for itself must not reach for a card here.
                "Env": ["HOME=/tmp", "NVIDIA_VISIBLE_DEVICES=void"],
                "Labels": {LABEL_INSTANCE: self._instance.name, LABEL_ROLE: ROLE_CHECK},
                "HostConfig": {
                    "NetworkMode": "none",
                    "CapDrop": ["ALL"],
                    "SecurityOpt": ["no-new-privileges"],
                    "PidsLimit": limits.pids,
                    "ShmSize": limits.shm_bytes,
                },
            },
            timeout_s=LOOK_TIMEOUT_S,
        )
        try:
            return Seen.from_json(ran.output)
        except (ValueError, TypeError, KeyError) as error:
            raise CheckError(
                f"Looking into the image {image} failed: its Python ended with exit code {ran.exit_code}.",
                fix="Is /opt/env whole in it? A Dockerfile or postBuild may have changed it.",
                details=ran.last_lines,
            ) from error

    async def publish(self, image: str) -> Release:
        """Make the built and checked image the choice for new sessions; those that run stay as they are."""
        # The look was kept by the check before: this costs nothing.
        checked = await self.examine(image)
        self._must_be_fit(image, checked)
        release = checked.release
        await self._engine.tag(self._lines[image].making.tag, release.reference)
        self.remember(image, self.shelves.of(image).publish(release))
        self._console.note(f"{image}: {release.words()} is what new sessions get.")
        return release

    async def try_out(self, image: str) -> Release:
        """Offer the built image to administrators alone."""
        release = (await self.examine(image)).release
        await self._engine.tag(self._lines[image].making.tag, release.reference)
        shelf = self.shelves.of(image)
        self.remember(image, shelf.trying(release))
        return release

    def remember(self, image: str, shelf: Shelf) -> None:
        """Put *shelf* for *image* into the files, for all to see."""
        self.shelves = self.shelves.having(image, shelf)
        write_shelves(self._instance, self.shelves)


async def read_graphics(instance: Instance) -> Graphics:
    """What the agent says of driver and cards; what it cannot say is a trouble, and never "no GPU"."""
    if not instance.agent_socket.exists() or not host.socket_answers(instance.agent_socket):
        simulated = instance.record is not None and instance.record.simulated_gpus
        away = "the agent, which asks the driver, does not answer"
        return Graphics(trouble=away if simulated or host.nvidia_folders() else "")
    report = await AgentClient(instance.agent_socket).gpus()
    if report.trouble is not None:
        return Graphics(trouble=report.trouble.message.rstrip("."))
    inventory = report.inventory
    if inventory.driver is None:
        return Graphics()
    known = [card.compute for card in inventory.cards if card.compute is not None]
    return Graphics(
        inventory.driver.version, min(known, default=None), len(inventory.cards), inventory.simulated
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One image as ``labdock images list`` shows it."""

    id: str
    label: str
    state: str
    version: str
    published_at: str
    holds: str
    size_bytes: int | None
    sessions: int
    earlier: int

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


async def list_images(
    instance: Instance, engine: Engine, lines: tuple[Line, ...], shelves: Shelves
) -> tuple[Row, ...]:
    """Every image of the configuration, then those that are remembered and not in it any more."""
    running = await sessions_by_image(instance, engine)
    rows = [await _row(engine, line, shelves, running) for line in lines]
    known = {line.image.id for line in lines}
    for image, shelf in sorted(shelves.by_id.items()):
        if image not in known and shelf.release is not None:
            release = shelf.release
            rows.append(
                Row(
                    image,
                    image,
                    "not in labdock.yaml any more",
                    release.version,
                    release.published_at,
                    release.words(),
                    release.size_bytes,
                    running.get(image, 0),
                    len(shelf.earlier()),
                )
            )
    return tuple(rows)


async def _row(engine: Engine, line: Line, shelves: Shelves, running: Mapping[str, int]) -> Row:
    shelf, making = shelves.of(line.image.id), line.making
    release = shelf.release
    built = await engine.has_image(making.tag)
    if release is None:
        state = "built, not published" if built else "not built yet"
    elif release.version == making.version:
        state = "published"
    elif making.version in shelf.withdrawn:
        state = "published; rolled back from a newer one"
    else:
        state = "published; a newer one is built" if built else "published; a newer one is to be built"
    if shelf.trial is not None:
        state += "; tried by administrators"
    return Row(
        line.image.id,
        line.image.label,
        state,
        release.version if release else "",
        release.published_at if release else "",
        release.words() if release else "",
        release.size_bytes if release else None,
        running.get(line.image.id, 0),
        len(shelf.earlier()),
    )


async def sessions_by_image(instance: Instance, engine: Engine) -> dict[str, int]:
    """How many sessions run of each image's releases, by the image's id."""
    count: dict[str, int] = {}
    for container in await engine.containers({LABEL_INSTANCE: instance.name, LABEL_ROLE: ROLE_SESSION}):
        image = container.labels.get(LABEL_IMAGE, "").partition("@")[0]
        count[image] = count.get(image, 0) + 1
    return count
