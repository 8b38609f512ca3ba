"""What the providers of the tests share: a certificate authority, a thread that serves, and OAuth's steps."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import secrets
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class Authority:
    """A certificate authority that lives as long as a test; its certificates are good for some days."""

    def __init__(self, name: str = "Test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._cert = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self._cert.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, folder: Path, *hosts: str) -> tuple[Path, Path]:
        """Files with a certificate for *hosts* (names or addresses) and its key, in *folder*."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        alternatives = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        cert = (
            _builder(name, self._name, key)
            .add_extension(alternatives, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(authority_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        word = secrets.token_hex(4)
        cert_path, key_path = folder / f"{word}.crt", folder / f"{word}.key"
        cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert_path, key_path

    def trusting(self) -> ssl.SSLContext:
        """What a client that trusts this authority, and no other, connects with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem)
        return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 7 * _DAY)
    )


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@dataclass
class Application:
    """An application registered at a provider."""

    client_id: str
    secret: str
    callback: str


@dataclass
class Code:
    """What a browser brings back, good for one exchange."""

    client_id: str
    person: int
    callback: str
    scopes: tuple[str, ...]
    challenge: str
    used: bool = False


@dataclass
class Token:
    """What a code was exchanged for; *refresh* is good for one renewal."""

    person: int
    client_id: str
    scopes: tuple[str, ...]
    access: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    refresh: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    dead: bool = False


class Provider:
    """One provider: its applications, codes and tokens, and how it behaves just now.

    Subclasses give ``routes``. Tests change its people and its switches while it runs.
    """

    def __init__(self) -> None:
        self.applications: dict[str, Application] = {}
        self.codes: dict[str, Code] = {}
        self.tokens: list[Token] = []
        self.url = ""
        self.down = False
        self.slow_s = 0.0
        self.failing: set[str] = set()
        """Paths at which it fails, while the others work."""
        self.moved: dict[str, str] = {}
        """Where it sends whoever asks for a path."""
        self.asked: list[str] = []
        """Method and path of every request, as they came."""

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    def register(self, callback: str) -> Application:
        """A new application whose browsers come back to *callback*."""
        made = Application(secrets.token_hex(10), secrets.token_hex(20), callback)
        self.applications[made.client_id] = made
        return made

    def token_of(self, access: str) -> Token | None:
        return next((token for token in self.tokens if token.access == access and not token.dead), None)

    def give_code(self, request_fields: Any, person: int, scopes: tuple[str, ...]) -> str:
        """A code for *person*, as the page's form and the address it came by say."""
        code = secrets.token_hex(10)
        self.codes[code] = Code(
            request_fields["client_id"],
            person,
            request_fields.get("redirect_uri", ""),
            scopes,
            request_fields.get("code_challenge", ""),
        )
        return code

    def exchange(self, client_id: str, form: Any) -> Token | None:
        """The token for the code in *form*, once; None if it was used, or is another client's."""
        code = self.codes.get(form.get("code", ""))
        if code is None or code.used or code.client_id != client_id:
            return None
        if code.callback != form.get("redirect_uri", "") or not _proven(code, form.get("code_verifier", "")):
            return None
        code.used = True
        self.tokens.append(Token(code.person, client_id, code.scopes))
        return self.tokens[-1]

    @web.middleware
    async def behave(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if self.down or request.path in self.failing:
            return web.Response(status=503, text="<h1>Unicorn!</h1>", content_type="text/html")
        if request.path in self.moved:
            return web.Response(status=307, headers={"Location": self.moved[request.path]})
        answer: web.StreamResponse = await handler(request)
        return answer


def _proven(code: Code, verifier: str) -> bool:
    """RFC 7636: whoever exchanges the code is who began."""
    if not code.challenge:
        return not verifier
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    return digest == code.challenge


def choose_page(title: str, action: str, people: dict[int, str], fields: Any) -> web.Response:
    """The page that asks who signs in: one button each, and one that says no."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(key)}" value="{escape(value)}">' for key, value in fields.items()
    )
    buttons = "".join(
        f'<p><button name="person" value="{number}">Continue as {escape(name)}</button></p>'
        for number, name in people.items()
    )
    text = (
        f"<!doctype html><html lang=en><title>{title}</title><h1>{title}</h1>"
        f'<form method="post" action="{action}">{hidden}{buttons}'
        '<p><button name="person" value="">Cancel</button></p></form>'
    )
    return web.Response(text=text, content_type="text/html")


def back_to(callback: str, **query: str) -> web.Response:
    """Send the browser back to *callback*."""
    joint = "&" if "?" in callback else "?"
    return web.Response(status=302, headers={"Location": f"{callback}{joint}{urlencode(query)}"})


P = TypeVar("P", bound=Provider)


@contextmanager
def serving(
    provider: P, authority: Authority, folder: Path, *, host: str = "127.0.0.1", names: tuple[str, ...] = ()
) -> Iterator[P]:
    """*provider*, answering over HTTPS on a port of *host* from a thread of its own.

    Its certificate is for *host* and *names*; ``provider.url`` is where it is.
    """
    cert, key = authority.issue(folder, host, *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=type(provider).__name__, daemon=True)

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application(middlewares=[provider.behave])
        app.add_routes(provider.routes())
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, host, 0, ssl_context=context)
        await site.start()
        port: int = runner.addresses[0][1]
        return runner, port

    thread.start()
    try:
        runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
        provider.url = f"https://{host}:{port}"
        try:
            yield provider
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
