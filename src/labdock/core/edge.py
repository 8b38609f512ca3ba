"""What the edge is told: its Caddyfile, and what it finds in its environment."""

from __future__ import annotations

import re

from labdock.core.site_settings import CertificateFiles, Site, loopback_networks

EDGE_HTTP_PORT = 8080
EDGE_HTTPS_PORT = 8443
"""Where the edge listens inside its container."""

GATEWAY = "LABDOCK_GATEWAY"
"""The variable with the address that processes of this machine come from, as the edge sees them."""

MARK = "LABDOCK_MARK"
"""The variable with the words by which this edge is told from any other."""

EAB_KEY = "LABDOCK_ACME_EAB_KEY"
"""The variable with the key for external account binding."""

MARK_PATH = "/.well-known/labdock"
"""Where the edge tells its mark, to everybody."""

ADMIN_SOCKET = "/run/labdock/edge-admin/admin.sock"
"""Where the edge takes orders: from the agent alone, which then has it read a certificate anew."""

CERTIFICATES = "/var/lib/labdock"
"""Where the edge keeps certificates, accounts and its own authority."""

OWN_PAIR = "own/pair.pem"
"""Below that, the administrator's certificate with chain and key, in one file so that they always fit."""

ACME_AUTHORITY = "acme-authority.pem"
"""The file, beside the Caddyfile, with the root of the ACME directory's own HTTPS."""

EAB_SECRET = "acme_eab_key"  # noqa: S105  the name of a secret

ROOT = "pki/authorities/local/root.crt"
"""Below CERTIFICATES, the root of the edge's own authority."""

LARGE_BODIES = "1GB"
"""The largest upload into a session; JupyterLab sends files in pieces of 1 MB, notebooks whole."""

SMALL_BODIES = "10MB"
"""The largest of anything else: the hub's forms and calls are small."""

_PLACE = "labdock_place"
"""What a request is for, in the edge's words: the site's own place, or that of a person's sessions."""

_ANY_LOOPBACK = r"^(?i:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?$"


def caddyfile(site: Site) -> str:
    """The edge's configuration: everything to the proxy's socket, a page of its own while that is away."""
    blocks = [_options(site), _pages(site)]
    blocks += [_with_tls(site)] if site.has_tls else [_without_tls(site)]
    return "\n".join(blocks)


def _options(site: Site) -> str:
    lines = [
        f"admin unix/{ADMIN_SOCKET}|0600" if isinstance(site.https, CertificateFiles) else "admin off",
        f"auto_https {'disable_redirects' if site.has_tls else 'off'}",
        "persist_config off",
        "skip_install_trust",
        f"storage file_system {CERTIFICATES}",
        f"http_port {EDGE_HTTP_PORT}",
        f"https_port {EDGE_HTTPS_PORT}",
    ]
    if site.has_tls:
        # Who comes with an address instead of a name is shown this certificate, and sent to the name.
        lines.append(f"default_sni {site.host}")
        # It looks at memory alone, and certificates may live for a day.
        lines.append("renew_interval 30s")
    if site.https == "internal":
        # What people read when they install it.
        lines += [
            "pki {",
            "\tca local {",
            f'\t\tname "Labdock of {site.host}"',
            f'\t\troot_cn "Labdock root of {site.host}"',
            f'\t\tintermediate_cn "Labdock authority of {site.host}"',
            "\t}",
            "}",
        ]
    lines += [
        "log {",
        "\tlevel WARN",
        "\tformat json",
        *(("\texclude tls.obtain tls.renew",) if site.has_tls else ()),
        "}",
    ]
    if site.has_tls:
        lines += ["log certificates {", "\tformat json", "\tinclude tls.obtain tls.renew", "}"]
    lines += [
        "servers {",
        "\tprotocols h1 h2",
        "\tmax_header_size 64KB",
        "\ttimeouts {",
        "\t\tread_header 10s",
        "\t\tidle 2m",
        "\t}",
    ]
    if site.trusted_proxies:
        lines.append(f"\ttrusted_proxies static {' '.join(_proxies(site))}")
        # From the last address to the first: whoever asks may have written the first ones.
        lines.append("\ttrusted_proxies_strict")
    lines.append("}")
    return _block("", lines)


def _proxies(site: Site) -> tuple[str, ...]:
    """The trusted proxies as the edge sees them: those of this machine come by its network's gateway."""
    local = loopback_networks(site.trusted_proxies)
    return (*site.trusted_proxies, *((f"{{${GATEWAY}}}",) if local else ()))


