"""Tells JupyterLab, whenever it is opened, whether the image of its session is still the current one."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import urlencode

# JupyterLab has loaded both by the time it loads this.
from jupyterlab.handlers.announcements import CheckForUpdateABC  # type: ignore[import-not-found]  # in images
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

PATIENCE_S = 5.0
"""How long a hub that restarts may keep JupyterLab's question waiting."""


class NewerImage(CheckForUpdateABC):  # type: ignore[misc]  # JupyterLab has no type information
    """Asks the hub, as this session; what it says is shown as a notification, once for each newer image."""

    logger: Any

    async def __call__(self) -> tuple[str, tuple[str, str]] | None:
        """The message, and a link's words and target; None when all is well or the hub does not answer."""
        try:
            query = urlencode({"server": os.environ.get("JUPYTERHUB_SERVER_NAME", "")})
            answer = await AsyncHTTPClient().fetch(
                f"{os.environ['JUPYTERHUB_API_URL']}/labdock/newer-image?{query}",
                headers={"Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}"},
                connect_timeout=PATIENCE_S,
                request_timeout=PATIENCE_S,
            )
            told = json.loads(answer.body)
            message, home = told["message"], told["home"]
        except (HTTPClientError, OSError, ValueError, KeyError, TypeError) as error:
            # No session is worse off for not knowing; the hub's home page says the same.
            self.logger.debug("The hub does not say whether there is a newer image: %s", type(error).__name__)
            return None
        return (message, ("Your sessions", home)) if message else None
