"""Where this machine gets Python packages from: what pip's settings in the image say, for ``requests``."""

from __future__ import annotations

from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from proxpi._cache import INDEX_URL as DEFAULT_INDEX
from proxpi._cache import Session
from requests import HTTPError
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url

from labdock.core.errors import HostError

PATIENCE_S = (10.0, 30.0)
"""How long to wait for a connection, and for the next bytes."""

NOT_THERE = (404, 410)


@dataclass(frozen=True, slots=True)
class Source:
    """An index by its address, without credentials and with a final slash, and how it is reached.

    *certificates* is a bundle, "" for the one of ``requests``; *trusted* are hosts whose certificate is not
    looked at, as pip's ``trusted-host`` has them (``host`` or ``host:port``).
    """

    index_url: str = DEFAULT_INDEX
    user: str = ""
    password: str = ""
    certificates: str = ""
    proxy: str = ""
    trusted: tuple[str, ...] = ()


def read_source(file: Path) -> Source:
    """What the pip.conf *file* says; what pip does by itself where it says nothing, or is not there.

    Raises:
        HostError: It cannot be read or understood.
    """
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(file, "utf-8")
    except (OSError, ValueError, ConfigParserError) as error:
        raise HostError(f"{file} cannot be read ({type(error).__name__}).") from error
    settings = dict(parser["global"]) if parser.has_section("global") else {}
    address = urlsplit(settings.get("index-url", DEFAULT_INDEX))
    if not address.hostname:
        raise HostError(f"The index-url in {file} is no address.")
    user, password = get_auth_from_url(address.geturl())
    place = address.netloc.rpartition("@")[2]
    return Source(
        index_url=urlunsplit((address.scheme, place, address.path.rstrip("/") + "/", "", "")),
        user=user,
        password=password,
        certificates=settings.get("cert", ""),
        proxy=settings.get("proxy", ""),
        trusted=tuple(settings.get("trusted-host", "").split()),
    )


class SourceSession(Session):  # type: ignore[misc]  # proxpi has no type information
    """HTTP to *source*, with patience of its own.

    Whoever does not have a thing says 404; every other refusal raises, since it says nothing of the thing.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.default_timeout = PATIENCE_S
        self.headers["User-Agent"] = "labdock"
        if source.certificates:
            self.verify = source.certificates
        if source.proxy:
            self.proxies = {"http": source.proxy, "https": source.proxy}
        for host in source.trusted:
            self.mount(f"https://{host}/", _Trusting())
            if ":" not in host:
                # As pip has it: a host without a port is trusted at each.
                self.mount(f"https://{host}:", _Trusting())
        if source.user:
            self.auth = _AtIndex(source)

    def send(self, request: Any, **settings: Any) -> Any:
        response = super().send(request, **settings)
        if response.status_code >= 400 and response.status_code not in NOT_THERE:
            response.close()
            raise HTTPError(f"The index answers {response.status_code}.", response=response)
        return response


class _Trusting(HTTPAdapter):
    """Looks at no certificate."""

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        super().cert_verify(conn=conn, url=url, verify=False, cert=cert)


class _AtIndex:
    """Shows the index's credentials to its host and to no other."""

    def __init__(self, source: Source) -> None:
        self._place = urlsplit(source.index_url)[:2]
        self._basic = HTTPBasicAuth(source.user, source.password)

    def __call__(self, request: Any) -> Any:
        return self._basic(request) if urlsplit(request.url)[:2] == self._place else request
