"""The edge's Caddyfile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from labdock.core.config import parse
from labdock.core.edge import caddyfile
from labdock.core.settings import node_of
from labdock.core.site_settings import Site
from tests.core.config_files import sites

OWN = {"cert": "/etc/lab/cert.pem", "key": "/etc/lab/key.pem"}
BEHIND = {
    "url": "https://gpu",
    "https": "off",
    "trusted_proxies": ["127.0.0.1", "10.0.0.5"],
    "listen": "127.0.0.1:8000",
}


def site(**values: Any) -> Site:
    return parse(node_of({"site": values})).site


def words(**values: Any) -> list[str]:
    """The lines of the file, without their indent."""
    return [line.strip() for line in caddyfile(site(**values)).splitlines()]


@settings(deadline=None)
@given(sites())
def test_every_file_is_balanced_goes_to_the_proxy_and_keeps_what_people_wrote_out(
    values: dict[str, Any],
) -> None:
    text = caddyfile(site(**values))
    assert text.count("{") == text.count("}")
    assert text.count("reverse_proxy unix//run/labdock/edge/proxy.sock") == 1
    # Free text has no place in it: braces would mean something.
    odd = {**values, "name": "{$HOME}\\", "contact": "{env.HOME} }"}
    assert caddyfile(site(**odd)) == caddyfile(site(**{**values, "name": "x", "contact": "y"}))


def test_one_address_is_handed_on_whatever_somebody_claims() -> None:
    for values in ({}, {"url": "https://gpu.example.edu"}, BEHIND):
        found = words(**values)
        assert "header_up X-Forwarded-For {client_ip}" in found
        assert "header_up X-Real-Ip {client_ip}" in found
        assert {"header_up -X-Scheme", "header_up -Forwarded"} <= set(found)


def test_only_proxies_that_are_named_are_believed_from_the_last_to_the_first() -> None:
    assert not any("trusted_proxies" in line for line in words(url="https://gpu.example.edu"))
    found = words(**BEHIND)
    assert "trusted_proxies static 127.0.0.1 10.0.0.5 {$LABDOCK_GATEWAY}" in found
    assert "trusted_proxies_strict" in found
    # Where nobody on this machine is named, who comes by the gateway is a stranger.
    other = {**BEHIND, "trusted_proxies": ["10.0.0.5"], "listen": "10.0.0.7:8000"}
    assert "trusted_proxies static 10.0.0.5" in words(**other)
    assert "@stranger not remote_ip 127.0.0.0/8 ::1 10.0.0.5" in words(**other)


def test_another_host_is_sent_to_the_sites_own_address() -> None:
    assert "redir @path https://gpu.example.edu{uri} permanent" in words(url="https://gpu.example.edu")
    assert "redir @path http://127.0.0.1:8000{uri} temporary" in words()
    # A proxy in front decides which names it takes, and often sends one of its own.
    assert not any(line.startswith("handle @elsewhere") for line in words(**BEHIND))
    assert "header_up Host gpu" in words(**BEHIND)


@pytest.mark.parametrize(
    ("values", "strict"),
    [
        ({"url": "https://gpu.example.edu"}, True),
        ({"url": "https://gpu", "https": "internal"}, True),
        (BEHIND, True),
        ({"url": "https://localhost", "https": "internal"}, False),
        ({}, False),
    ],
)
def test_browsers_are_told_to_stay_with_https_but_for_this_machine(
    values: dict[str, Any], strict: bool
) -> None:
    assert ("Strict-Transport-Security max-age=31536000" in words(**values)) == strict


def test_orders_are_taken_only_where_a_certificate_is_read_anew() -> None:
    assert "admin unix//run/labdock/edge-admin/admin.sock|0600" in words(url="https://gpu", https=OWN)
    for values in (
        {},
        {"url": "https://gpu.example.edu"},
        {"url": "https://gpu", "https": "internal"},
        BEHIND,
    ):
        assert "admin off" in words(**values)


def test_the_certificate_comes_from_where_the_setting_says() -> None:
    auto = words(
        url="https://gpu.example.edu",
        acme={"directory": "https://acme.lab.example/dir", "eab_key_id": "kid-1", "authority": "/etc/x.pem"},
        contact="mia@lab.example",
    )
    assert "dir https://acme.lab.example/dir" in auto
    assert "eab kid-1 {$LABDOCK_ACME_EAB_KEY}" in auto
    assert "trusted_roots /run/labdock/settings/acme-authority.pem" in auto
    assert "email mia@lab.example" in auto
    internal = words(url="https://gpu", https="internal")
    assert "issuer internal" in internal
    assert 'root_cn "Labdock root of gpu"' in internal
    pair = "/var/lib/labdock/own/pair.pem"
    assert f"tls {pair} {pair} {{" in words(url="https://gpu", https=OWN)


def test_an_ipv6_address_is_written_with_brackets() -> None:
    assert "https://[2001:db8::1] {" in words(url="https://[2001:db8::1]", https="internal")


def test_uploads_have_an_end() -> None:
    found = words()
    assert found[found.index("request_body @session {") + 1] == "max_size 1GB"
    assert found[found.index("request_body @other {") + 1] == "max_size 10MB"
    assert "read_header 10s" in found


def test_the_name_of_the_site_changes_nothing_at_the_edge() -> None:
    assert caddyfile(replace(Site(), name="Other")) == caddyfile(Site())


def test_the_hosts_of_people_have_a_certificate_and_nothing_of_the_hubs() -> None:
    values: dict[str, Any] = {"url": "https://gpu.example.edu:8443", "isolate_pages": True}
    for https in ("internal", OWN):
        text = caddyfile(site(**values, https=https))
        assert "https://gpu.example.edu, https://*.gpu.example.edu {" in text
        away = "@away { host *.gpu.example.edu not path /user/* } handle @away { "
        assert f"{away}redir https://gpu.example.edu:8443{{uri}} temporary }}" in " ".join(text.split())
    assert "*.gpu" not in caddyfile(site(url="https://gpu.example.edu", https="internal"))


def test_behind_a_proxy_the_host_of_a_person_reaches_the_hub_and_no_other_does() -> None:
    found = words(**{**BEHIND, "url": "https://gpu.example.edu", "isolate_pages": True})
    assert "header_up Host {labdock_place}" in found
    assert "header_up X-Forwarded-Host {labdock_place}" in found
    assert r'~(?i)^([a-z0-9-]+)\.gpu\.example\.edu$ "${1}.gpu.example.edu"' in found
    assert "default gpu.example.edu" in found
