"""Rules, people and bodies for the agent's tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from labdock.adapters.engine_body import container_body
from labdock.agent.guard import Images
from labdock.core.people import Person, Registry, register
from labdock.core.session import ImageChoice, Limits, SharedFolder, container_name, session_spec
from labdock.core.site import AgentRules

IMAGES = {"cpu": ("labdock/cpu:1", "labdock/cpu:2"), "torch": ("labdock/torch:7",), "torch@new": ("torch:8",)}
"""What sessions may run here: of one image an earlier release too, of another one that is only tried."""

ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": "s3cret-token",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/ada/",
    "JPY_API_TOKEN": "s3cret-token",
    "LANG": "C.UTF-8",
    "TZ": "Europe/Berlin",
}


def agent_rules(root: Path = Path("/srv/labdock"), **changes: Any) -> AgentRules:
    """Rules with three shared folders and default limits, stored below *root*."""
    rules = AgentRules(
        instance="labdock",
        limits=Limits(),
        shared=(
            SharedFolder("datasets", f"{root}/shared/datasets"),
            SharedFolder("models", f"{root}/shared/models", "admins"),
            SharedFolder("scratch", f"{root}/shared/scratch", "everybody"),
        ),
        managed_shared=("datasets", "scratch"),
        homes_root=f"{root}/homes",
        names_dir=f"{root}/names",
        network="labdock-sessions",
        bridge="ld-0123456789",
        hub_ip="10.213.0.3",
        proxy_ip="10.213.0.2",
        service_uid=0,
    )
    return replace(rules, **changes)


def people(*names: str) -> Registry:
    """Everybody in *names*, with identities such as ``local:ada``."""
    registry = Registry()
    for name in names:
        registry, _ = register(registry, f"local:{name}", name)
    return registry


def good_body(
    rules: AgentRules, person: Person, *, server: str = "", image: str = "cpu", images: Images = IMAGES
) -> dict[str, Any]:
    """What the hub sends for *person*'s session of the newest release of *image*."""
    choice = ImageChoice(image, "An image", images[image][-1])
    return container_body(
        session_spec(
            instance=rules.instance,
            person=person,
            server=server,
            admin=False,
            image=choice,
            environment=ENVIRONMENT,
            homes_root=rules.homes_root,
            names_dir=rules.names_dir,
            shared=rules.shared,
            network=rules.network,
            limits=rules.limits,
        )
    )


def name_query(rules: AgentRules, person: Person, server: str = "") -> dict[str, str]:
    return {"name": container_name(rules.instance, person.name, server)}
