"""Certificates: files with PEM in them, and what a server shows over TLS."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from labdock.core.certificate import Certificate, Served
from labdock.core.errors import HostError

SYSTEM_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")

_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain and its key: *text* is all of them in PEM, the chain first.

    *linked* is how many of the chain's certificates were each issued by the next one.
    """

    text: str
    chain: tuple[Certificate, ...]
    linked: int


def read_pair(cert: Path, key: Path) -> Pair:
    """The certificate in *cert* and its key in *key*.

    Raises:
        HostError: A file cannot be read, holds no PEM of that kind, or the key is another certificate's.
    """
    cert_text, key_text = _read(cert, "certificate"), _read(key, "key")
    certificates = _parse_chain(cert_text, cert)
    try:
        private = load_pem_private_key(key_text.encode(), password=None)
    except TypeError as error:
        raise HostError(
            f"The key {key} has a password.", fix=f"Take it off: openssl pkey -in {key} -out NEW-FILE"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HostError(
            f"{key} holds no private key in PEM.", fix="In PEM, its first line says BEGIN PRIVATE KEY."
        ) from error
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    owners = [index for index, one in enumerate(certificates) if _public_key(one) == public]
    if not owners:
        raise HostError(
            f"The key {key} is not that of the certificate {cert}.",
            fix="Name the two files that belong together; after a renewal both change.",
        )
    if owners[0] != 0:
        raise HostError(
            f"The site's own certificate comes as number {owners[0] + 1} in {cert}.",
            fix="Put it first, then its issuer's, and so on.",
        )
    pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
    return Pair(
        pem + key_text.strip() + "\n", tuple(_value(one) for one in certificates), _linked(certificates)
    )


def read_chain(path: Path) -> tuple[Certificate, ...]:
    """The certificates in the PEM file *path*.

    Raises:
        HostError: It cannot be read, or there are none.
    """
    return tuple(_value(one) for one in _parse_chain(_read(path, "certificate"), path))


def trusted_subjects(path: Path = SYSTEM_ROOTS) -> frozenset[str]:
    """The subjects of the authorities that this machine trusts; empty where they cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(OSError):
        context.load_verify_locations(path)
    subjects = []
    for root in context.get_ca_certs():
        groups = cast(tuple[tuple[tuple[str, str], ...], ...], root["subject"])
        parts = [part for group in groups for part in group]
        common = [value for key, value in parts if key == "commonName"]
        subjects.append(", ".join([*common, *(value for key, value in parts if key == "organizationName")]))
    return frozenset(subjects)


def read_served(
    address: str, port: int, host: str, *, root: Path | None = None, timeout_s: float = 5.0
) -> Served:
    """What the server at *address* and *port* shows to somebody who wants *host*.

    *root* is a file with a further authority to trust.

    Raises:
        HostError: Nobody answers there, or not with TLS; the message says which.
    """
    loose = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loose.check_hostname = False
    loose.verify_mode = ssl.CERT_NONE
    with _connect(address, port, host, loose, timeout_s) as connection:
        chain = _chain_of(connection)
    strict = ssl.create_default_context()
    distrust = ""
    try:
        if root is not None:
            strict.load_verify_locations(root)
        with _connect(address, port, host, strict, timeout_s):
            pass
    except _DistrustError as error:
        distrust = str(error)
    except OSError as error:
        distrust = f"the root {root} cannot be read ({error.strerror})"
    certificates = [x509.load_der_x509_certificate(one) for one in chain]
    return Served(tuple(_value(one) for one in certificates), distrust)


class _DistrustError(Exception):
    """The handshake failed because the certificate is not trusted."""


def _connect(address: str, port: int, host: str, context: ssl.SSLContext, timeout_s: float) -> ssl.SSLSocket:
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        plain = socket.create_connection((address, port), timeout=timeout_s)
    except OSError as error:
        raise HostError(
            f"Nobody answers at {where} ({error.strerror or 'time out'}).",
            fix="`labdock status` tells what runs.",
        ) from error
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise _DistrustError(error.verify_message) from error
    except OSError as error:
        plain.close()
        reason = getattr(error, "reason", None) or type(error).__name__
        raise HostError(
            f"There is no certificate for {host} at {where} ({reason}).", fix="See: labdock logs edge"
        ) from error


def _chain_of(connection: ssl.SSLSocket) -> list[bytes]:
    """The chain as it was sent. Python 3.13 has a method for it; before, it is one of the inner object."""
    method = getattr(connection, "get_unverified_chain", None)
    if method is not None:
        return [bytes(one) for one in method()]
    inner = getattr(connection, "_sslobj").get_unverified_chain()  # noqa: B009  no public name before 3.13
    return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner]


def _read(path: Path, what: str) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise HostError(
            f"The {what} {path} cannot be read: {error.strerror}.",
            fix="Check the path in site.https, and run as somebody who may read it.",
        ) from error


def _parse_chain(text: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise HostError(
            f"{path} holds no certificate in PEM.", fix="In PEM, its first line says BEGIN CERTIFICATE."
        ) from error


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _linked(certificates: list[x509.Certificate]) -> int:
    for index, (one, other) in enumerate(itertools.pairwise(certificates)):
        if not _issued_by(one, other):
            return index
    return len(certificates) - 1


def _issued_by(one: x509.Certificate, other: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(other)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _value(certificate: x509.Certificate) -> Certificate:
    names: tuple[str, ...] = ()
    authority = False
    with contextlib.suppress(x509.ExtensionNotFound):
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = (
            *alternative.get_values_for_type(x509.DNSName),
            *(str(address) for address in alternative.get_values_for_type(x509.IPAddress)),
        )
    with contextlib.suppress(x509.ExtensionNotFound):
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    digest = certificate.fingerprint(SHA256()).hex().upper()
    return Certificate(
        names=names,
        subject=_name(certificate.subject),
        issuer=_name(certificate.issuer),
        begins=int(certificate.not_valid_before_utc.timestamp()),
        ends=int(certificate.not_valid_after_utc.timestamp()),
        authority=authority,
        self_signed=_issued_by(certificate, certificate),
        fingerprint=":".join(digest[index : index + 2] for index in range(0, len(digest), 2)),
    )


def _name(name: x509.Name) -> str:
    """A distinguished name for people: its common name with the organization, or all of it."""
    common = [str(part.value) for part in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    organization = [str(part.value) for part in name.get_attributes_for_oid(x509.NameOID.ORGANIZATION_NAME)]
    return ", ".join([*common, *organization]) or name.rfc4514_string()
