"""Config and host facts → the files of one instance: compose.yaml, Caddyfile, the parts' settings."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from labdock.core.config import Config
from labdock.core.edge import (
    ACME_AUTHORITY,
    ADMIN_SOCKET,
    CERTIFICATES,
    EAB_SECRET,
    EDGE_HTTP_PORT,
    EDGE_HTTPS_PORT,
    OWN_PAIR,
    caddyfile,
)
from labdock.core.errors import HostError
from labdock.core.login import LoginSettings, access_rules, login_settings
from labdock.core.session import (
    LABEL_INSTANCE,
    LABEL_ROLE,
    ROLE_PART,
    Limits,
    SharedFolder,
)
from labdock.core.site import (
    PACKAGES_PORT,
    AgentRules,
    CertificateRules,
    DriverPlaces,
    HubSettings,
    PackageCache,
    package_cache,
)
from labdock.core.site_settings import CertificateFiles

PACKAGES = "packages"
"""The part that fetches Python packages for sessions; not there when the configuration says so."""

PARTS = ("agent", "proxy", PACKAGES, "hub", "edge")
"""In the order in which they can do without the next."""

SIMULATION = "simulation"
"""A further part, there only when simulated GPUs were asked for: it makes them and keeps them lively."""

LABEL_PART = "org.labdock.part"
LABEL_SETTINGS = "org.labdock.settings"

HUB_PORT = 8081
SERVICE_UID = 60_100
"""Who the hub, proxy and edge run as when Labdock was set up by root; above Debian's ordinary users."""

SECRETS = ("proxy_token", "cookie_secret", "crypt_key", "api_token")

_SUBNETS = tuple(f"10.{second}.{third}.0/20" for second in range(213, 224) for third in range(0, 256, 16))
"""Where a sessions' network may lie: 4094 addresses each, in a corner that few sites use."""

ACCESS = "access.json"
"""The hub's file of who may come in, beside its settings."""

HOST_FILES = "/host"
"""Below this folder the agent finds those of the host that a driver's files lie in, and its devices."""

PAIR_FILES = "/host-certificate"
"""Below this folder the agent finds those of the host that lead to the administrator's own certificate."""

AGENT_CERTIFICATES = "/run/labdock/certificate"
"""Where the agent puts what the edge serves of them."""

CDI_FOLDER = "/etc/cdi"


@dataclass(frozen=True, slots=True)
class Network:
    """The sessions' own network: three fixed addresses, and a range sessions get theirs from."""

    name: str
    bridge: str
    subnet: str

    @property
    def _addresses(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.subnet)

    @property
    def gateway(self) -> str:
        return str(self._addresses[1])

    @property
    def proxy_ip(self) -> str:
        return str(self._addresses[2])

    @property
    def hub_ip(self) -> str:
        return str(self._addresses[3])

    @property
    def packages_ip(self) -> str:
        return str(self._addresses[4])

    @property
    def session_range(self) -> str:
        # The upper half: no session is ever given the address of a hub that is down.
        return str(list(self._addresses.subnets(prefixlen_diff=1))[1])


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie on the host, as absolute paths without a closing slash."""

    state: str
    storage: str
    engine_socket: str

    @property
    def homes(self) -> str:
        return f"{self.storage}/homes"

    @property
    def names(self) -> str:
        return f"{self.state}/names"

    @property
    def simulation(self) -> str:
        """The root of the simulated driver: its libraries, devices and state."""
        return f"{self.state}/simulation"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One instance, decided: what :func:`compose` and :func:`part_files` are made from.

    *owner_uid* is who runs ``labdock``.
    *driver_folders* are the host's folders that a driver's files lie in, empty on a machine without NVIDIA
    hardware; *simulated_gpus* is how many cards are simulated instead. *cdi* says that the engine reads
    CDI specs. *pip* is what this machine's pip is told, as far as it holds inside images too.
    *login_authority* is the text of the file that ``login.authority`` names; *secrets* tells of each secret
    that somebody set when that was, so that a part which reads it begins anew with a new one.
    *acme_authority* is the text of the file that ``site.acme.authority`` names. *own_pair* is the text of the
    certificate and key that ``site.https`` names; *pair_folders* are the folders that lead to the two files.
    """

    instance: str
    config: Config
    places: Places
    network: Network
    server_image: str
    engine_api: tuple[int, int]
    engine_cpus: int
    owner_uid: int
    driver_folders: tuple[str, ...] = ()
    simulated_gpus: int = 0
    simulation_image: str = ""
    cdi: bool = False
    pip: Mapping[str, str] = field(default_factory=dict)
    login_authority: str = ""
    secrets: Mapping[str, int] = field(default_factory=dict)
    acme_authority: str = ""
    own_pair: str = ""
    pair_folders: tuple[str, ...] = ()

    @property
    def service_uid(self) -> int:
        return self.owner_uid or SERVICE_UID

    @property
    def login(self) -> LoginSettings:
        """How people sign in, as the hub is told."""
        return login_settings(self.config.login, authority=self.login_authority)


