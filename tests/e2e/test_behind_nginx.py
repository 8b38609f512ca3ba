"""Behind nginx, as the page says: forms, WebSockets, uploads, and who asks."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labdock.adapters.visitor import Visitor
from tests.authorities import lab
from tests.stack import PASSWORD, Stack, free_port, make_stack, take_down

PAGE = Path(__file__).parents[2] / "docs/how-to/behind-a-proxy.md"
NGINX = "/usr/sbin/nginx"
SOMEBODY = "127.0.0.2"
"""Where people come from in these tests: an address that is no proxy's."""


@dataclass(frozen=True)
class Behind:
    """A Labdock behind an nginx at https://localhost."""

    stack: Stack
    front: int
    """The port of nginx; the stack's own is the back door."""
    root: Path
    """The file with the root of nginx's certificate."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.front}"

    def ask(self, port: int, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        """Status, headers and text of what is answered at *port*: by nginx with TLS, else without."""
        connection: http.client.HTTPConnection
        if port == self.front:
            trust = ssl.create_default_context(cafile=str(self.root))
            connection = http.client.HTTPSConnection(
                "localhost", port, timeout=20, context=trust, source_address=(SOMEBODY, 0)
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request(
            "GET", path, headers={name.replace("_", "-"): one for name, one in headers.items()}
        )
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, answer.headers, text


def settings_of_the_page(folder: Path, front: int, plain: int, back: int) -> str:
    """What the page tells to write, for this machine's ports and files."""
    block: str
    (block,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{front} ssl",
        "listen 80": f"listen 127.0.0.1:{plain}",
        "server_name gpu.example.edu": "server_name localhost",
        "/etc/letsencrypt/live/gpu.example.edu": str(folder),
        "https://gpu.example.edu": f"https://localhost:{front}",
        "http://127.0.0.1:8000": f"http://127.0.0.1:{back}",
    }
    for old, new in changes.items():
        assert old in block, old
        block = block.replace(old, new)
    return block


@pytest.fixture(scope="module")
def behind(engine_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("nginx")
    stack = make_stack(folder, engine_socket, "n")
    authority, front, plain = lab(), free_port(), free_port()
    leaf = authority.issue("localhost")
    (folder / "fullchain.pem").write_text(authority.chain(leaf))
    (folder / "privkey.pem").write_text(leaf.key)
    (folder / "root.pem").write_text(authority.root.pem)
    made = Behind(stack, front, folder / "root.pem")
    places = f"url: {made.url}, listen: '127.0.0.1:{stack.port}'"
    stack.config.write_text(
        f"site: {{name: Test Lab, {places}, https: 'off', trusted_proxies: ['127.0.0.1']}}\n"
        "login: {admins: [mia]}\nlimits: {memory: 1G, shm: 256M}\n"
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events {}\nhttp { access_log off; "
        f"client_body_temp_path {folder}/body; proxy_temp_path {folder}/temp;\n"
        + settings_of_the_page(folder, front, plain, stack.port)
        + "}\n"
    )
    nginx = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    try:
        done = stack.labdock("up")
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        yield made
    finally:
        nginx.terminate()
        nginx.wait(10)
        take_down(stack)


async def test_a_person_signs_in_runs_a_cell_and_keeps_a_file(behind: Behind) -> None:
    done = await asyncio.to_thread(behind.stack.labdock, "verify", SSL_CERT_FILE=str(behind.root))
    assert done.returncode == 0, done.stdout
    async with Visitor.arrive(behind.url, root=behind.root) as ada:
        await ada.set_password(behind.stack.invite("ada"), "ada", PASSWORD)
    # The form for signing in, with its token against forged requests, by the way of a browser.
    async with Visitor.arrive(behind.url, root=behind.root) as again:
        await again.sign_in("ada", PASSWORD)


def test_the_hub_learns_who_asks_and_believes_nobody_but_the_proxy(behind: Behind) -> None:
    path = f"/hub/login?mark={time.monotonic_ns()}"
    # nginx adds the address that it sees to whatever somebody claims.
    status, _, _ = behind.ask(
        behind.front,
        path,
        X_Forwarded_For="203.0.113.9",
        X_Real_IP="203.0.113.9",
        Forwarded="for=203.0.113.9",
    )
    assert status == 200
    (line,) = [line for line in behind.stack.labdock("logs", "hub").stdout.splitlines() if path[11:] in line]
    assert f"@{SOMEBODY})" in line
    assert "203.0.113.9" not in line


def test_cookies_are_for_https_alone_and_browsers_stay_with_it(behind: Behind) -> None:
    _, headers, _ = behind.ask(behind.front, "/hub/login")
    cookies = headers.get_all("Set-Cookie") or []
    assert cookies
    assert all("; secure" in cookie.lower() for cookie in cookies)
    assert "Server" not in headers or headers["Server"].startswith("nginx")


def test_the_name_of_the_site_is_that_of_the_settings_whatever_the_proxy_sends(behind: Behind) -> None:
    status, headers, _ = behind.ask(behind.stack.port, "/hub/", Host="labdock-upstream")
    assert status == 302
    assert headers["Location"].startswith(("/hub/", f"{behind.url}/hub/"))


def test_who_is_no_proxy_is_sent_to_the_front(engine_socket: Path, behind: Behind) -> None:
    """From another address than the one that is named: here, from a container."""
    network = f"{behind.stack.instance}-edge"
    edge = f"{behind.stack.instance}-edge"
    server = subprocess.run(
        ["docker", "inspect", "-f", "{{.Config.Image}}", edge], capture_output=True, text=True, check=True
    ).stdout.strip()
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--network", network, "--entrypoint", "curl", server),
            *("-sS", "-i", f"http://{edge}:8080/hub/login"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("HTTP/1.1 403")
    assert f"Come in by {behind.url} instead" in done.stdout
    assert "which is not in site.trusted_proxies" in done.stdout


def test_doctor_follows_the_way_through_the_proxy(behind: Behind) -> None:
    done = behind.stack.labdock("doctor", SSL_CERT_FILE=str(behind.root))
    assert f"the edge answers at 127.0.0.1:{behind.stack.port}" in done.stdout
    assert "✓ certificate: by Lab Intermediate" in done.stdout


def test_nothing_listens_for_others(behind: Behind) -> None:
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.2", behind.stack.port))
