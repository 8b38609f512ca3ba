"""A lab's own image from the first line to the rollback, on the real engine, while a session goes on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from labdock.adapters.engine import Engine
from labdock.adapters.visitor import Visitor
from labdock.cli.up import read_images
from labdock.core.errors import HubError
from labdock.core.prune import CONTENT
from labdock.simulation.machine import DEFAULT_DRIVER
from tests.e2e.browsing import PATIENCE_MS, accept_invitation, must_be_accessible, shoot
from tests.e2e.conftest import guests_of
from tests.stack import Stack, running_stack

OWN_IMAGES = ("vision", "clash", "cuda13", "oldhub", "nohub", "broken", "theirs")

IMAGES = """\
images:
  - {id: cpu, label: Python, default: true}
  - id: vision
    label: Vision
    base: builtin/cpu
    apt: [tree]
    pip: [einops]
    files: vision
"""


@pytest.fixture(scope="module")
def lab(engine_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Labdock with an image of the lab's own, and with a simulated card, so that there is a driver."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "vision").mkdir()
    (folder / "vision/requirements.txt").write_text("six==1.17.0\n")
    with running_stack(folder, engine_socket, "i", simulated_gpus=1, more=IMAGES) as running:
        yield running
    asyncio.run(_forget_own_images(engine_socket))


async def _forget_own_images(engine_socket: Path) -> None:
    """Remove what these tests built; what Labdock's own images are made of stays for the next run."""
    names = "|".join(OWN_IMAGES)
    async with Engine(engine_socket) as engine:
        for reference in await engine.image_references():
            if re.fullmatch(rf"labdock/own-(?:{names})(?:-[a-z]+)?:[0-9a-f]{{12}}", reference):
                await engine.untag(reference)


@pytest.fixture
def stack(lab: Stack) -> Iterator[Stack]:
    """The lab as its file was at first, whatever a test wrote into it."""
    before = lab.config.read_text()
    yield lab
    lab.config.write_text(before)


def write(stack: Stack, old: str, new: str) -> None:
    text = stack.config.read_text()
    assert old in text
    stack.config.write_text(text.replace(old, new))


def row(stack: Stack, image: str) -> dict[str, Any]:
    (found,) = [one for one in stack.facts("images", "list") if one["id"] == image]
    return dict(found)


def add_image(stack: Stack, name: str, **files: bytes) -> None:
    """An image of its own for one test, from a folder with *files* (``__`` stands for a dot)."""
    folder = stack.folder / name
    folder.mkdir(exist_ok=True)
    for file, data in files.items():
        (folder / file.replace("__", ".")).write_bytes(data)
    with stack.config.open("a") as config:
        config.write(f"  - {{id: {name}, files: {name}}}\n")


