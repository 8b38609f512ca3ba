"""The section ``site`` of ``labdock.yaml``: the name, the address, and where HTTPS comes from."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from labdock.core.settings import (
    Either,
    ListOf,
    Plain,
    Reading,
    Record,
    Value,
    Wrong,
    choice,
    describe,
    flag,
    line_of_text,
    settings_of,
    text_value,
)

PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_IPV6_INSIDE = r"[0-9A-Fa-f:.]{2,45}"
_IPV6 = rf"\[{_IPV6_INSIDE}\]"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# The last label is not all digits, so that a mistyped IPv4 address is not taken for a name.
_HOST_NAME = rf"(?=[^:/]{{1,253}}(?:[:/]|$))(?:{LABEL}\.)*(?![0-9]+(?:[:/]|$)){LABEL}"
_HOST = rf"(?:{_IPV4}|{_IPV6}|{_HOST_NAME})"
_URL = rf"https?://{_HOST}(?::{PORT})?/?"
_LISTEN = rf"(?:{_IPV4}|{_IPV6}):{PORT}"
_NETWORK = rf"(?:{_IPV4}(?:/(?:3[0-2]|[12]?[0-9]))?|{_IPV6_INSIDE}(?:/(?:12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)"
# What goes into the edge's file as it is holds nothing that means something there.
_DIRECTORY = rf"https://{_HOST}(?::{PORT})?(?:/[A-Za-z0-9._~/-]*)?"
_EMAIL = r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,63}"
_KEY_ID = r"[A-Za-z0-9._~:/+=@-]{1,200}"
_FILE = r"(?:/(?!\.{1,2}(?:/|$))[^/\u0000-\u001f\u007f\ud800-\udfff]+)+"

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
LETS_ENCRYPT_STAGING = "https://acme-staging-v02.api.letsencrypt.org/directory"

_LONGEST_NAME, _LONGEST_LABEL = 253, 63
_SCHEME_PORTS = {"http": 80, "https": 443}
_NOT_PUBLIC = (
    "local",
    "localhost",
    "internal",
    "lan",
    "home",
    "corp",
    "intranet",
    "private",
    "test",
    "invalid",
)


@dataclass(frozen=True, slots=True)
class Listen:
    """An IP address and TCP port of this machine; prints as ``127.0.0.1:8000`` or ``[::1]:8000``."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        return is_loopback(self.address)

    def meets(self, other: Listen) -> bool:
        """Whether the two cannot both be listened on."""
        everywhere = {"0.0.0.0", "::"}  # noqa: S104  compared, not listened on
        same = self.address == other.address or {self.address, other.address} & everywhere
        return self.port == other.port and bool(same)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(host: str) -> bool:
    """Whether *host* is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _valid_ipv6(address: str) -> bool:
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def _read_url(text: str) -> object | Wrong:
    """*text* in its one canonical form: lower case, no final slash, no port that the scheme implies."""
    scheme, _, place = text.rstrip("/").lower().partition("://")
    bracketed = re.match(r"\[(.*)\]", place)
    if bracketed and not _valid_ipv6(bracketed[1]):
        return Wrong("does not hold an IPv6 address between the brackets")
    return f"{scheme}://{place.removesuffix(f':{_SCHEME_PORTS[scheme]}')}"


def _url_hint(text: str) -> str:
    """The address that somebody may have meant by *text*, if there is one in it."""
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "http", text
    near = f"{scheme.lower()}://{re.split('[/?#]', rest)[0].rpartition('@')[2]}"
    if re.fullmatch(_URL, near):
        return f"Write {near} (a path, a query or a user's name cannot be part of it)."
    return "Write http:// or https://, a host, and a port if need be."


_HTTPS_WORDS = choice("auto", "internal", "off")


def _read_https(value: Plain) -> object | Wrong:
    # Other programs that read YAML take the word off for false.
    found = _HTTPS_WORDS.convert("off" if value is False else value)
    if isinstance(found, Wrong) and not found.hint:
        return Wrong(found.message, "Or name the files of a certificate: {cert: PATH, key: PATH}.")
    return found


def _read_listen(text: str) -> object | Wrong:
    address, _, port = text.rpartition(":")
    address = address.strip("[]").lower()
    if ":" in address and not _valid_ipv6(address):
        return Wrong("does not hold an IPv6 address between the brackets")
    return Listen(address, int(port))


def _read_listen_http(value: Plain) -> object | Wrong:
    if value == "none":
        return None
    if not isinstance(value, str) or not re.fullmatch(_LISTEN, value):
        return Wrong(
            'is not an IP address and a port, such as 0.0.0.0:80, or "none"', "Write 0.0.0.0:80, or none."
        )
    return _read_listen(value)


def _read_network(text: str) -> object | Wrong:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return Wrong("is neither an IPv4 nor an IPv6 address")
    if network.prefixlen == 0:
        return Wrong("is everybody", "Name the addresses of the proxies alone.")
    if "/" in text and str(network) != text.lower():
        return Wrong(f"is an address within {network}", f"Write {network}, or the address alone.")
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def loopback_networks(proxies: tuple[str, ...]) -> tuple[str, ...]:
    """Those of *proxies* that mean this machine."""
    return tuple(proxy for proxy in proxies if ipaddress.ip_network(proxy).is_loopback)


def _not_public(host: str) -> bool:
    """Whether no public certificate authority can know *host*."""
    if is_loopback(host) or is_address(host) or "." not in host:
        return True
    return host.rpartition(".")[2] in _NOT_PUBLIC or host.endswith(".home.arpa")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate of one's own, as two files of this machine; they may change at any time."""

    cert: str = field(
        metadata=describe(
            text_value(
                "the absolute path of a file",
                _FILE,
                hint="Write a path that begins with /, without . or .. in it.",
            ),
            help="The certificate with its chain, in PEM.",
            example="/etc/letsencrypt/live/gpu.example.edu/fullchain.pem",
        )
    )
    key: str = field(
        metadata=describe(
            text_value(
                "the absolute path of a file",
                _FILE,
                hint="Write a path that begins with /, without . or .. in it.",
            ),
            help="Its private key, in PEM, without a password.",
            example="/etc/letsencrypt/live/gpu.example.edu/privkey.pem",
        )
    )


