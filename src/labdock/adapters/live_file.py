"""A file that another program replaces while this one runs: read again when it changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from labdock.core.errors import HostError

Parsed = TypeVar("Parsed")


class LiveFile(Generic[Parsed]):
    """What *parse* makes of the file at *path*, as it is now; a look costs one ``stat`` while it stays."""

    def __init__(self, path: Path, parse: Callable[[str], Parsed]) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, int, int] | None = None
        self._value: Parsed | None = None

    def value(self) -> Parsed:
        """What the file says.

        Raises:
            HostError: It is not there, cannot be read, or cannot be understood.
        """
        try:
            found = self._path.stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._value is None or mark != self._seen:
                self._value, self._seen = self._parse(self._path.read_text("utf-8")), mark
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise HostError(
                f"{self._path} cannot be read ({type(error).__name__}: {error}).",
                fix="Write it anew with: labdock up",
            ) from error
        return self._value

    def problem(self) -> str | None:
        """Why the file cannot be used now; None when it can."""
        try:
            self.value()
        except HostError as error:
            return str(error)
        return None
