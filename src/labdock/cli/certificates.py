"""The site's certificate: files checked first, what is served, why there is none; and the commands for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from labdock.adapters import host
from labdock.adapters.certificates import read_chain, read_pair, read_served, trusted_subjects
from labdock.adapters.edge_probe import read_mark
from labdock.adapters.engine import Engine
from labdock.cli.console import Console
from labdock.cli.context import Context, as_json_option, pass_context
from labdock.cli.instance import Instance
from labdock.core.acme_trouble import Trouble, find_trouble
from labdock.core.certificate import (
    Served,
    chain_faults,
    covers,
    days_left,
    end_notice,
    life_in_words,
    name_faults,
    time_faults,
)
from labdock.core.compose import part_container
from labdock.core.edge import MARK_PATH, ROOT
from labdock.core.errors import HostError
from labdock.core.site_settings import CertificateFiles, Listen, Site

CERTIFICATE_TIMEOUT_S = 90.0
_LOG_LINES = 500


@dataclass(frozen=True, slots=True)
class SiteFiles:
    """What the section ``site`` names of this machine's files, read and checked; "" for what it does not."""

    acme_authority: str = ""
    own_pair: str = ""
    pair_folders: tuple[str, ...] = ()


def read_site_files(site: Site) -> SiteFiles:
    """The files that *site* names.

    Raises:
        HostError: One cannot be used; says why.
    """
    authority, pair = "", ""
    folders: tuple[str, ...] = ()
    if site.acme.authority:
        path = Path(site.acme.authority)
        read_chain(path)
        authority = host.read_text(path) or ""
    if isinstance(site.https, CertificateFiles):
        pair, folders = _own_pair(site.https, site.shown_names)
    return SiteFiles(authority, pair, folders)