def bridge_name(instance: str) -> str:
    """The name of *instance*'s bridge on the host: at most 15 characters, as the kernel wants."""
    return "ld-" + hashlib.sha256(instance.encode()).hexdigest()[:10]


def choose_network(instance: str, taken: Iterable[str]) -> Network:
    """A network for *instance* that overlaps none of the subnets *taken*.

    Raises:
        HostError: Every candidate overlaps.
    """
    used = [ipaddress.ip_network(subnet, strict=False) for subnet in taken]
    for candidate in _SUBNETS:
        subnet = ipaddress.ip_network(candidate)
        if not any(subnet.overlaps(other) for other in used if other.version == 4):
            return Network(f"{instance}-sessions", bridge_name(instance), candidate)
    raise HostError(
        f"All {len(_SUBNETS)} subnets that Labdock may use (10.213.0.0 to 10.223.255.255) are taken.",
        fix="Remove networks that nobody needs: docker network prune",
    )


def shared_folders(site: Deployment) -> tuple[tuple[SharedFolder, ...], tuple[str, ...]]:
    """The shared folders with their paths on the host, and the names of those that Labdock makes itself."""
    managed = tuple(folder.name for folder in site.config.storage.shared if folder.path is None)
    folders = tuple(
        SharedFolder(folder.name, folder.path or f"{site.places.storage}/shared/{folder.name}", folder.write)
        for folder in site.config.storage.shared
    )
    return folders, managed


def parts_of(config: Config) -> tuple[str, ...]:
    """The parts that *config* wants."""
    return tuple(part for part in PARTS if part != PACKAGES or config.storage.package_cache is not None)


def _packages(site: Deployment) -> PackageCache | None:
    if site.config.storage.package_cache is None:
        return None
    return package_cache(site.network.packages_ip, site.pip)


def hub_settings(site: Deployment) -> HubSettings:
    """What the hub is told."""
    config = site.config
    return HubSettings(
        instance=site.instance,
        site_name=config.site.name,
        contact=config.site.contact,
        public_url=config.site.url,
        first_admin=config.login.admins[0],
        login=site.login,
        limits=_limits(site),
        shared=shared_folders(site)[0],
        homes_root=site.places.homes,
        names_dir=site.places.names,
        network=site.network.name,
        hub_ip=site.network.hub_ip,
        proxy_ip=site.network.proxy_ip,
        packages=_packages(site),
        isolate_pages=config.site.isolate_pages,
        gpus=config.gpus,
        jupyterhub=config.jupyterhub,
    )


def agent_rules(site: Deployment) -> AgentRules:
    """What the agent lets through."""
    shared, managed = shared_folders(site)
    return AgentRules(
        instance=site.instance,
        limits=_limits(site),
        shared=shared,
        managed_shared=managed,
        homes_root=site.places.homes,
        names_dir=site.places.names,
        network=site.network.name,
        bridge=site.network.bridge,
        hub_ip=site.network.hub_ip,
        proxy_ip=site.network.proxy_ip,
        service_uid=site.service_uid,
        packages=_packages(site),
        gpus=site.config.gpus,
        driver=driver_places(site),
        cdi_dir=CDI_FOLDER if site.cdi else "",
        certificate=_certificate_rules(site),
    )


def _certificate_rules(site: Deployment) -> CertificateRules | None:
    settings = site.config.site
    if not settings.has_tls:
        return None
    own = isinstance(settings.https, CertificateFiles)
    return CertificateRules(
        host=settings.host,
        names=settings.shown_names,
        address=settings.listen.address,
        port=settings.listen.port,
        cert=settings.https.cert if isinstance(settings.https, CertificateFiles) else "",
        key=settings.https.key if isinstance(settings.https, CertificateFiles) else "",
        files=PAIR_FILES if own else "",
        pair=f"{AGENT_CERTIFICATES}/{OWN_PAIR.rpartition('/')[2]}" if own else "",
    )


