"""The pages of the index, by proxpi, which reads both kinds (HTML and JSON) and writes both."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from proxpi import NotFound
from proxpi._cache import _IndexCache, _now
from requests import RequestException

from labdock.packages.source import Source, SourceSession

log = logging.getLogger(__name__)

FRESH_S = 600
"""How long a page is taken for current; a release is seen by everybody after this, at the latest."""

STALE_S = 60
"""How long an older page serves while the index does not answer, before it is asked again."""

MOST_FILES = 12_000
"""How many files the remembered pages may list together: about 15 MB. The largest projects list 5,000."""


class Index(_IndexCache):  # type: ignore[misc]  # proxpi has no type information
    """The pages of one index, the newest in memory; what proxpi's own does too much is left out."""

    def __init__(self, source: Source, session: SourceSession) -> None:
        super().__init__(source.index_url, FRESH_S, session)

    def list_projects(self) -> Any:
        """No project. proxpi asks for all of them when one is misspelt: 800 MB of memory for PyPI."""
        return {}.keys()

    def list_files(self, package_name: str) -> Any:
        """The files of the project *package_name*.

        Raises:
            NotFound: The index has no such project.
            RequestException: It does not answer, and never did for this project.
        """
        return self._page(package_name).values()

    def file(self, package_name: str, file_name: str) -> tuple[str, str]:
        """The address of a file that *package_name*'s page lists, and its SHA-256 ("" when not given).

        A name that ends in ``.metadata`` is what a wheel says of itself, beside that wheel.

        Raises:
            NotFound, RequestException: As ``list_files``; also for a file that is not listed.
        """
        wheel = file_name.removesuffix(".metadata")
        found = self._page(package_name).get(wheel)
        if found is None:
            raise NotFound(file_name)
        url = str(found.url).partition("#")[0]
        hashes = found.hashes
        if wheel != file_name:
            path, mark, query = url.partition("?")
            url, hashes = f"{path}.metadata{mark}{query}", found.dist_info_metadata
        return url, hashes.get("sha256", "") if isinstance(hashes, dict) else ""

    def _page(self, package_name: str) -> dict[str, Any]:
        # proxpi joins this to the index's address; without the slash each page costs a redirect.
        name = f"{package_name}/"
        with self._package_locks[name]:
            known = self._packages.get(name)
            try:
                self._list_files(name)
            except RequestException as error:
                if known is None:
                    raise
                log.warning("the index does not answer (%s): an older page serves", error)
                known.refreshed = _now() - self.ttl + STALE_S
                self._packages[name] = known
            # Out and in again: what was asked for last comes last.
            page = self._packages.pop(name)
            self._packages[name] = page
        self._forget()
        files: dict[str, Any] = page.files
        return files

    def _forget(self) -> None:
        """Let go of the pages that were asked for longest ago, the last one never."""
        listed = _count(list(self._packages.values()))
        for name in list(self._packages)[:-1]:
            if listed <= MOST_FILES:
                return
            gone = self._packages.pop(name, None)
            listed -= len(gone.files) if gone else 0


def _count(pages: Iterable[Any]) -> int:
    return sum(len(page.files) for page in pages)
