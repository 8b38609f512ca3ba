"""The edge, asked as anybody would ask it: whether it answers, and which one it is."""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPConnection, HTTPException


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


def _wrapped(plain: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)
