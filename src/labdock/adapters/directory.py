"""A directory (LDAP): encrypted and checked connections, and searches; in the caller's own thread."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import LDAPException, LDAPSocketOpenError, LDAPStartTLSError

from labdock.core.finding import Finding
from labdock.core.login import LoginSettings
from labdock.core.sign_in_trouble import (
    SignInError,
    Trouble,
    down,
    not_trusted,
    strange,
    wrong_base,
    wrong_lookup,
)

CONNECT_WITHIN_S = 5
ANSWER_WITHIN_S = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the directory: its name, and its attributes' values as they came, by lower-case name."""

    dn: str
    values: Mapping[str, tuple[bytes, ...]]

    def texts(self, attribute: str) -> tuple[str, ...]:
        return tuple(value.decode("utf-8", "replace") for value in self.values.get(attribute.lower(), ()))

    def text(self, attribute: str) -> str:
        return next(iter(self.texts(attribute)), "")


class CheckedTls(ldap3.Tls):  # type: ignore[misc]  # no type information upstream
    """TLS that Python itself checks, name or address included; ldap3's own way differs between versions."""

    def __init__(self, authority: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self.context = ssl.create_default_context()
        if authority:
            self.context.load_verify_locations(cadata=authority)

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        # ldap3 has taken the limit of time off by now.
        connection.socket.settimeout(CONNECT_WITHIN_S)
        connection.socket = self.context.wrap_socket(
            connection.socket, server_hostname=connection.server.host, do_handshake_on_connect=do_handshake
        )
        connection.socket.settimeout(None)


class Directory:
    """The directory of *login*, called *name*; *password* is that of the entry that looks people up.

    Each of its methods raises SignInError where the directory does not answer as it should.
    """

    def __init__(self, login: LoginSettings, name: str, password: str) -> None:
        parts = urlsplit(login.server)
        self.provider = name
        self.host = parts.hostname or ""
        self.encrypted_at_once = parts.scheme == "ldaps"
        self.port = parts.port or (636 if self.encrypted_at_once else 389)
        self.authority = login.authority
        self.lookup_dn = login.lookup_dn
        self._password = password

    @contextmanager
    def looking(self) -> Iterator[Any]:
        """A connection that may look people up."""
        user = self.lookup_dn
        if user and not self._password:
            raise SignInError(wrong_lookup(self.provider, user))
        with self.connected(user, self._password if user else "") as (connection, result):
            if result["result"] != 0:
                raise SignInError(wrong_lookup(self.provider, user))
            yield connection

    def search(
        self,
        connection: Any,
        base: str,
        condition: str,
        attributes: Sequence[str],
        *,
        setting: str,
        below: bool = True,
    ) -> list[Entry]:
        """The entries that meet *condition* *below* the *base* that *setting* names, or that one itself."""
        try:
            scope = ldap3.SUBTREE if below else ldap3.BASE
            connection.search(base, condition, scope, attributes=list(attributes))
        except LDAPException as error:
            raise SignInError(
                down(self.provider, f"{self.host} broke off: {type(error).__name__}")
            ) from error
        if connection.result["description"] in (
            "noSuchObject",
            "insufficientAccessRights",
            "invalidDNSyntax",
        ):
            raise SignInError(wrong_base(self.provider, base, setting))
        if connection.result["result"] != 0:
            raise SignInError(
                strange(
                    self.provider,
                    f"{self.host} answered a search with {connection.result['description']}",
                )
            )
        return [
            Entry(
                found["dn"],
                {name.lower(): tuple(values) for name, values in found["raw_attributes"].items()},
            )
            for found in connection.response or ()
            if found["type"] == "searchResEntry"
        ]

    @contextmanager
    def connected(self, dn: str, password: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """A connection, and the answer to its sign-in as *dn*; without a name where that is empty."""
        server = ldap3.Server(
            self.host,
            port=self.port,
            use_ssl=self.encrypted_at_once,
            tls=CheckedTls(self.authority),
            connect_timeout=CONNECT_WITHIN_S,
            get_info=ldap3.NONE,
        )
        connection = ldap3.Connection(
            server,
            user=dn or None,
            password=password or None,
            authentication=ldap3.SIMPLE if dn and password else ldap3.ANONYMOUS,
            receive_timeout=ANSWER_WITHIN_S,
            # A directory that points elsewhere would send passwords there.
            auto_referrals=False,
            read_only=True,
        )
        try:
            connection.open()
            if not self.encrypted_at_once and not connection.start_tls():
                cause = f"{self.host} offers no STARTTLS, so nothing was said to it"
                raise SignInError(not_trusted(self.provider, cause))
            connection.bind()
            result = connection.result
        except (LDAPSocketOpenError, LDAPStartTLSError) as error:
            raise SignInError(self._not_open(str(error))) from error
        except (LDAPException, OSError) as error:
            cause = f"{self.host} did not answer: {type(error).__name__}"
            raise SignInError(down(self.provider, cause)) from error
        try:
            yield connection, result
        finally:
            connection.unbind()

    def _not_open(self, said: str) -> Trouble:
        lowered = said.lower()
        if "timed out" in lowered:
            return down(self.provider, f"{self.host}:{self.port} did not answer in time")
        if "certificate" in lowered or "hostname" in lowered:
            cause = re.search(r"certificate verify failed: ([A-Za-z0-9 ,.'-]+)", said)
            return not_trusted(self.provider, f"{self.host}: {cause[1] if cause else 'its certificate'}")
        if "ssl" in lowered or "tls" in lowered:
            return not_trusted(self.provider, f"{self.host}: no encrypted connection came about")
        return down(self.provider, f"{self.host}:{self.port} cannot be reached")


def check_directory(login: LoginSettings, password: str) -> Finding:
    """Whether the directory of *login* answers, trusted, and shows people to whoever looks them up."""
    directory = Directory(login, login.label or "the directory", password)
    places = [(login.user_base, "login.ldap.users"), (login.group_base, "login.ldap.groups")]
    try:
        with directory.looking() as connection:
            for base, setting in places:
                if base:
                    directory.search(connection, base, "(objectClass=*)", (), setting=setting, below=False)
    except SignInError as error:
        return Finding("sign-in", False, error.trouble.cause, error.trouble.fix)
    who = login.lookup_dn or "everybody"
    return Finding("sign-in", True, f"{directory.host} answers, and shows {login.user_base} to {who}")
