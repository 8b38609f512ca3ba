"""What a lab writes becomes layers in the order of what changes least, and a failed build is explained."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.config import Image
from labdock.core.errors import BuildError, ConfigError
from labdock.core.image import PARENTS, image_set
from labdock.core.own_image import (
    OWN,
    OwnFiles,
    asked_for,
    check_folder,
    explain,
    layers_of,
    own_recipes,
    settings_with_passwords,
)

IMAGES = image_set({**{name: {"Dockerfile": b""} for name in PARENTS}, "adapt": {"setup": b""}}, {})
NO_FILES = OwnFiles()
VISION = Image("vision", "Vision", "builtin/cpu", apt=("tree",), pip=("einops", "six>=1"))


def dockerfile(image: Image, own: OwnFiles = NO_FILES, edition: int = 0) -> str:
    return own_recipes(image, own, IMAGES, edition)[-1].files["Dockerfile"].decode()


def test_without_anything_added_it_is_the_built_in_image_itself() -> None:
    image = Image("people", "For people", "builtin/torch")
    assert own_recipes(image, NO_FILES, IMAGES) == IMAGES.lineage("torch")


def test_each_recipe_stands_on_the_one_before() -> None:
    for image in (VISION, replace(VISION, base="lab.example/x:1"), replace(VISION, dockerfile="D")):
        recipes = own_recipes(image, OwnFiles(context={"Dockerfile": b""}), IMAGES)
        assert all(above.parent == below.tag for below, above in pairwise(recipes))


def test_a_recipe_of_the_labs_is_told_from_labdocks_own() -> None:
    image = replace(VISION, id="cpu", base="lab.example/x:1", dockerfile="D")
    names = [recipe.name for recipe in own_recipes(image, OwnFiles(context={"Dockerfile": b""}), IMAGES)]
    assert names == [f"{OWN}cpu-dockerfile", f"{OWN}cpu-adapted", f"{OWN}cpu"]
    assert not any(name.startswith(OWN) for name in PARENTS)


def test_one_more_package_for_pip_changes_nothing_before_its_layer() -> None:
    """The engine keeps layers up to the first line that differs."""
    before = layers_of(VISION, NO_FILES)
    after = layers_of(replace(VISION, pip=(*VISION.pip, "tqdm")), NO_FILES)
    assert before[:-1] == after[:-1]
    assert [layer.setting for layer in after] == ["apt", "pip"]
    lines = dockerfile(VISION).splitlines()
    assert lines[-1].startswith("RUN labdock-add ")


def test_the_layers_are_in_the_order_of_what_changes_least() -> None:
    folder = {
        "postBuild": b"",
        "requirements.txt": b"",
        "environment.yml": b"",
        "apt.txt": b"",
        "data.csv": b"1",
    }
    text = dockerfile(replace(VISION, conda=("r-base",)), OwnFiles(folder))
    places = [
        text.index(word)
        for word in (
            "apt.txt",
            "labdock-apt.txt",
            "environment.yml",
            "labdock-conda.txt",
            "requirements.txt",
            "labdock-pip.txt",
            "postBuild",
        )
    ]
    assert places == sorted(places)


def test_a_script_of_the_labs_has_the_whole_folder() -> None:
    folder = {"postBuild": b"#!/bin/sh\n", "data/x.csv": b"1"}
    files = own_recipes(Image("a"), OwnFiles(folder), IMAGES)[-1].files
    assert (files["files/postBuild"], files["files/data/x.csv"]) == (b"#!/bin/sh\n", b"1")


@given(st.lists(st.text("\n\\;$`'\"& a", max_size=8), max_size=3))
def test_what_packages_are_called_is_never_part_of_a_command(words: list[str]) -> None:
    """Names are in files that are copied; the commands are always the same."""
    image = Image("a", apt=tuple(words), pip=tuple(words), conda=tuple(words))
    plain = Image(
        "a", apt=("x",) if words else (), pip=("x",) if words else (), conda=("x",) if words else ()
    )
    assert dockerfile(image) == dockerfile(plain) if words else True


def test_a_later_edition_is_another_image_and_the_first_is_as_ever() -> None:
    first, second = dockerfile(VISION), dockerfile(VISION, edition=2)
    assert "edition" not in first
    assert 'LABEL org.labdock.edition="2"' in second.splitlines()[3]
    foreign = replace(VISION, base="lab.example/x:1")
    tags = {own_recipes(foreign, NO_FILES, IMAGES, edition)[0].tag for edition in range(3)}
    assert len(tags) == 3


def test_a_dockerfile_gets_the_base_and_this_machines_settings() -> None:
    image = Image("robot", base="builtin/cpu", dockerfile="Dockerfile")
    own = OwnFiles(context={"Dockerfile": b"ARG BASE\nFROM ${BASE}\n"})
    built = own_recipes(image, own, IMAGES)[-2]
    assert (built.argument, built.parent, built.with_host) == ("BASE", IMAGES.recipes["cpu"].tag, True)


def test_an_image_that_is_none_of_labdocks_is_made_fit_for_a_session() -> None:
    (adapted,) = own_recipes(Image("a", base="lab.example/x:1"), NO_FILES, IMAGES)
    assert (adapted.parent, adapted.files) == ("lab.example/x:1", IMAGES.adaptation)


def test_comments_in_a_list_of_system_packages_are_left_out() -> None:
    own = OwnFiles({"apt.txt": b"# tools\ntree  less # two\n\n"})
    assert layers_of(Image("a"), own)[0].data == b"tree\nless\n"


def test_what_the_lab_asks_for_is_told_by_its_plain_names() -> None:
    own = OwnFiles({"requirements.txt": b"# mine\n-c x.txt\nScikit_Learn>=1 ; python_version > '3'\nsix\n"})
    assert asked_for(Image("a", pip=("six", "ray[tune]")), own) == ("scikit-learn", "six", "ray")


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        ({"requirement.txt"}, "did you mean requirements.txt?"),
        ({"notes.md"}, "holds none of apt.txt"),
        (set(), ""),
    ],
)
def test_a_folder_with_nothing_to_add_is_refused(names: set[str], hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_folder(Image("a", files="images/a"), frozenset(names))
    assert hint in refused.value.message


def failed(step: str, *lines: str, engine: str = "") -> BuildError:
    message = f"The image labdock/own-vision:1 could not be built: {engine}" if engine else "failed"
    return BuildError(message, details=lines, step=step)


NO_VERSION = "ERROR: Could not find a version that satisfies the requirement"
PIP = "RUN labdock-add /opt/labdock/layers/labdock-pip.txt"
APT = "RUN apt-get update     && xargs -a /opt/labdock/layers/labdock-apt.txt apt-get install -y"


@pytest.mark.parametrize(
    ("error", "setting", "message", "word"),
    [
        (
            failed(
                PIP,
                f"{NO_VERSION} einopss (from versions: none)",
                "ERROR: No matching distribution found for einopss",
            ),
            "pip",
            'pip finds no package called "einopss".',
            "einopss",
        ),
        (
            failed(
                PIP,
                f"{NO_VERSION} six==99 (from versions: 1.0, 1.1, 1.16.0, 1.17.0)",
            ),
            "pip",
            "pip finds no six==99; the newest are 1.1, 1.16.0, 1.17.0.",
            "six",
        ),
        (
            failed(PIP, "ERROR: Cannot install a and b==1 because these package versions conflict."),
            "pip",
            "Cannot install a and b==1 because these package versions conflict.",
            "",
        ),
        (
            failed(APT, "E: Unable to locate package treee"),
            "apt",
            'apt finds no package called "treee".',
            "treee",
        ),
        (
            failed(
                "RUN /opt/labdock/setup", "labdock: Python 3.9 is in this image; 3.11 or newer is needed."
            ),
            "base",
            "Python 3.9 is in this image; 3.11 or newer is needed.",
            "",
        ),
        (
            failed(PIP, f"{NO_VERSION} einops==99 (from versions: 0.8.1, 0.8.2, 0.9.0.dev0)"),
            "pip",
            "pip finds no einops==99; the newest are 0.8.1, 0.8.2.",
            "einops",
        ),
        (
            failed(PIP, "error: subprocess-exited-with-error", "× Getting requirements to build wheel"),
            "pip",
            "a package has no wheel for this image's Python, and pip could not build it from its source; "
            "a newer version of it often has one.",
            "",
        ),
        (
            failed("RUN labdock-conda /opt/labdock/layers/x", "labdock-conda: the channel is away."),
            "base",
            "the channel is away.",
            "",
        ),
        (
            failed(
                "RUN cd /opt/labdock/layers/files && ./postBuild",
                "boom",
                engine="The command '/bin/sh -c cd x && ./postBuild' returned a non-zero code: 3",
            ),
            "files",
            "postBuild failed. It ended with exit code 3.",
            "",
        ),
        (failed(PIP, "gcc: error"), "pip", "The step of pip failed.", ""),
        (failed("", "x"), "base", "A step on its base failed.", ""),
    ],
)
def test_a_failed_build_is_told_by_its_setting_and_in_words(
    error: BuildError, setting: str, message: str, word: str
) -> None:
    mishap = explain(VISION, OwnFiles({"postBuild": b""}), error)
    assert (mishap.setting, mishap.message, mishap.word) == (setting, message, word)


def test_a_package_of_apt_is_not_blamed_on_the_folder() -> None:
    own = OwnFiles({"apt.txt": b"less\n"})
    assert explain(VISION, own, failed(APT, "E: Unable to locate package treee")).setting == "apt"
    folder = APT.replace("labdock-apt.txt", "apt.txt")
    assert explain(VISION, own, failed(folder, "E: Unable to locate package x")).setting == "files"


def test_a_password_in_an_address_is_told_by_its_setting() -> None:
    image = replace(VISION, pip=("x @ https://lab:secret@lab.example/x.whl",))
    own = OwnFiles({"requirements.txt": b"--index-url https://lab.example/simple\nsix\n"})
    assert settings_with_passwords(image, own) == ("pip",)
    assert settings_with_passwords(VISION, own) == ()


def test_a_line_of_the_labs_dockerfile_that_fails_is_told_as_such() -> None:
    image = replace(VISION, dockerfile="Dockerfile")
    assert explain(image, NO_FILES, failed("RUN make robot", "no rule")).setting == "dockerfile"


def test_what_the_engine_itself_says_of_a_dockerfile_is_passed_on() -> None:
    image = replace(VISION, dockerfile="Dockerfile")
    error = failed("COPY nix /nix", engine="COPY failed: file not found in build context: stat nix.")
    assert explain(image, NO_FILES, error).message == (
        "A step of the Dockerfile failed. "
        "The engine says: COPY failed: file not found in build context: stat nix."
    )
