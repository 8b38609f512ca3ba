"""JupyterHub's program, with cards chosen before anything else is done for a start."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.app import JupyterHub
from jupyterhub.handlers.pages import SpawnHandler

LOOK_EVERY_S = 0.5


class ChoosesFirst:
    """Mixed into JupyterHub's handlers that start sessions.

    JupyterHub makes tokens, clients and rows in its database before it calls the spawner, and undoes them
    when that fails. When two hundred people ask for four cards, nearly all are refused: that must cost
    little, and the refusal must be the answer to the request itself. No setting of JupyterHub's runs early
    enough, so this one method of its handlers is extended.
    """

    async def spawn_single_user(
        self, user: Any, server_name: str = "", display_name: str = "", options: Any = None
    ) -> None:
        spawner = user.get_or_create_spawner(server_name, display_name, replace_failed=True)
        await spawner.choose(options)
        try:
            await super().spawn_single_user(user, server_name, display_name, options)  # type: ignore[misc]  # the mixed-in class has it
        finally:
            if spawner.pending == "spawn":
                self._waits = asyncio.create_task(_let_go_when_over(spawner))
            else:
                spawner.let_go()


async def _let_go_when_over(spawner: Any) -> None:
    """The start goes on behind the answer; whatever becomes of it, its hold ends with it."""
    while spawner.pending == "spawn":  # noqa: ASYNC110  JupyterHub tells no event
        await asyncio.sleep(LOOK_EVERY_S)
    spawner.let_go()


class StartPage(ChoosesFirst, SpawnHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/spawn``: the start form."""


class StartAPI(ChoosesFirst, UserServerAPIHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/api/users/<name>/server``: start, look and stop."""


class LabdockHub(JupyterHub):  # type: ignore[misc]  # JupyterHub has no type information
    """JupyterHub with our two handlers in the places of its own."""

    name = "jupyterhub"

    handlers: list[tuple[Any, ...]]

    def init_handlers(self) -> None:
        super().init_handlers()
        ours = {SpawnHandler: StartPage, UserServerAPIHandler: StartAPI}
        self.handlers = [(path, ours.get(handler, handler), *more) for path, handler, *more in self.handlers]


if __name__ == "__main__":
    LabdockHub.launch_instance()