def driver_places(site: Deployment) -> DriverPlaces | None:
    """Where the agent looks for the driver; None when there is neither hardware nor a simulation."""
    if site.simulated_gpus:
        root = site.places.simulation
        return DriverPlaces(
            root, root, f"{root}/proc", f"{root}/sys", f"{root}/dev", f"{root}/dev", f"{root}/state"
        )
    if site.driver_folders:
        return DriverPlaces(HOST_FILES, "", "/proc", "/sys", f"{HOST_FILES}/dev", "/dev")
    return None


def _limits(site: Deployment) -> Limits:
    limits = site.config.limits
    if limits.cpus is not None and limits.cpus > site.engine_cpus:
        # The engine refuses a share of more processors than there are.
        return replace(limits, cpus=float(site.engine_cpus))
    return limits


def compose(site: Deployment) -> dict[str, Any]:
    """What Compose is given: the parts, and their two networks."""
    state = site.places.state
    rules, settings, caddy = agent_rules(site).to_json(), hub_settings(site).to_json(), _edge_files(site)
    service_user = f"{site.service_uid}:{site.service_uid}"
    sessions = site.network
    simulation = {SIMULATION: _simulation(site)} if site.simulated_gpus else {}
    packages = {PACKAGES: _package_part(site)} if PACKAGES in parts_of(site.config) else {}
    return {
        "name": site.instance,
        "services": {
            **simulation,
            "agent": _part(
                site,
                "agent",
                # It must not take cards that are simulated no more for lost: another number, another agent.
                f"{rules}{site.simulated_gpus}",
                {
                    "network_mode": "host",
                    "user": "0:0",
                    "cap_add": [
                        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_ADMIN", "NET_RAW"),
                        # To make the devices of a card that nobody has used since the machine started.
                        *(("MKNOD",) if driver_places(site) else ()),
                    ],
                    **({"device_cgroup_rules": [NVIDIA_DEVICES]} if _real_driver(site) else {}),
                    "volumes": [
                        _bind(site.places.engine_socket, "/run/labdock/engine.sock"),
                        _bind(f"{state}/parts/agent", "/run/labdock/settings", read_only=True),
                        _bind(f"{state}/agent", "/var/lib/labdock"),
                        _bind(f"{state}/run/agent", "/run/labdock/agent"),
                        _bind(site.places.names, site.places.names),
                        _bind(site.places.storage, site.places.storage),
                        *_driver_binds(site),
                        *_pair_binds(site),
                    ],
                },
                [
                    "curl",
                    "-fsS",
                    "--unix-socket",
                    "/run/labdock/agent/agent.sock",
                    "http://agent/labdock/health",
                ],
            ),
            "proxy": _part(
                site,
                "proxy",
                "",
                {
                    "command": ["proxy", *(["--host-routing"] if site.config.site.isolate_pages else [])],
                    "user": service_user,
                    "networks": {"sessions": {"ipv4_address": sessions.proxy_ip}},
                    "volumes": [
                        _bind(
                            f"{state}/secrets/proxy_token", "/run/labdock/secrets/proxy_token", read_only=True
                        ),
                        _bind(f"{state}/run/proxy", "/run/labdock/proxy"),
                        _bind(f"{state}/run/edge", "/run/labdock/edge"),
                    ],
                },
                [
                    "curl",
                    "-sS",
                    "-o",
                    "/dev/null",
                    "--unix-socket",
                    "/run/labdock/edge/proxy.sock",
                    "http://proxy/",
                ],
            ),
            **packages,
            "hub": _part(
                site,
                "hub",
                f"{settings}{sorted(site.secrets.items())}",
                {
                    "user": service_user,
                    "depends_on": {
                        "agent": {"condition": "service_started"},
                        "proxy": {"condition": "service_started"},
                    },
                    "networks": {"sessions": {"ipv4_address": sessions.hub_ip}},
                    "stop_grace_period": "30s",
                    "volumes": [
                        _bind(f"{state}/parts/hub", "/run/labdock/settings", read_only=True),
                        _bind(f"{state}/secrets", "/run/labdock/secrets", read_only=True),
                        _bind(f"{state}/hub", "/var/lib/labdock"),
                        _bind(f"{state}/run/agent", "/run/labdock/agent"),
                        _bind(f"{state}/run/proxy", "/run/labdock/proxy"),
                        _bind(f"{state}/run/edge", "/run/labdock/edge"),
                    ],
                },
                ["curl", "-fsS", "-o", "/dev/null", f"http://127.0.0.1:{HUB_PORT}/hub/health"],
            ),
            "edge": _part(
                site,
                "edge",
                json.dumps([caddy, _eab_set_at(site)], sort_keys=True),
                {
                    "user": service_user,
                    "networks": ["edge"],
                    "ports": _edge_ports(site),
                    "volumes": [
                        _bind(f"{state}/parts/edge", "/run/labdock/settings", read_only=True),
                        _bind(f"{state}/run/edge", "/run/labdock/edge"),
                        *_edge_binds(site),
                    ],
                },
                ["curl", "-sS", "-o", "/dev/null", f"http://127.0.0.1:{EDGE_HTTP_PORT}/"],
            ),
        },
        "networks": {
            "edge": {"name": f"{site.instance}-edge", "labels": {LABEL_INSTANCE: site.instance}},
            "sessions": {
                "name": sessions.name,
                "labels": {LABEL_INSTANCE: site.instance},
                "driver": "bridge",
                "driver_opts": {
                    "com.docker.network.bridge.name": sessions.bridge,
                    # Nobody reaches anybody; the agent's rules then let hub and proxy through.
                    "com.docker.network.bridge.enable_icc": "false",
                },
                "ipam": {
                    "config": [
                        {
                            "subnet": sessions.subnet,
                            "ip_range": sessions.session_range,
                            "gateway": sessions.gateway,
                        }
                    ]
                },
            },
        },
    }


