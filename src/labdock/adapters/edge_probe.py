"""The edge, asked as anybody would ask it: whether it answers, and which one it is."""

from __future__ import annotations

import socket
import ssl
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit


def read_mark(
    address: str, port: int, host: str, path: str, *, tls: bool, timeout_s: float = 3.0
) -> str | None:
    """What the server at *address* answers at *path* to somebody who wants *host*; None when it does not.

    Its certificate may be anybody's: who it is says the answer. With an error as answer it is "".
    """
    connection = HTTPConnection(host, timeout=timeout_s)
    try:
        plain = socket.create_connection((address, port), timeout=timeout_s)
    except OSError:
        return None
    try:
        connection.sock = _wrapped(plain, host) if tls else plain
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read(200).decode("ascii", "replace")
        return text.strip() if response.status == 200 else ""
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
        plain.close()


def addresses_of(name: str) -> tuple[str, ...]:
    """The addresses that *name* has by this machine's DNS; empty if there are none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def read_date(url: str, *, timeout_s: float = 5.0) -> float | None:
    """What the server of the https address *url* takes for the time, in seconds since 1970; None if unknown.

    Its certificate is not looked at: with a wrong clock it would not hold.
    """
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port or 443), timeout=timeout_s) as plain:
            connection = HTTPConnection(parts.netloc, timeout=timeout_s)
            connection.sock = _wrapped(plain, parts.hostname or "")
            connection.request("HEAD", parts.path or "/")
            date = connection.getresponse().headers["Date"]
            connection.close()
        return parsedate_to_datetime(date).timestamp() if date else None
    except (OSError, HTTPException, ValueError):
        return None


def _wrapped(plain: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)
