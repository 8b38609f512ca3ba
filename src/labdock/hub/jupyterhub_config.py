"""JupyterHub's configuration: wiring only. JupyterHub runs this file with ``c`` in its namespace."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any
from urllib.parse import quote

from aiohttp import ClientTimeout
from jupyterhub.app import JupyterHub
from jupyterhub.httpclient import fetch

from labdock.adapters.agent_api import AgentClient
from labdock.adapters.engine import Engine
from labdock.adapters.live_file import LiveFile
from labdock.adapters.package_cache import PackageCacheLook
from labdock.core.compose import ACCESS, HUB_PORT
from labdock.core.errors import AccountError
from labdock.core.login import LOCAL, AccessRules
from labdock.core.session import SESSION_PORT, ImageChoice
from labdock.core.shelf import choices_from_json
from labdock.core.site import PACKAGES_PORT, HubSettings
from labdock.hub import pages
from labdock.hub.accounts import AccountStore
from labdock.hub.admission import Admission
from labdock.hub.cards import Cards
from labdock.hub.certificate import CertificateNotice
from labdock.hub.ends import follow_ends
from labdock.hub.gate import Gate
from labdock.hub.orphans import keep_removing_orphans
from labdock.hub.provider_base import Wiring
from labdock.hub.providers import authenticator_class
from labdock.hub.rights import keep_rights
from labdock.hub.routes import admit_proxy
from labdock.hub.sign_in import LocalAuthenticator, SignIn
from labdock.hub.spawner import LabdockSpawner, spawner_class
from labdock.hub.web_edge import host_traits
from labdock.parts import (
    AGENT_SOCKET,
    EDGE_SOCKET,
    PROXY_API_SOCKET,
    PROXY_WAITING_SOCKET,
    SECRETS,
    SETTINGS,
    STATE,
)

c: Any = globals()["c"]
settings = HubSettings.from_json((SETTINGS / "hub.json").read_text())
database = settings.jupyterhub.get("JupyterHub", {}).get("db_url", f"sqlite:///{STATE}/hub.sqlite")
agent = AgentClient(AGENT_SOCKET)
engine = Engine(AGENT_SOCKET)
store = AccountStore(database, settings.login.method)
admission = Admission(store, LiveFile(SETTINGS / ACCESS, AccessRules.from_json).value)
sign_in = SignIn(admission, site_name=settings.site_name)
offered = LiveFile(SETTINGS / "images.json", choices_from_json)
cards = Cards(agent, settings.instance, settings.gpus)


def images() -> tuple[ImageChoice, ...]:
    return offered.value()


async def identity_of(name: str) -> str:
    account = await admission.find(name)
    if account is None:
        raise AccountError(f"{name} has no account any more.")
    return account.identity


def secret(name: str) -> str:
    return (SECRETS / name).read_text().strip()


def secret_if_there(name: str) -> str:
    """A secret that an administrator sets; without it the hub starts, and the sign-in says what is wrong."""
    return secret(name) if name and (SECRETS / name).is_file() else ""


# The hub, the proxy that outlives it, and where they meet.
c.JupyterHub.db_url = database
c.JupyterHub.cookie_secret = bytes.fromhex(secret("cookie_secret"))
c.JupyterHub.update(host_traits(settings.public_url, isolate_pages=settings.isolate_pages))
c.JupyterHub.hub_bind_url = f"http://0.0.0.0:{HUB_PORT}"
c.JupyterHub.hub_connect_url = f"http://{settings.hub_ip}:{HUB_PORT}"
c.JupyterHub.proxy_class = "jupyterhub.proxy.ConfigurableHTTPProxy"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http+unix://{quote(str(PROXY_API_SOCKET), safe='')}"
c.ConfigurableHTTPProxy.auth_token = secret("proxy_token")


async def ready_hub() -> Any:
    """The hub once it listens, which it does last; before, nothing in it may be touched."""
    await fetch(f"http://127.0.0.1:{HUB_PORT}/hub/health")
    return JupyterHub.instance()


async def restore_routes() -> None:
    hub = await ready_hub()
    await hub.proxy.check_routes(hub.users, hub._service_map)


def spawners() -> list[LabdockSpawner]:
    """All that the hub knows now; a list, since people come and go while it is read."""
    users = list(JupyterHub.instance().users.values())
    return [spawner for user in users for spawner in list(user.spawners.values())]


async def look_at_ended(containers: frozenset[str]) -> None:
    await ready_hub()
    for spawner in spawners():
        if spawner.ready and spawner.container in containers:
            await spawner.poll_and_notify()


async def until_ready() -> None:
    while True:
        try:
            await ready_hub()
            return
        except OSError:
            await asyncio.sleep(1)


async def judge_everybody() -> None:
    await fetch(
        f"http://127.0.0.1:{HUB_PORT}/hub/api/labdock/sweep",
        method="POST",
        data="{}",
        headers={"Authorization": f"token {secret('api_token')}"},
        timeout=ClientTimeout(300),
    )


async def care_for_rights() -> None:
    await until_ready()
    await keep_rights(admission.state, judge_everybody)


async def care_for_orphans() -> None:
    await until_ready()
    await keep_removing_orphans(
        engine, settings.instance, lambda: {spawner.container for spawner in spawners()}
    )


def stop_on_failure(task: asyncio.Task[None]) -> None:
    """Without one of these the hub is not whole: it ends, Docker starts it again, and sessions go on."""
    if not task.cancelled() and task.exception() is not None:
        logging.getLogger("tornado.application").critical("a task ended", exc_info=task.exception())
        os._exit(1)


certificate_notice = CertificateNotice(agent)

# JupyterHub reads this file inside its event loop; the names keep the tasks from being collected.
tasks = [
    asyncio.get_running_loop().create_task(work)
    for work in (
        admit_proxy(PROXY_WAITING_SOCKET, EDGE_SOCKET, restore_routes),
        follow_ends(agent, look_at_ended),
        care_for_orphans(),
        certificate_notice.follow(),
        care_for_rights(),
    )
]
for task in tasks:
    task.add_done_callback(stop_on_failure)

# A restart of the hub leaves people's sessions alone, also one that is too busy to answer at once.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.shutdown_on_logout = False
c.Spawner.http_timeout = 600

# Sessions.
c.JupyterHub.spawner_class = spawner_class(
    settings,
    images,
    agent,
    engine,
    identity_of,
    # One more than there are processors: while one waits for the engine, another can use its processor.
    Gate((os.cpu_count() or 1) + 1, hold_s=2.0),
    cards,
    PackageCacheLook(settings.packages.ip, PACKAGES_PORT) if settings.packages else None,
)
# The gate lets starts through; whoever comes when many have come waits, and is not sent away.
c.JupyterHub.concurrent_spawn_limit = 0
c.Spawner.ip = "0.0.0.0"  # noqa: S104  inside the session's own network
c.Spawner.port = SESSION_PORT
c.Spawner.start_timeout = 120
c.Spawner.env_keep = []
c.Spawner.default_url = "/lab"
# A start is shown step by step on its own page at once, not after ten silent seconds; what is refused
# right away still is the answer to the request itself.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0.2, "slow_stop_timeout": 2}

# People and pages. The edge alone tells where a request came from, and the proxy hands that on.
c.JupyterHub.trusted_downstream_ips = [settings.proxy_ip]
c.JupyterHub.authenticator_class = (
    LocalAuthenticator
    if settings.login.method == LOCAL
    else authenticator_class(
        Wiring(settings.login, settings.public_url, secret_if_there(settings.login.secret))
    )
)
c.LabdockAuthenticator.admission = admission
c.LocalAuthenticator.sign_in = sign_in
# A change of rights holds within seconds, not minutes.
c.Authenticator.auth_refresh_age = 5
c.Authenticator.refresh_pre_spawn = True
c.JupyterHub.extra_handlers = pages.extra_handlers(settings, images, sign_in, agent, cards)
c.JupyterHub.template_paths = pages.template_paths()
c.JupyterHub.template_vars = {
    **pages.template_vars(settings, images, admission, cards),
    "certificate_notice": certificate_notice.for_person,
}

# The command line on the host.
c.JupyterHub.services = [{"name": "labdock-cli", "api_token": secret("api_token")}]
c.JupyterHub.load_roles = [
    {"name": "labdock-cli", "services": ["labdock-cli"], "scopes": ["admin:users", "admin:servers", "tokens"]}
]

# The escape hatch: plain JupyterHub configuration from labdock.yaml.
for class_name, traits in settings.jupyterhub.items():
    for trait, value in traits.items():
        c[class_name][trait] = value
