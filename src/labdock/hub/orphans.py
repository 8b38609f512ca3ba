"""Removes containers of sessions that the hub knows nothing of: left by a start it did not live to finish."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from labdock.adapters.engine import Engine
from labdock.core.errors import LabdockError
from labdock.core.session import LABEL_INSTANCE, LABEL_PERSON, LABEL_ROLE, ROLE_SESSION

LOOK_EVERY_S = 60.0

log = logging.getLogger(__name__)


async def remove_orphans(engine: Engine, instance: str, claimed: Callable[[], Collection[str]]) -> None:
    """Remove the sessions of *instance* whose containers nobody has *claimed*, once.

    A start claims its container's name before the container is made. *claimed* is asked after the
    list was read: whatever is on the list and has an owner is claimed by then.
    """
    listed = await engine.containers({LABEL_INSTANCE: instance, LABEL_ROLE: ROLE_SESSION})
    owned = claimed()
    for container in listed:
        if container.name not in owned:
            log.warning(
                "%s of %s belongs to no session that the hub knows: removed",
                container.name,
                container.labels.get(LABEL_PERSON, "somebody"),
            )
            await engine.remove(container.name)


async def keep_removing_orphans(
    engine: Engine, instance: str, claimed: Callable[[], Collection[str]]
) -> None:
    """The same every minute, until cancelled; an engine that does not answer is asked again."""
    while True:
        try:
            await remove_orphans(engine, instance, claimed)
        except LabdockError as error:
            log.warning("orphans: %s", error)
        await asyncio.sleep(LOOK_EVERY_S)
