"""Tells administrators on their pages that the site's certificate comes to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from labdock.adapters.agent_api import AgentClient
from labdock.core.certificate import end_notice
from labdock.core.errors import LabdockError

LOOK_EVERY_S = 600.0


class CertificateNotice:
    """Asks *agent* every ten minutes; ``text`` is empty while all is well, or nothing is known."""

    def __init__(self, agent: AgentClient, *, clock: Callable[[], float] = time.time) -> None:
        self._agent = agent
        self._clock = clock
        self.text = ""

    async def follow(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        try:
            self.text = end_notice((await self._agent.certificate()).leaf, self._clock())
        except LabdockError:
            # Without a certificate nobody comes this far; what else is wrong, `labdock status` says.
            self.text = ""

    def for_person(self, user: Any) -> str:
        """What *user* is shown: JupyterHub calls this for each page."""
        return self.text if user is not None and user.admin else ""