def _pages(site: Site) -> str:
    """The snippets that the sites below take in."""
    strict = site.url.startswith("https:") and not site.is_local
    headers = [
        "header {",
        "\t-Server",
        "\t-Via",
        *(("\tStrict-Transport-Security max-age=31536000",) if strict else ()),
        "}",
    ]
    mark = [f"handle {MARK_PATH} {{", f'\trespond "{{${MARK}}}"', "}"]
    upstream = [
        "reverse_proxy unix//run/labdock/edge/proxy.sock {",
        "\tlb_try_duration 30s",
        "\tlb_try_interval 100ms",
        "\tfail_duration 0",
        # When a certificate is read anew, kernels' WebSockets stay.
        "\tstream_close_delay 168h",
        # The hub is told one address: that of who asks. It would believe the other headers too.
        "\theader_up X-Forwarded-For {client_ip}",
        "\theader_up X-Real-Ip {client_ip}",
        "\theader_up -X-Scheme",
        "\theader_up -Forwarded",
        f"\theader_up X-Forwarded-Proto {site.url.partition(':')[0]}",
    ]
    if site.trusted_proxies and not site.has_tls:
        # Many a proxy sends its own idea of a host.
        place = f"{{{_PLACE}}}" if site.isolate_pages else site.place
        upstream += [f"\theader_up Host {place}", f"\theader_up X-Forwarded-Host {place}"]
    upstream.append("}")
    errors = [
        "handle_errors 413 {",
        "\timport headers",
        '\trespond "That is larger than this site takes." 413',
        "}",
        "handle_errors 502 503 504 {",
        "\timport headers",
        "\troot * /opt/labdock/lib/labdock/hub/static/errors",
        "\trewrite * /503.html",
        "\theader Retry-After 5",
        "\theader Cache-Control no-store",
        "\tfile_server {",
        "\t\tstatus 503",
        "\t}",
        "}",
    ]
    bodies = [
        "@session path /user/*",
        f"request_body @session {{\n\tmax_size {LARGE_BODIES}\n}}",
        "@other not path /user/*",
        f"request_body @other {{\n\tmax_size {SMALL_BODIES}\n}}",
    ]
    away = [
        *mark,
        # The place is fixed, whatever the request says of hosts; "*" and the like have no path.
        "@path path /*",
        f"redir @path {site.url}{{uri}} {'permanent' if site.has_tls else 'temporary'}",
        f"redir {site.url}/ temporary",
    ]
    return "\n".join(
        (
            _block("(headers)", headers),
            _block("(elsewhere)", ["import headers", *_route(away)]),
            _block(
                "(labdock)",
                [
                    "import headers",
                    *_person_hosts(site),
                    *bodies,
                    *mark,
                    *_block("handle", upstream).splitlines(),
                ],
            ),
            _block("(errors)", errors),
        )
    )


def _person_hosts(site: Site) -> list[str]:
    """What holds at the hosts of people alone: nothing of the hub's, so that no page there can act in it."""
    if not site.isolate_pages:
        return []
    lines = [
        "@away {",
        f"\thost {site.people_hosts}",
        "\tnot path /user/*",
        "}",
        "handle @away {",
        f"\tredir {site.url}{{uri}} temporary",
        "}",
    ]
    if site.trusted_proxies and not site.has_tls:
        lines += [
            f"map {{http.request.host}} {{{_PLACE}}} {{",
            f'\t~(?i)^([a-z0-9-]+)\\.{re.escape(site.host)}$ "${{1}}.{site.place}"',
            f"\tdefault {site.place}",
            "}",
        ]
    return lines


def _route(lines: list[str]) -> list[str]:
    """*lines* in their order, whatever order Caddy has for them."""
    return _block("route", lines).splitlines()


def _without_tls(site: Site) -> str:
    lines = []
    if site.trusted_proxies:
        known = " ".join(dict.fromkeys(("127.0.0.0/8", "::1", *_proxies(site))))
        lines += [
            f"@stranger not remote_ip {known}",
            "handle @stranger {",
            "\timport headers",
            f'\trespond "Come in by {site.url} instead. To the administrator: the request came from '
            '{remote_host}, which is not in site.trusted_proxies." 403',
            "}",
        ]
    else:
        # By a tunnel one comes with another port, and with another of the machine's own names.
        names = f"header_regexp Host {_ANY_LOOPBACK}" if site.is_local else f"host {site.host}"
        lines += [f"@elsewhere not {names}", "handle @elsewhere {", "\timport elsewhere", "}"]
    return _block(f":{EDGE_HTTP_PORT}", [*lines, "import labdock", "import errors"])


def _with_tls(site: Site) -> str:
    lines = [f"tls {_tls_source(site)}{{", *(f"\t{line}" for line in _tls(site)), "}"]
    own = [*lines, "import labdock", "import errors"]
    hosts = f"https://{_bracketed(site.host)}"
    hosts += f", https://{site.people_hosts}" if site.isolate_pages else ""
    return "\n".join(
        (
            _block(hosts, own),
            _block("https://", ["import elsewhere"]),
            _block("http://", ["import elsewhere"]),
        )
    )


def _tls_source(site: Site) -> str:
    pair = f"{CERTIFICATES}/{OWN_PAIR}"
    return f"{pair} {pair} " if isinstance(site.https, CertificateFiles) else ""


def _tls(site: Site) -> list[str]:
    lines = ["protocols tls1.2 tls1.3"]
    if site.https == "internal":
        lines.append("issuer internal")
    if site.https == "auto":
        lines += ["issuer acme {", f"\tdir {site.acme_directory}"]
        lines += [f"\temail {site.acme_email}"] if site.acme_email else []
        lines += [f"\teab {site.acme.eab_key_id} {{${EAB_KEY}}}"] if site.acme.eab_key_id else []
        lines += [f"\ttrusted_roots /run/labdock/settings/{ACME_AUTHORITY}"] if site.acme.authority else []
        lines.append("}")
    return lines


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _block(head: str, lines: list[str]) -> str:
    """*lines* between braces behind *head*."""
    inside = "\n".join(f"\t{line}" for text in lines for line in text.split("\n"))
    return f"{head} {{\n{inside}\n}}\n".lstrip()
