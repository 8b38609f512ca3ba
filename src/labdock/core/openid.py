"""What an OpenID Connect provider says of itself (Discovery 1.0), checked before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labdock.core.sign_in_trouble import SignInError, strange

DISCOVERY_PATH = "/.well-known/openid-configuration"
BASIC, POST = "client_secret_basic", "client_secret_post"


@dataclass(frozen=True, slots=True)
class OpenIdProvider:
    """Where a provider's endpoints are; *userinfo* is "" without one.

    *ways* are those of ours by which its token endpoint lets an application prove itself, the rule first.
    """

    issuer: str
    authorize: str
    token: str
    keys: str
    userinfo: str
    ways: tuple[str, ...]


def read_discovery(
    provider: str, server: str, status: int, found: Mapping[str, Any] | None
) -> OpenIdProvider:
    """What the answer at *server*'s address for it says; *found* is None if it was no JSON object.

    Raises:
        SignInError: There is no provider there, or it is another one than *server*.
    """
    issuer = server.rstrip("/")
    url = issuer + DISCOVERY_PATH
    if status != 200 or found is None:
        raise SignInError(strange(provider, f"there is no OpenID provider at {url}"))
    if str(found.get("issuer", "")).rstrip("/") != issuer:
        cause = f"{url} describes an issuer of another name than login.server"
        raise SignInError(strange(provider, cause))
    addresses = {}
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
        address = found.get(name) or ""
        wanted = address or name != "userinfo_endpoint"
        if wanted and not (isinstance(address, str) and address.startswith("https://")):
            raise SignInError(strange(provider, f"{url} has no https address as its {name}"))
        addresses[name] = address
    named = found.get("token_endpoint_auth_methods_supported")
    # Without a word, the standard's own rule holds.
    offered = named if isinstance(named, list) else [BASIC]
    return OpenIdProvider(
        str(found["issuer"]),
        addresses["authorization_endpoint"],
        addresses["token_endpoint"],
        addresses["jwks_uri"],
        addresses["userinfo_endpoint"],
        tuple(way for way in (BASIC, POST) if way in offered),
    )
