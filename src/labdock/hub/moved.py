"""Sessions that were started when the site had another address.

Such a session leads whoever opens it to the address of then, and nothing can tell it otherwise while it runs.
So nobody is led there: Home says what to do.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

AUTHORIZE = "api/oauth2/authorize"
"""Below the hub's own path: where a session sends people to be let in."""


def leads_to_moved(url: str, user: Any, hub_base: str) -> bool:
    """Whether *url* opens a running session of *user* that was started at another address of the site.

    *hub_base* is the hub's own path, such as ``/hub/``.
    """
    asked = urlsplit(url)
    running = [spawner for spawner in user.spawners.values() if spawner.active and spawner.server]
    if asked.path == hub_base + AUTHORIZE:
        client = parse_qs(asked.query).get("client_id", [""])[0]
        return any(spawner.moved for spawner in running if spawner.oauth_client_id == client)
    # A named session lies below the one without a name: the longest path is the one that is meant.
    meant = [spawner for spawner in running if asked.path.startswith(spawner.server.base_url)]
    meant.sort(key=lambda spawner: len(spawner.server.base_url))
    return bool(meant) and bool(meant[-1].moved)