@dataclass(frozen=True, slots=True)
class Acme:
    """Which certificate authority issues with ``https: auto``, and what it needs to know."""

    directory: str = field(
        default=LETS_ENCRYPT,
        metadata=describe(
            text_value(
                "the address of an ACME directory, such as https://acme.example.edu/directory", _DIRECTORY
            ),
            help="Address of the certificate authority's ACME directory.",
            example="https://acme.example.edu/directory",
        ),
    )
    staging: bool = field(
        default=False,
        metadata=describe(
            flag(),
            help="Whether to use Let's Encrypt's staging directory, to try things: its certificates are "
            "refused by browsers, and its limits are hard to reach.",
            example=True,
        ),
    )
    email: str = field(
        default="",
        metadata=describe(
            text_value("an e-mail address, or nothing", rf"(?:{_EMAIL})?"),
            help="Where the certificate authority may write to.",
            example="admin@example.edu",
            derived="contact, if that is an e-mail address",
        ),
    )
    eab_key_id: str = field(
        default="",
        metadata=describe(
            text_value("the id of a key, or nothing", rf"(?:{_KEY_ID})?"),
            help="Id of the key for external account binding, which some authorities give out. "
            "The key itself is a secret: labdock secret set acme_eab_key.",
            example="kid-1",
        ),
    )
    authority: str = field(
        default="",
        metadata=describe(
            text_value("the absolute path of a file, or nothing", rf"(?:{_FILE})?"),
            help="File with the root certificate, in PEM, of the authority that the directory's own HTTPS "
            "comes from. Needed only where that is no public one.",
            example="/etc/ssl/certs/campus-root.pem",
        ),
    )


