"""What each part of one instance is told: values that travel as JSON files in the state directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from labdock.core.gpus import GpuRules
from labdock.core.login import LoginSettings
from labdock.core.session import Limits, SharedFolder

PACKAGES_PORT = 8082
"""The TCP port of the part `packages`, on the sessions' network."""


@dataclass(frozen=True, slots=True)
class PackageCache:
    """Where sessions find the part `packages`: its fixed address, and what their environment says of it."""

    ip: str
    environment: Mapping[str, str]

    @staticmethod
    def from_data(data: Mapping[str, Any] | None) -> PackageCache | None:
        return None if data is None else PackageCache(**data)


def package_cache(ip: str, pip: Mapping[str, str]) -> PackageCache:
    """The part `packages` at *ip*, beside this machine's settings of *pip*, which images have too."""
    url = f"http://{ip}:{PACKAGES_PORT}/index/"
    environment = {"UV_DEFAULT_INDEX": url}
    if not pip.get("proxy"):
        # pip would ask the proxy for this address too; where there is one, it goes on asking the index.
        trusted = (ip, *(host for host in pip.get("trusted-host", "").split() if host != ip))
        environment |= {"PIP_INDEX_URL": url, "PIP_TRUSTED_HOST": " ".join(trusted)}
    return PackageCache(ip, environment)


@dataclass(frozen=True, slots=True)
class HubSettings:
    """What the hub needs to know; read once when it starts, from ``hub.json``.

    What changes while it runs is in files beside it: the images that are offered in ``images.json``, who may
    in (``core.login.AccessRules``) in ``access.json``.
    ``login`` is how people sign in; with local accounts, ``first_admin`` gets the first link.
    ``homes_root`` and the shared folders are paths on the host, as the engine will mount them.
    ``hub_ip`` is the hub's own address, which no name given out on the network can take from it;
    ``proxy_ip`` is where people's requests come from; what it says of their addresses is believed.
    ``packages`` is None where the part `packages` is not run; a session is told of it while it answers.
    ``isolate_pages`` says that each person's sessions have a host of their own below that of ``public_url``.
    ``jupyterhub`` is the escape hatch: plain JupyterHub configuration, class name to trait to value.
    """

    instance: str
    site_name: str
    contact: str
    public_url: str
    first_admin: str
    login: LoginSettings
    limits: Limits
    shared: tuple[SharedFolder, ...]
    homes_root: str
    names_dir: str
    network: str
    hub_ip: str
    proxy_ip: str
    packages: PackageCache | None = None
    isolate_pages: bool = False
    gpus: GpuRules = field(default_factory=GpuRules)
    jupyterhub: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> HubSettings:
        """The settings in *text*, as ``to_json`` wrote them."""
        data = json.loads(text)
        return HubSettings(
            **{
                **data,
                "login": LoginSettings.from_data(data["login"]),
                "limits": Limits(**data["limits"]),
                "shared": tuple(SharedFolder(**folder) for folder in data["shared"]),
                "packages": PackageCache.from_data(data["packages"]),
                "gpus": GpuRules.from_data(data["gpus"]),
            }
        )


@dataclass(frozen=True, slots=True)
class DriverPlaces:
    """Where the agent finds the driver, as it sees it: the host's files, and its /proc, /sys and /dev.

    *host_files* and *host_dev* are the same places as the engine knows them: what stands before a path
    below *files* ("" for the host's own root), and the folder of the nodes. *state* is the folder from
    which a simulated driver takes what it tells, empty for a real one.
    """

    files: str
    host_files: str
    proc: str
    sys: str
    dev: str
    host_dev: str
    state: str = ""


@dataclass(frozen=True, slots=True)
class CertificateRules:
    """What the agent knows of the site's certificate: where the edge serves it, and to whom.

    *host* is the site's own, *names* are all that the certificate must be for.
    With an administrator's own files, *cert* and *key* are their paths on the host, *files* is the folder
    below which the agent finds them, and *pair* the file that the edge reads; otherwise all four are empty.
    """

    host: str
    names: tuple[str, ...]
    address: str
    port: int
    cert: str = ""
    key: str = ""
    files: str = ""
    pair: str = ""

    @staticmethod
    def from_data(data: Mapping[str, Any] | None) -> CertificateRules | None:
        return None if data is None else CertificateRules(**{**data, "names": tuple(data["names"])})


@dataclass(frozen=True, slots=True)
class AgentRules:
    """What the agent lets through; read once when it starts, from ``agent.json``, which the hub cannot write.

    Which images a session may run changes while it runs: that is in ``images.json`` beside it.
    ``homes_root``, ``names_dir`` and the shared folders are paths on the host.
    ``managed_shared`` are those of them that Labdock makes itself, below its storage.
    ``bridge`` is the name of the sessions' network interface on the host; ``hub_ip`` and ``proxy_ip``
    are the two fixed addresses on it that sessions may be reached from.
    ``service_uid`` is the user the other parts run as: the one that may use the agent's socket.
    ``packages`` is what sessions may reach and be told of beside the hub, None where it is not run.
    ``driver`` is None on a machine without NVIDIA hardware. ``cdi_dir`` is where the engine looks for CDI
    specs, empty when it has no CDI. ``certificate`` is None where the edge speaks plain HTTP.
    """

    instance: str
    limits: Limits
    shared: tuple[SharedFolder, ...]
    managed_shared: tuple[str, ...]
    homes_root: str
    names_dir: str
    network: str
    bridge: str
    hub_ip: str
    proxy_ip: str
    service_uid: int
    packages: PackageCache | None = None
    gpus: GpuRules = field(default_factory=GpuRules)
    driver: DriverPlaces | None = None
    cdi_dir: str = ""
    certificate: CertificateRules | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> AgentRules:
        """The rules in *text*, as ``to_json`` wrote them."""
        data = json.loads(text)
        return AgentRules(
            **{
                **data,
                "limits": Limits(**data["limits"]),
                "shared": tuple(SharedFolder(**folder) for folder in data["shared"]),
                "managed_shared": tuple(data["managed_shared"]),
                "packages": PackageCache.from_data(data["packages"]),
                "gpus": GpuRules.from_data(data["gpus"]),
                "driver": None if data["driver"] is None else DriverPlaces(**data["driver"]),
                "certificate": CertificateRules.from_data(data["certificate"]),
            }
        )
