"""JupyterHub's program, with cards chosen before anything else is done for a start."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.app import JupyterHub
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.spawner import SpawnException
from tornado import web

from labdock.core.errors import BadRequestError
from labdock.hub.spawner import LabdockSpawner
from labdock.hub.web_edge import BODY_MAX_BYTES, ScriptNonces, cookie_options, guarded


@asynccontextmanager
async def cards_chosen(spawner: LabdockSpawner, options: dict[str, Any] | None) -> AsyncIterator[bool]:
    """The cards for a start with *options*, held until that start is over; false if one has begun already.

    JupyterHub makes tokens, clients and rows in its database before it calls the spawner, and undoes them
    when that fails. When two hundred people ask for four cards, nearly all are refused: that must cost
    little, and the refusal must be the answer to the request itself. No setting of JupyterHub's runs early
    enough, so its two handlers that start sessions are extended, here and nowhere else.

    Raises:
        SpawnException: As :meth:`LabdockSpawner.choose`.
    """
    # Two requests for one session at once (a double click) are one start, and hold its cards once.
    async with spawner.choosing:
        if spawner.active:
            yield False
            return
        await spawner.choose(options)
        try:
            yield True
        finally:
            start = spawner._spawn_future
            if start is None or start.done():
                spawner.let_go()
            else:
                # It goes on behind the answer; whatever becomes of it, its hold ends with it.
                start.add_done_callback(lambda _: spawner.let_go())


class StartPage(SpawnHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/spawn``: the start form, and the same again with the reason when nothing is started."""

    async def _wrap_spawn_single_user(
        self,
        user: Any,
        server_name: str,
        display_name: str,
        spawner: Any,
        pending_url: str,
        options: Any = None,
    ) -> None:
        # Not further inside: JupyterHub waits for that one second, and then shows the page of a start.
        try:
            async with cards_chosen(spawner, options) as first:
                if first:
                    await super()._wrap_spawn_single_user(
                        user, server_name, display_name, spawner, pending_url, options
                    )
                else:
                    self.redirect(pending_url)
        except SpawnException as refused:
            # JupyterHub would log a traceback, and show the fields of the person's other session.
            if refused.status_code != 400:
                spawner.user_options = options or {}
            self.set_status(refused.status_code)
            self.finish(
                await self._render_form(
                    for_user=user,
                    spawner_options_form=await spawner.get_options_form(),
                    message=refused.message,
                    html_message=refused.message_html,
                )
            )


class StartAPI(UserServerAPIHandler):  # type: ignore[misc]  # JupyterHub has no type information
    """``/hub/api/users/<name>/server``: start, look and stop."""

    async def spawn_single_user(
        self, user: Any, server_name: str = "", display_name: str = "", options: Any = None
    ) -> None:
        spawner = user.get_or_create_spawner(server_name, display_name, replace_failed=True)
        try:
            async with cards_chosen(spawner, options) as first:
                if first:
                    await super().spawn_single_user(user, server_name, display_name, options)
        except SpawnException as refused:
            body = {
                "status": refused.status_code,
                "message": refused.message,
                "reason": refused.reason,
            }
            if isinstance(refused.__cause__, BadRequestError):
                body["field"] = refused.__cause__.field
            self.set_status(refused.status_code)
            self.set_header("Content-Type", "application/json")
            raise web.Finish(json.dumps(body)) from refused


ADMIN_SCOPES = frozenset(
    {
        "admin-ui",
        "admin:users",
        "admin:servers",
        "admin:groups",
        "list:services",
        "read:services",
        "access:services",
        "read:hub",
        "read:roles",
        "read:metrics",
        "shutdown",
    }
)
"""What an administrator may, of what JupyterHub gives them.

Not to open other people's sessions, to make tokens or shares in their names, or to lead the proxy elsewhere:
nobody needs it to run a lab, and connections and tokens of that kind would outlive the administrator.
"""


class LabdockHub(JupyterHub):  # type: ignore[misc]  # JupyterHub has no type information
    """JupyterHub with our two handlers in the places of its own, and all of them guarded."""

    name = "jupyterhub"

    handlers: list[tuple[Any, ...]]
    public_url: str
    tornado_settings: dict[str, Any]
    jinja_environment_options: dict[str, Any]
    http_server: Any

    def init_handlers(self) -> None:
        super().init_handlers()
        ours = {SpawnHandler: StartPage, UserServerAPIHandler: StartAPI}
        self.handlers = [
            (path, guarded(ours.get(handler, handler)), *more) for path, handler, *more in self.handlers
        ]

    async def init_role_creation(self) -> None:
        await super().init_role_creation()
        # JupyterHub takes no configuration for this role, and writes it anew at each start.
        admin = orm.Role.find(self.db, "admin")
        admin.scopes = [scope for scope in admin.scopes if scope in ADMIN_SCOPES]
        self.db.commit()

    def init_tornado_settings(self) -> None:
        options = cookie_options(self.public_url)
        self.tornado_settings = {
            "cookie_options": options,
            "xsrf_cookie_kwargs": dict(options),
            **self.tornado_settings,
        }
        given = self.jinja_environment_options
        extensions = [*given.get("extensions", ()), ScriptNonces]
        self.jinja_environment_options = {**given, "extensions": extensions}
        super().init_tornado_settings()
        files = self.tornado_settings["static_handler_class"]
        self.tornado_settings["static_handler_class"] = guarded(files)

    async def start(self) -> None:
        await super().start()
        # JupyterHub makes its server in there, with tornado's limit of 100 MB.
        self.http_server.conn_params.max_body_size = BODY_MAX_BYTES


if __name__ == "__main__":
    LabdockHub.launch_instance()