def _finish_acme(reading: Reading) -> None:
    if reading.values.get("staging") and reading.values.get("directory") not in {None, LETS_ENCRYPT}:
        fact = "goes with Let's Encrypt alone, and directory names another authority"
        reading.refuse("staging", fact, "Take staging out.")


@dataclass(frozen=True, slots=True)
class Site:
    """What the site is called and where it is reached; *url* has no path and no final slash.

    *https* is ``auto``, ``internal``, ``off`` or a certificate's files; *listen_http* is None where plain
    HTTP is not answered; *trusted_proxies* are addresses or networks.
    """

    name: str = field(
        default="Labdock",
        metadata=describe(
            line_of_text(80),
            help="Name of the site, on every page and in every message.",
            example="Vision Lab",
        ),
    )
    url: str = field(
        default="http://127.0.0.1:8000",
        metadata=describe(
            text_value(
                "the address of a site, such as https://gpu.example.edu",
                _URL,
                hint=_url_hint,
                convert=_read_url,
            ),
            help="Address that people type into the browser: http or https, a host, and a port if need be.",
            example="https://gpu.example.edu",
        ),
    )
    https: str | CertificateFiles = field(
        default="off",
        metadata=describe(
            Either(
                Value(
                    "one of auto, internal, off",
                    {"enum": ["auto", "internal", "off", False]},
                    _read_https,
                ),
                Record(settings_of(CertificateFiles), CertificateFiles),
                lambda value: isinstance(value, CertificateFiles),
            ),
            help="Where the certificate comes from. "
            "With auto an authority issues and renews it, Let's Encrypt unless acme names another. "
            "With internal Labdock has an authority of its own, whose root people install "
            "(labdock certificate root). "
            "A mapping names the files of a certificate that you bring; they are read anew when they change. "
            "With off there is none: for this machine alone, or behind a reverse proxy that brings HTTPS.",
            example="internal",
            derived="auto for an https url, off for an http url",
        ),
    )
    listen: Listen = field(
        default=Listen("127.0.0.1", 8000),
        metadata=describe(
            text_value(
                "an IP address and a port, such as 127.0.0.1:8000",
                _LISTEN,
                hint="Write 127.0.0.1:8000 for this machine alone, 0.0.0.0:443 for all its networks.",
                convert=_read_listen,
                restore=str,
            ),
            help="IP address and port of this machine where the site is published. "
            "Without HTTPS it is an address of this machine alone, or one that trusted_proxies reach.",
            example="0.0.0.0:443",
            derived="with HTTPS the port of url on all networks (0.0.0.0:443); "
            "otherwise the host and port of url (127.0.0.1:8000)",
        ),
    )
    listen_http: Listen | None = field(
        default=None,
        metadata=describe(
            Value(
                'an IP address and a port, such as 0.0.0.0:80, or "none"',
                {"type": "string", "pattern": f"^(?:{_LISTEN}|none)$"},
                _read_listen_http,
                lambda listen: "none" if listen is None else str(listen),
            ),
            help="With HTTPS, where plain HTTP is answered: browsers are sent to url, and with https: auto "
            "the certificate authority looks here for its proof.",
            example="0.0.0.0:80",
            derived="port 80 beside listen; none where listen is for this machine alone, or https is off",
        ),
    )
    acme: Acme = field(
        default=Acme(),
        metadata=describe(
            Record(settings_of(Acme), Acme, _finish_acme),
            help="The certificate authority that issues with https: auto.",
            example={"directory": "https://acme.example.edu/directory"},
        ),
    )
    trusted_proxies: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(
                text_value(
                    "an IP address or network, such as 10.0.0.5 or 10.0.0.0/24",
                    _NETWORK,
                    hint="Names are not taken: they may change.",
                    convert=_read_network,
                ),
                named="address",
            ),
            help="Addresses of reverse proxies in front, which alone are believed when they say who asks. "
            "For one on this machine write 127.0.0.1, and let listen be on 127.0.0.1 too. "
            "With https: off nobody else is let in.",
            example=["10.0.0.5"],
        ),
    )
    isolate_pages: bool = field(
        default=False,
        metadata=describe(
            flag(),
            help="Whether each person's sessions have a host name of their own below that of url, such as "
            "https://ada.gpu.example.edu, so that one person's notebook page cannot act in another's. "
            "It needs a wildcard in the DNS (*.gpu.example.edu), and a certificate for it that https: auto "
            "cannot have.",
            example=True,
        ),
    )
    contact: str = field(
        default="",
        metadata=describe(
            line_of_text(200, may_be_empty=True),
            help="Whom people ask for help: an e-mail address or a few words. "
            "Shown on the sign-in and error pages.",
            example="admin@example.edu",
        ),
    )

    @property
    def host(self) -> str:
        """The host of *url*, an IPv6 address without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def people_hosts(self) -> str:
        """The wildcard that the hosts of people's sessions fall under; "" where all share that of *url*."""
        return f"*.{self.host}" if self.isolate_pages else ""

    @property
    def shown_names(self) -> tuple[str, ...]:
        """The names that the one certificate which the edge shows is for; its own authority makes two."""
        both = self.isolate_pages and isinstance(self.https, CertificateFiles)
        return (self.host, self.people_hosts) if both else (self.host,)

    @property
    def port(self) -> int:
        """The port that people come to by *url*."""
        parts = urlsplit(self.url)
        return parts.port or _SCHEME_PORTS[parts.scheme]

    @property
    def place(self) -> str:
        """The host of *url* as it stands there, with its port if there is one: what browsers send as Host."""
        return urlsplit(self.url).netloc

    @property
    def is_local(self) -> bool:
        """Whether *url* means this machine, wherever it is opened."""
        return is_loopback(self.host)

    @property
    def has_tls(self) -> bool:
        """Whether the edge itself speaks HTTPS."""
        return self.https != "off"

    @property
    def acme_directory(self) -> str:
        return LETS_ENCRYPT_STAGING if self.acme.staging else self.acme.directory

    @property
    def acme_email(self) -> str:
        return self.acme.email or (self.contact if re.fullmatch(_EMAIL, self.contact) else "")


