"""Packet filter rules that keep sessions apart on the one bridge they share.

Docker passes every packet that crosses a bridge through the chain DOCKER-USER first. A chain of our own
hangs there: the hub and the proxy reach sessions, sessions reach the hub's API, the part that keeps packages,
and the outside, and nothing else gets from one end of the bridge to the other. The bridge itself is made with
icc=false, so without our chain nobody reaches anybody on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from labdock.core.errors import HostError

HUB_PORT = 8081
"""The TCP port of the hub's API."""

METADATA_ADDRESS = "169.254.169.254"
"""Where clouds hand out a machine's credentials."""

ENTRY_CHAIN = "DOCKER-USER"
PROGRAMS = ("iptables", "iptables-legacy", "iptables-nft")
"""Which of them Docker's chains are in depends on the machine."""

_PATIENCE_S = 15

_LOCK = "/run/xtables.lock"
_OWN_LOCK = "/tmp/labdock-xtables.lock"  # noqa: S108  only where the root file system is read-only
"""Where iptables-legacy locks when the host's lock is not mounted; the kernel refuses a lost update."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended: exit status, standard output, standard error."""

    status: int
    output: str
    errors: str


Run = Callable[[tuple[str, ...], str], Awaitable[Finished]]
"""(arguments, standard input) → how it ended; raises FileNotFoundError when there is no such program."""


def chain_name(instance: str) -> str:
    """The name of the chain of *instance*: 25 characters, of which iptables takes 28."""
    return f"LABDOCK-{hashlib.sha256(instance.encode()).hexdigest()[:17]}"


def chain_rules(
    bridge: str, hub_ip: str, proxy_ip: str, also: tuple[tuple[str, int], ...] = ()
) -> tuple[tuple[str, ...], ...]:
    """The rules of our chain, in order; it sees every packet that comes in over *bridge*.

    *also* are addresses with one TCP port each that sessions may reach beside the hub's API.
    """
    return (
        ("-d", f"{METADATA_ADDRESS}/32", "-j", "DROP"),
        ("!", "-o", bridge, "-j", "RETURN"),
        ("-s", f"{hub_ip}/32", "-j", "ACCEPT"),
        ("-s", f"{proxy_ip}/32", "-j", "ACCEPT"),
        ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"),
        *(
            ("-d", f"{ip}/32", "-p", "tcp", "-m", "tcp", "--dport", str(port), "-j", "ACCEPT")
            for ip, port in ((hub_ip, HUB_PORT), *also)
        ),
        ("-j", "DROP"),
    )


async def run_program(arguments: tuple[str, ...], text: str) -> Finished:
    """Run *arguments* with *text* as input.

    Raises:
        FileNotFoundError: There is no such program.
        TimeoutError: It took longer than 15 s, and was ended.
    """
    program = shutil.which(arguments[0])
    if program is None:
        raise FileNotFoundError(arguments[0])
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments[1:],
        env=os.environ | ({} if os.access(_LOCK, os.W_OK) else {"XTABLES_LOCKFILE": _OWN_LOCK}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_PATIENCE_S):
            output, errors = await process.communicate(text.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return Finished(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))


