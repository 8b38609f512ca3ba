"""A plan holds everything that is missing, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.image import DEBIAN_TAG, PARENTS, Recipe, image_set
from labdock.core.lifecycle import (
    FOLDERS,
    Act,
    Found,
    Making,
    Plan,
    Step,
    Wanted,
    plan_down,
    plan_engine,
    plan_images,
    plan_up,
)
from labdock.core.shelf import Release

FILES = {"instance.json": "a", "compose.yaml": "b", "parts/hub/hub.json": "c"}
SECRETS = ("api_token", "crypt_key")
PARTS = ("agent", "proxy", "hub", "edge")


def wanted(
    *,
    base: bytes = b"1",
    notebooks: tuple[str, ...] = ("cpu",),
    settings: str = "s",
    simulation: bool = False,
) -> Wanted:
    images = image_set({name: {"Dockerfile": base} for name in PARENTS}, {"x.py": b""})
    parts = dict.fromkeys(PARTS, (images.server.tag, settings))
    if simulation:
        parts["simulation"] = (images.simulation.tag, settings)
    makings = tuple(Making(name, images.lineage(name)) for name in notebooks)
    return Wanted(images, makings, FILES, SECRETS, parts, simulation)


NOTHING = Found(frozenset(), {}, frozenset(), frozenset(), {})


def everything(want: Wanted) -> Found:
    """What is there once all of *want* is."""
    return Found(
        tags=frozenset({DEBIAN_TAG} | {recipe.tag for recipe in want.recipes()}),
        files=want.files,
        folders=frozenset(folder.path for folder in want.folders()),
        secrets=frozenset(want.secrets),
        parts=want.parts,
    )


def carried_out(plan: Plan, want: Wanted, found: Found) -> Found:
    """What is there after *plan*; a build fails without the image it stands on."""
    recipes = {recipe.tag: recipe for recipe in want.recipes()}
    for step in plan:
        match step.act:
            case Act.GET_DEBIAN:
                found = replace(found, tags=found.tags | {step.subject})
            case Act.BUILD:
                assert recipes[step.subject].parent in found.tags
                found = replace(found, tags=found.tags | {step.subject})
            case Act.MAKE_FOLDER:
                found = replace(found, folders=found.folders | {step.subject})
            case Act.MAKE_SECRET:
                assert "secrets" in found.folders
                found = replace(found, secrets=found.secrets | {step.subject})
            case Act.WRITE:
                parent = step.subject.rpartition("/")[0]
                assert not parent or parent in found.folders
                found = replace(found, files={**found.files, step.subject: want.files[step.subject]})
            case Act.START_PARTS:
                started = {part: want.parts[part] for part in step.subject.split()}
                assert all(image in found.tags for image, _ in started.values())
                assert found.files.items() >= want.files.items()
                assert found.secrets >= set(want.secrets)
                kept = {part: runs for part, runs in found.parts.items() if part in want.parts}
                found = replace(found, parts={**kept, **started})
            case _:
                raise AssertionError(f"{step.act} is no act of up")
    return found


def some(values: Mapping[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """Some of *values*, and some of their keys with other values."""
    keys = st.dictionaries(st.sampled_from(sorted(values)), st.booleans())
    return keys.map(lambda drawn: {key: values[key] if right else "other" for key, right in drawn.items()})


def subset(values: frozenset[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(sorted(values)))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Wanted, Found]:
    """A wish, and anything that an interrupted run or an older version may have left."""
    want = wanted(simulation=draw(st.booleans()))
    whole = everything(want)
    found = Found(
        tags=draw(subset(whole.tags)),
        files={path: str(text) for path, text in draw(some(whole.files)).items()},
        folders=whole.folders if draw(st.booleans()) else draw(subset(whole.folders)),
        secrets=draw(subset(whole.secrets)),
        parts={
            part: whole.parts[part] if right and part in whole.parts else ("labdock/server:old", "s")
            for part, right in draw(
                st.dictionaries(st.sampled_from([*PARTS, "simulation"]), st.booleans())
            ).items()
        },
    )
    return want, found


def acts(plan: Plan) -> list[Act]:
    return [step.act for step in plan]


@given(situations())
def test_after_the_plan_there_is_nothing_left_to_do(situation: tuple[Wanted, Found]) -> None:
    want, found = situation
    after = carried_out(plan_up(want, found), want, found)
    assert plan_up(want, after) == ()


@given(situations(), st.integers(0, 40))
def test_an_interrupted_plan_is_completed_by_the_next_one(situation: tuple[Wanted, Found], done: int) -> None:
    want, found = situation
    plan = plan_up(want, found)
    halfway = carried_out(plan[:done], want, found)
    rest = plan_up(want, halfway)
    assert len(rest) <= max(len(plan) - done, 0)
    assert plan_up(want, carried_out(rest, want, halfway)) == ()


@given(situations())
def test_the_plan_changes_just_what_differs(situation: tuple[Wanted, Found]) -> None:
    want, found = situation
    whole = everything(want)
    for step in plan_up(want, found):
        match step.act:
            case Act.GET_DEBIAN:
                assert DEBIAN_TAG not in found.tags
            case Act.MAKE_FOLDER:
                assert step.subject not in found.folders
            case Act.MAKE_SECRET:
                assert step.subject not in found.secrets
            case Act.WRITE:
                assert found.files.get(step.subject) != whole.files[step.subject]
            case Act.START_PARTS:
                # A new secret is a reason for all of them.
                lost = set(want.secrets) - found.secrets
                gone = found.parts.keys() - want.parts.keys()
                assert lost or gone or step.subject
                assert lost or all(
                    found.parts.get(part) != whole.parts[part] for part in step.subject.split()
                )
            case _:
                assert step.act is Act.BUILD


def test_where_everything_is_there_is_nothing_to_do() -> None:
    assert plan_up(wanted(), everything(wanted())) == ()


def test_the_first_plan_is_the_whole_way_in_order() -> None:
    first = acts(plan_up(wanted(), NOTHING))
    assert list(dict.fromkeys(first)) == [
        Act.GET_DEBIAN,
        Act.BUILD,
        Act.MAKE_FOLDER,
        Act.MAKE_SECRET,
        Act.WRITE,
        Act.START_PARTS,
    ]
    builds = [step.subject for step in plan_up(wanted(), NOTHING) if step.act is Act.BUILD]
    assert builds == [wanted().images.base.tag, wanted().images.server.tag]


def test_parts_that_are_there_need_no_base() -> None:
    """So images that came in a file, without what they stand on, are enough."""
    want = wanted()
    assert plan_up(want, replace(everything(want), tags=frozenset({want.images.server.tag}))) == ()


def test_debian_is_got_only_when_the_base_must_be_built() -> None:
    want = wanted()
    without = replace(everything(want), tags=everything(want).tags - {DEBIAN_TAG, want.images.server.tag})
    assert acts(plan_up(want, without)) == [Act.BUILD]


def test_new_settings_restart_the_parts_and_build_nothing() -> None:
    assert plan_up(wanted(settings="new"), everything(wanted())) == (
        Step(Act.START_PARTS, "agent proxy hub edge", "Start agent, proxy, hub, edge"),
    )


def test_simulated_cards_need_an_image_a_folder_and_a_part_more() -> None:
    plan = plan_up(wanted(simulation=True), everything(wanted()))
    assert [step.text for step in plan][-1] == "Start simulation"
    assert {step.subject for step in plan} == {wanted().images.simulation.tag, "simulation"}
    assert acts(plan) == [Act.BUILD, Act.MAKE_FOLDER, Act.START_PARTS]


def test_a_part_that_is_no_longer_wanted_is_removed() -> None:
    (step,) = plan_up(wanted(), everything(wanted(simulation=True)))
    assert (step.act, step.text) == (Act.START_PARTS, "Remove simulation")


def test_a_new_version_builds_before_it_replaces_anything() -> None:
    plan = plan_up(wanted(base=b"2"), everything(wanted()))
    assert acts(plan) == [Act.BUILD, Act.BUILD, Act.START_PARTS]


# The notebook images.


def release_of(making: Making) -> Release:
    return Release(f"labdock-lab/{making.image}:{making.version}", "2026-11-25T12:00:00+00:00", 1)


def published(want: Wanted, found: Found) -> Found:
    """What is there once every image of *want* is offered."""
    shelves = found.shelves
    tags = found.tags
    for making in want.notebooks:
        release = release_of(making)
        shelves = shelves.having(making.image, shelves.of(making.image).publish(release))
        tags |= {release.reference, *(recipe.tag for recipe in making.recipes)}
    return replace(found, tags=tags, shelves=shelves)


def test_images_are_built_from_the_ground_then_checked_then_published() -> None:
    want = wanted(notebooks=("torch",))
    (making,) = want.notebooks
    plan = plan_images(want, NOTHING)
    assert acts(plan) == [Act.GET_DEBIAN, *[Act.BUILD] * 4, Act.CHECK, Act.PUBLISH]
    assert [step.subject for step in plan[1:5]] == [recipe.tag for recipe in making.recipes]
    assert {step.image for step in plan} == {"torch"}


def test_what_two_images_stand_on_is_built_once() -> None:
    plan = plan_images(wanted(notebooks=("cpu", "torch")), NOTHING)
    subjects = [step.subject for step in plan if step.act is Act.BUILD]
    assert len(subjects) == len(set(subjects)) == 4


def test_an_image_that_is_there_needs_nothing_below_it() -> None:
    want = wanted(notebooks=("torch",))
    found = replace(NOTHING, tags=frozenset({want.notebooks[0].tag}))
    assert acts(plan_images(want, found)) == [Act.CHECK, Act.PUBLISH]


def test_a_change_above_builds_only_what_stands_on_it() -> None:
    want = wanted(notebooks=("torch",))
    found = replace(NOTHING, tags=frozenset({want.notebooks[0].recipes[2].tag}))
    assert next(step.subject for step in plan_images(want, found)) == want.notebooks[0].tag


@given(st.sampled_from([("cpu",), ("cpu", "torch"), ("torch", "cpu", "cuda")]))
def test_offered_images_leave_nothing_to_do(notebooks: tuple[str, ...]) -> None:
    want = wanted(notebooks=notebooks)
    assert plan_images(want, published(want, NOTHING)) == ()


def test_somebody_elses_image_is_fetched_first_and_only_where_it_is_missing() -> None:
    images = wanted().images
    making = Making("own", (Recipe("own-x", {"Dockerfile": b""}, "lab.example/x:1"),), "lab.example/x:1")
    want = replace(wanted(), images=images, notebooks=(making,))
    assert acts(plan_images(want, NOTHING)) == [Act.FETCH, Act.BUILD, Act.CHECK, Act.PUBLISH]
    there = replace(NOTHING, tags=frozenset({"lab.example/x:1"}))
    assert acts(plan_images(want, there)) == [Act.BUILD, Act.CHECK, Act.PUBLISH]


def test_what_was_rolled_back_does_not_come_back_by_itself() -> None:
    old, new = wanted(), wanted(base=b"2")
    found = published(new, published(old, NOTHING))
    shelf = found.shelves.of("cpu").rollback()
    found = replace(found, shelves=found.shelves.having("cpu", shelf))
    assert plan_images(new, found) == ()
    assert acts(plan_images(wanted(base=b"3"), found))[-1] is Act.PUBLISH


def test_a_release_whose_image_is_gone_is_made_again() -> None:
    want = wanted()
    found = replace(published(want, NOTHING), tags=frozenset())
    assert acts(plan_images(want, found))[-2:] == [Act.CHECK, Act.PUBLISH]


def test_after_a_rollback_an_image_that_is_gone_is_made_again_too() -> None:
    old, new = wanted(), wanted(base=b"2")
    found = published(new, published(old, NOTHING))
    shelves = found.shelves.having("cpu", found.shelves.of("cpu").rollback())
    assert acts(plan_images(new, replace(found, shelves=shelves, tags=frozenset())))[-1] is Act.PUBLISH


def test_a_secret_that_exists_is_never_made_again() -> None:
    found = replace(NOTHING, secrets=frozenset({"api_token"}))
    assert [step.subject for step in plan_up(wanted(), found) if step.act is Act.MAKE_SECRET] == ["crypt_key"]


def test_only_the_sockets_of_the_parts_are_open_to_others_than_their_owner() -> None:
    private = {folder.path for folder in FOLDERS if not folder.mode & 0o077}
    assert private >= {"secrets", "hub", "agent", "parts/hub", "run/proxy", "run/edge"}
    assert all(not folder.mode & 0o022 for folder in FOLDERS)


@pytest.mark.parametrize(
    ("answers", "installed", "expected"),
    [
        (True, True, []),
        (True, False, []),
        (False, True, [Act.START_ENGINE]),
        (False, False, [Act.INSTALL_ENGINE, Act.START_ENGINE]),
    ],
)
def test_an_engine_is_installed_and_started_only_where_none_answers(
    answers: bool, installed: bool, expected: list[Act]
) -> None:
    assert acts(plan_engine(answers=answers, installed=installed, with_systemd=True)) == expected


def test_the_plan_says_how_the_engine_is_started() -> None:
    (step,) = plan_engine(answers=False, installed=True, with_systemd=False)
    assert "systemd does not run here" in step.text


def test_down_keeps_sessions_and_networks_unless_everything_goes() -> None:
    kept = plan_down(parts=("lab-hub", "lab-edge"), sessions=("lab-session-ada",), everything=False)
    assert kept == (Step(Act.REMOVE_PARTS, "lab-hub lab-edge", "Stop and remove lab-hub, lab-edge"),)


def test_down_with_everything_stops_sessions_first_and_removes_networks_last() -> None:
    plan = plan_down(parts=("lab-hub",), sessions=("lab-session-ada", "lab-session-bob"), everything=True)
    assert acts(plan) == [Act.STOP_SESSION, Act.STOP_SESSION, Act.REMOVE_PARTS, Act.REMOVE_NETWORKS]
    assert [step.subject for step in plan[:2]] == ["lab-session-ada", "lab-session-bob"]


def test_down_of_nothing_is_nothing() -> None:
    assert plan_down(parts=(), sessions=(), everything=False) == ()
