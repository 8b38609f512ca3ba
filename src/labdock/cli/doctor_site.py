"""What ``labdock doctor`` looks at of the site's address: name, ports, clock, certificate, authority."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from labdock.adapters import host
from labdock.adapters.certificates import read_served, trusted_subjects
from labdock.adapters.edge_probe import addresses_of, read_date, read_mark
from labdock.adapters.engine import Engine
from labdock.cli.certificates import reachable, read_site_files, read_trouble
from labdock.cli.instance import Instance
from labdock.core.certificate import (
    Served,
    certificate_findings,
    life_in_words,
)
from labdock.core.edge import MARK_PATH
from labdock.core.errors import LabdockError
from labdock.core.finding import Finding
from labdock.core.site_settings import CertificateFiles, Listen, is_address

CLOCK_MAY_DIFFER_S = 60.0


async def examine_site(instance: Instance, engine: Engine) -> list[Finding]:
    """Everything between a browser and the edge."""
    site = instance.config.site
    mark = host.read_text(instance.state / "certificates/mark") or ""
    findings = [await asyncio.to_thread(_place, instance, place, mark.strip()) for place in _places(instance)]
    if not site.is_local:
        findings.append(await asyncio.to_thread(_name, instance, mark.strip()))
    if site.https == "auto":
        findings.append(await asyncio.to_thread(_clock, site.acme_directory))
        trouble = await read_trouble(instance, engine)
        if trouble is not None:
            findings.append(Finding("certificate authority", False, trouble.message, trouble.fix))
    if isinstance(site.https, CertificateFiles):
        findings.append(await asyncio.to_thread(_files, instance))
    if site.url.startswith("https:"):
        findings += await asyncio.to_thread(_certificate, instance)
    return findings


def _places(instance: Instance) -> tuple[Listen, ...]:
    site = instance.config.site
    return (site.listen, *((site.listen_http,) if site.listen_http else ()))


def _place(instance: Instance, place: Listen, mark: str) -> Finding:
    """Whether the edge answers where it is published."""
    site = instance.config.site
    check = f"port {place.port}"
    tls = site.has_tls and place == site.listen
    seen = read_mark(reachable(place), place.port, site.host, MARK_PATH, tls=tls)
    # Without TLS and behind a proxy, this machine itself may be a stranger to the edge.
    if seen == mark or (seen == "" and site.trusted_proxies):
        return Finding(check, True, f"the edge answers at {place}")
    if seen is not None:
        fix = "End that program, or give the site another port in labdock.yaml."
        return Finding(check, False, f"another program answers at {place}", fix)
    if tls and not host.port_is_free(place.address, place.port):
        return Finding(check, False, f"no certificate is served at {place}", "See the lines below.")
    return Finding(check, False, f"nobody answers at {place}", "`labdock up`, or `labdock logs edge`")


def _name(instance: Instance, mark: str) -> Finding:
    """Whether the name of the address leads to this very site, by whatever way."""
    site = instance.config.site
    port, tls = site.port, site.url.startswith("https:")
    found = (site.host,) if is_address(site.host) else addresses_of(site.host)
    if not found:
        fix = f"Make an A record for {site.host} with this machine's public address."
        return Finding("name", False, f"the DNS does not know {site.host}", fix)
    shown = ", ".join(found)
    answers = {
        address: [
            read_mark(address, at, site.host, MARK_PATH, tls=secure)
            for at, secure in ((port, tls), *(((80, False),) if tls else ()))
        ]
        for address in found
    }
    here = [address for address in found if mark and mark in answers[address]]
    newer = [address for address in found if ":" in address and address not in here]
    if here and newer:
        return Finding(
            "name",
            False,
            f"{site.host} leads here by {', '.join(here)}, but not by {', '.join(newer)}",
            "Browsers and certificate authorities try IPv6 first: take the AAAA record out of the DNS.",
        )
    if here:
        return Finding("name", True, f"{site.host} leads here ({shown})")
    if any(answer is not None for some in answers.values() for answer in some):
        return Finding(
            "name",
            False,
            f"{site.host} leads to another server ({shown})",
            "Let its DNS record name this machine's public address, or have the router lead the ports here.",
        )
    mine = set(host.own_addresses())
    if mine & set(found):
        fix = f"Open port {port} in the firewall; see also what is said of the ports."
        return Finding("name", False, f"{site.host} is this machine ({shown}), and nobody answers there", fix)
    return Finding(
        "name",
        False,
        f"{site.host} is at {shown}, which is no address of this machine, and nobody answers there",
        "If a router stands between, have it lead the ports 80 and 443 here, and try from outside: some "
        "routers do not let the inside come back in.",
    )


def _clock(directory: str) -> Finding:
    """Whether this machine's clock agrees with that of the certificate authority."""
    theirs = read_date(directory)
    if theirs is None:
        fix = "The edge needs a way out to it: check the firewall, and site.acme.directory."
        return Finding("certificate authority reached", False, f"{directory} does not answer", fix)
    ahead = time.time() - theirs
    if abs(ahead) <= CLOCK_MAY_DIFFER_S:
        return Finding("clock", True, "agrees with that of the certificate authority")
    way = "ahead of" if ahead > 0 else "behind"
    seen = f"{abs(ahead):.0f} s {way} that of the certificate authority"
    return Finding("clock", False, seen, "Set it: timedatectl set-ntp true")


def _files(instance: Instance) -> Finding:
    try:
        read_site_files(instance.config.site)
    except LabdockError as error:
        return Finding("certificate files", False, error.message, error.fix)
    return Finding("certificate files", True, "fit each other, the name and the time")


def _certificate(instance: Instance) -> list[Finding]:
    """What people are shown: by the edge, or by the proxy in front."""
    site = instance.config.site
    try:
        served = _served(instance)
    except LabdockError as error:
        return [Finding("certificate", False, error.message, error.fix)]
    now = time.time()
    findings = certificate_findings(
        served, site.shown_names, now, trusted_subjects(), staging=site.acme.staging
    )
    return findings or [
        Finding("certificate", True, f"by {served.leaf.issuer}, {life_in_words(served.leaf, now)}")
    ]


def _served(instance: Instance) -> Served:
    site = instance.config.site
    root: Path | None = instance.own_root
    if site.has_tls:
        return read_served(reachable(site.listen), site.listen.port, site.host, root=root)
    return read_served(site.host, site.port, site.host)
