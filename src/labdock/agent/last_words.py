"""What sessions said last: a file for each container that ended, the newest 200 kept."""

from __future__ import annotations

import logging
from pathlib import Path

from labdock.adapters.agent_api import Ended
from labdock.core.errors import HostError

log = logging.getLogger(__name__)

KEPT = 200


class LastWords:
    """The last words of ended sessions, in files below *folder*; one for each container's name.

    Names come checked: they are containers' names, without a slash and not beginning with a dot.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, ended: Ended) -> None:
        """Keep *ended* in place of what was kept for the same name, and forget the oldest beyond 200.

        Raises:
            HostError: The disk is full, or the folder cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            new = self._folder / f".{ended.name}.new"
            new.write_text(ended.to_json(), "utf-8")
            new.replace(self._file(ended.name))
            newest_first = sorted(self._folder.glob("[!.]*.json"), key=lambda file: -file.stat().st_mtime_ns)
            for file in newest_first[KEPT:]:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"The last words of {ended.name} cannot be kept: {error}.") from error

    def read(self, name: str) -> Ended | None:
        """What is kept for the container *name*; None if nothing is."""
        try:
            return Ended.from_json(self._file(name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            # Half-written when the machine lost power.
            log.warning("the last words of %s are damaged: %s", name, error)
            return None

    def drop(self, name: str) -> None:
        """Forget what is kept for *name*: a container of that name begins anew."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"