class Firewall:
    """The chain of one instance. ``ensure`` makes it and mends it, ``remove`` takes it away."""

    def __init__(
        self,
        *,
        instance: str,
        bridge: str,
        hub_ip: str,
        proxy_ip: str,
        also: tuple[tuple[str, int], ...] = (),
        run: Run = run_program,
        bridge_setting: Path = Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    ) -> None:
        self._chain = chain_name(instance)
        self._rules = chain_rules(bridge, hub_ip, proxy_ip, also)
        self._jump = f"-A {ENTRY_CHAIN} -i {bridge} -j {self._chain}"
        self._run = run
        self._bridge_setting = bridge_setting
        self._made: str | None = None

    async def ensure(self) -> bool:
        """Make the chain and the way into it unless both are as we left them; whether anything was made.

        All of it changes in one transaction, so that no packet meets half of the rules.

        Raises:
            HostError: There is no iptables, Docker has no chain to hang ours into, or the rules were refused.
        """
        program, entry = await self._find()
        jumps = self._jumps(entry)
        listed = await self._list(program, self._chain)
        chain_is_ours = listed.status == 0 and listed.output == self._made
        if chain_is_ours and jumps == [self._jump] and self._comes_first(entry):
            return False
        lines = [
            f":{self._chain} - [0:0]",
            *(f"-A {self._chain} {' '.join(rule)}" for rule in self._rules),
            *(line.replace("-A", "-D", 1) for line in jumps),
            self._jump.replace(f"-A {ENTRY_CHAIN}", f"-I {ENTRY_CHAIN} 1", 1),
        ]
        await self._restore(program, lines)
        # iptables words rules its own way: what it says now is what it must say from now on.
        listed = await self._list(program, self._chain)
        self._made = listed.output if listed.status == 0 else None
        return True

    async def remove(self) -> None:
        """Take the chain and the way into it away; nothing happens when they are not there.

        Raises:
            HostError: As for ``ensure``.
        """
        program, entry = await self._find()
        self._made = None
        listed = await self._list(program, self._chain)
        lines = [line.replace("-A", "-D", 1) for line in self._jumps(entry)]
        if listed.status == 0:
            lines += [f"-F {self._chain}", f"-X {self._chain}"]
        if lines:
            await self._restore(program, lines)

    def bridge_problem(self) -> str | None:
        """Why packets between containers on one bridge would pass unfiltered; None when they do not."""
        try:
            setting = self._bridge_setting.read_text("ascii").strip()
        except OSError:
            setting = "missing"
        if setting == "1":
            return None
        return (
            f"The kernel does not filter packets inside a bridge (bridge-nf-call-iptables is {setting}), so "
            "sessions may reach each other. Run: modprobe br_netfilter && "
            "sysctl net.bridge.bridge-nf-call-iptables=1"
        )

    async def _find(self) -> tuple[str, list[str]]:
        """The program that sees Docker's chains, and the rules of the chain ours hangs in."""
        missing = []
        for program in PROGRAMS:
            try:
                listed = await self._list(program, ENTRY_CHAIN)
            except FileNotFoundError:
                missing.append(program)
                continue
            if listed.status == 0:
                return program, listed.output.splitlines()
        if len(missing) == len(PROGRAMS):
            raise HostError("iptables is missing, so sessions cannot be kept apart.", fix="Install iptables.")
        raise HostError(
            f"Docker has no chain {ENTRY_CHAIN}, so sessions cannot be kept apart.",
            fix='Let Docker manage iptables ("iptables": true in its daemon.json), and restart it.',
        )

    async def _list(self, program: str, chain: str) -> Finished:
        try:
            return await self._run((program, "-w", "5", "-S", chain), "")
        except FileNotFoundError:
            raise
        except OSError as error:  # a TimeoutError is one
            raise HostError(f"{program} cannot be run ({type(error).__name__}).") from error

    def _jumps(self, entry: list[str]) -> list[str]:
        return [line for line in entry if line.startswith("-A ") and line.endswith(f" -j {self._chain}")]

    def _comes_first(self, entry: list[str]) -> bool:
        """Whether nothing that lets every packet pass stands before our jump."""
        return f"-A {ENTRY_CHAIN} -j RETURN" not in entry[: entry.index(self._jump)]

    async def _restore(self, program: str, lines: list[str]) -> None:
        text = "\n".join(("*filter", *lines, "COMMIT", ""))
        try:
            done = await self._run((f"{program}-restore", "--noflush", "-w", "5"), text)
        except OSError as error:
            raise HostError(f"{program}-restore cannot be run ({type(error).__name__}).") from error
        if done.status != 0:
            raise HostError(
                f"{program}-restore refused the rules that keep sessions apart.",
                details=tuple(done.errors.strip().splitlines()[-5:]),
            )
