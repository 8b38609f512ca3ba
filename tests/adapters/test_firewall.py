"""The rules that keep sessions apart, on a fake iptables; real packets: tests/agent/test_network.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.adapters.firewall import Finished, Firewall, chain_name, chain_rules
from labdock.core.errors import HostError

CHAIN = chain_name("labdock")
JUMP = f"-A DOCKER-USER -i br0 -j {CHAIN}"


class FakeIptables:
    """One packet filter: which program sees it, and its chains as ``-S`` lists them."""

    def __init__(self, program: str = "iptables", *, docker: bool = True) -> None:
        self.program = program
        self.chains: dict[str, list[str]] = {"DOCKER-USER": ["-A DOCKER-USER -j RETURN"]} if docker else {}
        self.changes = 0
        self.installed = {program, f"{program}-restore"}
        self.refuses = False

    async def run(self, arguments: tuple[str, ...], text: str) -> Finished:
        if arguments[0] not in self.installed:
            raise FileNotFoundError(arguments[0])
        if arguments[0] == f"{self.program}-restore":
            assert arguments[1:] == ("--noflush", "-w", "5")
            return self._restore(text)
        assert arguments[1:4] == ("-w", "5", "-S")
        if arguments[0] != self.program or arguments[4] not in self.chains:
            return Finished(1, "", "No chain/target/match by that name.")
        lines = [f"-N {arguments[4]}", *self.chains[arguments[4]]]
        return Finished(0, "".join(f"{line}\n" for line in lines), "")

    def _restore(self, text: str) -> Finished:
        if self.refuses:
            return Finished(1, "", "line 3 failed")
        lines = text.splitlines()
        assert (lines[0], lines[-1]) == ("*filter", "COMMIT")
        self.changes += 1
        for line in lines[1:-1]:
            verb, _, rest = line.partition(" ")
            chain, _, rule = rest.partition(" ")
            if verb.startswith(":"):
                self.chains[verb[1:]] = []
            elif verb == "-A":
                self.chains[chain].append(line)
            elif verb == "-I":
                self.chains[chain].insert(0, f"-A {chain} {rule.removeprefix('1 ')}")
            elif verb == "-D":
                self.chains[chain].remove(f"-A {chain} {rule}")
            elif verb == "-F":
                self.chains[chain].clear()
            elif verb == "-X":
                del self.chains[chain]
        return Finished(0, "", "")


def firewall(filter_: FakeIptables, setting: Path = Path("/nowhere")) -> Firewall:
    return Firewall(
        instance="labdock",
        bridge="br0",
        hub_ip="10.0.0.3",
        proxy_ip="10.0.0.2",
        run=filter_.run,
        bridge_setting=setting,
    )


@given(st.text(), st.text())
def test_each_instance_has_a_chain_of_its_own_that_iptables_takes(one: str, other: str) -> None:
    assert len(chain_name(one)) <= 28
    assert (chain_name(one) == chain_name(other)) == (one == other)


def test_the_last_rule_drops_whatever_no_rule_before_it_accepts() -> None:
    rules = chain_rules("br0", "10.0.0.3", "10.0.0.2")
    assert rules[-1] == ("-j", "DROP")
    accepted = [rule[:-2] for rule in rules if rule[-1] == "ACCEPT"]
    assert accepted == [
        ("-s", "10.0.0.3/32"),
        ("-s", "10.0.0.2/32"),
        ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"),
        ("-d", "10.0.0.3/32", "-p", "tcp", "-m", "tcp", "--dport", "8081"),
    ]
    # The clouds' address comes before the way out.
    assert rules[0] == ("-d", "169.254.169.254/32", "-j", "DROP")
    assert rules[1] == ("!", "-o", "br0", "-j", "RETURN")


def test_what_else_sessions_may_reach_is_one_port_of_one_address() -> None:
    rules = chain_rules("br0", "10.0.0.3", "10.0.0.2", (("10.0.0.4", 8082),))
    more = [rule for rule in rules if rule not in chain_rules("br0", "10.0.0.3", "10.0.0.2")]
    assert more == [("-d", "10.0.0.4/32", "-p", "tcp", "-m", "tcp", "--dport", "8082", "-j", "ACCEPT")]
    assert rules[-1] == ("-j", "DROP")


async def test_the_rules_are_made_once_and_then_left_alone() -> None:
    filter_ = FakeIptables()
    wall = firewall(filter_)
    assert await wall.ensure()
    assert filter_.chains["DOCKER-USER"] == [JUMP, "-A DOCKER-USER -j RETURN"]
    assert len(filter_.chains[CHAIN]) == 7
    assert not await wall.ensure()
    assert filter_.changes == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda chains: chains["DOCKER-USER"].remove(JUMP),
        lambda chains: chains["DOCKER-USER"].append(JUMP),
        lambda chains: chains["DOCKER-USER"].reverse(),
        lambda chains: chains["DOCKER-USER"].append(f"-A DOCKER-USER -i old0 -j {CHAIN}"),
        lambda chains: chains[CHAIN].pop(),
        lambda chains: chains[CHAIN].reverse(),
        lambda chains: chains[CHAIN].insert(0, f"-A {CHAIN} -j ACCEPT"),
        lambda chains: (chains["DOCKER-USER"].remove(JUMP), chains.pop(CHAIN)),
    ],
)
async def test_whatever_is_changed_from_outside_is_mended_in_one_step(damage: object) -> None:
    filter_ = FakeIptables()
    wall = firewall(filter_)
    await wall.ensure()
    whole = {chain: list(rules) for chain, rules in filter_.chains.items()}
    assert callable(damage)
    damage(filter_.chains)
    assert await wall.ensure()
    assert filter_.chains == whole
    assert filter_.changes == 2


async def test_somebody_elses_rules_stay() -> None:
    filter_ = FakeIptables()
    filter_.chains["DOCKER-USER"].insert(0, "-A DOCKER-USER -s 192.0.2.1/32 -j DROP")
    wall = firewall(filter_)
    await wall.ensure()
    await wall.remove()
    assert filter_.chains == {
        "DOCKER-USER": ["-A DOCKER-USER -s 192.0.2.1/32 -j DROP", "-A DOCKER-USER -j RETURN"]
    }


async def test_removing_what_is_not_there_changes_nothing() -> None:
    filter_ = FakeIptables()
    await firewall(filter_).remove()
    assert filter_.changes == 0


async def test_the_program_that_sees_dockers_chains_is_used() -> None:
    filter_ = FakeIptables("iptables-legacy")
    filter_.installed |= {"iptables", "iptables-restore"}
    assert await firewall(filter_).ensure()
    assert CHAIN in filter_.chains


async def test_a_machine_without_iptables_is_told_so() -> None:
    filter_ = FakeIptables()
    filter_.installed.clear()
    with pytest.raises(HostError, match="iptables is missing"):
        await firewall(filter_).ensure()


async def test_a_docker_that_leaves_iptables_alone_is_told_so() -> None:
    with pytest.raises(HostError, match="DOCKER-USER"):
        await firewall(FakeIptables(docker=False)).ensure()


async def test_rules_that_are_refused_are_an_error_with_the_reason() -> None:
    filter_ = FakeIptables()
    filter_.refuses = True
    with pytest.raises(HostError, match="refused") as caught:
        await firewall(filter_).ensure()
    assert caught.value.details == ("line 3 failed",)


@pytest.mark.parametrize(("setting", "word"), [("0\n", "is 0"), (None, "is missing"), ("1\n", None)])
def test_a_kernel_that_does_not_filter_bridges_is_a_problem(
    tmp_path: Path, setting: str | None, word: str | None
) -> None:
    file = tmp_path / "bridge-nf-call-iptables"
    if setting is not None:
        file.write_text(setting)
    problem = firewall(FakeIptables(), file).bridge_problem()
    assert problem is None if word is None else problem is not None and word in problem


async def test_an_iptables_that_hangs_is_an_error_and_no_crash() -> None:
    async def hang(arguments: tuple[str, ...], text: str) -> Finished:
        raise TimeoutError

    wall = Firewall(instance="labdock", bridge="br0", hub_ip="10.0.0.3", proxy_ip="10.0.0.2", run=hang)
    with pytest.raises(HostError, match="TimeoutError"):
        await wall.ensure()