def _edge_ports(site: Deployment) -> list[str]:
    settings = site.config.site
    if not settings.has_tls:
        return [f"{settings.listen}:{EDGE_HTTP_PORT}"]
    plain = [f"{settings.listen_http}:{EDGE_HTTP_PORT}"] if settings.listen_http else []
    return [f"{settings.listen}:{EDGE_HTTPS_PORT}", *plain]


def _edge_binds(site: Deployment) -> list[dict[str, Any]]:
    """What the edge needs for certificates."""
    state, settings = site.places.state, site.config.site
    binds = [_bind(f"{state}/certificates", CERTIFICATES)]
    if isinstance(settings.https, CertificateFiles):
        binds.append(_bind(f"{state}/run/edge-admin", ADMIN_SOCKET.rpartition("/")[0]))
    if settings.acme.eab_key_id:
        secret = f"secrets/{EAB_SECRET}"
        binds.append(_bind(f"{state}/{secret}", f"/run/labdock/{secret}", read_only=True))
    return binds


def _eab_set_at(site: Deployment) -> int | None:
    """When the key for external account binding was set: another one, another edge."""
    return site.secrets.get(EAB_SECRET) if site.config.site.acme.eab_key_id else None


def _edge_files(site: Deployment) -> dict[str, str]:
    """The edge's settings files by path below the state directory."""
    authority = {f"parts/edge/{ACME_AUTHORITY}": site.acme_authority} if site.acme_authority else {}
    return {"parts/edge/Caddyfile": caddyfile(site.config.site), **authority}


def _pair_binds(site: Deployment) -> list[dict[str, Any]]:
    """What the agent needs to hand an administrator's certificate to the edge whenever it changes."""
    if not isinstance(site.config.site.https, CertificateFiles):
        return []
    state = site.places.state
    return [
        *(_bind(folder, f"{PAIR_FILES}{folder}", read_only=True) for folder in site.pair_folders),
        _bind(f"{state}/certificates/{OWN_PAIR.partition('/')[0]}", AGENT_CERTIFICATES),
        _bind(f"{state}/run/edge-admin", ADMIN_SOCKET.rpartition("/")[0]),
    ]


def _real_driver(site: Deployment) -> bool:
    return bool(site.driver_folders) and not site.simulated_gpus


NVIDIA_DEVICES = "c 195:* rw"
"""What the agent may open to ask the driver: the cards and their control device, by the major they have."""


def _driver_binds(site: Deployment) -> list[dict[str, Any]]:
    """What the agent needs to see of the driver, and where it writes for the engine."""
    binds = []
    if site.simulated_gpus:
        binds.append(_bind(site.places.simulation, site.places.simulation))
    elif site.driver_folders:
        binds += [_bind(folder, f"{HOST_FILES}{folder}", read_only=True) for folder in site.driver_folders]
        binds.append(_bind("/dev", f"{HOST_FILES}/dev"))
    if site.cdi:
        binds.append(_bind(CDI_FOLDER, CDI_FOLDER, make=True))
    return binds


