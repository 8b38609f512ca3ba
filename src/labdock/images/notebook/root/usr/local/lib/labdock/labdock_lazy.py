"""Loads parts of the notebook server when a page first asks for them, and not at every start.

Somebody waits for each start, and these parts take a third of it; a page asks for them a moment later, or
never. An extension named here is switched off in ``jupyter_server_config.py`` and this one on, which keeps
its addresses for it. A request to one of them loads the extension as the server itself would have done, and
is then answered by it.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from typing import Any

from jupyter_server.utils import url_path_join  # type: ignore[import-not-found]  # in images
from tornado.routing import Matcher, Router, Rule

# Each group is loaded together and in this order.
GROUPS = (
    (("jupyter_lsp",), ("lsp",)),
    # nbmodel runs cells on the server and writes their output into the shared document, which is ydoc's.
    (
        ("jupyter_server_fileid", "jupyter_server_ydoc", "jupyter_server_nbmodel"),
        ("api/collaboration", "api/fileid", "api/nbmodel", "api/kernels/*/execute", "api/kernels/*/input"),
    ),
    (("jupyter_resource_usage",), ("api/metrics",)),
    (("jupyter_server_proxy",), ("proxy", "server-proxy")),
)
OFF = {name: False for names, _ in GROUPS for name in names}
TAKEN = {"api", "lab", "static", "hub", "files", "view", "tree", "doc", "terminals", "kernelspecs", "metrics"}


class Below(Matcher):
    """Requests to *places* below *base*, or to what lies in them; "*" is any one part of an address."""

    def __init__(self, base: str, places: tuple[str, ...]) -> None:
        self._base = base
        self._places = [place.split("/") for place in places]

    def match(self, request: Any) -> dict[str, Any] | None:
        if not request.path.startswith(self._base):
            return None
        parts = request.path[len(self._base) :].split("/")
        for place in self._places:
            if len(parts) >= len(place) and all(a in ("*", b) for a, b in zip(place, parts, strict=False)):
                return {}
        return {} if self.named(parts[0]) else None

    def named(self, first: str) -> bool:
        return False


class BelowProxied(Below):
    """The places of jupyter-server-proxy: its own, and one for each program it was told of."""

    def __init__(self, base: str, places: tuple[str, ...], told: set[str]) -> None:
        super().__init__(base, places)
        self._told = told
        self._found: set[str] | None = None

    def named(self, first: str) -> bool:
        if not first or first in TAKEN:
            return False
        if first in self._told:
            return True
        if self._found is None:
            # Packages announce programs too; looking through all of them takes a while, so not at the start.
            self._found = {entry.name for entry in entry_points(group="jupyter_serverproxy_servers")}
        return first in self._found


class Lazy(Router):
    """Loads the extensions *names* at the first request, and hands that one to the server again."""

    def __init__(self, server: Any, names: tuple[str, ...]) -> None:
        self._server = server
        self._names = names
        self.rule: Rule | None = None

    def find_handler(self, request: Any, **kwargs: Any) -> Any:
        rules = self._server.web_app.default_router.rules
        if self.rule in rules:
            rules.remove(self.rule)
            for name in self._names:
                load(self._server, name)
        return self._server.web_app.find_handler(request, **kwargs)


def load(server: Any, name: str) -> None:
    """Load the extension *name*, as the server does with all at its start."""
    manager = server.extension_manager
    if name in manager.linked_extensions:
        return  # a person's own settings had it loaded at the start
    if manager.add_extension(name, enabled=True):
        manager.link_extension(name)
        manager.load_extension(name)
        if hasattr(manager, "start_extension"):
            task = asyncio.ensure_future(manager.start_extension(name))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Future[Any]] = set()


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "labdock_lazy"}]


def _load_jupyter_server_extension(server: Any) -> None:
    base = url_path_join(server.base_url, "/")
    told = set(server.config.ServerProxy.get("servers", {}))
    for names, places in GROUPS:
        router = Lazy(server, names)
        proxied = "jupyter_server_proxy" in names
        matcher = BelowProxied(base, places, told) if proxied else Below(base, places)
        router.rule = Rule(matcher, router)
        server.web_app.default_router.rules.insert(0, router.rule)
    # What JupyterLab's page must know before anything is loaded.
    page = server.web_app.settings.setdefault("page_config_data", {})
    page.setdefault("disableRTC", False)
    page.setdefault("serverSideExecution", False)
