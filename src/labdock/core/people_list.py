"""A list of people as a file: comma-separated values, for ``labdock users import``."""

from __future__ import annotations

import csv
from dataclasses import dataclass

from labdock.core.errors import AccountError, ConfigError
from labdock.core.login import LOGIN_PATTERN
from labdock.core.people import check_name

COLUMNS = ("name", "admin", "as")
MOST_PEOPLE = 2000
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "": False}


@dataclass(frozen=True, slots=True)
class Entry:
    """One person: what they sign in as, whether as an administrator, what they are called here, the line.

    ``name`` is "" where it follows from *who*.
    """

    who: str
    admin: bool
    name: str
    line: int


def parse_people(text: str, *, file: str, local: bool) -> tuple[Entry, ...]:
    """The people in *text*, the file called *file*; with *local* accounts each name must be one here.

    The first line names the columns: ``name`` and, if wanted, ``admin`` (yes or no) and ``as``.

    Raises:
        ConfigError: With every problem, one a line; nobody is let in by half.
    """
    problems: list[str] = []
    try:
        rows = list(csv.reader(text.removeprefix("\ufeff").splitlines(keepends=True), strict=True))
    except csv.Error as error:
        raise _refusal(file, [f"{file}: it is no comma-separated text ({error})."]) from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if len(head) == 1 and ";" in head[0]:
        problems.append(f"{file}:1: semicolons are between the columns. Save it with commas.")
        raise _refusal(file, problems)
    if "name" not in head:
        problems.append(f"{file}:1: no column is called name. Write a first line such as name,admin")
    problems += [
        f'{file}:1: unknown column "{column[:40]}". Known: {", ".join(COLUMNS)}.'
        for column in head
        if column not in COLUMNS
    ]
    if len(head) != len(set(head)):
        problems.append(f"{file}:1: a column is there twice.")
    if len(rows) > MOST_PEOPLE + 1:
        problems.append(f"{file}: {len(rows) - 1} people are more than {MOST_PEOPLE}. Split the file.")
    if problems:
        raise _refusal(file, problems)
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(head):
            problems.append(f"{file}:{number}: {len(row)} values for {len(head)} columns.")
            continue
        cells = dict(zip(head, (cell.strip() for cell in row), strict=True))
        entry = Entry(
            cells["name"], _YES.get(cells.get("admin", "").lower(), False), cells.get("as", ""), number
        )
        problems += [f"{file}:{number}: {problem}" for problem in _wrong(entry, cells, local=local)]
        first = seen.setdefault(entry.who.lower(), number)
        if first != number:
            problems.append(f"{file}:{number}: {entry.who} is in line {first} too.")
        entries.append(entry)
    if problems:
        raise _refusal(file, problems)
    return tuple(entries)


def _wrong(entry: Entry, cells: dict[str, str], *, local: bool) -> list[str]:
    problems = []
    if cells.get("admin", "").lower() not in _YES:
        problems.append(f'admin is "{cells["admin"][:40]}", not yes or no.')
    if not local and not LOGIN_PATTERN.fullmatch(entry.who):
        problems.append(f'"{entry.who[:60]}" cannot be what somebody signs in as.')
    if local and entry.name not in {"", entry.who}:
        problems.append("A local account has one name: leave the column as empty.")
    names_here = (entry.who,) if local else (entry.name,) if entry.name else ()
    for name in names_here:
        try:
            check_name(name)
        except AccountError as error:
            problems.append(f"{error.message} {error.fix}")
    return problems


def _refusal(file: str, problems: list[str]) -> ConfigError:
    number = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError(f"{file} has {number}.", fix="Nobody was let in.", details=tuple(problems))
