"""A Labdock with HTTPS, for the tests of certificates."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.authorities import Lab, Made, lab
from tests.stack import Stack, free_port, make_stack, take_down


@dataclass(frozen=True)
class Secure:
    """A Labdock at https://localhost, and the ports that it is published at."""

    stack: Stack
    folder: Path
    port: int
    plain_port: int

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def configure(self, **site: Any) -> None:
        places = {"listen": f"127.0.0.1:{self.port}", "listen_http": f"127.0.0.1:{self.plain_port}"}
        whole = {"name": "Test Lab", "url": self.url, **places, **site}
        lines = (f"site: {json.dumps(whole)}", "login: {admins: [mia]}", "limits: {memory: 1G, shm: 256M}")
        self.stack.config.write_text("\n".join(lines) + "\n")

    def up(self, code: int = 0) -> str:
        """What ``labdock up`` says; it must end with *code*."""
        done = self.stack.labdock("up")
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stderr

    def fingerprint(self) -> str:
        """That of the certificate which is served now."""
        return str(self.stack.facts("certificate", "show")["fingerprint"])

    def until_replaced(self, before: str, timeout_s: float = 60) -> None:
        """Wait until another certificate is served than the one of the fingerprint *before*."""
        deadline = time.monotonic() + timeout_s
        while self.fingerprint() == before:
            assert time.monotonic() < deadline, "the certificate is still the one before"
            time.sleep(1)

    def ask(self, path: str, *, host: str = "", plain: bool = False) -> http.client.HTTPResponse:
        """The answer to a GET of *path*, with *host* as the Host header."""
        connection: http.client.HTTPConnection
        if plain:
            connection = http.client.HTTPConnection("127.0.0.1", self.plain_port, timeout=10)
        else:
            anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            anything.check_hostname = False
            anything.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=anything)
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        answer.read()
        return answer


@pytest.fixture(scope="module")
def secure(engine_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("https")
    stack = make_stack(folder, engine_socket, "h")
    made = Secure(stack, folder, stack.port, free_port())
    try:
        yield made
    finally:
        take_down(stack)


@pytest.fixture(scope="module")
def authority() -> Lab:
    return lab()


@dataclass(frozen=True)
class Pair:
    """The administrator's two files."""

    cert: Path
    key: Path
    authority: Lab

    def put(self, leaf: Made, *, key: str = "") -> None:
        for path, text in ((self.cert, self.authority.chain(leaf)), (self.key, key or leaf.key)):
            new = path.with_suffix(".new")
            new.write_text(text)
            new.replace(path)


@pytest.fixture(scope="module")
def pair(secure: Secure, authority: Lab) -> Pair:
    folder = secure.folder / "own"
    folder.mkdir()
    (folder / "root.pem").write_text(authority.root.pem)
    return Pair(folder / "fullchain.pem", folder / "privkey.pem", authority)
