"""The pages for people hold what they promise: links lead somewhere, commands can be typed as they stand."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from labdock.adapters.config_file import read_config
from labdock.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)
TARGETS = frozenset(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page: its number, its text, and the language of the code block it stands in, or None."""

    number: int
    text: str
    block: str | None


def lines_of(page: Path) -> Iterator[Line]:
    """The lines of *page*, less the fences and comments."""
    block = None
    for number, text in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r"\s*```(\w*)", text)
        if fence:
            block = fence[1] if block is None else None
        elif not text.startswith("<!--"):
            yield Line(number, text, block)


def commands_of(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and words of each command in the shell blocks of *page*, and of labdock's in its prose."""
    script, begun = "", 0
    for line in lines_of(page):
        if line.block is None:
            for span in re.findall(r"`(labdock [^`…]+)`", line.text):
                yield line.number, shlex.split(span)
        elif line.block == "sh":
            begun = begun if script else line.number
            script += line.text.removesuffix("\\")
            if not line.text.endswith("\\"):
                yield from ((begun, words) for words in simple_commands(script))
                script = ""


def simple_commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell line: split at operators, each without its redirections."""
    lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    while words:
        command = list(takewhile(lambda word: not set(word) <= set("&|;()"), words))
        yield list(takewhile(lambda word: word != ">", command))
        words = words[len(command) + 1 :]


def without_work(command: click.Command) -> click.Command:
    """*command* with the same words and options, which does nothing when it is run."""
    idle = copy.copy(command)
    idle.callback = lambda **_: None
    if isinstance(idle, click.Group):
        idle.commands = {name: without_work(inner) for name, inner in idle.commands.items()}
    return idle


IDLE = without_work(cli)


@every_page
def test_links_and_pictures_are_there(page: Path) -> None:
    text = "\n".join(line.text for line in lines_of(page) if line.block is None)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(there), f"{page.name} links to {target}"


def anchors_of(page: Path) -> set[str]:
    """The anchors of the headings of *page*, made as the common renderers make them."""
    headings = (
        line.text.lstrip("# ") for line in lines_of(page) if line.block is None and line.text.startswith("#")
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_labdock_command_can_be_typed_as_it_stands(page: Path) -> None:
    for number, written in commands_of(page):
        # What stands before a program's name: another user, settings of its environment.
        words = list(dropwhile(lambda word: word == "sudo" or re.fullmatch(r"[A-Z_]+=.*", word), written))
        if words and Path(words[0]).name == "labdock":
            result = CliRunner().invoke(IDLE, words[1:])
            assert result.exit_code == 0, f"{page.name}:{number}: {' '.join(words)}\n{result.output}"
        elif words and words[0] == "make":
            assert set(words[1:]) <= TARGETS, f"{page.name}:{number}: {' '.join(words)}"


@every_page
def test_one_sentence_stands_on_one_line(page: Path) -> None:
    for line in lines_of(page):
        text = re.sub(r"`[^`]*`", "code", line.text)
        if line.block is not None or not text.strip() or re.match(r"#|\||!", text):
            continue
        assert not re.search(r"[.!?][)\"”]?\s+[A-Z]", re.sub(r"^\s*\d+\. ", "", text)), (
            f"{page.name}:{line.number}: {line.text}"
        )
        # Items of a list, and facts such as "Default: `4`", are no sentences.
        if not re.match(r"\s*(?:[-*]|\d+\.) |\w+: code$", text):
            assert re.search(r"[.:!?][)*\"”]*$", text), f"{page.name}:{line.number} ends within a sentence"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name.startswith("sign-in-")], ids=lambda page: page.stem
)
def test_every_way_to_sign_in_that_a_page_shows_is_a_configuration(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks or page.name == "sign-in-trouble.md"
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        read_config(path)


def test_a_command_with_an_unknown_option_would_be_noticed() -> None:
    assert CliRunner().invoke(IDLE, ["up", "--now"]).exit_code == 2
    assert CliRunner().invoke(IDLE, ["--state", "x", "users", "ad"]).exit_code == 2


def test_a_shell_line_is_split_into_its_commands() -> None:
    script = "cd labdock && A=1 labdock users list --json | jq . > 'a b' # and a remark"
    assert list(simple_commands(script)) == [
        ["cd", "labdock"],
        ["A=1", "labdock", "users", "list", "--json"],
        ["jq", "."],
    ]
