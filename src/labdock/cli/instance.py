"""One instance as the command line finds it: its place, its name, its configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.config_file import read_config
from labdock.adapters.hub_api import HubApi
from labdock.core.compose import SIMULATION, Places, parts_of
from labdock.core.config import Config
from labdock.core.edge import ROOT
from labdock.core.errors import HostError

DEFAULT_INSTANCE = "labdock"
DEFAULT_CONFIG = "labdock.yaml"
RECORD = "instance.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What an instance remembers of itself from its first ``up`` on."""

    instance: str
    subnet: str
    config: str
    """The configuration file's absolute path, or "" where there was none."""
    storage: str
    simulated_gpus: int = 0

    def to_json(self) -> str:
        return (
            json.dumps(
                {
                    "instance": self.instance,
                    "subnet": self.subnet,
                    "config": self.config,
                    "storage": self.storage,
                    "simulated_gpus": self.simulated_gpus,
                },
                indent=2,
            )
            + "\n"
        )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options that every command shares, as given; None where not."""

    state: Path | None
    instance: str | None
    config: Path | None


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance: where its state is, what it is called, its configuration, and what it remembers."""

    name: str
    state: Path
    config: Config
    config_path: Path | None
    record: Record | None
    engine_socket: Path

    @property
    def places(self) -> Places:
        storage = self.config.storage.root or str(self.state / "storage")
        return Places(str(self.state), str(storage), str(self.engine_socket))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that this instance is made of."""
        simulated = self.record is not None and self.record.simulated_gpus > 0
        parts = parts_of(self.config)
        return (SIMULATION, *parts) if simulated else parts

    @property
    def own_root(self) -> Path | None:
        """The root of the site's own authority, if its certificate comes from there and it exists."""
        root = self.state / "certificates" / ROOT
        return root if self.config.site.https == "internal" and host.is_file(root) else None

    @property
    def proxy_socket(self) -> Path:
        return self.state / "run/edge/proxy.sock"

    @property
    def agent_socket(self) -> Path:
        return self.state / "run/agent/agent.sock"


def default_state(instance: str, environment: Mapping[str, str]) -> Path:
    """Where *instance* keeps its state: /var/lib for root, otherwise the person's data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib") / instance
    data = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return Path(data) / instance


def engine_socket(environment: Mapping[str, str]) -> Path:
    """The engine's socket on this machine, whether somebody listens there or not.

    Raises:
        HostError: DOCKER_HOST names an engine elsewhere.
    """
    named = environment.get("DOCKER_HOST", "")
    if named.startswith("unix://"):
        return Path(named.removeprefix("unix://"))
    if named:
        raise HostError(
            f"DOCKER_HOST is {named}.",
            fix="Labdock serves the machine it runs on: unset it, or name a unix:// socket.",
        )
    system = Path("/var/run/docker.sock")
    own = Path(environment.get("XDG_RUNTIME_DIR", "/nowhere")) / "docker.sock"
    return own if own.exists() and not system.exists() else system


def find_instance(chosen: Chosen, environment: Mapping[str, str]) -> Instance:
    """The instance that *chosen* means, with its configuration read and checked.

    Raises:
        ConfigError: The configuration cannot be used; every problem is named.
        HostError: The state directory belongs to another instance.
    """
    name, state = _place(chosen, environment)
    record = read_record(state)
    if record is not None and chosen.instance not in {None, record.instance}:
        raise HostError(
            f"{state} belongs to the instance {record.instance!r}, not {chosen.instance!r}.",
            fix="Give --state another folder.",
        )
    path = _config_path(chosen, record)
    return Instance(
        name=record.instance if record else name,
        state=state,
        config=read_config(path),
        config_path=path,
        record=record,
        engine_socket=engine_socket(environment),
    )


def config_file(chosen: Chosen, environment: Mapping[str, str]) -> Path:
    """The configuration file that *chosen* means, whether it is there or not."""
    if chosen.config is not None:
        return chosen.config
    record = read_record(_place(chosen, environment)[1])
    return Path(record.config if record is not None and record.config else DEFAULT_CONFIG)


def _place(chosen: Chosen, environment: Mapping[str, str]) -> tuple[str, Path]:
    name = chosen.instance or DEFAULT_INSTANCE
    return name, (chosen.state or default_state(name, environment)).absolute()


def read_record(state: Path) -> Record | None:
    """What the instance in *state* remembers, or None before its first ``up``."""
    try:
        text = host.read_text(state / RECORD)
        return None if text is None else Record(**json.loads(text))
    except PermissionError as error:
        raise HostError(f"{state} may not be read.", fix="Run as the user who ran `labdock up`.") from error
    except (ValueError, TypeError) as error:
        raise HostError(
            f"{state / RECORD} is damaged ({error}).", fix="Bring it back from a backup."
        ) from error


def _config_path(chosen: Chosen, record: Record | None) -> Path | None:
    if chosen.config is not None:
        return chosen.config.absolute()
    if record is not None and record.config:
        return Path(record.config)
    here = Path(DEFAULT_CONFIG).absolute()
    return here if here.exists() else None


def hub_api(instance: Instance) -> HubApi:
    """The hub of *instance*, by the proxy's socket: past the edge, its certificate and its name.

    Raises:
        HostError: This instance was never brought up, or belongs to another user.
    """
    try:
        token = (instance.state / "secrets/api_token").read_text().strip()
    except FileNotFoundError as error:
        raise HostError(f"There is no Labdock in {instance.state} yet.", fix="Run `labdock up`.") from error
    except PermissionError as error:
        raise HostError(
            f"The secrets in {instance.state} may not be read.", fix="Run as the user who ran `labdock up`."
        ) from error
    return HubApi(instance.config.site.url, token, socket=instance.proxy_socket)
