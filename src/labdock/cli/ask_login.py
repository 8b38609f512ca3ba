"""The questions of ``labdock init`` about signing in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labdock.cli.console import Console
from labdock.core.errors import BadRequestError
from labdock.core.login import LOCAL, OAUTH_METHODS, PROVIDER_NAMES, registration

_SERVER_QUESTIONS = {
    "gitlab": "Address of your GitLab (gitlab.com: leave empty)",
    "oidc": "Address of the provider, its issuer",
    "ldap": "Address of the directory, such as ldaps://ldap.example.edu",
}

_MEMBERS = {
    "github": ("organizations", "GitHub organizations"),
    "gitlab": ("groups", "GitLab groups"),
    "google": ("domains", "Google Workspace domains"),
    "oidc": ("groups", "Groups"),
}
"""With each method, the setting that lets in all of a kind, and what they are called."""

Answer = Callable[[str | None, str, str], str]
"""What was given on the command line, else the answer to a question, else its default."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of signing in; None and empty where it says nothing."""

    method: str
    url: str
    server: str | None
    client_id: str | None
    admins: tuple[str, ...]


def ask_login(asked: Asked, answer: Answer, console: Console) -> dict[str, Any]:
    """The section ``login`` as plain values; says what to do at the provider before it asks for what comes
    of it."""
    method = asked.method
    values: dict[str, Any] = {} if method == LOCAL else {"method": method}
    if method == LOCAL:
        return {"admins": _names(asked.admins, answer, "Administrators (comma between)", "admin")}
    server = asked.server
    if method in _SERVER_QUESTIONS:
        server = answer(server, _SERVER_QUESTIONS[method], "")
    if server:
        values["server"] = server
    if method in OAUTH_METHODS:
        for line in registration(method, asked.url.rstrip("/"), server or ""):
            console.note(line)
        values["client_id"] = answer(asked.client_id, "Client id", "")
    else:
        values["ldap"] = {"users": answer(None, "Place in the directory where people are", "")}
    question = f"Administrators, as they sign in with {PROVIDER_NAMES[method]} (comma between)"
    values["admins"] = _names(asked.admins, answer, question, "")
    if not values["admins"]:
        raise BadRequestError(
            "Nobody is named who administers.",
            field="admins",
            fix=f"Add --admin NAME, the name that they have at {PROVIDER_NAMES[method]}.",
        )
    if method in _MEMBERS:
        key, what = _MEMBERS[method]
        members = answer(None, f"{what} whose people may come in (comma between; none: leave empty)", "")
        if members:
            values[key] = [name.strip() for name in members.split(",") if name.strip()]
    values["approve"] = answer(None, "May others ask to be let in? (yes, no)", "yes").lower() in ("yes", "y")
    return values


def _names(given: tuple[str, ...], answer: Answer, question: str, default: str) -> list[str]:
    return list(given) or answer(None, question, default).replace(",", " ").split()
