"""The files of one instance: what Compose, the edge and the parts are given."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labdock.core.compose import (
    LABEL_SETTINGS,
    PARTS,
    SERVICE_UID,
    Deployment,
    Places,
    agent_rules,
    bridge_name,
    choose_network,
    compose,
    hub_settings,
    part_container,
    part_files,
    parts_of,
)
from labdock.core.config import Config
from labdock.core.config import Shared as SharedSetting
from labdock.core.edge import caddyfile
from labdock.core.errors import HostError
from labdock.core.session import INSTANCE_PATTERN, SharedFolder, container_name
from labdock.core.site import AgentRules, DriverPlaces, HubSettings
from labdock.core.site_settings import CertificateFiles, Listen, Site

ROOT_ONLY = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_ADMIN", "NET_RAW"}

subnets = st.builds(
    lambda address, prefix: str(ipaddress.ip_network((address, prefix), strict=False)),
    st.integers(10 << 24, (10 << 24) + 2**24 - 1),
    st.integers(8, 30),
)
many_subnets = st.lists(subnets | st.just("fd00::/8") | st.just("192.168.0.0/16"), max_size=20)


def deployment(**changes: Any) -> Deployment:
    site = Deployment(
        instance="lab",
        config=Config(),
        places=Places("/var/lib/lab", "/srv/lab", "/var/run/docker.sock"),
        network=choose_network("lab", ()),
        server_image="labdock/server:1",
        engine_api=(1, 41),
        engine_cpus=64,
        owner_uid=0,
    )
    return replace(site, **changes)


def with_site(**changes: Any) -> Deployment:
    return deployment(config=replace(Config(), site=replace(Config().site, **changes)))


def with_cache(size_bytes: int | None) -> Deployment:
    storage = replace(Config().storage, package_cache=size_bytes)
    return deployment(config=replace(Config(), storage=storage))


def with_shared(*folders: SharedSetting) -> Deployment:
    return deployment(config=replace(Config(), storage=replace(Config().storage, shared=folders)))


def services(site: Deployment) -> dict[str, Any]:
    return dict(compose(site)["services"])


def digests(site: Deployment) -> dict[str, str]:
    return {part: service["labels"]["org.labdock.settings"] for part, service in services(site).items()}


def changed_parts(before: Deployment, after: Deployment) -> list[str]:
    """The parts that `up` replaces on the way from *before* to *after*."""
    old, new = digests(before), digests(after)
    return [part for part in PARTS if old[part] != new[part]]


def mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {volume["target"]: volume for volume in service["volumes"]}


@given(many_subnets)
@example(["0.0.0.0/0"])
def test_a_chosen_network_overlaps_none_that_is_taken(taken: list[str]) -> None:
    try:
        chosen = ipaddress.ip_network(choose_network("lab", taken).subnet)
    except HostError:
        # Only when there is truly nothing left in the corner that it may choose from.
        assert any(ipaddress.ip_network(net).prefixlen < 20 for net in taken) or len(taken) >= 176
        return
    others = [ipaddress.ip_network(net) for net in taken]
    assert not any(chosen.overlaps(other) for other in others if other.version == 4)


def test_as_many_networks_as_there_are_candidates_are_chosen_apart() -> None:
    taken: list[str] = []
    with pytest.raises(HostError, match="All 176 subnets"):
        while True:
            taken.append(choose_network("lab", taken).subnet)
    assert len(set(taken)) == 176


def test_the_fixed_addresses_are_never_given_to_a_session() -> None:
    network = choose_network("lab", ())
    whole, sessions = ipaddress.ip_network(network.subnet), ipaddress.ip_network(network.session_range)
    named = (network.gateway, network.proxy_ip, network.hub_ip, network.packages_ip)
    fixed = [ipaddress.ip_address(one) for one in named]
    assert len(set(fixed)) == 4
    assert all(one in whole and one not in sessions for one in fixed)
    assert set(sessions) < set(whole)


@given(st.text("ab-", min_size=1, max_size=30), st.text("ab-", min_size=1, max_size=30))
def test_a_bridges_name_fits_the_kernel_and_is_the_instances_own(one: str, other: str) -> None:
    assert len(bridge_name(one)) <= 15
    assert (bridge_name(one) == bridge_name(other)) == (one == other)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_shut_in(part: str) -> None:
    service = services(deployment())[part]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service


@pytest.mark.parametrize("part", [part for part in PARTS if part != "agent"])
def test_a_part_other_than_the_agent_is_not_root_and_has_no_right_and_no_engine(part: str) -> None:
    service = services(deployment())[part]
    assert service["user"] == f"{SERVICE_UID}:{SERVICE_UID}"
    assert "cap_add" not in service
    assert "network_mode" not in service
    assert "/var/run/docker.sock" not in json.dumps(service)


def test_the_agent_has_the_engine_and_just_the_rights_it_needs() -> None:
    agent = services(deployment())["agent"]
    assert set(agent["cap_add"]) == ROOT_ONLY
    assert mounts(agent)["/run/labdock/engine.sock"]["source"] == "/var/run/docker.sock"


def test_without_nvidia_hardware_the_agent_reaches_no_device() -> None:
    agent = services(deployment())["agent"]
    assert "device_cgroup_rules" not in agent
    assert "/dev" not in {bind["source"] for bind in agent["volumes"]}
    assert agent_rules(deployment()).driver is None


def test_with_nvidia_hardware_the_agent_may_ask_the_driver_and_change_none_of_its_files() -> None:
    site = deployment(driver_folders=("/usr", "/etc/alternatives"))
    agent = services(site)["agent"]
    assert set(agent["cap_add"]) == ROOT_ONLY | {"MKNOD"}
    assert agent["device_cgroup_rules"] == ["c 195:* rw"]
    binds = mounts(agent)
    assert binds["/host/usr"]["read_only"]
    assert binds["/host/etc/alternatives"]["read_only"]
    assert binds["/host/dev"]["source"] == "/dev"
    assert agent_rules(site).driver == DriverPlaces("/host", "", "/proc", "/sys", "/host/dev", "/dev")


def test_simulated_cards_come_from_a_part_without_network_and_with_few_rights() -> None:
    # Also beside real hardware: the agent then reaches none of it.
    site = deployment(simulated_gpus=4, simulation_image="labdock/simulation:1", driver_folders=("/usr",))
    parts = services(site)
    simulation = parts["simulation"]
    assert simulation["network_mode"] == "none"
    assert (simulation["cap_drop"], simulation["cap_add"]) == (["ALL"], ["DAC_OVERRIDE", "MKNOD"])
    assert simulation["security_opt"] == ["no-new-privileges:true"]
    assert set(mounts(simulation)) == {"/var/lib/lab/simulation"}
    assert "device_cgroup_rules" not in parts["agent"]
    assert "/host/usr" not in mounts(parts["agent"])
    driver = agent_rules(site).driver
    assert driver is not None
    assert driver.state == "/var/lib/lab/simulation/state"
    assert driver.host_dev == "/var/lib/lab/simulation/dev"


def test_another_number_of_simulated_cards_is_another_agent() -> None:
    settings = [
        services(deployment(simulated_gpus=number))["agent"]["labels"][LABEL_SETTINGS] for number in (4, 4, 3)
    ]
    assert settings[0] == settings[1] != settings[2]


def test_an_engine_with_cdi_reads_what_the_agent_writes() -> None:
    assert agent_rules(deployment()).cdi_dir == ""
    site = deployment(cdi=True)
    assert agent_rules(site).cdi_dir == "/etc/cdi"
    assert mounts(services(site)["agent"])["/etc/cdi"]["bind"]["create_host_path"]


def test_the_part_that_keeps_packages_has_one_folder_one_address_and_an_end_of_its_memory() -> None:
    site = deployment()
    part = services(site)["packages"]
    assert part["command"] == ["packages", str(20 * 2**30)]
    assert mounts(part)["/var/lib/labdock"]["source"] == "/var/lib/lab/packages"
    assert len(part["volumes"]) == 1
    assert part["networks"] == {"sessions": {"ipv4_address": site.network.packages_ip}}
    assert part["mem_limit"] == "256m"


def test_nobody_but_that_part_sees_what_it_keeps() -> None:
    for part, service in services(deployment()).items():
        for volume in service["volumes"]:
            inside = "/var/lib/lab/packages".startswith(f"{volume['source']}/")
            assert not inside
            assert (volume["source"] == "/var/lib/lab/packages") == (part == "packages")


def test_without_a_package_cache_there_is_no_such_part_and_nobody_is_told_of_it() -> None:
    site = with_cache(None)
    assert (
        list(services(site)) == [part for part in PARTS if part != "packages"] == list(parts_of(site.config))
    )
    assert hub_settings(site).packages is None
    assert agent_rules(site).packages is None
    assert changed_parts(deployment(), with_cache(2**30)) == ["packages"]


def test_sessions_are_told_of_the_package_cache_by_hub_and_agent_alike() -> None:
    site = deployment(pip={"index-url": "https://mirror.lab.example/simple", "timeout": "60"})
    url = f"http://{site.network.packages_ip}:8082/index/"
    cache = hub_settings(site).packages
    assert cache == agent_rules(site).packages
    assert cache is not None
    assert cache.ip == site.network.packages_ip
    assert cache.environment == {
        "PIP_INDEX_URL": url,
        "PIP_TRUSTED_HOST": site.network.packages_ip,
        "UV_DEFAULT_INDEX": url,
    }


def test_hosts_that_this_machines_pip_trusts_stay_trusted_in_sessions() -> None:
    site = deployment(pip={"trusted-host": "mirror.lab.example more.lab.example:8443"})
    cache = agent_rules(site).packages
    assert cache is not None
    trusted = cache.environment["PIP_TRUSTED_HOST"].split()
    assert trusted == [site.network.packages_ip, "mirror.lab.example", "more.lab.example:8443"]


def test_where_pip_goes_through_a_proxy_it_goes_on_asking_the_index_itself() -> None:
    cache = agent_rules(deployment(pip={"proxy": "http://proxy.lab.example:3128"})).packages
    assert cache is not None
    assert set(cache.environment) == {"UV_DEFAULT_INDEX"}


def test_only_the_edge_listens_on_the_machine() -> None:
    site = with_site(listen=Listen("127.0.0.1", 8123))
    assert {part: service.get("ports") for part, service in services(site).items() if "ports" in service} == {
        "edge": ["127.0.0.1:8123:8080"]
    }


def test_a_part_sees_just_the_secrets_it_needs_and_changes_none() -> None:
    secrets = {
        part: [target for target in mounts(service) if target.startswith("/run/labdock/secrets")]
        for part, service in services(deployment()).items()
    }
    assert secrets == {
        "agent": [],
        "proxy": ["/run/labdock/secrets/proxy_token"],
        "packages": [],
        "hub": ["/run/labdock/secrets"],
        "edge": [],
    }
    assert all(
        volume["read_only"]
        for service in services(deployment()).values()
        for target, volume in mounts(service).items()
        if "/secrets" in target or "/settings" in target
    )


def test_the_hub_cannot_write_the_agents_rules() -> None:
    hub = mounts(services(deployment())["hub"])
    assert not any(volume["source"].startswith("/var/lib/lab/parts/agent") for volume in hub.values())
    assert not any(volume["source"] in {"/var/lib/lab", "/var/lib/lab/parts"} for volume in hub.values())


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_that_is_missing_is_an_error_and_not_made_by_the_engine(part: str) -> None:
    volumes = services(deployment())[part]["volumes"]
    assert volumes
    assert all(volume["bind"] == {"create_host_path": False} for volume in volumes)


def test_the_storage_lies_at_the_same_place_inside_the_agent() -> None:
    agent = mounts(services(deployment())["agent"])
    assert agent["/srv/lab"]["source"] == "/srv/lab"
    assert agent["/var/lib/lab/names"]["source"] == "/var/lib/lab/names"


def test_a_dollar_in_a_path_is_not_taken_for_a_variable_by_compose() -> None:
    site = deployment(places=Places("/var/lib/a$HOME", "/srv/${x}", "/run/$d.sock"))
    agent = services(site)["agent"]["volumes"]
    assert {volume["source"] for volume in agent} >= {"/run/$$d.sock", "/srv/$${x}", "/var/lib/a$$HOME/agent"}
    assert "/srv/$${x}" in {volume["target"] for volume in agent}


def test_run_by_a_person_the_parts_run_as_that_person() -> None:
    assert services(deployment(owner_uid=1000))["hub"]["user"] == "1000:1000"
    assert agent_rules(deployment(owner_uid=1000)).service_uid == 1000
    assert agent_rules(deployment()).service_uid == SERVICE_UID


@pytest.mark.parametrize(
    ("api", "interval"), [((1, 41), None), ((1, 43), None), ((1, 44), "1s"), ((1, 51), "1s")]
)
def test_a_newer_engine_looks_more_often_while_a_part_starts(
    api: tuple[int, int], interval: str | None
) -> None:
    check = services(deployment(engine_api=api))["hub"]["healthcheck"]
    assert check.get("start_interval") == interval


def test_names_of_two_instances_never_meet() -> None:
    one, two = (
        compose(deployment()),
        compose(deployment(instance="lab-2", network=choose_network("lab-2", ()))),
    )
    assert not {s["container_name"] for s in one["services"].values()} & {
        s["container_name"] for s in two["services"].values()
    }
    assert not {n["name"] for n in one["networks"].values()} & {n["name"] for n in two["networks"].values()}
    bridges = [d["networks"]["sessions"]["driver_opts"]["com.docker.network.bridge.name"] for d in (one, two)]
    assert len(set(bridges)) == 2


def test_sessions_do_not_reach_each_other_by_default() -> None:
    options = compose(deployment())["networks"]["sessions"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_icc"] == "false"


def test_the_same_deployment_replaces_nothing() -> None:
    assert changed_parts(deployment(), deployment()) == []


@pytest.mark.parametrize(
    ("after", "parts"),
    [
        (with_site(listen=Listen("127.0.0.1", 8123)), ["edge"]),
        (with_site(name="Vision Lab"), ["hub"]),
        (with_site(contact="mia@lab.example"), ["hub"]),
        (with_shared(SharedSetting("pool")), ["agent", "hub"]),
        (deployment(server_image="labdock/server:2"), list(PARTS)),
        (deployment(engine_api=(1, 44)), list(PARTS)),
        (deployment(places=Places("/var/lib/lab", "/srv/other", "/var/run/docker.sock")), ["agent", "hub"]),
        (deployment(places=Places("/var/lib/lab", "/srv/lab", "/run/user/1000/docker.sock")), ["agent"]),
    ],
)
def test_just_the_parts_that_a_change_touches_are_replaced(after: Deployment, parts: list[str]) -> None:
    assert changed_parts(deployment(), after) == parts


def test_whatever_compose_is_told_anew_about_a_part_replaces_it() -> None:
    """Or `up` would rewrite compose.yaml and leave the old part running."""
    before = deployment()
    for after in (
        deployment(owner_uid=1000),
        with_site(listen=Listen("0.0.0.0", 80)),  # noqa: S104  text only
        deployment(places=Places("/x", "/y", "/z")),
    ):
        for part in PARTS:
            if services(before)[part] != services(after)[part]:
                assert part in changed_parts(before, after)


def test_hub_and_agent_are_told_the_same_of_sessions() -> None:
    site = with_shared(SharedSetting("data", "/data", "admins"), SharedSetting("pool", None, "everybody"))
    hub, agent = hub_settings(site), agent_rules(site)
    for fact in ("instance", "limits", "shared", "homes_root", "names_dir", "network", "packages"):
        assert getattr(hub, fact) == getattr(agent, fact)


def test_a_shared_folder_without_a_path_is_made_in_the_storage() -> None:
    site = with_shared(SharedSetting("data", "/data", "admins"), SharedSetting("pool", None, "everybody"))
    assert agent_rules(site).shared == (
        SharedFolder("data", "/data", "admins"),
        SharedFolder("pool", "/srv/lab/shared/pool", "everybody"),
    )
    assert agent_rules(site).managed_shared == ("pool",)


@pytest.mark.parametrize(
    ("asked", "there_are", "promised"), [(4.0, 64, 4.0), (96.0, 64, 64.0), (None, 64, None)]
)
def test_a_session_is_promised_no_more_processors_than_there_are(
    asked: float | None, there_are: int, promised: float | None
) -> None:
    config = replace(Config(), limits=replace(Config().limits, cpus=asked))
    site = deployment(config=config, engine_cpus=there_are)
    assert hub_settings(site).limits.cpus == agent_rules(site).limits.cpus == promised


def test_the_part_files_are_what_the_parts_can_read() -> None:
    files = part_files(deployment())
    assert HubSettings.from_json(files["parts/hub/hub.json"]) == hub_settings(deployment())
    assert AgentRules.from_json(files["parts/agent/agent.json"]) == agent_rules(deployment())
    assert files["parts/edge/Caddyfile"] == caddyfile(Site())


def with_https(https: str | CertificateFiles, **changes: Any) -> Deployment:
    site = Site(
        url="https://gpu.lab.example",
        https=https,
        listen=Listen("0.0.0.0", 443),  # noqa: S104  text only
        listen_http=Listen("0.0.0.0", 80),  # noqa: S104  text only
    )
    return deployment(config=replace(Config(), site=replace(site, **changes)))


OWN = CertificateFiles("/etc/lab/live/cert.pem", "/etc/lab/live/key.pem")


def test_with_https_the_edge_is_published_twice_and_keeps_its_certificates() -> None:
    edge = services(with_https("auto"))["edge"]
    assert edge["ports"] == ["0.0.0.0:443:8443", "0.0.0.0:80:8080"]
    assert mounts(edge)["/var/lib/labdock"]["source"] == "/var/lib/lab/certificates"
    assert services(with_https("internal", listen_http=None))["edge"]["ports"] == ["0.0.0.0:443:8443"]


def test_nobody_but_edge_and_agent_comes_near_the_keys_of_a_certificate() -> None:
    for https in ("auto", "internal", OWN):
        for part, service in services(with_https(https, url="https://x.example")).items():
            near = [
                v for v in service["volumes"] if "certificates" in v["source"] or "edge-admin" in v["source"]
            ]
            assert (part == "edge") <= bool(near)
            assert not near or part == "edge" or (part == "agent" and https is OWN)


def test_an_administrators_certificate_is_seen_by_the_agent_and_copied_for_the_edge() -> None:
    site = replace(
        with_https(OWN), own_pair="PEM", pair_folders=("/etc/lab/live", "/etc/lab/archive"), owner_uid=0
    )
    agent, edge = mounts(services(site)["agent"]), mounts(services(site)["edge"])
    assert agent["/host-certificate/etc/lab/live"]["read_only"]
    assert agent["/host-certificate/etc/lab/archive"]["read_only"]
    assert agent["/run/labdock/edge-admin"]["source"] == "/var/lib/lab/run/edge-admin"
    assert edge["/run/labdock/edge-admin"] == agent["/run/labdock/edge-admin"]
    assert part_files(site)["certificates/own/pair.pem"] == "PEM"
    rules = agent_rules(site).certificate
    assert rules is not None
    assert (rules.cert, rules.key, rules.host) == (OWN.cert, OWN.key, "gpu.lab.example")


def test_a_renewed_certificate_on_disk_replaces_no_part() -> None:
    one, other = (replace(with_https(OWN), own_pair=pem) for pem in ("ONE", "TWO"))
    assert changed_parts(one, other) == []


def test_the_key_for_external_accounts_goes_to_the_edge_alone() -> None:
    acme = replace(Site().acme, eab_key_id="kid-1")
    places = {
        part: [v["target"] for v in service["volumes"] if "acme_eab_key" in v["source"]]
        for part, service in services(with_https("auto", acme=acme)).items()
    }
    assert {part: found for part, found in places.items() if found} == {
        "edge": ["/run/labdock/secrets/acme_eab_key"]
    }


@given(st.from_regex(r"[a-z]{1,5}(-[a-z]{1,5})?", fullmatch=True).filter(INSTANCE_PATTERN.fullmatch))
def test_a_parts_container_is_found_by_its_name(instance: str) -> None:
    assert [service["container_name"] for service in services(deployment(instance=instance)).values()] == [
        part_container(instance, part) for part in PARTS
    ]
    assert container_name(instance, "hub") not in {part_container(instance, part) for part in PARTS}


def test_a_host_for_each_person_concerns_proxy_hub_and_edge_alone() -> None:
    before, after = with_https("internal"), with_https("internal", isolate_pages=True)
    assert changed_parts(before, after) == ["proxy", "hub", "edge"]
    assert services(after)["proxy"]["command"] == ["proxy", "--host-routing"]
    assert hub_settings(after).isolate_pages
    assert not hub_settings(before).isolate_pages


def test_an_own_certificate_must_be_for_the_hosts_of_people_too() -> None:
    own = CertificateFiles("/etc/lab/cert.pem", "/etc/lab/key.pem")
    rules = agent_rules(with_https(own, isolate_pages=True)).certificate
    assert rules is not None
    assert rules.names == ("gpu.lab.example", "*.gpu.lab.example")
    read = AgentRules.from_json(agent_rules(with_https(own, isolate_pages=True)).to_json())
    assert read.certificate == rules