def wheel(name: str, version: str = "1.0", **modules: str) -> tuple[str, bytes]:
    """A wheel as pip takes it: its file's name and bytes."""
    # A file's name has no other hyphens than those between its parts.
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = {f"{module}.py": text for module, text in modules.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    digests = {
        path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        for path, text in files.items()
    }
    record = "".join(f"{path},sha256={digest},\n" for path, digest in digests.items())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl", packed.getvalue()


PIP = "/opt/env/bin/python -m pip install --no-deps --no-cache-dir"


async def packages_of(visitor: Visitor) -> str:
    kernel = await visitor.kernel()
    code = "import importlib.util as u; print([m for m in ('einops', 'six', 'tabulate') if u.find_spec(m)])"
    return await visitor.run_cell(kernel, code)


async def test_a_line_more_for_everybody_and_back_while_a_session_goes_on(stack: Stack) -> None:
    guests = guests_of(stack)
    async with guests("ada") as ada, guests("bob") as bob:
        await ada.start("vision")
        await ada.take_token()
        kernel = await ada.kernel()
        assert "tree v" in await ada.run_cell(kernel, "!tree --version")
        assert await packages_of(ada) == "['einops', 'six']\n"
        await ada.run_cell(kernel, "mark = 'still here'")
        first, container = row(stack, "vision"), stack.container_id(f"{stack.instance}-session-ada")

        write(stack, "pip: [einops]", "pip: [einops, tabulate==0.9.0]")
        assert row(stack, "vision")["state"] == "published; a newer one is to be built"
        published = await asyncio.to_thread(stack.labdock, "images", "publish", "vision")
        assert published.returncode == 0, published.stderr
        # Only the last layer was made anew.
        assert "own-vision" in published.stderr
        assert not re.search(r"Build the image labdock/(base|notebook|cpu)", published.stderr)

        await bob.start("vision")
        await bob.take_token()
        assert await packages_of(bob) == "['einops', 'six', 'tabulate']\n"
        assert await ada.run_cell(kernel, "print(mark)") == "still here\n"
        assert stack.container_id(f"{stack.instance}-session-ada") == container
        assert row(stack, "vision")["sessions"] == 2

        back = stack.facts("images", "rollback", "vision")
        assert back["version"] == first["version"]
        await bob.stop()
        await bob.start("vision")
        assert await packages_of(bob) == "['einops', 'six']\n"
        # What was taken back does not come back by itself, and is a word away.
        assert stack.labdock("up").returncode == 0
        assert row(stack, "vision")["version"] == first["version"]
        assert "rolled back" in row(stack, "vision")["state"]
        assert stack.labdock("images", "publish", "vision").returncode == 0
        assert "tabulate 0.9.0" in row(stack, "vision")["holds"]
        assert stack.labdock("images", "rollback", "vision").returncode == 0
        assert await ada.run_cell(kernel, "print(mark)") == "still here\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pip: [einops]", "pip: [einopss]", 'images[1].pip: pip finds no package called "einopss".'),
        ("apt: [tree]", "apt: [treee]", 'images[1].apt: apt finds no package called "treee".'),
        ("pip: [einops]", "pip: [einops==99]", "images[1].pip: pip finds no einops==99; the newest are"),
    ],
)
def test_a_misspelt_package_is_told_with_its_line_and_the_old_image_stays(
    stack: Stack, old: str, new: str, words: str
) -> None:
    before = row(stack, "vision")["version"]
    write(stack, old, new)
    line = next(n for n, text in enumerate(stack.config.read_text().splitlines(), 1) if new in text)
    for command in (("up",), ("images", "publish", "vision")):
        done = stack.labdock(*command)
        assert done.returncode == 1
        assert f"labdock.yaml:{line} {words}" in done.stderr
        assert "that people use stays as it is" in done.stderr
    assert row(stack, "vision")["version"] == before
    assert stack.facts("status")["ok"]


def test_a_file_that_is_missing_is_told_before_anything_is_built(stack: Stack) -> None:
    write(stack, "files: vision", "files: visoin")
    for command in (("up",), ("images", "build")):
        done = stack.labdock(*command)
        assert done.returncode == 1
        assert "visoin, which is not there" in done.stderr
        assert "Build" not in done.stderr


def test_an_unknown_image_is_wrong_and_the_known_ones_are_named(stack: Stack) -> None:
    done = stack.labdock("images", "check", "visoin")
    assert done.returncode == 1
    assert "Known: cpu, vision." in done.stderr


def wait_for_driver(stack: Stack, version: str) -> None:
    """Until the agent has seen that the driver is another one."""
    for _ in range(300):
        if stack.facts("gpus")["driver"] == version:
            return
        time.sleep(0.1)
    pytest.fail(f"the driver is not {version} within 30 s")


