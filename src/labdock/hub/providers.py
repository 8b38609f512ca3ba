"""The authenticator for a method of signing in that is not a local account."""

from __future__ import annotations

from collections.abc import Mapping

from labdock.core.login import PROVIDER_NAMES
from labdock.hub.provider_base import Vouched, Wiring
from labdock.hub.provider_github import GitHub
from labdock.hub.provider_gitlab import GitLab
from labdock.hub.provider_google import Google
from labdock.hub.provider_ldap import Ldap
from labdock.hub.provider_oidc import Oidc

KINDS: Mapping[str, type[Vouched]] = {
    "github": GitHub,
    "gitlab": GitLab,
    "google": Google,
    "oidc": Oidc,
    "ldap": Ldap,
}


def authenticator_class(wiring: Wiring) -> type[Vouched]:
    """What ``JupyterHub.authenticator_class`` is set to, for the method in *wiring*."""
    login = wiring.login
    kind = KINDS[login.method]
    # Not by traits: JupyterHub would copy them, and show them in its log.
    own = {"wiring": wiring, "provider": login.label or PROVIDER_NAMES[login.method]}
    return type(kind.__name__, (kind,), own)
