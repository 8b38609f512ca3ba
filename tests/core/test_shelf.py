"""Releases of an image: publish, roll back, try, forget."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from labdock.core.errors import BadRequestError
from labdock.core.session import offered_to
from labdock.core.shelf import (
    KEPT_RELEASES,
    TRIAL_SUFFIX,
    Offered,
    Release,
    Shelf,
    Shelves,
    allowed,
    allowed_from_json,
    allowed_to_json,
    choices,
    choices_from_json,
    choices_to_json,
    format_gb,
)

texts = st.text(max_size=8)
releases = st.builds(
    Release,
    reference=st.integers(0, 14).map(lambda number: f"lab/torch:{number:04x}"),
    published_at=texts,
    size_bytes=st.integers(0, 2**40),
    headline=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
    cuda=texts,
)


def after(acts: list[tuple[str, Release]]) -> Shelf:
    """A shelf on which *acts* were done, one after the other; what cannot be done is left out."""
    shelf = Shelf()
    for act, release in acts:
        match act:
            case "publish":
                shelf = shelf.publish(release)
            case "roll back":
                shelf = shelf.rollback() if shelf.before() else shelf
            case "try":
                shelf = shelf.trying(release)
            case "give up":
                shelf = shelf.trying(None)
            case "prune":
                kept = {one.reference for one in shelf.kept(1)}
                gone = [one.reference for one in shelf.releases if one.reference not in kept]
                shelf = shelf.without(gone)
            case _:
                shelf = shelf.anew()
    return shelf


shelves = st.lists(
    st.tuples(
        st.sampled_from(["publish", "publish", "roll back", "try", "give up", "prune", "anew"]), releases
    ),
    max_size=25,
).map(after)
ids = st.sampled_from(["cpu", "torch", "deep", "old"])
sites = st.lists(st.builds(Offered, ids, texts, st.booleans()), max_size=4, unique_by=lambda one: one.id)
everything = st.dictionaries(ids, shelves, max_size=4).map(Shelves)


def release(number: int) -> Release:
    return Release(f"lab/cpu:{number}", f"2026-11-{number:02}T08:00:00Z", 640_000_000)


@given(shelves)
def test_what_new_sessions_get_is_one_of_the_releases_or_nothing(shelf: Shelf) -> None:
    references = [one.reference for one in shelf.releases]
    assert len(set(references)) == len(references) <= KEPT_RELEASES
    assert (shelf.current in references) == (shelf.current != "")


@given(shelves, releases)
def test_whatever_is_published_is_what_new_sessions_get_and_no_trial_any_more(
    shelf: Shelf, new: Release
) -> None:
    published = shelf.publish(new)
    assert published.release == new
    assert new.version not in published.withdrawn
    assert published.trial is None or published.trial.version != new.version
    assert published.publish(new) == published


@given(shelves, releases)
def test_publish_and_then_roll_back_gives_what_there_was(shelf: Shelf, new: Release) -> None:
    assume(shelf.release is not None)
    assume(new.reference not in {one.reference for one in shelf.releases})
    assume(len(shelf.releases) < KEPT_RELEASES)
    assert shelf.publish(new).rollback().current == shelf.current


def test_after_a_roll_back_the_next_release_is_rolled_back_to_what_was_good() -> None:
    good, bad, mended = release(1), release(2), release(3)
    shelf = Shelf().publish(good).publish(bad).rollback().publish(mended)
    assert shelf.rollback().current == good.reference
    # Nor does pruning take away what it goes back to.
    assert shelf.kept(1) == (good, mended)


@given(shelves)
def test_a_roll_back_never_brings_back_by_itself_what_was_withdrawn(shelf: Shelf) -> None:
    """Neither does a second one, nor what `labdock up` reads of it."""
    withdrawn = set(shelf.withdrawn)
    while shelf.before() is not None:
        left = shelf.release
        shelf = shelf.rollback()
        assert left is not None
        assert left.version in shelf.withdrawn
        assert shelf.release is not None
        assert shelf.release.version not in withdrawn
        withdrawn.add(left.version)
    assert withdrawn <= set(shelf.withdrawn)


@pytest.mark.parametrize("shelf", [Shelf(), Shelf().publish(release(1)), Shelf().trying(release(1))])
def test_without_an_earlier_release_there_is_nothing_to_go_back_to(shelf: Shelf) -> None:
    assert shelf.before() is None
    with pytest.raises(BadRequestError, match="no earlier release"):
        shelf.rollback()


@given(shelves, st.integers(0, 12))
def test_what_new_sessions_get_and_what_is_tried_are_never_pruned(shelf: Shelf, earlier: int) -> None:
    kept = shelf.kept(earlier)
    assert shelf.release is None or shelf.release in kept
    assert shelf.trial is None or shelf.trial in kept
    assert len(kept) <= earlier + 2
    gone = {one.reference for one in shelf.releases} - {one.reference for one in kept}
    left = shelf.without(gone)
    assert (left.release, left.trial) == (shelf.release, shelf.trial)
    assert set(left.kept(earlier)) == set(kept)


@given(everything)
def test_everything_that_is_remembered_survives_its_way_through_a_file(known: Shelves) -> None:
    assert Shelves.from_json(known.to_json()) == known
    assert Shelves.from_json(known.to_json()).to_json() == known.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"cpu": {}}', '{"cpu": 1}', "null"])
def test_a_file_of_another_shape_is_an_error_and_no_empty_memory(text: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        Shelves.from_json(text)


@given(sites, everything)
def test_there_is_exactly_one_default_as_soon_as_people_can_choose(
    site: list[Offered], known: Shelves
) -> None:
    wanted = [one.id for one in site if one.default][:1]
    site = [Offered(one.id, one.label, one.id in wanted) for one in site]
    public = offered_to(choices(site, known), admin=False)
    defaults = [one.id for one in choices(site, known) if one.default]
    assert len(defaults) == bool(public)
    assert set(defaults) <= {one.id for one in public}
    if wanted and known.of(wanted[0]).release is not None:
        assert defaults == wanted


@given(sites, everything)
def test_nobody_but_an_administrator_is_offered_a_trial(site: list[Offered], known: Shelves) -> None:
    everybody = choices(site, known)
    public = offered_to(everybody, admin=False)
    assert not any(one.trial or one.id.endswith(TRIAL_SUFFIX) for one in public)
    assert {one.reference for one in public} == {
        known.of(one.id).current for one in site if known.of(one.id).release
    }
    assert offered_to(everybody, admin=True) == everybody
    assert {one.id for one in everybody if one.trial} == {
        one.id + TRIAL_SUFFIX for one in site if known.of(one.id).trial
    }


@given(sites, everything)
def test_whatever_can_be_chosen_may_be_run(site: list[Offered], known: Shelves) -> None:
    may_run = allowed(site, known)
    for choice in choices(site, known):
        assert choice.reference in may_run[choice.id]
    remembered = {
        one.reference
        for shelf in known.by_id.values()
        for one in (*shelf.releases, shelf.trial)
        if one is not None
    }
    assert {reference for some in may_run.values() for reference in some} <= remembered


@given(sites, everything, ids)
def test_a_start_chosen_just_before_a_roll_back_may_still_be_run(
    site: list[Offered], known: Shelves, name: str
) -> None:
    known = known.having(name, known.of(name).publish(release(1)).publish(release(2)))
    later = known.having(name, known.of(name).rollback())
    for choice in choices(site, known):
        assert choice.reference in allowed(site, later)[choice.id]


@given(sites, everything)
def test_hub_and_agent_read_what_was_written_for_them(site: list[Offered], known: Shelves) -> None:
    offered, may_run = choices(site, known), allowed(site, known)
    assert choices_from_json(choices_to_json(offered)) == offered
    assert allowed_from_json(allowed_to_json(may_run)) == may_run


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 MB"),
        (640_000_000, "640 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.0 GB"),
        (5_190_000_000, "5.2 GB"),
    ],
)
def test_sizes_read_well(size_bytes: int, words: str) -> None:
    assert format_gb(size_bytes) == words


def test_a_release_is_described_by_what_people_choose_it_for() -> None:
    torch = Release("t:1", "", 5_190_000_000, (("Python", "3.13.5"), ("PyTorch", "2.15.0")), "13.0")
    assert torch.words() == "Python 3.13.5, PyTorch 2.15.0, CUDA 13.0, 5.2 GB"
    assert torch.version == "1"
    assert release(1).words() == "640 MB"
