"""Pebble, Let's Encrypt's ACME server for tests, with a DNS in which every name is this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.authorities import make

EAB_KEY_ID, EAB_KEY = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@dataclass(frozen=True)
class Pebble:
    """A running one: its directory as containers reach it, and the files with the roots."""

    directory: str
    authority: Path
    """The root of the directory's own HTTPS."""
    root: Path
    """The root of the certificates that it issues."""
    dns_management: str

    def answer(self, host: str, *addresses: str) -> None:
        """From now on the authority finds *host* at *addresses*."""
        body = json.dumps({"host": host, "addresses": list(addresses)}).encode()
        with urllib.request.urlopen(f"{self.dns_management}/add-a", body, timeout=5):  # noqa: S310  our own
            pass


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_pebble(
    folder: Path,
    address: str,
    *,
    http_port: int,
    tls_port: int,
    lives_s: int = 0,
    external_accounts: bool = False,
) -> Iterator[Pebble]:
    """Pebble at *address*, looking for proof at the two ports of this machine.

    It refuses good nonces now and then, as it does by itself, and validates for real.
    """
    port, management, dns, dns_management = (free_port(address) for _ in range(4))
    own = make("pebble", address)
    authority = folder / "directory-root.pem"
    authority.write_text(own.pem)
    (folder / "directory-key.pem").write_text(own.key)
    settings: dict[str, object] = {
        "listenAddress": f"{address}:{port}",
        "managementListenAddress": f"{address}:{management}",
        "certificate": str(authority),
        "privateKey": str(folder / "directory-key.pem"),
        "httpPort": http_port,
        "tlsPort": tls_port,
        "externalAccountBindingRequired": external_accounts,
        "externalAccountMACKeys": {EAB_KEY_ID: EAB_KEY} if external_accounts else {},
        **({"certificateValidityPeriod": lives_s} if lives_s else {}),
    }
    config = folder / "pebble.json"
    config.write_text(json.dumps({"pebble": settings}))
    challenges = ("-http01", "", "-https01", "", "-tlsalpn01", "")
    with (
        _program(
            folder / "dns.log",
            {},
            *("pebble-challtestsrv", *challenges, "-dns01", f"{address}:{dns}"),
            *("-management", f"{address}:{dns_management}", "-defaultIPv6", ""),
        ),
        _program(
            folder / "pebble.log",
            {"PEBBLE_VA_NOSLEEP": "1"},
            *("pebble", "-config", str(config), "-dnsserver", f"{address}:{dns}"),
        ),
    ):
        root = folder / "issued-root.pem"
        root.write_text(_fetch(f"https://{address}:{management}/roots/0", authority))
        yield Pebble(f"https://{address}:{port}/dir", authority, root, f"http://{address}:{dns_management}")


@contextmanager
def _program(log: Path, environment: Mapping[str, str], *command: str) -> Iterator[None]:
    program = shutil.which(command[0])
    assert program, f"{command[0]} is missing: run scripts/prepare-tests"
    with log.open("wb") as output:
        process = subprocess.Popen(
            (program, *command[1:]), stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _fetch(url: str, authority: Path) -> str:
    """What *url* answers, once it does."""
    context = ssl.create_default_context(cafile=str(authority))
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310  our own
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.1)
