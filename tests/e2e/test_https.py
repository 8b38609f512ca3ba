"""HTTPS from end to end: certificates issued, renewed, replaced and refused, with a kernel attached.

One Labdock, whose configuration changes from test to test in the order of the file.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from labdock.adapters.visitor import Visitor
from tests.e2e.secure import Pair, Secure
from tests.pebble import EAB_KEY, EAB_KEY_ID, Pebble, running_pebble
from tests.stack import PASSWORD, bridge_address

LIFE_S = 40
"""How long Pebble's certificates live; the edge renews them when a third is left."""


@contextmanager
def pebble_for(secure: Secure, name: str, **changes: Any) -> Iterator[Pebble]:
    folder = secure.folder / name
    folder.mkdir()
    ports = {"http_port": secure.plain_port, "tls_port": secure.port}
    with running_pebble(folder, bridge_address(secure.stack.engine_socket), **{**ports, **changes}) as pebble:
        yield pebble


@asynccontextmanager
async def somebody(secure: Secure, root: Path | None) -> AsyncIterator[tuple[Visitor, str]]:
    """Ada, with a session and the id of a kernel in it."""
    secure.stack.remove("ada")
    try:
        async with Visitor.arrive(secure.url, root=root) as ada:
            await ada.set_password(secure.stack.invite("ada"), "ada", PASSWORD)
            await ada.start(None)
            await ada.take_token()
            yield ada, await ada.kernel()
    finally:
        secure.stack.remove("ada")


async def answers(channel: aiohttp.ClientWebSocketResponse) -> None:
    """Prove that the WebSocket *channel* still carries questions to the kernel and answers back."""
    message = f"still-{time.monotonic_ns()}"
    header = {"msg_id": message, "msg_type": "kernel_info_request", "username": "ada", "session": "s"}
    request = {"header": {**header, "version": "5.3", "date": ""}, "parent_header": {}, "metadata": {}}
    await channel.send_json({**request, "content": {}, "channel": "shell", "buffers": []})
    async with asyncio.timeout(20):
        async for frame in channel:
            assert frame.type is aiohttp.WSMsgType.TEXT, frame
            if json.loads(frame.data)["parent_header"].get("msg_id") == message:
                return
    pytest.fail("the WebSocket was closed")


def test_without_an_account_that_the_authority_wants_up_says_so_and_the_rest_runs(secure: Secure) -> None:
    with pebble_for(secure, "accounts", external_accounts=True) as pebble:
        acme = {"directory": pebble.directory, "authority": str(pebble.authority)}
        secure.configure(https="auto", acme=acme)
        told = secure.up(1)
        assert "wants external account binding" in told
        assert "labdock secret set acme_eab_key" in told
        # All but the certificate is there.
        assert [person["name"] for person in secure.stack.facts("users", "list")] == ["mia"]
        secure.configure(https="auto", acme={**acme, "eab_key_id": EAB_KEY_ID})
        assert "the key that goes with it is not set" in secure.up(1)
        secret = secure.stack.command("secret", "set", "acme_eab_key")
        subprocess.run(secret, input=EAB_KEY, text=True, check=True, timeout=60, capture_output=True)
        assert "There is no certificate" not in secure.up()
        assert secure.stack.facts("certificate", "show")["issuer"].startswith("Pebble Intermediate")


def test_an_authority_that_does_not_reach_this_machine_is_told_with_the_port(secure: Secure) -> None:
    with pebble_for(secure, "closed", http_port=1, tls_port=1) as pebble:
        secure.configure(
            https="auto", acme={"directory": pebble.directory, "authority": str(pebble.authority)}
        )
        told = secure.up(1)
        assert "does not reach localhost at port 1" in told
        assert "firewall" in told
        found = secure.stack.labdock("doctor").stdout
        assert "✗ certificate authority: " in found
        assert "does not reach localhost at port 1" in found
        assert "✓ clock: agrees with that of the certificate authority" in found
        status = secure.stack.labdock("status")
        assert status.returncode == 1
        assert "There is no certificate for localhost" in status.stdout


async def test_a_certificate_is_issued_and_renewed_while_a_kernel_is_attached(secure: Secure) -> None:
    with pebble_for(secure, "renewed", lives_s=LIFE_S) as pebble:
        acme = {"directory": pebble.directory, "authority": str(pebble.authority)}
        secure.configure(https="auto", acme=acme)
        await asyncio.to_thread(secure.up)
        async with somebody(secure, pebble.root) as (ada, kernel):
            assert await ada.run_cell(kernel, "print(6 * 7)") == "42\n"
            async with ada.channels(kernel) as channel:
                await answers(channel)
                first = await asyncio.to_thread(secure.fingerprint)
                await asyncio.to_thread(secure.until_replaced, first)
                await answers(channel)
            # And who comes now is shown the new one, which holds.
            assert await ada.run_cell(kernel, "print(1)") == "1\n"


