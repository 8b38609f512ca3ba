"""Certificate authorities and certificates for the tests."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Made:
    """A certificate and its key, in PEM."""

    certificate: x509.Certificate
    private: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key(self) -> str:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def locked_key(self) -> str:
        """The key with a password."""
        locked = BestAvailableEncryption(b"secret")
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def make(
    common: str,
    *names: str,
    issuer: Made | None = None,
    authority: bool = False,
    begins_in: datetime.timedelta = datetime.timedelta(hours=-1),
    lives: datetime.timedelta = datetime.timedelta(days=90),
) -> Made:
    """A certificate for *names*; without an *issuer* it signs itself."""
    private = ec.generate_private_key(ec.SECP256R1())
    signer = issuer.private if issuer else private
    begins = _now() + begins_in
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(issuer.certificate.subject if issuer else _name(common))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + lives)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=authority,
                crl_sign=authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if names:
        alternative = x509.SubjectAlternativeName([_alternative(name) for name in names])
        builder = builder.add_extension(alternative, critical=False)
    return Made(builder.sign(signer, hashes.SHA256()), private)


@dataclass(frozen=True)
class Lab:
    """A root, and an intermediate that it issued."""

    root: Made
    intermediate: Made

    def issue(
        self,
        *names: str,
        begins_in: datetime.timedelta = datetime.timedelta(hours=-1),
        lives: datetime.timedelta = datetime.timedelta(days=90),
    ) -> Made:
        common = names[0] if names else "nobody"
        return make(common, *names, issuer=self.intermediate, begins_in=begins_in, lives=lives)

    def chain(self, leaf: Made) -> str:
        return leaf.pem + self.intermediate.pem


def lab() -> Lab:
    root = make("Lab Root", authority=True, lives=datetime.timedelta(days=3650))
    return Lab(root, make("Lab Intermediate", issuer=root, authority=True))


@contextmanager
def answering(address: str, context: ssl.SSLContext, answer: bytes) -> Iterator[int]:
    """The port of something at *address* that speaks TLS by *context* and says *answer* to whoever asks."""
    with socket.create_server((address, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as connection:
                        if connection.recv(4096):
                            connection.sendall(answer)
                except OSError:
                    continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
