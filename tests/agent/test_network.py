"""Sessions kept apart: on the machine's engine with real packets, and what is said when that fails."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from labdock.adapters.agent_api import AgentClient
from labdock.adapters.firewall import Firewall, chain_name
from labdock.agent.network import NetworkKeeper
from labdock.core.errors import EngineError
from labdock.core.shelf import allowed_to_json
from labdock.core.site import PACKAGES_PORT
from tests.adapters.test_firewall import FakeIptables
from tests.agent.engines import RealEngine, docker
from tests.agent.harness import until

LISTEN = """
import select, socket
listening = [socket.create_server(("", port)) for port in (8081, 8082, 8001, 8888)]
while True:
    for one in select.select(listening, [], [])[0]:
        one.accept()[0].close()
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()"


@dataclass(frozen=True)
class Network:
    """A sessions' network with hub, proxy, packages and two sessions, each listening on four ports."""

    engine: RealEngine
    firewall: Firewall
    addresses: dict[str, str]

    def reaches(self, source: str, target: str, port: int) -> bool:
        """Whether a connection from the container *source* to *target* is made."""
        address = self.addresses.get(target, target)
        command = ["python3", "-c", CONNECT, address, str(port)]
        path = f"/containers/{self.engine.instance}-{source}/exec"
        made = docker("POST", path, {"Cmd": command, "AttachStdout": True, "AttachStderr": True})
        docker("POST", f"/exec/{made['Id']}/start", {"Detach": False})
        return bool(docker("GET", f"/exec/{made['Id']}/json")["ExitCode"] == 0)


@pytest.fixture
def network(small_image: str) -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("iptables") is None:
        pytest.skip("packet filter rules take root and iptables")
    prefix = f"10.222.{secrets.randbelow(250)}"
    with RealEngine(small_image, subnet=f"{prefix}.0/24").running() as engine:
        hosts = {"proxy": 2, "hub": 3, "packages": 4, "a": 101, "b": 102}
        addresses = {name: f"{prefix}.{number}" for name, number in hosts.items()}
        for name, address in addresses.items():
            container = engine.add(
                {
                    "Cmd": ["python3", "-c", LISTEN],
                    "HostConfig": {"NetworkMode": engine.network},
                    "NetworkingConfig": {
                        "EndpointsConfig": {engine.network: {"IPAMConfig": {"IPv4Address": address}}}
                    },
                },
                name=f"{engine.instance}-{name}",
            )
            docker("POST", f"/containers/{container}/start")
        yield Network(
            engine,
            Firewall(
                instance=engine.instance,
                bridge=engine.bridge,
                hub_ip=addresses["hub"],
                proxy_ip=addresses["proxy"],
                also=((addresses["packages"], PACKAGES_PORT),),
            ),
            addresses,
        )


def rules_of(instance: str) -> str:
    """What the packet filter holds of *instance*, with the packets that met each rule."""
    listed = []
    for program in ("iptables", "iptables-legacy"):
        for chain in ("DOCKER-USER", chain_name(instance)):
            done = subprocess.run(
                [program, "-w", "5", "-L", chain, "-v", "-x", "-n"],
                check=False,
                capture_output=True,
                text=True,
            )
            listed += [
                line
                for line in done.stdout.splitlines()
                if chain_name(instance) in line or chain != "DOCKER-USER"
            ]
    return "\n".join(listed)


@pytest.mark.engine
async def test_sessions_reach_the_hubs_api_and_nobody_else_on_their_network(network: Network) -> None:
    await until(lambda: network.reaches("hub", "127.0.0.1", 8888))
    # Before the rules are made, and after they are lost, the bridge is closed.
    assert not network.reaches("a", "b", 8888)
    assert not network.reaches("hub", "a", 8888)
    try:
        assert await network.firewall.ensure()
        assert network.reaches("hub", "a", 8888)
        assert network.reaches("proxy", "b", 8888)
        assert network.reaches("a", "hub", 8081)
        assert not network.reaches("a", "b", 8888)
        assert not network.reaches("b", "a", 8081)
        assert not network.reaches("a", "hub", 8001)
        assert not network.reaches("a", "hub", 8888)
        assert not network.reaches("a", "proxy", 8001)
        assert not network.reaches("a", "proxy", 8081)
        assert network.reaches("a", "packages", 8082)
        assert network.reaches("hub", "packages", 8082)
        for port in (8001, 8081, 8888):
            assert not network.reaches("a", "packages", port)
        for port in (8001, 8082, 8888):
            assert not network.reaches("packages", "a", port)
            assert not network.reaches("packages", "proxy", port)
            assert not network.reaches("packages", "hub", port)
        assert not network.reaches("a", "hub", 8082)
        assert not network.reaches("a", "b", 8082)
        assert not network.reaches("a", "169.254.169.254", 80)
        dropped = rules_of(network.engine.instance).splitlines()
        assert any("169.254.169.254" in line and int(line.split()[0]) > 0 for line in dropped)
        assert not await network.firewall.ensure()
    finally:
        await network.firewall.remove()
    assert rules_of(network.engine.instance) == ""
    assert not network.reaches("hub", "a", 8888)


