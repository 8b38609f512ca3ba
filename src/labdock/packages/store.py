"""Files of packages on the disk: fetched once for everybody, and kept by the digest of what is in them.

The index says the SHA-256 of a file; under that name it is kept, once its content has it, and not before.
So no file can take another's place, whoever asked for it first, and one that has changed on the disk since
is thrown away. A file that the index gives no SHA-256 for is passed on and not kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from requests import RequestException

from labdock.packages.source import NOT_THERE, SourceSession

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
PART_OF_DISK = 10
"""Kept files take a tenth of what would be free without them, at most."""

SHA256 = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = ".part"


class FileGoneError(Exception):
    """The index names a file that it does not have."""


@dataclass(slots=True)
class Body:
    """A file on its way: a *file* that is kept, or else the *chunks* of one that arrives.

    *length* is in bytes, None when nobody knows it yet.
    """

    length: int | None
    file: BinaryIO | None = None
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))


class Store:
    """The files in *folder*, at most *most_bytes* of them; *session* fetches what is not there."""

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        session: SourceSession,
        *,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._session = session
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._arriving: dict[str, Arrival] = {}
        self._sound: dict[str, tuple[int, int, int]] = {}
        for left in folder.glob(f"*{_UNFINISHED}"):
            left.unlink()

    def open(self, url: str, sha256: str) -> Body:
        """The file at *url*, whose content has the digest *sha256* ("" when the index says none).

        Raises:
            FileGoneError: The index does not have it.
            RequestException: The index does not answer.
        """
        if not SHA256.fullmatch(sha256):
            return self._passed_on(url)
        kept = self._kept(sha256)
        if kept is not None:
            return Body(os.fstat(kept.fileno()).st_size, file=kept)
        arrival = self._arrival(url, sha256)
        try:
            length = arrival.wait_until_begun()
        except _TooLargeError:
            arrival.leave()
            return self._passed_on(url)
        except BaseException:
            arrival.leave()
            raise
        return Body(length, chunks=_Reader(arrival))

    def length(self, url: str, sha256: str) -> int | None:
        """How long the file is that ``open`` would give, without fetching it.

        Raises:
            FileGoneError, RequestException: As ``open`` does.
        """
        kept = self._kept(sha256) if SHA256.fullmatch(sha256) else None
        if kept is not None:
            with kept:
                return os.fstat(kept.fileno()).st_size
        with self._session.head(url, headers=_AS_IT_IS, allow_redirects=True) as response:
            return _length(response, url)

    def _arrival(self, url: str, sha256: str) -> Arrival:
        """The one fetch of this file that is under way, begun if there is none; it is joined."""
        while True:
            with self._lock:
                arrival = self._arriving.get(sha256)
                if arrival is None:
                    arrival = self._arriving[sha256] = Arrival(self._folder / f"{sha256}{_UNFINISHED}")
                    arrival.join()
                    work = threading.Thread(target=self._fetch, args=(arrival, url, sha256), daemon=True)
                    work.start()
                    return arrival
                if arrival.join():
                    return arrival
            # Just given up, since everybody had left; its thread is about to clear it away.
            time.sleep(0.01)

    def _kept(self, sha256: str) -> BinaryIO | None:
        """The kept file, open; None when there is none, or it is not what it was when it was kept."""
        path = self._folder / sha256
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        facts = os.fstat(file.fileno())
        mark = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if self._sound.get(sha256) != mark:
            # Not looked at since this part started, or touched since: a power cut leaves broken files.
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                log.warning("a kept file has changed on the disk, and is fetched anew: %s", sha256)
                file.close()
                path.unlink(missing_ok=True)
                return None
            file.seek(0)
            self._sound[sha256] = mark
        with suppress(FileNotFoundError):
            # When it was last of use; the disk itself may not write that down.
            os.utime(path, ns=(time.time_ns(), facts.st_mtime_ns))
        return file

    def _fetch(self, arrival: Arrival, url: str, sha256: str) -> None:
        """Fetch *url* into *arrival*, and keep it if its digest is *sha256*."""
        try:
            with self._session.get(url, stream=True, headers=_AS_IT_IS) as response:
                length = _length(response, url)
                self._make_room(length or 0)
                arrival.begin(length)
                digest = hashlib.sha256()
                for chunk in response.iter_content(CHUNK_BYTES):
                    digest.update(chunk)
                    arrival.add(chunk)
                    if length is None and arrival.written > self._limit():
                        raise _TooLargeError
            if digest.hexdigest() != sha256:
                raise RequestException(f"{_name(url)} is not what the index says it is.")
            if length is None:
                self._make_room(arrival.written)
            path = self._folder / sha256
            facts = arrival.keep(path)
            self._sound[sha256] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            log.info("fetched %s, %d bytes", _name(url), arrival.written)
            arrival.end()
        except Exception as error:  # noqa: BLE001  in a thread of its own: whoever reads is told
            if not isinstance(error, _AbandonedError | _TooLargeError):
                log.warning("%s did not arrive: %s", _name(url), error)
            arrival.end(error)
        finally:
            with self._lock:
                del self._arriving[sha256]

    def _passed_on(self, url: str) -> Body:
        """The file at *url* as it comes, not kept."""
        response = self._session.get(url, stream=True, headers=_AS_IT_IS)
        try:
            length = _length(response, url)
        except FileGoneError:
            response.close()
            raise
        log.info("fetched %s, not to be kept", _name(url))
        return Body(length, chunks=_Passing(response))

    def _limit(self, kept_bytes: int | None = None) -> int:
        """The most that kept files may take now, in bytes."""
        if kept_bytes is None:
            kept_bytes = sum(size for _, size, _ in self._all_kept())
        return min(self._most_bytes, (self._free_bytes(self._folder) + kept_bytes) // PART_OF_DISK)

    def _make_room(self, size_bytes: int) -> None:
        """Remove what was of use longest ago, until *size_bytes* more may be kept.

        Raises:
            _TooLargeError: They are more than all that may be kept.
        """
        with self._lock:
            kept = sorted(self._all_kept())
            kept_bytes = sum(size for _, size, _ in kept)
            limit = self._limit(kept_bytes)
            coming = size_bytes + sum(one.length or 0 for one in self._arriving.values() if one.begun)
            if coming > limit:
                raise _TooLargeError
            for _, size, path in kept:
                if kept_bytes + coming <= limit:
                    break
                path.unlink(missing_ok=True)
                self._sound.pop(path.name, None)
                kept_bytes -= size

    def _all_kept(self) -> list[tuple[int, int, Path]]:
        """When each kept file was last of use, its size, and where it is."""
        found = []
        for entry in os.scandir(self._folder):
            if SHA256.fullmatch(entry.name):
                with suppress(FileNotFoundError):
                    facts = entry.stat()
                    found.append((facts.st_atime_ns, facts.st_size, Path(entry.path)))
        return found


class Arrival:
    """A file that is being fetched into *path* by one thread, and read by any number meanwhile.

    The last bytes are shown only when all have turned out right, so nobody takes a wrong file for whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b", buffering=0)
        self._changed = threading.Condition()
        self._readers = 0
        self._shown = 0
        self._over = False
        self._error: Exception | None = None
        self._abandoned = False
        self.begun = False
        self.length: int | None = None
        self.written = 0

    # Whoever fetches.

    def begin(self, length: int | None) -> None:
        with self._changed:
            self.begun, self.length = True, length
            self._changed.notify_all()

    def add(self, chunk: bytes) -> None:
        """Write *chunk*, and show what was written before it.

        Raises:
            _AbandonedError: Nobody waits for the file any more.
        """
        self._file.write(chunk)
        with self._changed:
            if not self._readers:
                self._abandoned = True
                raise _AbandonedError
            self._shown = self.written
            self.written += len(chunk)
            self._changed.notify_all()

    def keep(self, path: Path) -> os.stat_result:
        """Give the file its final place; it may be read there and here."""
        self._path.replace(path)
        return os.fstat(self._file.fileno())

    def end(self, error: Exception | None = None) -> None:
        """All has come, or *error* happened."""
        with self._changed:
            self._over, self._error = True, error
            if error is None:
                self._shown = self.written
            else:
                self._path.unlink(missing_ok=True)
            self._changed.notify_all()
            self._close_if_done()

    # Whoever reads.

    def join(self) -> bool:
        """Be one more who reads; False when the file was given up."""
        with self._changed:
            if self._abandoned or (self._over and not self._readers):
                return False
            self._readers += 1
            return True

    def leave(self) -> None:
        with self._changed:
            self._readers -= 1
            self._close_if_done()

    def wait_until_begun(self) -> int | None:
        """The length once it is known that there is such a file; raises what happened instead."""
        with self._changed:
            self._changed.wait_for(lambda: self.begun or self._over)
            if not self.begun and self._error is not None:
                raise self._error
            return self.length

    def read(self, offset: int) -> bytes:
        """The next bytes from *offset* on, b"" at the end; raises what happened instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._shown > offset or self._over)
            shown, error = self._shown, self._error
        if shown > offset:
            return os.pread(self._file.fileno(), min(CHUNK_BYTES, shown - offset), offset)
        if error is not None:
            raise CutOffError(str(error)) from error
        return b""

    def _close_if_done(self) -> None:
        if self._over and not self._readers:
            self._file.close()


class CutOffError(Exception):
    """The rest of a file that has been sent in part will not come."""


class _AbandonedError(Exception):
    pass


class _TooLargeError(Exception):
    pass


class _Reader:
    """The chunks of an arrival for one of its readers; ``close`` must be called."""

    def __init__(self, arrival: Arrival) -> None:
        self._arrival = arrival
        self._offset = 0
        self._open = True

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> bytes:
        chunk = self._arrival.read(self._offset)
        self._offset += len(chunk)
        if not chunk:
            raise StopIteration
        return chunk

    def close(self) -> None:
        if self._open:
            self._open = False
            self._arrival.leave()


class _Passing:
    """The chunks of an answer, which ``close`` lets go."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = response.iter_content(CHUNK_BYTES)

    def __iter__(self) -> _Passing:
        return self

    def __next__(self) -> bytes:
        return bytes(next(self._chunks))

    def close(self) -> None:
        self._response.close()


_AS_IT_IS = {"Accept-Encoding": "identity"}


def _length(response: Any, url: str) -> int | None:
    if response.status_code in NOT_THERE:
        raise FileGoneError(_name(url))
    given = response.headers.get("Content-Length", "")
    return int(given) if given.isdigit() and "Content-Encoding" not in response.headers else None


def _name(url: str) -> str:
    """The file's name in *url*, without what may be a secret."""
    return url.partition("?")[0].partition("#")[0].rpartition("/")[2]