def _own_pair(files: CertificateFiles, names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    cert, key = Path(files.cert), Path(files.key)
    pair = read_pair(cert, key)
    faults = (
        *time_faults(pair.chain[0], time.time()),
        *name_faults(pair.chain[0], *names),
        *chain_faults(pair.chain, pair.linked, trusted_subjects()),
    )
    if faults:
        raise HostError(
            f"The certificate {cert} cannot be used: {faults[0]}",
            fix="Nothing was changed; name another in site.https.",
            details=faults[1:],
        )
    for path in (cert, key):
        link = host.linked_folder(path)
        if link is not None:
            raise HostError(
                f"{path} leads through {link}, which is a link: where it leads later would not be seen.",
                fix=f"Name the file without it: {path.parent.resolve() / path.name}",
            )
    folders = tuple(dict.fromkeys((*host.folders_to(cert), *host.folders_to(key))))
    if "/" in folders:
        raise HostError(
            f"{cert} or {key} lies in the root folder.", fix="Put both into a folder of their own."
        )
    return pair.text, folders


def reachable(listen: Listen) -> str:
    """The address by which this machine itself comes to *listen*."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not listened on
    return everywhere.get(listen.address, listen.address)


def edge_answers(instance: Instance) -> bool:
    """Whether the edge answers where it is published, with or without a certificate."""
    site = instance.config.site
    # While a certificate is awaited, there is no TLS yet.
    place = site.listen_http if site.https == "auto" and site.listen_http else site.listen
    tls = site.has_tls and place == site.listen
    return read_mark(reachable(place), place.port, site.host, MARK_PATH, tls=tls) is not None


def served_by(instance: Instance) -> Served:
    """What the edge shows now.

    Raises:
        HostError: Nothing, or the site has no certificate of its own.
    """
    site = instance.config.site
    if not site.has_tls:
        raise HostError(
            f"This site has no certificate: site.https is off, and its address is {site.url}.",
            fix="See docs/how-to/https.md.",
        )
    return read_served(reachable(site.listen), site.listen.port, site.host, root=instance.own_root)


async def wait_for_certificate(instance: Instance, engine: Engine, console: Console) -> HostError | None:
    """Wait until the certificate that was asked for is served; the reason when it does not come."""
    site = instance.config.site
    if site.https != "auto" or _holds(instance):
        return None
    edge, since = part_container(instance.name, "edge"), 0.0
    trouble = await read_trouble(instance, engine)
    if trouble is not None and trouble.over:
        # It tries again later and later; whoever runs `up` has mended something and wants to see it.
        since = time.time()
        await engine.restart(edge, grace_s=5)
    deadline = time.monotonic() + CERTIFICATE_TIMEOUT_S
    try:
        with console.step(f"Wait for the certificate of {site.host}") as show:
            while not _holds(instance):
                trouble = await read_trouble(instance, engine, since=since)
                show(trouble.message if trouble else f"{site.acme_directory} is asked")
                if (trouble is not None and trouble.over) or time.monotonic() > deadline:
                    raise _missing(site, trouble)
                await asyncio.sleep(0.5)
    except HostError as error:
        return error
    return None


def _missing(site: Site, trouble: Trouble | None) -> HostError:
    why = trouble.message if trouble else f"{site.acme_directory} has not issued one so far."
    fix = trouble.fix if trouble else "See: labdock logs edge"
    return HostError(
        f"There is no certificate for {site.host} yet. {why}",
        fix=f"{fix} Everything else runs; the edge goes on trying, and `labdock up` tries at once.",
    )


def _holds(instance: Instance) -> bool:
    """Whether a certificate for the site is served that is in its time."""
    try:
        leaf = served_by(instance).leaf
    except HostError:
        return False
    return covers(leaf, instance.config.site.host) and not time_faults(leaf, time.time())


async def read_trouble(instance: Instance, engine: Engine, *, since: float = 0.0) -> Trouble | None:
    """What the edge's log says of why there is no certificate, or no new one."""
    site = instance.config.site
    lines = await engine.last_lines(part_container(instance.name, "edge"), _LOG_LINES)
    return find_trouble(lines, site.host, site.acme_directory, since=since)


def describe_served(served: Served, name: str, now: float) -> dict[str, Any]:
    """What is served, as plain values for ``--json``."""
    leaf = served.leaf
    return {
        "host": name,
        "names": list(leaf.names),
        "issuer": leaf.issuer,
        "from": _moment(leaf.begins),
        "until": _moment(leaf.ends),
        "days_left": days_left(leaf, now),
        "notice": end_notice(leaf, now),
        "trusted": not served.distrust,
        "distrust": served.distrust,
        "fingerprint": leaf.fingerprint,
        "chain": [{"subject": one.subject, "issuer": one.issuer} for one in served.chain],
    }


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def certificate_line(facts: dict[str, Any]) -> str:
    """What is served, in one line for people."""
    if "problem" in facts:
        return f"Certificate: {facts['problem']}"
    trust = "" if facts["trusted"] else f", not trusted by this machine ({facts['distrust']})"
    return f"Certificate: by {facts['issuer']} until {facts['until']}, {facts['life']}{trust}"


def certificate_facts(instance: Instance) -> dict[str, Any] | None:
    """What is served, or the *problem* that keeps people out; None where the edge has no certificate."""
    site = instance.config.site
    if not site.has_tls:
        return None
    try:
        served = served_by(instance)
    except HostError as error:
        return {"problem": str(error)}
    now = time.time()
    facts = {**describe_served(served, site.host, now), "life": life_in_words(served.leaf, now)}
    faults = (*time_faults(served.leaf, now), *name_faults(served.leaf, *site.shown_names))
    return {**facts, "problem": faults[0]} if faults else facts


@click.group("certificate")
def certificate() -> None:
    """Show the site's certificate, and the root of its own authority."""


@certificate.command("show")
@as_json_option
@pass_context
def show(context: Context, as_json: bool) -> None:
    """Show the certificate that the site serves now, by a connection to it."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    served, now = served_by(instance), time.time()
    facts = describe_served(served, instance.config.site.host, now)

    def lines() -> None:
        console.table(
            ("", ""),
            (
                ("Names", ", ".join(served.leaf.names)),
                ("Issuer", served.leaf.issuer),
                ("From", facts["from"]),
                ("Until", f"{facts['until']} ({life_in_words(served.leaf, now)})"),
                ("Trusted here", "yes" if facts["trusted"] else f"no: {served.distrust}"),
                ("SHA-256", served.leaf.fingerprint),
                *(("Chain" if not index else "", one.subject) for index, one in enumerate(served.chain)),
            ),
        )

    console.facts(facts, lines)


@certificate.command("root")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write it there instead of showing it.")
@as_json_option
@pass_context
def root(context: Context, output: Path | None, as_json: bool) -> None:
    """Print the root certificate of the site's own authority, which people install (site.https: internal)."""
    console = context.console(as_json=as_json)
    instance = context.instance()
    if instance.config.site.https != "internal":
        raise HostError(
            "This site has no authority of its own: site.https is not internal.",
            fix="Nobody has to install anything for a certificate of a public authority.",
        )
    path = instance.own_root
    if path is None:
        missing = instance.state / "certificates" / ROOT
        raise HostError(f"There is no root in {missing} yet.", fix="Run `labdock up`.")
    text, found = host.read_text(path) or "", read_chain(path)[0]
    if output is not None:
        host.write_file(output, text, mode=0o644)

    def lines() -> None:
        console.say(text.strip() if output is None else f"{output} is written.")
        console.note(f"SHA-256 {found.fingerprint}")
        console.note(f"{found.subject}, until {_moment(found.ends)}.")
        console.note("How people install it: docs/how-to/https.md. Give them the fingerprint by another way.")

    console.facts({"pem": text, **asdict(found), "file": str(output) if output else None}, lines)