def finish_site(reading: Reading) -> None:
    """Work out what was not given, and refuse what does not go together."""
    wanted = {"url", "https", "listen", "listen_http", "acme", "trusted_proxies", "isolate_pages"}
    if not wanted <= reading.values.keys():
        return
    if "https" not in reading.given:
        reading.values["https"] = "auto" if reading.values["url"].startswith("https:") else "off"
    before = len(reading.findings)
    if reading.values["https"] == "off":
        _finish_without_https(reading)
    else:
        _finish_with_https(reading)
    if reading.values["isolate_pages"]:
        _finish_isolation(reading)
    if len(reading.findings) > before:
        return
    listen: Listen = reading.values["listen"]
    local = loopback_networks(reading.values["trusted_proxies"])
    if local and not listen.is_loopback:
        reading.refuse(
            "trusted_proxies",
            f"holds {local[0]}, and listen {listen} is open to others, "
            "who cannot all be told from this machine",
            f"Write listen: 127.0.0.1:{listen.port}, or the address with which the proxy comes.",
        )


def _finish_isolation(reading: Reading) -> None:
    url, https = reading.values["url"], reading.values["https"]
    parts = urlsplit(url)
    host, setting = parts.hostname or "", "isolate_pages"
    if parts.scheme != "https":
        reading.refuse(
            setting, f"needs an https address, and url is {url}", "Write an https address, or take it out."
        )
    elif is_address(host) or "." not in host:
        # Programs take no certificate for everything below a name of one part.
        fact = f"puts each person's name in front of that of the site, and the host of url is {host}"
        reading.refuse(setting, fact, "Give url a name with a dot in it, such as https://gpu.example.edu")
    elif len(host) > _LONGEST_NAME - len(".") - _LONGEST_LABEL:
        fact = f"leaves no room in front of the host of url, which has {len(host)} characters"
        reading.refuse(setting, fact, "Give url a shorter name.")
    elif https == "auto":
        reading.refuse(
            setting,
            f"needs a certificate for *.{host}, which https: auto cannot have",
            f"Bring one for {host} and *.{host} by https: {{cert: PATH, key: PATH}}, or write https: "
            "internal, or https: off behind a proxy that has one.",
        )