def must_be_refused(stack: Stack, image: str, check: str, *words: str) -> None:
    """The image is built, fails the check called *check* alone, and is not published by any command."""
    done = stack.labdock("images", "check", image, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    findings = json.loads(done.stdout)["images"][image]["findings"]
    (wrong,) = [finding for finding in findings if not finding["ok"]]
    assert wrong["check"] == check
    assert all(word in wrong["seen"] for word in words)
    for command in (("up",), ("images", "publish", image)):
        done = stack.labdock(*command)
        assert done.returncode == 1
        assert f"The image {image} is not fit to be published" in done.stderr
        assert words[0] in done.stderr
    assert row(stack, image)["state"] == "built, not published"
    assert image not in (stack.state / "parts/hub/images.json").read_text()


def test_two_packages_that_overwrite_each_others_files_are_refused(stack: Stack) -> None:
    one, other = wheel("lab-one", shared="x = 1\n"), wheel("lab-two", shared="x = 2\n")
    script = f"#!/bin/sh\nset -e\n{PIP} {one[0]}\n{PIP} {other[0]}\n".encode()
    add_image(stack, "clash", postBuild=script)
    for name, data in (one, other):
        (stack.folder / "clash" / name).write_bytes(data)
    must_be_refused(stack, "clash", "files", "lab-one and lab-two both bring 1 file", "shared.py")


def test_an_image_for_a_newer_cuda_than_the_driver_serves_is_refused(stack: Stack) -> None:
    """The simulated driver is made one that serves no CUDA 13."""
    name, data = wheel("nvidia-cuda-runtime", "13.0.96")
    add_image(stack, "cuda13", postBuild=f"#!/bin/sh\n{PIP} {name}\n".encode())
    (stack.folder / "cuda13" / name).write_bytes(data)
    try:
        stack.simulate("driver", "version=570.86.15")
        wait_for_driver(stack, "570.86.15")
        must_be_refused(stack, "cuda13", "CUDA", "13.0 needs driver 580.65.06 or newer; here is 570.86.15")
    finally:
        stack.simulate("driver", f"version={DEFAULT_DRIVER}")
        wait_for_driver(stack, DEFAULT_DRIVER)


def test_a_notebook_server_of_another_major_version_than_the_hub_is_refused(stack: Stack) -> None:
    """What pip installs is held to the hub's version; a script of the lab's can still do this."""
    add_image(stack, "oldhub", postBuild=f"#!/bin/sh\n{PIP} jupyterhub==5.4.4\n".encode())
    must_be_refused(stack, "oldhub", "jupyterhub", "5.4.4; the hub is 6.")


def test_pip_cannot_bring_another_hub(stack: Stack) -> None:
    with stack.config.open("a") as config:
        config.write("  - {id: nohub, pip: [jupyterhub==5.4.4]}\n")
    done = stack.labdock("images", "build", "nohub")
    assert done.returncode == 1
    assert "images[2].pip" in done.stderr
    assert "jupyterhub" in done.stderr


def test_a_framework_that_cannot_be_imported_is_refused(stack: Stack) -> None:
    gone = b"#!/bin/sh\nrm /opt/env/lib/python3*/site-packages/six.py\n"
    add_image(stack, "broken", requirements__txt=b"six\n", postBuild=gone)
    must_be_refused(stack, "broken", "import six", "No module named 'six'")


async def test_what_an_administrator_tries_is_for_administrators_alone(stack: Stack) -> None:
    guests = guests_of(stack)
    write(stack, "pip: [einops]", "pip: [einops, tabulate==0.9.0, toolz]")
    async with guests("ada") as ada, guests("root1", admin=True) as admin:
        tried = await asyncio.to_thread(stack.labdock, "images", "try", "vision", "--person", "root1")
        assert tried.returncode == 0, tried.stderr
        for _ in range(300):
            users = await asyncio.to_thread(stack.api.users)
            if {user["name"]: user["session"] for user in users}["root1"] == "running":
                break
            await asyncio.sleep(0.1)
        await admin.take_token()
        kernel = await admin.kernel()
        assert await admin.run_cell(kernel, "import toolz; print(toolz.__name__)") == "toolz\n"
        with pytest.raises(HubError, match="400"):
            await ada.start("vision@new")
        await ada.start("vision")
        assert "toolz" not in row(stack, "vision")["holds"]
        assert "tried by administrators" in row(stack, "vision")["state"]
        ended = stack.labdock("images", "try", "vision", "--end")
        assert ended.returncode == 0, ended.stderr
        assert "tried" not in row(stack, "vision")["state"]


async def references(stack: Stack) -> frozenset[str]:
    async with Engine(stack.engine_socket) as engine:
        return frozenset(await engine.image_references())


async def test_pruning_leaves_what_runs_what_is_offered_and_what_is_others(stack: Stack) -> None:
    """Only shown, not done: the engine may hold images that other versions of Labdock want."""
    guests = guests_of(stack)
    async with guests("ada") as ada:
        await ada.start("vision")
        running = row(stack, "vision")["version"]
        for package in ("toolz==0.12.0", "toolz==0.12.1", "toolz==1.0.0"):
            write(stack, "pip: [", f"pip: [{package}, ")
            done = await asyncio.to_thread(stack.labdock, "images", "publish", "vision")
            assert done.returncode == 0, done.stderr
            write(stack, f"{package}, ", "")
        others = {one for one in await references(stack) if not one.startswith(f"labdock-{stack.instance}/")}
        would = stack.facts("images", "prune", "--dry-run", "--keep", "0")["would_remove"]
        assert not [one for one in would if one.endswith(f":{running}")]
        claims = [one for one in would if one.startswith(f"labdock-{stack.instance}/")]
        assert len([one for one in claims if "/vision:" in one]) >= 2
        assert [one for one in would if one not in claims and not CONTENT.fullmatch(one)] == []
        assert {one for one in would if one not in claims} <= others


def test_images_travel_in_a_file_and_need_no_build_where_they_arrive(stack: Stack) -> None:
    file = stack.folder / "vision.tar"
    saved = stack.facts("images", "save", str(file), "vision")
    assert file.stat().st_size == saved["size_bytes"] > 0
    assert saved["images"]
    loaded = stack.facts("images", "load", str(file))
    assert set(loaded["images"]) == set(saved["images"])
    assert stack.labdock("images", "load", str(stack.config)).returncode == 1
    assert stack.labdock("images", "load", "nowhere.tar").returncode == 1
    file.unlink()


THEIRS = """\
FROM {base}
RUN python3 -m venv /opt/theirs
RUN /opt/theirs/bin/pip install --no-cache-dir --no-deps jupyterhub==5.4.4 toolz
ENV PATH=/opt/theirs/bin:$PATH NVIDIA_VISIBLE_DEVICES=all
VOLUME /scratch
USER root
ENTRYPOINT ["/bin/false"]
CMD []
"""
"""Somebody's image: root, every card, another hub's jupyterhub, a volume, nothing that could be started."""


async def build_theirs(stack: Stack, tag: str, dockerfile: str) -> None:
    text = dockerfile.format(base=read_images().base.tag).encode()
    async with Engine(stack.engine_socket) as engine:
        await engine.build(tag, {"Dockerfile": text}, arguments={}, labels={}, on_line=lambda line: None)


async def forget(stack: Stack, tag: str) -> None:
    async with Engine(stack.engine_socket) as engine:
        await engine.untag(tag)


async def test_somebodys_image_becomes_one_that_a_session_runs_from(stack: Stack) -> None:
    tag, guests = "lab.example/theirs:1", guests_of(stack)
    await build_theirs(stack, tag, THEIRS)
    try:
        with stack.config.open("a") as config:
            config.write(f"  - {{id: theirs, label: Theirs, base: '{tag}', pip: [six]}}\n")
        done = await asyncio.to_thread(stack.labdock, "images", "publish", "theirs")
        assert done.returncode == 0, done.stderr
        async with guests("ada") as ada:
            await ada.start("theirs")
            await ada.take_token()
            kernel = await ada.kernel()
            code = (
                "import os, toolz, six, jupyterhub; print(os.environ['NVIDIA_VISIBLE_DEVICES'], "
                "os.getuid() > 200000, jupyterhub.__version__.split('.')[0])"
            )
            assert await ada.run_cell(kernel, code) == "void True 6\n"
            assert "labdock-env" in await ada.run_cell(kernel, "!pip install toolz2")
    finally:
        await forget(stack, tag)


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("FROM {base}\nRUN rm /usr/bin/apt-get\n", "images[2].base: the image has no apt-get"),
        (
            "FROM {base}\nRUN printf '#!/bin/sh\\necho 3.9.1\\nexit 1\\n' > /usr/bin/python3\n",
            "images[2].base: ",
        ),
    ],
)
async def test_an_image_that_cannot_be_made_fit_is_refused_with_the_reason(
    stack: Stack, dockerfile: str, words: str
) -> None:
    tag = "lab.example/unfit:1"
    await build_theirs(stack, tag, dockerfile)
    try:
        with stack.config.open("a") as config:
            config.write(f"  - {{id: theirs, base: '{tag}'}}\n")
        done = await asyncio.to_thread(stack.labdock, "up")
        assert done.returncode == 1
        assert words in done.stderr
        assert stack.facts("status")["ok"]
    finally:
        await forget(stack, tag)


