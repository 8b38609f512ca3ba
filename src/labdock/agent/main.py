"""The agent's process: reads its rules, puts folders and network in order, and listens on its socket."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from labdock.adapters.edge_admin import EdgeAdmin
from labdock.adapters.firewall import Firewall
from labdock.adapters.homes import Homes
from labdock.adapters.live_file import LiveFile
from labdock.adapters.nvidia import Nvml, nvml_environment
from labdock.agent.certificates import CertificateKeeper
from labdock.agent.ends import Ends
from labdock.agent.engine import Engine
from labdock.agent.gpus import GpuKeeper, remove_spec
from labdock.agent.last_words import LastWords
from labdock.agent.network import NetworkKeeper
from labdock.agent.server import AgentServer
from labdock.agent.watch import Watch
from labdock.core.edge import ADMIN_SOCKET
from labdock.core.errors import HostError, LabdockError
from labdock.core.shelf import allowed_from_json
from labdock.core.site import PACKAGES_PORT, AgentRules

log = logging.getLogger(__name__)

EDGE_ADMIN = Path(ADMIN_SOCKET)
"""Where the edge takes orders."""

OWN_DEV = Path("/dev")
"""Where the driver's library looks for devices in this process's container."""


async def serve(rules_file: Path, data_dir: Path, socket_path: Path, engine_socket: str) -> None:
    """Be the agent until cancelled. Sessions and the rules between them stay as they are afterwards.

    Raises:
        HostError: The rules or the list of people cannot be read, a folder cannot be made, or
            *socket_path* is in use.
    """
    rules = read_rules(rules_file)
    homes = Homes(rules, data_dir)
    await asyncio.to_thread(homes.prepare)
    last_words = LastWords(data_dir / "ended")
    ends = Ends(time.time_ns() // 1_000_000)
    images = LiveFile(rules_file.with_name("images.json"), allowed_from_json)
    network = NetworkKeeper(_firewall(rules))
    nvml = Nvml(nvml_environment(rules.driver) if rules.driver else {})
    async with Engine(engine_socket) as engine:
        watch = Watch(engine, rules.instance, last_words, ends)

        keeper = CertificateKeeper(rules.certificate, EdgeAdmin(EDGE_ADMIN), rules.service_uid)

        def problems() -> tuple[str, ...]:
            others = (watch.problem, images.problem(), keeper.problem)
            return (*network.problems, *(problem for problem in others if problem))

        gpus = GpuKeeper(rules, engine, nvml, own_dev=OWN_DEV)
        server = AgentServer(rules, homes, engine, last_words, ends, gpus, images.value, problems, keeper)
        # Before anybody can ask for a session.
        await network.check()
        runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=5)
        await runner.setup()
        try:
            await web.SockSite(runner, bind_socket(socket_path, rules.service_uid)).start()
            log.info("agent of %s: listening on %s", rules.instance, socket_path)
            async with asyncio.TaskGroup() as group:
                group.create_task(network.run())
                group.create_task(watch.run())
                group.create_task(keeper.run())
        finally:
            # The hub waits for the next end for a minute at a time.
            ends.close()
            await runner.cleanup()
            nvml.close()


def read_rules(file: Path) -> AgentRules:
    """The rules in *file*.

    Raises:
        HostError: It cannot be read or understood.
    """
    try:
        return AgentRules.from_json(file.read_text("utf-8"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostError(
            f"The agent's rules, {file}, cannot be read ({type(error).__name__}: {error}).",
            fix="Write them anew with: labdock up",
        ) from error


def bind_socket(path: Path, owner_uid: int) -> socket.socket:
    """A Unix socket bound to *path* that only *owner_uid* and root may connect to.

    Takes the place of a socket that nobody listens on any more.

    Raises:
        HostError: Something listens there, something else is there, or it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear_stale(path)
        # With rights set before it can be seen, nobody else gets in at the start.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        os.chown(path, owner_uid, -1)
    except OSError as error:
        listener.close()
        raise HostError(f"The agent cannot listen on {path}: {error}.") from error
    except HostError:
        listener.close()
        raise
    return listener


def _clear_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise HostError(f"{path} is there and is no socket.", fix="Move it away.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise HostError(f"An agent is listening on {path} already.", fix="Stop it first.")


def _firewall(rules: AgentRules) -> Firewall:
    packages = rules.packages
    return Firewall(
        instance=rules.instance,
        bridge=rules.bridge,
        hub_ip=rules.hub_ip,
        proxy_ip=rules.proxy_ip,
        also=((packages.ip, PACKAGES_PORT),) if packages else (),
    )


async def _until_told_to_stop(arguments: argparse.Namespace) -> None:
    if arguments.remove_network_rules:
        rules = read_rules(arguments.rules)
        await _firewall(rules).remove()
        remove_spec(rules)
        return
    work = asyncio.create_task(serve(arguments.rules, arguments.data, arguments.socket, arguments.engine))
    # As a container's first process, it gets no signal that it does not ask for.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent with the options in *argv*; the process's exit status."""
    parser = argparse.ArgumentParser(prog="labdock-agent", description="Labdock's agent.")
    parser.add_argument("--rules", type=Path, required=True, help="agent.json")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder for the list of people and last words"
    )
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--engine", default="/var/run/docker.sock", help="the Docker engine's socket")
    parser.add_argument(
        "--remove-network-rules",
        action="store_true",
        help="remove this instance's packet filter rules and CDI spec, and exit",
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_until_told_to_stop(arguments))
    except LabdockError as error:
        log.error("%s", error)
        for line in error.details:
            log.error("  %s", line)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
