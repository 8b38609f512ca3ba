"""`labdock doctor` follows the way from the name to the certificate."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from labdock.adapters import host
from labdock.adapters.config_file import read_config
from labdock.adapters.engine import Engine
from labdock.cli.doctor_site import examine_site
from labdock.cli.instance import Instance
from labdock.core.finding import Finding
from tests.authorities import Lab, Made, answering, lab

MARK = "0123456789abcdef"


@pytest.fixture(scope="module")
def authority() -> Lab:
    return lab()


@pytest.fixture(scope="module")
def address() -> str:
    """One of this machine's own, by which others come."""
    return next(found for found in host.own_addresses() if not found.startswith("127."))


def instance(tmp_path: Path, **site: object) -> Instance:
    """An instance whose edge has MARK."""
    (tmp_path / "state/certificates").mkdir(parents=True, exist_ok=True)
    (tmp_path / "state/certificates/mark").write_text(MARK)
    (tmp_path / "labdock.yaml").write_text(f"site: {json.dumps(site)}\n")
    path = tmp_path / "labdock.yaml"
    return Instance("lab", tmp_path / "state", read_config(path), path, None, Path("/nowhere.sock"))


async def found(instance: Instance) -> dict[str, list[Finding]]:
    """What doctor says, by what it looked at."""
    findings = await examine_site(instance, Engine("/nowhere.sock"))
    return {check: [one for one in findings if one.check == check] for check in {f.check for f in findings}}


@contextmanager
def edge(
    tmp_path: Path, address: str, authority: Lab, leaf: Made, *, mark: str, chain: bool = True
) -> Iterator[int]:
    """The port of something that answers with *mark*, and shows *leaf*."""
    files = tmp_path / "served.pem", tmp_path / "served.key"
    files[0].write_text(authority.chain(leaf) if chain else leaf.pem)
    files[1].write_text(leaf.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(mark)}\r\n\r\n{mark}".encode()
    with answering(address, context, answer) as port:
        yield port


def internal(tmp_path: Path, address: str, port: int) -> Instance:
    place = f"{address}:{port}"
    return instance(tmp_path, url=f"https://{place}", https="internal", listen=place, listen_http="none")


async def test_a_name_that_leads_here_is_known_by_what_is_answered(
    tmp_path: Path, address: str, authority: Lab
) -> None:
    leaf = authority.issue(address)
    with edge(tmp_path, address, authority, leaf, mark=MARK) as port:
        seen = await found(internal(tmp_path, address, port))
    assert seen["name"][0].ok
    assert seen[f"port {port}"][0].ok
    # Nobody installed the lab's root here.
    (certificate,) = seen["certificate"]
    assert "does not trust it" in certificate.seen


async def test_another_server_behind_the_name_is_told_from_this_one(
    tmp_path: Path, address: str, authority: Lab
) -> None:
    leaf = authority.issue(address)
    with edge(tmp_path, address, authority, leaf, mark="of another Labdock") as port:
        seen = await found(internal(tmp_path, address, port))
    (name,) = seen["name"]
    assert not name.ok
    assert "leads to another server" in name.seen
    assert "another program answers" in seen[f"port {port}"][0].seen


async def test_where_nobody_answers_the_port_is_named(tmp_path: Path, address: str) -> None:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
        seen = await found(internal(tmp_path, address, port))
    (name,) = seen["name"]
    assert f"{address} is this machine" in name.seen
    assert f"Open port {port} in the firewall" in name.fix
    assert not seen["certificate"][0].ok


async def test_a_name_that_the_dns_does_not_know_is_told(tmp_path: Path) -> None:
    seen = await found(
        instance(
            tmp_path, url="https://gpu.invalid", https="internal", listen="127.0.0.1:1", listen_http="none"
        )
    )
    (name,) = seen["name"]
    assert name.seen == "the DNS does not know gpu.invalid"
    assert "Make an A record" in name.fix


async def test_a_chain_that_is_not_served_and_a_time_that_is_over_are_told(
    tmp_path: Path, address: str, authority: Lab
) -> None:
    leaf = authority.issue(address)
    with edge(tmp_path, address, authority, leaf, mark=MARK, chain=False) as port:
        seen = await found(internal(tmp_path, address, port))
    assert "served without its chain" in seen["certificate"][0].seen
    ended = authority.issue(address, begins_in=timedelta(days=-9), lives=timedelta(days=8))
    with edge(tmp_path, address, authority, ended, mark=MARK) as port:
        seen = await found(internal(tmp_path, address, port))
    assert "ended 1 day ago" in seen["certificate"][0].seen


async def test_files_that_do_not_fit_are_told_before_they_are_served(
    tmp_path: Path, address: str, authority: Lab
) -> None:
    leaf = authority.issue(address)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text(authority.chain(leaf))
    key.write_text(authority.issue(address).key)
    with edge(tmp_path, address, authority, leaf, mark=MARK) as port:
        place = f"{address}:{port}"
        files = {"cert": str(cert), "key": str(key)}
        seen = await found(
            instance(tmp_path, url=f"https://{place}", https=files, listen=place, listen_http="none")
        )
    (pair,) = seen["certificate files"]
    assert "is not that of the certificate" in pair.seen