def _finish_without_https(reading: Reading) -> None:
    values = reading.values
    url, proxies = values["url"], values["trusted_proxies"]
    parts = urlsplit(url)
    host, open_words = parts.hostname or "", "would open the site to the network without HTTPS"
    way = (
        "Write an https address, and https: auto, internal or the files of a certificate; "
        "behind a reverse proxy that brings HTTPS, write trusted_proxies: [127.0.0.1]."
    )
    if values["listen_http"] is not None:
        reading.refuse("listen_http", "goes with HTTPS alone, and https is off", "Take it out.")
    if values["acme"] != Acme():
        reading.refuse("acme", "goes with https: auto alone, and https is off", "Take it out.")
    if not proxies and parts.scheme == "https":
        # Only given in words: an https address without more is auto.
        reading.refuse("https", f"leaves nobody who brings HTTPS to {url}", way)
    elif not proxies and not is_loopback(host):
        reading.refuse("url", open_words, way)
    elif "listen" in reading.given:
        if not proxies and not values["listen"].is_loopback:
            reading.refuse("listen", open_words, way)
    elif parts.scheme == "http" and is_loopback(host):
        port = parts.port or _SCHEME_PORTS[parts.scheme]
        values["listen"] = Listen("127.0.0.1" if host == "localhost" else host, port)
    elif len(loopback_networks(proxies)) == len(proxies):
        values["listen"] = Listen("127.0.0.1", 8000)
    else:
        reading.refuse(
            "trusted_proxies",
            "names a proxy on another machine, and listen is not given",
            "Say where that proxy reaches this machine: site.listen: ADDRESS:8000",
        )


def _finish_with_https(reading: Reading) -> None:
    values, given = reading.values, reading.given
    parts = urlsplit(values["url"])
    host, https = parts.hostname or "", values["https"]
    word = https if isinstance(https, str) else "the files of a certificate"
    if parts.scheme != "https":
        reading.refuse(
            "https",
            f"needs an https address, and url is {values['url']}",
            f"Write url: https://{parts.hostname if 'url' in given else 'gpu.example.edu'}",
        )
        return
    if https == "auto" and values["acme"].directory == LETS_ENCRYPT and _not_public(host):
        reading.refuse(
            "https" if "https" in given else "url",
            f"needs a name that the public DNS knows, and the host of url is {host}"
            if "https" in given
            else "is no address that Let's Encrypt issues a certificate for",
            "Give url a public name, or write https: internal, or name another authority in acme.directory.",
        )
    if https != "auto" and values["acme"] != Acme():
        reading.refuse("acme", f"goes with https: auto alone, and https is {word}", "Take it out.")
    if "listen" not in given:
        everywhere = "0.0.0.0"  # noqa: S104  with HTTPS, the site is for everybody
        address = ("127.0.0.1" if host == "localhost" else host) if is_loopback(host) else everywhere
        values["listen"] = Listen(address, parts.port or _SCHEME_PORTS["https"])
    listen: Listen = values["listen"]
    if "listen_http" in given:
        if values["listen_http"] is None and https == "auto":
            reading.refuse(
                "listen_http",
                "leaves the certificate authority nowhere to look for its proof, and https is auto",
                "Write 0.0.0.0:80, or take the line out.",
            )
        elif values["listen_http"] is not None and values["listen_http"].meets(listen):
            reading.refuse("listen_http", f"is where listen is: {listen}", "Give it another port.")
        return
    beside = Listen(listen.address, 80)
    if beside.meets(listen):
        if https == "auto":
            reading.refuse(
                "listen", "is where plain HTTP is answered", "Give listen or listen_http another port."
            )
    elif https == "auto" or not listen.is_loopback:
        values["listen_http"] = beside


SITE_SECTION = Record(settings_of(Site), Site, finish_site)
