"""What sessions may ask of this part: a project's page, and the files on it. Nothing else, and no change."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import proxpi.server as pages
from proxpi import NotFound
from requests import RequestException
from werkzeug.exceptions import HTTPException

from labdock.packages.index import Index
from labdock.packages.source import Source, SourceSession
from labdock.packages.store import Body, FileGoneError, Store

log = logging.getLogger(__name__)

Start = Callable[..., Any]
Environ = dict[str, Any]

# A project's name as PEP 503 has it, which is how pip and uv ask; and names of files, as wheels have them.
_PAGE = re.compile(r"/index/(?P<project>[a-z0-9]+(?:-[a-z0-9]+)*)/", re.ASCII)
_FILE = re.compile(_PAGE.pattern + r"(?P<file>[A-Za-z0-9][A-Za-z0-9._+!-]*)", re.ASCII)
_LONGEST_PATH = 500

NO_SUCH_THING = "There is no such package or file here.\n"
ONLY_GET = "Only GET is answered here.\n"


def no_answer(error: Exception) -> str:
    return f"The package index of this machine does not answer ({type(error).__name__}).\n"


class Door:
    """The WSGI application, over the pages of *index* and the files of *store*."""

    def __init__(self, index: Index, store: Store) -> None:
        self._index = index
        self._store = store
        # The pages' application is one for the process.
        pages.cache = index

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _say(start, "405 Method Not Allowed", ONLY_GET, ("Allow", "GET, HEAD"))
        path = environ.get("PATH_INFO", "")
        if path == "/health":
            return _say(start, "200 OK", "ok\n")
        if len(path) <= _LONGEST_PATH:
            if _PAGE.fullmatch(path):
                return self._page(environ, start)
            asked = _FILE.fullmatch(path)
            if asked:
                return self._file(asked["project"], asked["file"], environ, start)
        return _say(start, "404 Not Found", NO_SUCH_THING)

    def _page(self, environ: Environ, start: Start) -> Iterable[bytes]:
        # To compress for a way inside one machine would only cost time.
        left_out = {"HTTP_ACCEPT_ENCODING"}
        kept = {key: value for key, value in environ.items() if key not in left_out}
        answer: Iterable[bytes] = pages.app.wsgi_app({**kept, "QUERY_STRING": ""}, start)
        return answer

    def _file(self, project: str, file: str, environ: Environ, start: Start) -> Iterable[bytes]:
        try:
            url, sha256 = self._index.file(project, file)
            if environ["REQUEST_METHOD"] == "HEAD":
                body = Body(self._store.length(url, sha256))
            else:
                body = self._store.open(url, sha256)
        except (NotFound, FileGoneError):
            return _say(start, "404 Not Found", NO_SUCH_THING)
        except OSError as error:  # what the index or the disk do
            log.warning("%s cannot be had: %s", file, error)
            return _say(start, "502 Bad Gateway", no_answer(error))
        size = [("Content-Length", str(body.length))] if body.length is not None else []
        start("200 OK", [("Content-Type", "application/octet-stream"), *size])
        if body.file is None:
            return body.chunks
        chunks: Iterable[bytes] = environ["wsgi.file_wrapper"](body.file)
        return chunks


def _say(start: Start, status: str, words: str, *headers: tuple[str, str]) -> list[bytes]:
    body = words.encode()
    start(
        status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *headers]
    )
    return [body]


def _no_answer_page(error: Exception) -> tuple[str, int, dict[str, str]]:
    log.warning("a page cannot be had: %s", error)
    return no_answer(error), 502, {"Content-Type": "text/plain; charset=utf-8"}


def _plain_page(error: Any) -> tuple[str, int, dict[str, str]]:
    words = NO_SUCH_THING if error.code == 404 else f"{error.name}.\n"
    return words, error.code, {"Content-Type": "text/plain; charset=utf-8"}


pages.app.register_error_handler(RequestException, _no_answer_page)
pages.app.register_error_handler(HTTPException, _plain_page)


def make_door(source: Source, store: Callable[[SourceSession], Store]) -> Door:
    """The application for *source*; *store* makes the files' place over its session."""
    session = SourceSession(source)
    return Door(Index(source, session), store(session))