def test_files_that_cannot_be_used_are_refused_before_anything_changes(secure: Secure, pair: Pair) -> None:
    secure.configure(https={"cert": str(pair.cert), "key": str(pair.key)})
    before = (secure.stack.state / "compose.yaml").read_text()
    assert "cannot be read: No such file" in secure.up(1)
    good = pair.authority.issue("localhost")
    ended = pair.authority.issue("localhost", begins_in=timedelta(days=-9), lives=timedelta(days=8))
    for leaf, key, words in (
        (good, pair.authority.issue("localhost").key, "is not that of the certificate"),
        (pair.authority.issue("other.lab.example"), "", "is for other.lab.example, and not for localhost"),
        (ended, "", "ended 1 day ago"),
    ):
        pair.put(leaf, key=key)
        assert words in secure.up(1)
    pair.put(good)
    pair.cert.write_text(good.pem)
    assert "The chain is missing" in secure.up(1)
    assert (secure.stack.state / "compose.yaml").read_text() == before


async def test_files_that_change_are_served_at_once_and_a_kernel_stays_attached(
    secure: Secure, pair: Pair
) -> None:
    pair.put(pair.authority.issue("localhost"))
    await asyncio.to_thread(secure.up)
    async with (
        somebody(secure, pair.cert.with_name("root.pem")) as (ada, kernel),
        ada.channels(kernel) as channel,
    ):
        await answers(channel)
        first = await asyncio.to_thread(secure.fingerprint)
        pair.put(pair.authority.issue("localhost"))
        await asyncio.to_thread(secure.until_replaced, first, 20)
        await answers(channel)
        # A damaged one changes nothing, and is told of.
        second = await asyncio.to_thread(secure.fingerprint)
        pair.put(pair.authority.issue("localhost"), key="nothing")
        deadline = time.monotonic() + 20
        while (done := await asyncio.to_thread(secure.stack.labdock, "status")).returncode == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
        assert "holds no private key in PEM" in done.stdout
        assert await asyncio.to_thread(secure.fingerprint) == second
        await answers(channel)


def test_an_authority_of_its_own_needs_only_its_root(secure: Secure) -> None:
    secure.configure(https="internal")
    secure.up()
    root = secure.folder / "root.pem"
    done = secure.stack.labdock("certificate", "root", "--output", str(root))
    fingerprint = subprocess.run(
        ["openssl", "x509", "-in", str(root), "-noout", "-sha256", "-fingerprint"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert fingerprint.stdout.strip().rpartition("=")[2] in done.stderr
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain,
        ssl.create_default_context(cafile=str(root)).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.version() == "TLSv1.3"
    done = secure.stack.labdock("verify")
    assert done.returncode == 0, done.stdout


def test_plain_http_and_other_names_are_sent_to_the_sites_own_address(secure: Secure) -> None:
    for host in ("localhost", "evil.example"):
        for path in ("/hub/login?next=%2Fx", "//evil.example/a"):
            answer = secure.ask(path, host=host, plain=True)
            assert (answer.status, answer.headers["Location"]) == (301, secure.url + path)
    answer = secure.ask("/hub/", host="evil.example")
    assert (answer.status, answer.headers["Location"]) == (301, f"{secure.url}/hub/")
    assert "Server" not in answer.headers


def test_old_tls_is_refused_and_http_2_spoken(secure: Secure) -> None:
    def shake(configure: Callable[[ssl.SSLContext], None]) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        configure(context)
        plain = socket.create_connection(("127.0.0.1", secure.port), timeout=10)
        return context.wrap_socket(plain, server_hostname="localhost")

    def old(context: ssl.SSLContext) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.warns(DeprecationWarning), pytest.raises(ssl.SSLError):
        shake(old)
    with shake(lambda context: context.set_alpn_protocols(["h2", "http/1.1"])) as tls:
        assert tls.selected_alpn_protocol() == "h2"


def test_the_site_keeps_what_it_has_for_https_to_itself(secure: Secure) -> None:
    certificates = secure.stack.state / "certificates"
    assert certificates.stat().st_mode & 0o077 == 0


def test_browsers_stay_with_https_at_a_name_of_the_network(secure: Secure) -> None:
    name = "gpu.lab.internal"
    secure.configure(https="internal", url=f"https://{name}:{secure.port}")
    secure.up()
    trust = ssl.create_default_context(
        cafile=str(secure.stack.state / "certificates/pki/authorities/local/root.crt")
    )
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET /hub/login HTTP/1.1\r\nHost: {name}:{secure.port}\r\n\r\n".encode())
        head = tls.recv(65536).decode().partition("\r\n\r\n")[0].lower()
    assert "strict-transport-security: max-age=31536000" in head
    assert "\nserver:" not in head
    cookies = [line for line in head.splitlines() if line.startswith("set-cookie:")]
    assert cookies
    assert all("; secure" in cookie for cookie in cookies)


def test_who_sends_a_request_drop_by_drop_is_hung_up_on(secure: Secure) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", secure.plain_port), timeout=30) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        while slow.recv(4096):
            pass
    assert time.monotonic() - begun < 20
