"""SessionSpec → the body of the engine's "create container" call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labdock.core.gpus import LABEL_DRIVER
from labdock.core.injection import Injection
from labdock.core.session import SESSION_PORT, STOP_SIGNAL, SessionSpec


def container_body(spec: SessionSpec) -> dict[str, Any]:
    """What the Docker Engine API (1.41) is sent at ``POST /containers/create`` for *spec*.

    The guard checks exactly these fields; a field added here is refused until the guard knows it.
    """
    limits = spec.limits
    host: dict[str, Any] = {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Mounts": [
            {"Type": "bind", "Source": m.source, "Target": m.target, "ReadOnly": not m.writable}
            for m in spec.mounts
        ],
        "NetworkMode": spec.network,
        "GroupAdd": [str(group) for group in spec.groups],
        "PidsLimit": limits.pids,
        "ShmSize": limits.shm_bytes,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}},
    }
    if limits.memory_bytes is not None:
        # Memory and swap together equal to memory alone: no swap.
        host |= {"Memory": limits.memory_bytes, "MemorySwap": limits.memory_bytes}
    if limits.cpus is not None:
        host["NanoCpus"] = round(limits.cpus * 1e9)
    return {
        "Image": spec.image,
        "Entrypoint": list(spec.entrypoint),
        "Cmd": list(spec.command),
        # What an image names instead may be one that no notebook server ends at.
        "StopSignal": STOP_SIGNAL,
        "User": f"{spec.uid}:{spec.gid}",
        "Hostname": spec.hostname,
        "WorkingDir": spec.working_dir,
        "Env": [f"{key}={value}" for key, value in sorted(spec.environment.items())],
        "Labels": dict(spec.labels),
        "ExposedPorts": {f"{SESSION_PORT}/tcp": {}},
        "HostConfig": host,
    }


def with_injection(body: Mapping[str, Any], injection: Injection) -> dict[str, Any]:
    """*body* with all that *injection* adds, and the label with the driver's version."""
    host = dict(body["HostConfig"])
    if injection.devices:
        host["Devices"] = [
            {"PathOnHost": node.host_path, "PathInContainer": node.path, "CgroupPermissions": "rw"}
            for node in injection.devices
        ]
    host["Mounts"] = [
        *host["Mounts"],
        *(
            {"Type": "bind", "Source": file.host_path, "Target": file.path, "ReadOnly": True}
            for file in injection.mounts
        ),
    ]
    if injection.cdi:
        host["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": list(injection.cdi)}]
    if injection.runtime:
        host["Runtime"] = injection.runtime
    variables = {**dict(item.split("=", 1) for item in body["Env"]), **injection.environment}
    return {
        **body,
        "Env": [f"{key}={value}" for key, value in sorted(variables.items())],
        "Labels": {**body["Labels"], LABEL_DRIVER: injection.driver},
        "HostConfig": host,
    }
