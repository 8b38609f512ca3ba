"""What the command line says, and how: progress on standard error, facts on standard output."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console as RichConsole
from rich.status import Status
from rich.table import Table


def program() -> str:
    """How to call this program from here: ``labdock`` where the shell finds it, otherwise its path."""
    here = Path(sys.argv[0])
    found = shutil.which("labdock")
    if here.name != "labdock" or (found is not None and Path(found).resolve() == here.resolve()):
        return "labdock"
    return min((os.path.relpath(here), str(here)), key=len)


class Console:
    """Prints for people; with *as_json* only one JSON value, at the end.

    NO_COLOR and a pipe are honoured by the libraries underneath.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self._rich = RichConsole(stderr=True, highlight=False)

    def say(self, text: str = "") -> None:
        """One line for people on standard output; nothing with --json."""
        if not self.as_json:
            click.echo(text)

    def note(self, text: str) -> None:
        """One line beside the matter, on standard error."""
        click.echo(text, err=True)

    def facts(self, value: Any, lines: Callable[[], None]) -> None:
        """*value* as JSON, or what *lines* prints."""
        if self.as_json:
            click.echo(json.dumps(value, indent=2))
        else:
            lines()

    def table(self, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        """A table on standard output, as wide as its content."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*row)
        width = None if sys.stdout.isatty() else 10_000
        RichConsole(highlight=False, width=width, markup=False).print(table)

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """Shows *text* while it happens and the seconds it took; the value takes lines of detail."""
        begun = time.monotonic()
        if self._rich.is_terminal and not self.verbose:
            with self._rich.status(_words(text, begun, "")) as status:
                yield lambda line: _show(status, text, begun, line)
        else:
            self.note(f"… {text}")
            yield (lambda line: self.note(f"    {line}")) if self.verbose else (lambda line: None)
        self._rich.print(f"✓ {text}  {time.monotonic() - begun:.1f} s", markup=False, soft_wrap=True)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before a change; with *yes* or without a terminal to ask on, go on or refuse.

        Raises:
            click.UsageError: Nobody can be asked and --yes was not given.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Nobody can be asked here: add --yes to agree.")
        if not click.confirm(question, default=True, err=True):
            raise click.Abort


def _words(text: str, begun: float, line: str) -> str:
    detail = f"  [dim]{line[:70].replace('[', '(')}[/dim]" if line else ""
    return f"{text}  {time.monotonic() - begun:.0f} s{detail}"


def _show(status: Status, text: str, begun: float, line: str) -> None:
    status.update(_words(text, begun, line))
