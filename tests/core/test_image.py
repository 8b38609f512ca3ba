"""An image's tag names its content, and the images stand on each other."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from labdock.cli.up import read_images
from labdock.core.image import DEBIAN_TAG, PARENTS, ImageSet, Recipe, image_set

paths = st.text("ab/.", min_size=1, max_size=4)
contents = st.dictionaries(paths, st.binary(max_size=4), max_size=4)
recipes = st.builds(
    Recipe,
    st.sampled_from(["base", "cpu"]),
    contents,
    st.sampled_from(["p:1", "p:2"]),
    edition=st.integers(0, 2),
)


def folders(**cpu: bytes) -> dict[str, dict[str, bytes]]:
    files = {name: {"Dockerfile": f"# {name}".encode()} for name in PARENTS}
    files["server"]["requirements.lock"] = b"jupyterhub==6.1.1 \\\n    --hash=sha256:0\n"
    return {**files, "cpu": {"Dockerfile": b"FROM x", **cpu}, "adapt": {"Dockerfile": b"# adapt"}}


def tags(images: ImageSet) -> dict[str, str]:
    return {name: recipe.tag for name, recipe in images.recipes.items()}


def changed(before: ImageSet, after: ImageSet) -> set[str]:
    return {name for name, tag in tags(before).items() if tags(after)[name] != tag}


@given(recipes, recipes)
def test_two_recipes_share_a_tag_only_with_the_same_content(one: Recipe, other: Recipe) -> None:
    def content(recipe: Recipe) -> tuple[object, ...]:
        return (recipe.name, recipe.parent, dict(recipe.files), recipe.edition)

    assert (one.tag == other.tag) == (content(one) == content(other))


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
    assert re.fullmatch(r"labdock/cpu:[0-9a-f]{12}", Recipe("cpu", {"Dockerfile": b""}, "p:1").tag)


@pytest.mark.parametrize("name", PARENTS)
def test_a_lineage_begins_with_what_stands_on_debian_and_has_no_gap(name: str) -> None:
    lineage = image_set(folders(), {}).lineage(name)
    assert lineage[0].parent == DEBIAN_TAG
    assert lineage[-1].name == name
    assert all(above.parent == below.tag for below, above in pairwise(lineage))


def test_every_image_that_people_may_be_offered_has_its_files() -> None:
    images = read_images()
    assert set(images.recipes) == set(PARENTS)
    assert all(b"ARG PARENT" in images.recipes[name].files["Dockerfile"] for name in PARENTS)
    assert {"Dockerfile", "requirements.lock"} <= images.adaptation.keys()


def test_a_change_of_the_base_changes_every_tag() -> None:
    other = folders()
    other["base"]["Dockerfile"] = b"FROM z"
    assert changed(image_set(folders(), {}), image_set(other, {})) == set(PARENTS)


def test_a_change_of_one_image_changes_what_stands_on_it_and_nothing_below() -> None:
    assert changed(image_set(folders(), {}), image_set(folders(extra=b"x"), {})) == {
        name for name in PARENTS if name == "cpu" or PARENTS[name] == "cpu"
    }


def test_the_package_is_part_of_the_server_image_alone() -> None:
    before, after = image_set(folders(), {"x.py": b"1"}), image_set(folders(), {"x.py": b"2"})
    assert changed(before, after) == {"server"}
    assert after.server.files["labdock/x.py"] == b"2"


def test_the_simulated_driver_is_in_its_own_image_and_in_no_other() -> None:
    one, other = ({"simulation/x.py": data, "core/errors.py": b"", "hub/y.py": b""} for data in (b"1", b"2"))
    before, after = image_set(folders(), one), image_set(folders(), other)
    assert changed(before, after) == {"simulation"}
    assert {path for path in after.simulation.files if path.startswith("labdock/")} == {
        "labdock/simulation/x.py",
        "labdock/core/errors.py",
    }


def test_the_hubs_version_is_the_one_its_image_pins() -> None:
    assert image_set(folders(), {}).hub_version == "6.1.1"
    assert re.fullmatch(r"\d+\.\d+\.\d+", read_images().hub_version)
