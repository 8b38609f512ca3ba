"""Learns at once that a session has ended, and has JupyterHub look."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from labdock.adapters.agent_api import AgentClient
from labdock.core.errors import LabdockError

PAUSE_S = 2.0
"""Before the agent is asked again after it did not answer."""

log = logging.getLogger(__name__)


async def follow_ends(agent: AgentClient, look: Callable[[frozenset[str]], Awaitable[None]]) -> None:
    """Call *look* with the names of containers whenever some have ended; runs until cancelled.

    A session's route must not outlive its container: the address may become another person's.
    Ends that happen while the agent is away are left to JupyterHub's own look every 30 seconds.
    *look* raises OSError while the hub is not ready, and is then called again.
    """
    number = 0
    while True:
        try:
            last, ended = await agent.ends(number)
            if ended:
                await look(frozenset(ended))
            number = last
        except (LabdockError, OSError) as error:
            log.warning("ends of sessions: %s", error)
            await asyncio.sleep(PAUSE_S)