def test_an_image_that_no_registry_has_is_told_by_its_name(stack: Stack) -> None:
    with stack.config.open("a") as config:
        config.write("  - {id: theirs, base: 'localhost:1/nobody/has-this:1'}\n")
    done = stack.labdock("images", "build", "theirs")
    assert done.returncode == 1
    assert "localhost:1/nobody/has-this:1 cannot be fetched" in done.stderr


async def test_a_dockerfile_stands_on_the_base_it_is_given(stack: Stack) -> None:
    (stack.folder / "robot").mkdir()
    (stack.folder / "robot/Dockerfile").write_text(
        "ARG BASE\nFROM ${BASE}\nCOPY words.txt /opt/words.txt\nRUN test -x /opt/env/bin/python\n"
    )
    (stack.folder / "robot/words.txt").write_text("hello robot\n")
    with stack.config.open("a") as config:
        config.write("  - {id: theirs, base: builtin/cpu, dockerfile: robot/Dockerfile}\n")
    done = await asyncio.to_thread(stack.labdock, "images", "publish", "theirs")
    assert done.returncode == 0, done.stderr
    async with guests_of(stack)("ada") as ada:
        await ada.start("theirs")
        await ada.take_token()
        assert await ada.run_cell(await ada.kernel(), "!cat /opt/words.txt") == "hello robot\r\n"
    (stack.folder / "robot/Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN make robot\n")
    done = await asyncio.to_thread(stack.labdock, "images", "build", "theirs")
    assert done.returncode == 1
    assert "images[2].dockerfile: A step of the Dockerfile failed." in done.stderr
    assert "make" in done.stderr


# Last: while a browser is there, no test in this module may have an event loop.


def test_the_start_page_says_what_each_image_holds_and_home_tells_of_a_newer_one(
    stack: Stack, browser: Browser
) -> None:
    stack.remove("grace")
    context = browser.new_context(base_url=stack.url, viewport={"width": 1000, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    try:
        page = context.new_page()
        accept_invitation(page, stack.invite("grace"))
        choice = page.locator("label", has_text="Vision")
        expect(choice).to_contain_text(re.compile(r"Python 3\.\d+.*einops \d.*\d+ MB"))
        must_be_accessible(page)
        shoot(page, "start-images")
        choice.click()
        page.get_by_role("button", name="Start session").click()
        expect(page.get_by_text("Launcher").first).to_be_visible(timeout=60_000)
        write(stack, "pip: [einops]", "pip: [einops, more-itertools]")
        assert stack.labdock("images", "publish", "vision").returncode == 0
        page.goto("/hub/home")
        expect(page.get_by_role("status").filter(has_text="newer")).to_be_visible()
        must_be_accessible(page)
        shoot(page, "newer-image")
    finally:
        context.close()
        stack.remove("grace")
