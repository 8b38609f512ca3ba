"""Sees to it that the rules that keep sessions apart are there, and says so when they are not."""

from __future__ import annotations

import asyncio
import logging

from labdock.adapters.firewall import Firewall
from labdock.core.errors import HostError

log = logging.getLogger(__name__)

CHECK_EVERY_S = 60.0


class NetworkKeeper:
    """Holds *firewall* in place; ``problems`` are sentences for the administrator, empty when all is well."""

    def __init__(self, firewall: Firewall) -> None:
        self._firewall = firewall
        self.problems: tuple[str, ...] = ()

    async def check(self) -> None:
        """Make the rules if they are missing or changed, and bring ``problems`` up to date."""
        problems = []
        try:
            if await self._firewall.ensure():
                log.info("network: made the rules that keep sessions apart")
        except HostError as error:
            problems.append(str(error))
            problems.extend(error.details)
        unfiltered = self._firewall.bridge_problem()
        if unfiltered is not None:
            problems.append(unfiltered)
        if tuple(problems) != self.problems:
            for problem in problems:
                log.warning("network: %s", problem)
        self.problems = tuple(problems)

    async def run(self) -> None:
        """Check every 60 s until cancelled: a firewall's reload or Docker's restart may drop rules."""
        while True:
            await self.check()
            await asyncio.sleep(CHECK_EVERY_S)
