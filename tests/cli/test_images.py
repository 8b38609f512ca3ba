"""Images through their life on an engine in memory: what is looked into, built, saved and forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from labdock.adapters.engine import Engine, ImageFacts
from labdock.cli import store
from labdock.cli.console import Console
from labdock.cli.images import Keeper
from labdock.cli.instance import Instance
from labdock.cli.making import Maker
from labdock.cli.shelves import Line, claim_of, read_lines, read_shelves
from labdock.cli.up import read_images
from labdock.core.config import Config, Image
from labdock.core.errors import CheckError, ConfigError, EngineError
from labdock.core.image_check import Seen, Start
from labdock.core.lifecycle import Act, Step
from labdock.core.shelf import Release, Shelf, Shelves
from tests.adapters.engines import WholeFakeEngine

Result = TypeVar("Result")
IMAGES = read_images()
SEEN = Seen("3.13.5", {"jupyterhub": IMAGES.hub_version}, (), (), Start(0.5, 0.5, ""), (), (), 1)


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    images = (Image("cpu", "cpu", default=True), Image("own", "own", pip=("six",)))
    for folder in ("parts/agent", "parts/hub"):
        (tmp_path / folder).mkdir(parents=True)
    return Instance("lab", tmp_path, Config(images=images), None, None, tmp_path / "engine.sock")


class Looks:
    """Stands in for looking into an image; counts, and says what it is told to say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.seen = SEEN

        async def look(keeper: Keeper, image: str, tag: str, facts: ImageFacts) -> Seen:
            self.number += 1
            return self.seen

        monkeypatch.setattr(Keeper, "_look", look)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def with_keeper(
    instance: Instance, work: Callable[[Keeper, WholeFakeEngine, tuple[Line, ...]], Awaitable[Result]]
) -> Result:
    """Do *work* with a keeper on an engine in memory that holds every image but no claim."""

    async def whole() -> Result:
        fake = WholeFakeEngine(str(instance.engine_socket))
        shelves = read_shelves(instance)
        lines = read_lines(instance, IMAGES, shelves)
        fake.sizes |= {recipe.tag: 5 for line in lines for recipe in line.making.recipes}
        async with fake.running(), Engine(instance.engine_socket) as engine:
            keeper = Keeper(instance, engine, Console(as_json=True), lines, shelves, IMAGES.hub_version)
            return await work(keeper, fake, lines)

    return asyncio.run(whole())


def test_what_was_seen_is_kept_for_that_image_and_no_other_of_the_same_recipe(
    instance: Instance, looks: Looks
) -> None:
    async def work(keeper: Keeper, fake: WholeFakeEngine, lines: tuple[Line, ...]) -> None:
        await keeper.check("own")
        await keeper.publish("own")
        assert looks.number == 1
        tag = lines[1].making.tag
        # Built anew on another day: the same recipe, other packages.
        fake.ids[tag] = "sha256:another"
        looks.seen = replace(SEEN, packages={"jupyterhub": "5.0.0"})
        with pytest.raises(CheckError, match="not fit"):
            await keeper.check("own")
        assert looks.number == 2

    with_keeper(instance, work)


def test_an_image_that_is_not_fit_changes_nothing_for_anybody(instance: Instance, looks: Looks) -> None:
    async def work(keeper: Keeper, fake: WholeFakeEngine, lines: tuple[Line, ...]) -> None:
        await keeper.publish("own")
        before = (instance.state / "parts/hub/images.json").read_text()
        looks.seen = replace(SEEN, start=Start(0, 0, "it ended with exit code 1"))
        fake.ids[lines[1].making.tag] = "sha256:another"
        plan = (Step(Act.CHECK, "own", "", "own"), Step(Act.PUBLISH, "own", "", "own"))
        await keeper.apply(plan)
        assert "not fit" in str(keeper.failures["own"])
        assert (instance.state / "parts/hub/images.json").read_text() == before

    with_keeper(instance, work)


def test_nothing_is_built_on_an_image_that_is_not_there(instance: Instance) -> None:
    """The engine would ask a registry for it, where it may be anybody's."""

    async def work(keeper: Keeper, fake: WholeFakeEngine, lines: tuple[Line, ...]) -> None:
        recipe = lines[1].making.recipes[-1]
        del fake.sizes[recipe.parent], fake.sizes[recipe.tag]
        maker = Maker(keeper._engine, Console(as_json=True), {recipe.tag: recipe})
        with pytest.raises(EngineError, match="is not on this machine"):
            await maker.build(recipe.tag)
        assert recipe.tag not in fake.sizes

    with_keeper(instance, work)


def test_what_one_image_could_not_bring_is_why_the_next_one_fails(instance: Instance) -> None:
    async def work(keeper: Keeper, fake: WholeFakeEngine, lines: tuple[Line, ...]) -> None:
        base, notebook, cpu = (recipe.tag for recipe in IMAGES.lineage("cpu"))
        own = lines[1].making.tag
        for tag in (base, notebook, cpu, own):
            del fake.sizes[tag]
        steps = tuple(
            Step(Act.BUILD, tag, "", image) for tag, image in ((notebook, "cpu"), (cpu, "cpu"), (own, "own"))
        )
        await keeper.apply(steps)
        assert str(keeper.failures["own"]) == str(keeper.failures["cpu"])

    with_keeper(instance, work)


def test_saving_names_what_is_not_built_and_writes_nothing(instance: Instance, tmp_path: Path) -> None:
    async def work(keeper: Keeper, fake: WholeFakeEngine, lines: tuple[Line, ...]) -> None:
        del fake.sizes[lines[1].making.tag]
        with pytest.raises(EngineError, match="Not built yet: own"):
            await store.save(
                keeper._engine, lines, Shelves(), IMAGES, tmp_path / "x.tar", ("cpu", "own"), Console()
            )
        assert not (tmp_path / "x.tar").exists()

    with_keeper(instance, work)


def test_pruning_forgets_neither_a_trial_nor_how_often_everything_was_fetched(instance: Instance) -> None:
    async def work(keeper: Keeper, fake: WholeFakeEngine, lines: tuple[Line, ...]) -> None:
        trial = Release(claim_of(instance, "own", "0" * 12), "2026-11-25T12:00:00+00:00", 1)
        shelves = Shelves({"own": Shelf(trial=trial, edition=3), "gone": Shelf()})
        await store.prune(instance, keeper._engine, shelves, (), Console(as_json=True))
        assert read_shelves(instance).by_id == {"own": Shelf(trial=trial, edition=3)}

    with_keeper(instance, work)


def test_what_is_built_and_not_published_is_not_pruned(instance: Instance) -> None:
    async def work(keeper: Keeper, fake: WholeFakeEngine, lines: tuple[Line, ...]) -> None:
        await keeper.build("own")
        claim = claim_of(instance, "own", lines[1].making.version)
        assert claim in fake.sizes
        unneeded = await store.look_for_unneeded(
            instance, keeper._engine, lines, Shelves(), IMAGES, earlier=0
        )
        assert claim not in unneeded

    with_keeper(instance, work)


def test_a_folder_that_holds_labdocks_secrets_is_no_context(instance: Instance, tmp_path: Path) -> None:
    (tmp_path.parent / "Dockerfile").write_text("FROM x\n")
    image = Image("robot", dockerfile="Dockerfile")
    config_path = tmp_path.parent / "labdock.yaml"
    whole = replace(instance, config=Config(images=(image,)), config_path=config_path)
    try:
        with pytest.raises(ConfigError, match="with Labdock's secrets"):
            read_lines(whole, IMAGES, Shelves())
    finally:
        (tmp_path.parent / "Dockerfile").unlink()
