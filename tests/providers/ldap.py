"""A directory for the tests: OpenLDAP's slapd, with its files in a folder of the test, over TLS."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ldap3
from ldap3.core.exceptions import LDAPException

from tests.providers.serving import Authority

SUFFIX = "dc=lab,dc=example"
PEOPLE = f"ou=people,{SUFFIX}"
GROUPS = f"ou=groups,{SUFFIX}"
LISTS = f"ou=lists,{SUFFIX}"
LOOKUP = f"cn=labdock,ou=services,{SUFFIX}"
ROOT = f"cn=root,{SUFFIX}"

# It takes an empty password for somebody without a name, as many do: no sign-in may take that for a yes.
CONFIG = """
include {schema}/core.schema
include {schema}/cosine.schema
include {schema}/nis.schema
include {schema}/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {folder}/slapd.pid
allow bind_anon_cred
TLSCertificateFile {cert}
TLSCertificateKeyFile {key}
database mdb
suffix "{suffix}"
rootdn "{root}"
rootpw {rootpw}
directory {folder}/data
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{lookup}" read by anonymous auth by * none
"""


class Ldap:
    """One directory that runs; ``url`` is where it is over TLS, ``plain_url`` where it begins without."""

    def __init__(self, folder: Path, rootpw: str) -> None:
        self.folder = folder
        self.lookup_password = secrets.token_hex(12)
        self.url = self.plain_url = ""
        self._rootpw = rootpw
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=(self.folder / "slapd.log").open("ab"))
        deadline = time.monotonic() + 20
        while True:
            with suppress(LDAPException):
                self._connection().unbind()
                return
            running = self._process.poll() is None and time.monotonic() < deadline
            assert running, (self.folder / "slapd.log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def _connection(self) -> ldap3.Connection:
        server = ldap3.Server(self.plain_url, get_info=ldap3.NONE)
        return ldap3.Connection(server, ROOT, self._rootpw, auto_bind=True, raise_exceptions=True)

    def add(self, dn: str, kinds: list[str], **attributes: object) -> None:
        connection = self._connection()
        connection.add(dn, kinds, attributes)
        connection.unbind()

    def join(self, login: str, password: str, *groups: str, **attributes: object) -> str:
        """The name of a new person's entry."""
        dn = f"uid={login},{PEOPLE}"
        more = {"cn": login.title(), "sn": "x", "uid": login, "userPassword": password, **attributes}
        self.add(dn, ["inetOrgPerson", "shadowAccount"], **more)
        for group in groups:
            self.change(f"cn={group},{GROUPS}", member=[(ldap3.MODIFY_ADD, [dn])])
        return dn

    def change(self, dn: str, **changes: object) -> None:
        connection = self._connection()
        connection.modify(dn, changes)
        connection.unbind()

    def rename(self, dn: str, login: str) -> str:
        connection = self._connection()
        connection.modify_dn(dn, f"uid={login}")
        connection.unbind()
        return f"uid={login},{PEOPLE}"

    def delete(self, dn: str) -> None:
        connection = self._connection()
        connection.delete(dn)
        connection.unbind()


@contextmanager
def running_ldap(folder: Path, authority: Authority, host: str = "localhost") -> Iterator[Ldap]:
    """A directory on *host* with people, groups and lists in it, and an entry that may look people up."""
    program = shutil.which("slapd") or "/usr/sbin/slapd"
    assert Path(program).exists(), "slapd is not there: run scripts/prepare-tests"
    cert, key = authority.issue(folder, host, "127.0.0.1")
    rootpw = secrets.token_hex(12)
    directory = Ldap(folder, rootpw)
    (folder / "data").mkdir()
    config = folder / "slapd.conf"
    config.write_text(
        CONFIG.format(
            schema="/etc/ldap/schema",
            folder=folder,
            cert=cert,
            key=key,
            suffix=SUFFIX,
            root=ROOT,
            rootpw=rootpw,
            lookup=LOOKUP,
        )
    )
    try:
        _start(directory, program, config, host)
        directory.add(SUFFIX, ["dcObject", "organization"], o="Lab", dc="lab")
        for place in ("people", "groups", "lists", "services"):
            directory.add(f"ou={place},{SUFFIX}", ["organizationalUnit"], ou=place)
        directory.add(
            LOOKUP,
            ["organizationalRole", "simpleSecurityObject"],
            cn="labdock",
            userPassword=directory.lookup_password,
        )
        yield directory
    finally:
        directory.stop()


def _start(directory: Ldap, program: str, config: Path, host: str) -> None:
    """Start *directory* on ports that are free; somebody else may take one in between."""
    for last in (False, False, True):
        directory.url = f"ldaps://{host}:{_free_port()}"
        directory.plain_url = f"ldap://{host}:{_free_port()}"
        # The certificate is not for the last of them.
        other = directory.url.replace(host, "127.0.0.2")
        urls = f"{directory.url} {directory.plain_url} {other}"
        directory._command = [program, "-f", str(config), "-h", urls, "-d", "0"]
        try:
            directory.start()
            return
        except AssertionError:
            directory.stop()
            if last:
                raise


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
