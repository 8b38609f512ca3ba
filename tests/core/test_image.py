"""An image's tag names its content, and the images stand on each other."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from labdock.core.image import DEBIAN_TAG, ImageSet, Recipe, image_set

paths = st.text("ab/.", min_size=1, max_size=4)
contents = st.dictionaries(paths, st.binary(max_size=4), max_size=4)
recipes = st.builds(
    Recipe, st.sampled_from(["base", "cpu"]), contents, st.just("BASE"), st.sampled_from(["p:1", "p:2"])
)


def folders(**cpu: bytes) -> dict[str, dict[str, bytes]]:
    return {
        "server": {"Dockerfile": b"FROM x"},
        "simulation": {"Dockerfile": b"FROM x"},
        "cpu": {"Dockerfile": b"FROM x", **cpu},
        "base": {"Dockerfile": b"FROM y"},
        "a-cuda": {"Dockerfile": b"FROM x"},
    }


def tags(images: ImageSet) -> dict[str, str]:
    return {recipe.name: recipe.tag for recipe in images.in_order()}


@given(recipes, recipes)
def test_two_recipes_share_a_tag_only_with_the_same_content(one: Recipe, other: Recipe) -> None:
    same = (one.name, one.parent, dict(one.files)) == (other.name, other.parent, dict(other.files))
    assert (one.tag == other.tag) == same


@given(recipes)
def test_the_order_of_the_files_does_not_matter(recipe: Recipe) -> None:
    backwards = dict(reversed(list(recipe.files.items())))
    assert replace(recipe, files=backwards).tag == recipe.tag


@given(recipes, paths, paths, st.binary(max_size=4))
def test_a_file_elsewhere_or_with_other_bytes_is_another_image(
    recipe: Recipe, path: str, elsewhere: str, data: bytes
) -> None:
    assume(path != elsewhere and path not in recipe.files and elsewhere not in recipe.files)
    variants = [{}, {path: data}, {elsewhere: data}, {path: data + b"x"}]
    assert len({replace(recipe, files={**recipe.files, **more}).tag for more in variants}) == len(variants)


def test_a_tag_is_one_the_engine_takes() -> None:
    assert re.fullmatch(r"labdock/cpu:[0-9a-f]{12}", Recipe("cpu", {"Dockerfile": b""}, "BASE", "p:1").tag)


def test_every_image_comes_after_the_one_it_stands_on() -> None:
    images = image_set(folders(), {})
    have = {DEBIAN_TAG}
    for recipe in images.in_order():
        assert recipe.parent in have
        have.add(recipe.tag)
    assert [recipe.name for recipe in images.in_order()] == ["base", "a-cuda", "cpu", "server", "simulation"]


def test_a_change_of_the_base_changes_every_tag() -> None:
    changed = folders()
    changed["base"]["Dockerfile"] = b"FROM z"
    before, after = tags(image_set(folders(), {})), tags(image_set(changed, {}))
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_a_change_of_one_image_changes_its_tag_alone() -> None:
    before, after = tags(image_set(folders(), {})), tags(image_set(folders(extra=b"x"), {}))
    assert [name for name in before if before[name] != after[name]] == ["cpu"]


def test_the_package_is_part_of_the_server_image_alone() -> None:
    before, after = image_set(folders(), {"x.py": b"1"}), image_set(folders(), {"x.py": b"2"})
    assert [name for name in tags(before) if tags(before)[name] != tags(after)[name]] == ["server"]
    assert after.server.files["labdock/x.py"] == b"2"


def test_the_simulated_driver_is_in_its_own_image_and_in_no_other() -> None:
    one, other = ({"simulation/x.py": data, "core/errors.py": b"", "hub/y.py": b""} for data in (b"1", b"2"))
    before, after = image_set(folders(), one), image_set(folders(), other)
    assert [name for name in tags(before) if tags(before)[name] != tags(after)[name]] == ["simulation"]
    assert {path for path in after.simulation.files if path.startswith("labdock/")} == {
        "labdock/simulation/x.py",
        "labdock/core/errors.py",
    }
