"""The reference of the commands is what the commands are."""

from __future__ import annotations

from pathlib import Path

import click

from labdock.cli.main import cli
from labdock.cli.reference import commands_markdown

PAGE = Path(__file__).parents[2] / "docs/reference/commands.md"


@click.group()
def tool() -> None:
    """Does things."""


@tool.command()
@click.argument("name")
@click.option(
    "--times", "-t", type=click.IntRange(1, 9), default=3, show_default=True, help="How often. Or not."
)
@click.option("--secret", hidden=True)
def greet(name: str, times: int, secret: str) -> None:
    """Say hello.
    Then say it again.
    """


@tool.command(hidden=True)
def internal() -> None:
    """Nobody's business."""


@tool.group()
def people() -> None:
    """Not a section of its own."""


@people.command("list")
def list_people() -> None:
    """List them."""


def test_the_page_is_what_the_commands_say() -> None:
    stale = "docs/reference/commands.md is stale; write it with: python -m labdock.cli.reference"
    assert PAGE.read_text() == commands_markdown(cli, "labdock"), stale


def test_a_command_is_told_with_usage_help_and_options_a_sentence_a_line() -> None:
    _, _, section = commands_markdown(tool, "tool").partition("## tool greet\n\n")
    assert section.startswith(
        "Say hello.\nThen say it again.\n\n"
        "```text\ntool greet [OPTIONS] NAME\n```\n\n"
        "- `-t, --times INTEGER RANGE`: How often.\n  Or not.\n  Default: `3`.\n  Range: `1<=x<=9`.\n"
    )


def test_commands_below_a_group_come_with_their_whole_name() -> None:
    page = commands_markdown(tool, "tool")
    assert [line for line in page.splitlines() if line.startswith("## tool")] == [
        "## tool greet",
        "## tool people list",
    ]


def test_what_is_hidden_stays_hidden() -> None:
    page = commands_markdown(tool, "tool")
    assert "--secret" not in page
    assert "internal" not in page
