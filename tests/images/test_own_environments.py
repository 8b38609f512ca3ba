"""labdock-env: what it makes, what it refuses, and that nothing it is cut off from is left half done."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.images.places import PYTHON, Place

pytestmark = pytest.mark.programs


def made_for_python_2(place: Place, name: str) -> None:
    """Make the environment *name* look as one that was made under another Python."""
    folder = place.envs / name
    settings = folder / "pyvenv.cfg"
    settings.write_text(re.sub(r"(?m)^version = .*$", "version = 2.7.18", settings.read_text()))
    (folder / f"lib/python{PYTHON}").rename(folder / "lib/python2.7")


def imports(place: Place, name: str, module: str) -> bool:
    done = subprocess.run([place.envs / name / "bin/python", "-c", f"import {module}"], check=False)
    return done.returncode == 0


def test_an_environment_has_what_was_asked_for_and_what_the_image_has(place: Place) -> None:
    said = place.env("create", "mine", "einops", "tqdm==4.1")
    assert 'Choose the kernel "mine"' in said
    assert imports(place, "mine", "of_the_image")
    facts = place.facts("show", "mine")
    assert facts["asked"] == ["einops", "tqdm==4.1"]
    assert facts["packages"] == ["einops==1.0", "tqdm==4.1"]
    assert facts["fits"]
    assert [one["name"] for one in place.facts("list")] == ["mine"]


def test_its_kernel_is_in_the_launcher_by_its_name(place: Place) -> None:
    place.env("create", "mine")
    spec = json.loads(place.kernel("mine").read_text())
    assert spec["argv"] == ["labdock-env", "kernel", "mine", "-f", "{connection_file}"]
    assert spec["display_name"] == "mine"
    assert (place.kernel("mine").parent / "logo-64x64.png").read_bytes() == b"picture"


def test_the_lock_tells_where_it_is_from_and_is_a_list_for_pip(place: Place) -> None:
    place.env("create", "mine", "einops")
    lines = place.lock("mine")
    assert "# image: labdock/cpu:one" in lines
    assert any(line.startswith(f"# python: {PYTHON}.") for line in lines)
    assert [line for line in lines if not line.startswith("#")] == ["einops==1.0"]


def test_the_image_has_a_name_even_where_nobody_says_one(place: Place) -> None:
    place.run("labdock-env", "create", "mine")
    assert any(re.fullmatch(r"# image: packages-[0-9a-f]{12}", line) for line in place.lock("mine"))


def test_more_can_be_added_and_a_new_version_takes_the_place_of_the_old_wish(place: Place) -> None:
    place.env("create", "mine", "einops", "tqdm==4.1")
    place.env("add", "mine", "tqdm", "six")
    assert place.facts("show", "mine")["asked"] == ["einops", "tqdm", "six"]


def test_a_list_of_requirements_will_do(place: Place) -> None:
    (place.home / "list.txt").write_text("# ours\neinops  # for shapes\n\n--no-binary x\nsix\n")
    assert "pip is given install tqdm -r list.txt" in place.env("create", "mine", "tqdm", "-r", "list.txt")
    assert place.facts("show", "mine")["asked"] == ["tqdm", "einops", "six"]
    assert "there is no file nowhere.txt" in place.env("add", "mine", "-r", "nowhere.txt", status=2)


def test_what_was_installed_by_hand_is_told_and_can_be_locked(place: Place) -> None:
    place.env("create", "mine", "einops")
    subprocess.run([place.envs / "mine/bin/pip", "install", "six"], check=True, stdout=subprocess.DEVNULL)
    assert "labdock-env lock mine" in place.env("show", "mine")
    assert "six==1.0" in place.env("lock", "mine")
    assert place.lock("mine")[-2:] == ["einops==1.0", "six==1.0"]


def test_packages_from_repositories_and_folders_are_locked_as_such(place: Place) -> None:
    place.env("create", "mine", "einops", "six", "tqdm")
    records = (place.envs / "mine").glob("lib/*/site-packages/*.dist-info")
    for record, told in zip(
        sorted(records),
        (
            {"url": "https://git.example/a.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            {"url": "file:///home/x/six", "dir_info": {"editable": True}},
            {"url": "file:///home/x/tqdm.whl"},
        ),
        strict=True,
    ):
        (record / "direct_url.json").write_text(json.dumps(told))
    place.env("lock", "mine")
    assert [line for line in place.lock("mine") if not line.startswith("#")] == [
        "-e /home/x/six",
        "einops @ git+https://git.example/a.git@abc",
        "tqdm @ file:///home/x/tqdm.whl",
    ]


@pytest.mark.parametrize("name", ["Mine", "-mine", "mine-", "a" * 31, "a/b", "..", "", "python3", "ä"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_made(place: Place, name: str) -> None:
    done = place.run("labdock-env", "create", "--", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"labdock-env: .*(take|required).*\n", done.stderr)
    assert not place.envs.exists()


def test_an_environment_or_a_kernel_that_is_there_is_not_written_over(place: Place) -> None:
    place.env("create", "mine")
    assert "labdock-env add mine" in place.env("create", "mine", status=1)
    place.kernel("yours").parent.mkdir()
    place.kernel("yours").write_text('{"argv": ["R"]}')
    assert "labdock-env did not make" in place.env("create", "yours", status=2)


@pytest.mark.parametrize(
    "words",
    [(), ("frob",), ("create",), ("create", "mine", "--frob"), ("add", "mine")],
    ids=" ".join,
)
def test_wrong_words_are_one_line_and_status_2(place: Place, words: tuple[str, ...]) -> None:
    done = place.run("labdock-env", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("word", ["show", "add", "lock", "rebuild", "activate", "remove"])
def test_an_unknown_environment_is_told_with_those_that_there_are(place: Place, word: str) -> None:
    place.env("create", "mine")
    said = place.env(word, "yours", *(["six"] if word == "add" else []), status=1)
    assert said == "labdock-env: there is no environment 'yours'. There are: mine."


@pytest.mark.parametrize(
    ("package", "told"),
    [
        ("full", "no space is left"),
        ("quota", "no space is left"),
        ("offline", "the package index does not answer"),
        ("hiccup", f"there is no hiccup for Python {PYTHON}"),
        ("missing", f"there is no missing for Python {PYTHON}"),
        ("source", "source has no wheel"),
        ("rivals", "do not go together"),
        ("odd", "pip failed: something else"),
    ],
)
def test_a_package_that_fails_is_told_in_words_and_leaves_nothing(
    place: Place, package: str, told: str
) -> None:
    said = place.env("create", "mine", "einops", package, status=1)
    assert told in said
    assert said.endswith("No environment was made.")
    assert not (place.envs / "mine").exists()
    assert place.builds == []
    assert not place.kernel("mine").exists()


def test_a_failed_addition_leaves_the_environment_and_its_lock(place: Place) -> None:
    place.env("create", "mine", "einops")
    before = place.lock("mine")
    assert "has what it had" in place.env("add", "mine", "missing", status=1)
    assert place.lock("mine") == before


def begun(place: Place, *words: str) -> subprocess.Popen[str]:
    """A run that is in the middle of pip's work."""
    process = subprocess.Popen(
        place.command("labdock-env", *words),
        env=place.environment({}),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert "pip is given" in process.stdout.readline()
    return process


def ended(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("after", ["create", "list"])
def test_a_creation_that_was_killed_leaves_nothing_after_the_next_run(place: Place, after: str) -> None:
    ended(begun(place, "create", "mine", "slow"))
    assert len(place.builds) == 1
    assert place.facts("list") == []
    place.env(*(("create", "mine") if after == "create" else ("list",)))
    assert len(place.builds) == len(place.facts("list")) == (1 if after == "create" else 0)


def test_a_rebuild_that_was_killed_leaves_the_old_environment(place: Place) -> None:
    place.env("create", "mine", "einops")
    (place.envs / "mine/labdock.lock").write_text("# asked: slow\neinops==1.0\n")
    ended(begun(place, "rebuild", "mine"))
    assert imports(place, "mine", "of_the_image")
    assert len(place.builds) == 2
    place.env("list")
    assert [path.resolve() for path in place.builds] == [(place.envs / "mine").resolve()]


def test_two_at_once_do_not_make_one_environment(place: Place) -> None:
    first = begun(place, "create", "mine", "slow")
    try:
        assert "another labdock-env is at work" in place.env("create", "mine", status=1)
        # Another environment is nobody's business here.
        place.env("create", "other")
        assert len(place.builds) == 2
    finally:
        ended(first)


def test_the_lock_is_held_while_pip_goes_on_after_its_parent_was_killed(place: Place) -> None:
    process = begun(place, "create", "mine", "slow")
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert "another labdock-env is at work" in place.env("create", "mine", status=1)
    finally:
        ended(process)


def test_an_environment_without_its_kernel_gets_it_back_when_it_is_changed(place: Place) -> None:
    place.env("create", "mine")
    place.kernel("mine").unlink()
    place.env("add", "mine", "six")
    assert place.kernel("mine").exists()


def test_an_environment_of_another_python_is_told_and_not_used(place: Place) -> None:
    place.env("create", "mine", "einops")
    made_for_python_2(place, "mine")
    facts = place.facts("show", "mine")
    assert facts["reason"] == f"was made for Python 2.7, and this image has Python {PYTHON}"
    assert "labdock-env rebuild mine" in place.env("list")
    assert "labdock-env rebuild mine" in place.env("add", "mine", "six", status=1)
    assert "labdock-env rebuild mine" in place.env("activate", "mine", status=1)


def test_a_rebuild_brings_back_what_was_locked_and_what_was_not(place: Place) -> None:
    place.env("create", "mine", "einops==0.9")
    subprocess.run([place.envs / "mine/bin/pip", "install", "six"], check=True, stdout=subprocess.DEVNULL)
    made_for_python_2(place, "mine")
    assert "pip is given install einops==0.9 six==1.0" in place.env("rebuild", "mine")
    facts = place.facts("show", "mine")
    assert facts["fits"]
    assert facts["packages"] == ["einops==0.9", "six==1.0"]
    assert facts["asked"] == ["einops==0.9"]
    assert len(place.builds) == 1


def test_what_came_compiled_is_not_compiled_here(place: Place) -> None:
    """The source of an old version mostly does not build under a new Python, with pages of errors."""
    place.env("create", "mine", "numpy", "pure", "built-here")
    for record in (place.envs / "mine").glob("lib/*/site-packages/*.dist-info"):
        tag = {"numpy": "cp311-cp311-manylinux_2_17_x86_64", "pure": "py3-none-any"}
        (record / "WHEEL").write_text(
            f"Wheel-Version: 1.0\nTag: {tag.get(record.name.split('-')[0], 'cp311-cp311-linux_x86_64')}\n"
        )
    assert "pip is given install --only-binary numpy built-here==1.0" in place.env("rebuild", "mine")


def test_what_was_asked_for_and_the_image_had_is_asked_for_again(place: Place) -> None:
    """The next image may not have it."""
    place.env("create", "mine", "einops")
    (place.envs / "mine/labdock.lock").write_text("# asked: einops\n# asked: numpy>=2\neinops==1.0\n")
    assert "pip is given install einops==1.0 numpy>=2" in place.env("rebuild", "mine")


def test_a_version_that_this_python_has_not_is_named_with_the_way_out(place: Place) -> None:
    place.env("create", "mine", "old==0.5")
    (place.envs / "mine/labdock.lock").write_text("# asked: old\nold==1.0\n")
    said = place.env("rebuild", "mine", status=1)
    assert f"there is no old==1.0 for Python {PYTHON}" in said
    assert said.endswith("labdock-env rebuild mine --newer")
    assert place.facts("show", "mine")["fits"]
    assert "pip is given install old\n" in place.env("rebuild", "mine", "--newer")
    assert place.facts("show", "mine")["packages"] == ["old==2.0"]


def test_a_terminal_that_uses_an_environment_goes_on_after_a_rebuild(place: Place) -> None:
    place.env("create", "mine")
    activate = place.env("activate", "mine").strip()
    rebuild = shlex.join(place.command("labdock-env", "rebuild", "mine"))
    done = subprocess.run(
        ["bash", "-c", f"{activate} && {rebuild} >&2 && python -c 'import sys; print(sys.prefix)'"],
        env=place.environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(place.envs / "mine")


def test_a_removed_environment_leaves_neither_files_nor_kernel(place: Place) -> None:
    place.env("create", "mine", "einops")
    place.env("remove", "mine")
    assert not place.kernel("mine").parent.exists()
    assert place.builds == []
    assert list(place.envs.iterdir()) == []


def test_the_kernel_of_an_environment_whose_files_are_gone_can_be_removed(place: Place) -> None:
    place.env("create", "mine")
    (place.envs / "mine").unlink()
    place.env("remove", "mine")
    assert not place.kernel("mine").parent.exists()


def test_a_home_that_cannot_be_written_is_one_line(base: Path, tmp_path: Path) -> None:
    (tmp_path / ".labdock").write_text("a file in the way")
    said = Place(base, tmp_path).env("create", "mine", status=1)
    assert said.startswith("labdock-env: ")
    assert ".labdock" in said


def test_the_word_of_every_kernel_start_is_quick(place: Place) -> None:
    """It imports nothing that it does not need; the rest of labdock-env may."""
    done = subprocess.run(
        [place.base / "bin/python", "-IS", "-X", "importtime", *place.command("labdock-env", "kernel")[2:]],
        env=place.environment({}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "labdock_kernel" in imported
    assert imported.isdisjoint({"argparse", "json", "pathlib", "re", "subprocess", "typing"})


def test_a_kernel_start_takes_milliseconds(place: Place) -> None:
    """With room for a busy machine: what is measured is some 15 ms."""
    begin = time.monotonic()
    for _ in range(5):
        place.run("labdock-env", "kernel")
    assert (time.monotonic() - begin) / 5 < 0.5