def _package_part(site: Deployment) -> dict[str, Any]:
    """The part that fetches packages: it reaches the outside, and sees nothing of this machine but its files.

    Strangers' pages go through it, so its memory has an end.
    """
    return _part(
        site,
        PACKAGES,
        "",
        {
            "command": [PACKAGES, str(site.config.storage.package_cache)],
            "user": f"{site.service_uid}:{site.service_uid}",
            "networks": {"sessions": {"ipv4_address": site.network.packages_ip}},
            "volumes": [_bind(f"{site.places.state}/packages", "/var/lib/labdock")],
            "mem_limit": "256m",
            # Memory that was used once goes back, instead of staying with each thread.
            "environment": {"MALLOC_ARENA_MAX": "2"},
        },
        ["curl", "-fsS", "-o", "/dev/null", f"http://127.0.0.1:{PACKAGES_PORT}/health"],
    )


def _simulation(site: Deployment) -> dict[str, Any]:
    """The part that makes simulated cards: no network, and few rights."""
    root = site.places.simulation
    return _part(
        site,
        SIMULATION,
        "",
        {
            "image": site.simulation_image,
            "command": [
                "--root",
                _literal(root),
                "--cards",
                str(site.simulated_gpus),
                "--name",
                site.instance,
            ],
            "user": "0:0",
            "network_mode": "none",
            # To make devices, in a folder that belongs to whoever ran `labdock up`.
            "cap_add": ["DAC_OVERRIDE", "MKNOD"],
            "volumes": [_bind(root, root)],
        },
        # The load is written every two seconds while the part lives.
        [
            "python3",
            "-c",
            "import os, sys, time; sys.exit(time.time() - os.stat(sys.argv[1]).st_mtime > 60)",
            _literal(f"{root}/state/load"),
        ],
    )


def part_container(instance: str, part: str) -> str:
    """The name of the container that runs *part* of *instance*."""
    return f"{instance}-{part}"


def part_files(site: Deployment) -> dict[str, str]:
    """Settings files by path below the state directory."""
    return {
        "parts/agent/agent.json": agent_rules(site).to_json(),
        "parts/hub/hub.json": hub_settings(site).to_json(),
        # Read anew while the hub runs, so it is no part of what replaces the hub.
        f"parts/hub/{ACCESS}": access_rules(site.config.login).to_json(),
        **_edge_files(site),
        **({f"certificates/{OWN_PAIR}": site.own_pair} if site.own_pair else {}),
    }


def _part(
    site: Deployment, part: str, settings: str, own: Mapping[str, Any], probe: list[str]
) -> dict[str, Any]:
    """What all parts share, with *own* on top.

    A label holds the digest of all this and of the text *settings*: what changes replaces the part.
    """
    # Each probe costs an exec; once a minute keeps an idle stack idle.
    check: dict[str, Any] = {"test": ["CMD", *probe], "interval": "60s", "timeout": "10s", "retries": 3}
    if site.engine_api >= (1, 44):  # Docker 25: probes may come quicker while a part starts
        check |= {"start_period": "60s", "start_interval": "1s"}
    else:
        check |= {"start_period": "5s"}
    service = {
        "image": site.server_image,
        "command": [part],
        "container_name": part_container(site.instance, part),
        "hostname": part,
        "restart": "unless-stopped",
        "init": True,
        "read_only": True,
        "tmpfs": ["/tmp:mode=1777"],  # noqa: S108  a private one inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
        "labels": {
            LABEL_INSTANCE: site.instance,
            LABEL_ROLE: ROLE_PART,
            LABEL_PART: part,
        },
        "healthcheck": check,
        **own,
    }
    digest = hashlib.sha256(json.dumps([service, settings], sort_keys=True).encode()).hexdigest()[:16]
    return {**service, "labels": {**service["labels"], LABEL_SETTINGS: digest}}


def _bind(source: str, target: str, *, read_only: bool = False, make: bool = False) -> dict[str, Any]:
    """A folder of the host in a part; with *make* the engine makes it if it is missing."""
    return {
        "type": "bind",
        "source": _literal(source),
        "target": _literal(target),
        "read_only": read_only,
        "bind": {"create_host_path": make},
    }


def _literal(text: str) -> str:
    """*text* for Compose, which would take a "$" for the beginning of a variable."""
    return text.replace("$", "$$")