@pytest.mark.engine
def test_the_agents_process_serves_with_the_rights_it_is_given_and_leaves_on_request(
    network: Network, tmp_path: Path
) -> None:
    rules = replace(
        network.engine.rules(tmp_path / "storage"),
        hub_ip=network.addresses["hub"],
        proxy_ip=network.addresses["proxy"],
        service_uid=4711,
    )
    (tmp_path / "storage").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "agent.json").write_text(rules.to_json())
    (tmp_path / "images.json").write_text(allowed_to_json(network.engine.images))
    client = AgentClient(tmp_path / "agent.sock")
    rights = "-all,+chown,+dac_override,+fowner,+net_admin,+net_raw"
    command = [
        *("setpriv", "--bounding-set", rights, "--inh-caps", rights, "--no-new-privs"),
        *(sys.executable, "-m", "labdock.agent.main", "--rules", f"{tmp_path}/agent.json"),
        *("--data", f"{tmp_path}/data", "--socket", f"{tmp_path}/agent.sock"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        try:
            asyncio.run(_is_in_order(client))
            person = asyncio.run(client.person("local:ada", "ada"))
            assert network.reaches("proxy", "a", 8888)
        finally:
            agent.terminate()
            _, errors = agent.communicate(timeout=20)
            # Sessions go on without the agent, and so do the rules.
            kept = rules_of(network.engine.instance)
            removed = subprocess.run([*command, "--remove-network-rules"], check=False, capture_output=True)
    assert agent.returncode == 0, errors
    assert "DROP" in kept
    assert removed.returncode == 0
    assert rules_of(network.engine.instance) == ""
    assert (tmp_path / "storage/shared/scratch").stat().st_mode & 0o7777 == 0o2770
    (home,) = (tmp_path / "storage/homes").iterdir()
    assert home.stat().st_uid == person.uid


async def _is_in_order(client: AgentClient) -> None:
    """Wait until the agent that is about to listen says that nothing is wrong."""
    async with asyncio.timeout(15):
        while True:
            with suppress(EngineError):
                if await client.health() == ():
                    return
            await asyncio.sleep(0.05)


@dataclass
class Kernel:
    """The kernel's setting for packets inside a bridge, in a file of the test's own."""

    file: Path

    def set(self, value: str) -> None:
        self.file.write_text(f"{value}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    made = Kernel(tmp_path / "bridge-nf-call-iptables")
    made.set("1")
    return made


def keeper(filter_: FakeIptables, kernel: Kernel) -> NetworkKeeper:
    return NetworkKeeper(
        Firewall(
            instance="labdock",
            bridge="br0",
            hub_ip="10.0.0.3",
            proxy_ip="10.0.0.2",
            run=filter_.run,
            bridge_setting=kernel.file,
        )
    )


async def test_rules_that_were_lost_are_made_again_and_that_is_logged(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    filter_ = FakeIptables()
    network = keeper(filter_, kernel)
    with caplog.at_level(logging.INFO):
        await network.check()
        await network.check()
        filter_.chains = {"DOCKER-USER": []}
        await network.check()
    assert len(caplog.records) == 2
    assert len(filter_.chains) == 2
    assert network.problems == ()


async def test_what_leaves_the_network_open_is_a_problem_until_it_is_mended(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    filter_ = FakeIptables(docker=False)
    network = keeper(filter_, kernel)
    kernel.set("0")
    await network.check()
    await network.check()
    missing, unfiltered = network.problems
    assert "DOCKER-USER" in missing
    assert "bridge-nf-call-iptables is 0" in unfiltered
    # Said once, not every minute.
    assert len(caplog.records) == 2
    kernel.set("1")
    filter_.chains["DOCKER-USER"] = []
    await network.check()
    assert network.problems == ()
