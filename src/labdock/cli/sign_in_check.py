"""Whether the provider that people sign in with knows this site; for ``labdock doctor`` and ``up``."""

from __future__ import annotations

from labdock.adapters import host
from labdock.adapters.login_check import check_login
from labdock.cli.instance import Instance
from labdock.cli.up import read_login_authority
from labdock.core.errors import HubError, LabdockError
from labdock.core.finding import Finding
from labdock.core.login import CALLBACK_PATH, LOCAL, login_settings


def look_at_sign_in(instance: Instance) -> list[Finding]:
    """What the provider answers that *instance* is configured for; nothing with local accounts."""
    config = instance.config
    if config.login.method == LOCAL:
        return []
    try:
        login = login_settings(config.login, authority=read_login_authority(instance))
        secret = (host.read_text(instance.state / "secrets" / login.secret) or "") if login.secret else ""
    except LabdockError as error:
        return [Finding("sign-in", False, error.message, error.fix)]
    except PermissionError:
        return [Finding("sign-in", True, "not looked at: the secrets are not readable by you")]
    if login.secret and not secret.strip():
        fix = f"`labdock secret set {login.secret}` asks for it."
        return [Finding("sign-in", False, f"the secret {login.secret} is not set", fix)]
    if login.method == "ldap":
        # What it takes to speak with a directory takes a while to load, and no other command needs it.
        from labdock.adapters.directory import check_directory  # noqa: PLC0415

        return [check_directory(login, secret.strip())]
    return [check_login(login, config.site.url.rstrip("/") + CALLBACK_PATH, secret.strip())]


def sign_in_problem(instance: Instance) -> HubError | None:
    """Why nobody can sign in now, None where they can."""
    wrong = [finding for finding in look_at_sign_in(instance) if not finding.ok]
    return HubError(f"Nobody can sign in: {wrong[0].seen}.", fix=wrong[0].fix) if wrong else None
