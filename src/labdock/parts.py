"""What a container of the server image runs: ``python -m labdock.parts agent|proxy|hub|edge|…``."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

RUN = Path("/run/labdock")
SETTINGS = RUN / "settings"
SECRETS = RUN / "secrets"
STATE = Path("/var/lib/labdock")
AGENT_SOCKET = RUN / "agent/agent.sock"
PROXY_API_SOCKET = RUN / "proxy/api.sock"
EDGE_SOCKET = RUN / "edge/proxy.sock"
PROXY_WAITING_SOCKET = RUN / "edge/proxy.waiting.sock"
"""Where a proxy listens until the hub has given it its routes and renames the socket to EDGE_SOCKET."""
ENGINE_SOCKET = RUN / "engine.sock"


def run_agent(*options: str) -> None:
    from labdock.agent.main import main  # noqa: PLC0415  each part loads its own and no more

    rules, data = ("--rules", str(SETTINGS / "agent.json")), ("--data", str(STATE))
    where = ("--socket", str(AGENT_SOCKET), "--engine", str(ENGINE_SOCKET))
    sys.exit(main((*rules, *data, *where, *options)))


def run_clean() -> None:
    """Take the instance's firewall rules away, when it is taken down for good."""
    run_agent("--remove-network-rules")


def run_proxy() -> None:
    for path in (EDGE_SOCKET, PROXY_WAITING_SOCKET, PROXY_API_SOCKET):
        # Left behind by a predecessor, it would keep this one from listening, or lead nowhere.
        path.unlink(missing_ok=True)
    os.environ["CONFIGPROXY_AUTH_TOKEN"] = (SECRETS / "proxy_token").read_text().strip()
    _become(
        "node",
        "--max-old-space-size=256",
        "--require",
        str(Path(__file__).parent / "proxy_log.js"),
        "/opt/labdock/proxy/node_modules/.bin/configurable-http-proxy",
        "--socket",
        str(PROXY_WAITING_SOCKET),
        "--api-socket",
        str(PROXY_API_SOCKET),
        # The edge has set X-Forwarded-*; over a Unix socket there is no address to add.
        "--no-x-forward",
        "--error-path",
        str(Path(__file__).parent / "hub/static/errors"),
        "--log-level",
        "warn",
        *sys.argv[2:],
    )


def run_packages() -> None:
    from labdock.packages.main import main  # noqa: PLC0415  each part loads its own and no more

    sys.exit(main(sys.argv[2:], STATE))


def run_hub() -> None:
    os.environ["JUPYTERHUB_CRYPT_KEY"] = (SECRETS / "crypt_key").read_text().strip()
    # The service user has no entry in passwd; libraries that ask for a name or a home get one.
    os.environ |= {"HOME": "/tmp", "LOGNAME": "labdock"}  # noqa: S108  private to the container
    os.chdir(STATE)
    config = str(Path(__file__).parent / "hub/jupyterhub_config.py")
    _become("python", "-m", "labdock.hub.app", "--config", config)


def run_edge() -> None:
    from labdock.core import edge  # noqa: PLC0415  each part loads its own and no more

    mark = Path(edge.CERTIFICATES) / "mark"
    if not mark.exists():
        mark.write_text(secrets.token_hex(16))
    os.environ |= {edge.MARK: mark.read_text().strip(), edge.GATEWAY: _gateway(), "HOME": "/tmp"}  # noqa: S108  private to the container
    key = SECRETS / edge.EAB_SECRET
    if key.exists():
        os.environ[edge.EAB_KEY] = key.read_text().strip()
    _become("caddy", "run", "--adapter", "caddyfile", "--config", str(SETTINGS / "Caddyfile"))


def _gateway() -> str:
    """The IPv4 address of the way out, by which processes of this machine come to a published port."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000":
            return socket.inet_ntoa(bytes.fromhex(fields[2])[::-1])
    return "127.0.0.1"


def _become(*command: str) -> None:
    os.execvp(command[0], command)  # noqa: S606  fixed words; this process becomes the part


PARTS: Mapping[str, Callable[[], None]] = {
    "agent": run_agent,
    "proxy": run_proxy,
    "packages": run_packages,
    "hub": run_hub,
    "edge": run_edge,
    "clean": run_clean,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]]()
