"""Hands an administrator's certificate to the edge whenever it changes, and knows what the edge serves."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.certificates import Pair, read_pair, read_served
from labdock.adapters.edge_admin import EdgeAdmin
from labdock.core.certificate import Served, name_faults, time_faults
from labdock.core.errors import HostError
from labdock.core.site import CertificateRules

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
_SERVED_COUNTS_S = 30.0
_MOST_LINKS = 40

Signature = tuple[int, int, int]


class CertificateKeeper:
    """Keeps what the edge serves equal to the two files of *rules*, if there are any.

    *rules* is None where the edge speaks plain HTTP.

    ``problem`` is a sentence while a new certificate cannot be used; the edge then serves the one before.
    """

    def __init__(
        self,
        rules: CertificateRules | None,
        edge: EdgeAdmin,
        service_uid: int,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules or CertificateRules("", (), "", 0)
        self._edge = edge
        self._service_uid = service_uid
        self._clock = clock
        self._seen: tuple[Signature, Signature] | None = None
        self._looked_at = float("-inf")
        self._served: Served | None = None
        self.problem: str | None = None

    async def run(self) -> None:
        """Look every three seconds, until cancelled."""
        while self._rules.pair:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Bring the edge up to date if a file has changed, and ``problem`` too."""
        try:
            files = (self._inside(self._rules.cert), self._inside(self._rules.key))
            signatures = (_signature(files[0]), _signature(files[1]))
            if signatures == self._seen:
                return
            pair = await asyncio.to_thread(self._checked, *files)
            await asyncio.to_thread(self._copy, pair)
            await self._edge.reload()
        except HostError as error:
            # Looked at again next time: files are written one after the other, and the edge may be starting.
            if self.problem != str(error):
                log.warning("certificate: %s The one before stays.", error)
            self.problem = str(error)
            return
        leaf = pair.chain[0]
        log.info("certificate: the edge has %s of %s", leaf.fingerprint[:23], self._rules.cert)
        self._seen, self._served, self.problem = signatures, None, None

    def _checked(self, cert: Path, key: Path) -> Pair:
        try:
            pair = read_pair(cert, key)
        except HostError as error:
            prefix = self._rules.files
            raise HostError(error.message.replace(prefix, ""), fix=error.fix.replace(prefix, "")) from error
        leaf = pair.chain[0]
        faults = (*time_faults(leaf, self._clock()), *name_faults(leaf, *self._rules.names))
        if faults:
            raise HostError(f"{self._rules.cert} cannot be used. {faults[0]}", fix="Put a good one there.")
        return pair

    def _copy(self, pair: Pair) -> None:
        target = Path(self._rules.pair)
        if host.read_text(target) != pair.text:
            host.write_file(target, pair.text, mode=0o600, uid=self._service_uid)

    def _inside(self, path: str) -> Path:
        """Where the host's file *path* is for this process, links followed as the host would.

        Raises:
            HostError: It is not there.
        """
        found = Path(self._rules.files + path)
        for _ in range(_MOST_LINKS):
            if not found.is_symlink():
                return found
            link = found.readlink()
            found = Path(f"{self._rules.files}{link}") if link.is_absolute() else found.parent / link
            found = Path(os.path.normpath(found))
        raise HostError(
            f"{path} is a link that leads in a circle.", fix="Name the file itself in site.https."
        )

    async def served(self) -> Served:
        """What the edge shows now, or did within the last half minute.

        Raises:
            HostError: It does not answer, or has no certificate yet.
        """
        if not self._rules.port:
            raise HostError("This site has no certificate of its own.", fix="A proxy in front may have one.")
        if self._served is None or self._clock() - self._looked_at >= _SERVED_COUNTS_S:
            address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._rules.address, self._rules.address)  # noqa: S104  compared, not listened on
            self._served = await asyncio.to_thread(read_served, address, self._rules.port, self._rules.host)
            self._looked_at = self._clock()
        return self._served


def _signature(path: Path) -> Signature:
    try:
        found = path.stat()
    except OSError as error:
        raise HostError(f"{path.name} is not there: {error.strerror}.", fix="Bring it back.") from error
    return found.st_ino, found.st_mtime_ns, found.st_size
