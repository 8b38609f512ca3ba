"""Ends the connections of people who may not be in this session any more.

The hub is asked about each request, and about a WebSocket when it is opened, which then stays for days: an
administrator who had looked into somebody's session would keep its terminal. So the hub is asked again with
every ping, twice a minute; a hub that does not answer ends nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.base.websocket import WebSocketMixin  # type: ignore[import-not-found]  # in images
from tornado.web import HTTPError

NOT_ALLOWED = 1008
"""The code of RFC 6455 for a connection that is closed because a rule says so."""

_tasks: set[asyncio.Future[None]] = set()


async def close_if_out(handler: Any, hub_auth: Any) -> None:
    """Close the WebSocket of *handler* if the hub says that its person may not be here."""
    token = hub_auth.get_token(handler)
    if not token:
        return  # what let it in is not the hub's to take back
    try:
        person = await hub_auth.user_for_token(token, session_id=hub_auth.get_session_id(handler), sync=False)
    except HTTPError:
        return
    if person is None or not hub_auth.check_scopes(hub_auth.access_scopes, person):
        handler.close(NOT_ALLOWED, "You may not be here any more.")


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "labdock_rights"}]


def _load_jupyter_server_extension(server: Any) -> None:
    hub_auth = getattr(server.identity_provider, "hub_auth", None)
    if hub_auth is None:
        return
    ping = WebSocketMixin.send_ping

    def ping_and_ask(handler: Any) -> None:
        ping(handler)
        task = asyncio.ensure_future(close_if_out(handler, hub_auth))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    WebSocketMixin.send_ping = ping_and_ask
