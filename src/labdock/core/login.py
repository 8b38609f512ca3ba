"""The section ``login``: how people sign in and who may, as settings and as what the hub is told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from labdock.core.errors import AccountError
from labdock.core.people import check_name
from labdock.core.settings import (
    ListOf,
    Plain,
    Reading,
    Record,
    Wrong,
    choice,
    describe,
    flag,
    line_of_text,
    settings_of,
    text_value,
)

LOCAL = "local"
OAUTH_METHODS = ("github", "gitlab", "google", "oidc")
METHODS = (LOCAL, *OAUTH_METHODS, "ldap")

PROVIDER_NAMES: Mapping[str, str] = {
    "github": "GitHub",
    "gitlab": "GitLab",
    "google": "Google",
    "oidc": "your organization's account",
    "ldap": "the directory",
}

CLIENT_SECRET = "client_secret"  # noqa: S105  the name of a file
LDAP_PASSWORD = "ldap_password"  # noqa: S105  the name of a file

CALLBACK_PATH = "/hub/oauth_callback"


@dataclass(frozen=True, slots=True)
class Oidc:
    """What there is to say of an OpenID Connect provider beside its address."""

    name_claim: str = field(
        default="preferred_username",
        metadata=describe(
            text_value("the name of a claim", r"[A-Za-z][A-Za-z0-9_.:/-]{0,99}"),
            help="Claim that holds what a person is called there.",
            example="preferred_username",
        ),
    )
    groups_claim: str = field(
        default="groups",
        metadata=describe(
            text_value("the name of a claim", r"[A-Za-z][A-Za-z0-9_.:/-]{0,199}"),
            help="Claim that holds the groups of a person, a list of names; "
            "dots lead into it, as in realm_access.roles.",
            example="groups",
        ),
    )
    scopes: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(text_value("a scope", r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,199}"), named="scope"),
            help="Scopes to ask for beside openid, profile and email.",
            example=["groups"],
        ),
    )


_DN = r"[^\u0000-\u001f\u007f\ud800-\udfff]{1,400}"
_ATTRIBUTE = text_value("the name of an attribute, such as uid", r"[A-Za-z][A-Za-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class Ldap:
    """What there is to say of a directory beside its address."""

    users: str = field(
        default="",
        metadata=describe(
            text_value("a place in the directory", rf"|{_DN}"),
            help="Place in the directory below which people are looked for.",
            example="ou=people,dc=example,dc=edu",
        ),
    )
    login_attribute: str = field(
        default="uid",
        metadata=describe(
            _ATTRIBUTE,
            help="Attribute that holds what people type to sign in; sAMAccountName in an Active Directory.",
            example="uid",
        ),
    )
    id_attribute: str = field(
        default="entryUUID",
        metadata=describe(
            _ATTRIBUTE,
            help="Attribute that never changes and is never given twice; objectGUID in an Active Directory.",
            example="entryUUID",
        ),
    )
    lookup_dn: str = field(
        default="",
        metadata=describe(
            text_value("an entry of the directory", rf"|{_DN}"),
            help="Entry that looks people up; its password is set with: labdock secret set ldap_password. "
            "Without one, the directory is asked without a name.",
            example="cn=labdock,ou=services,dc=example,dc=edu",
        ),
    )
    groups: str = field(
        default="",
        metadata=describe(
            text_value("a place in the directory", rf"|{_DN}"),
            help="Place below which groups are looked for, needed where login.groups is used.",
            example="ou=groups,dc=example,dc=edu",
        ),
    )
    start_tls: bool = field(
        default=False,
        metadata=describe(
            flag(),
            help="Whether an ldap:// connection is encrypted before anything is said. "
            "Passwords never cross the network readable: without it, write ldaps://.",
            example=True,
        ),
    )


def _read_account(value: Plain) -> object | Wrong:
    if not isinstance(value, str):
        return Wrong("is not what somebody is called where they sign in", "Put it in quotes.")
    return value.lower()


LOGIN_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,253}")
"""What somebody may be called where they sign in."""

_ACCOUNT = text_value(
    "what somebody is called where they sign in, such as mia or mia@example.edu",
    LOGIN_PATTERN.pattern,
    convert=_read_account,
)
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?"
_SERVER = text_value(
    "an address such as https://gitlab.example.edu or ldaps://ldap.example.edu",
    rf"(?:https|ldaps?)://{_HOST}(?::[0-9]{{1,5}})?(?:/[A-Za-z0-9._~/-]*)?",
    hint="Write https:// (ldaps:// or ldap:// for a directory), a host, and a port if need be.",
    convert=lambda text: text.rstrip("/"),
    optional=True,
)
_NAME_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})"


def _kept_apart(secret: str) -> str:
    return f"No secret belongs into this file. Take it out, and run: labdock secret set {secret}"


@dataclass(frozen=True, slots=True)
class Login:
    """How people sign in, who administers, and who may come in; names are in lower case."""

    method: str = field(
        default=LOCAL,
        metadata=describe(
            choice(*METHODS),
            help="How people sign in: local means accounts of this site, with a password that people set "
            "themselves by an invitation link; the others mean the account that they have at GitHub, at "
            "GitLab, at Google, at any OpenID Connect provider (oidc), or in a directory (ldap).",
            example="github",
        ),
    )
    client_id: str = field(
        default="",
        metadata=describe(
            text_value("the client id of an application", r"|[\u0021-\u007e]{1,255}"),
            help="Client id of the application that you registered at the provider (github, gitlab, google, "
            "oidc). Its secret does not belong here: labdock secret set client_secret asks for it.",
            example="Iv1.0123456789abcdef",
        ),
    )
    server: str | None = field(
        default=None,
        metadata=describe(
            _SERVER,
            help="Address of the provider: an own GitLab or GitHub Enterprise, the issuer of an OpenID "
            "Connect provider, or a directory.",
            example="https://gitlab.example.edu",
            derived="github.com, gitlab.com or Google; oidc and ldap need one",
        ),
    )
    authority: str | None = field(
        default=None,
        metadata=describe(
            text_value("a path", r"[^\u0000-\u001f\u007f\ud800-\udfff]{1,400}", optional=True),
            help="PEM file, as seen from this file, of the certificate authority that signed the provider's "
            "certificate, if this machine does not know it.",
            example="authority.pem",
            derived="the authorities that this machine trusts",
        ),
    )
    label: str = field(
        default="",
        metadata=describe(
            line_of_text(60, may_be_empty=True),
            help="What the sign-in page calls the account, after the words: Sign in with.",
            example="Example University",
        ),
    )
    admins: tuple[str, ...] = field(
        default=("admin",),
        metadata=describe(
            ListOf(_ACCOUNT, named="name", at_least=1),
            help="Names of the people who administer the site, as they sign in. They may always come in. "
            "With local, the first sign-in link is for the first of them.",
            example=["mia", "sam"],
        ),
    )
    people: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(_ACCOUNT, named="name"),
            help="Names of further people who may come in, or their e-mail addresses where the provider has "
            "verified them. Others are added by labdock users add.",
            example=["kim", "lee"],
        ),
    )
    organizations: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(
                text_value("the name of an organization", _NAME_PART, convert=str.lower), named="organization"
            ),
            help="GitHub organizations whose members may come in.",
            example=["vision-lab"],
        ),
    )
    teams: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(
                text_value(
                    "a team, such as vision-lab:gpu",
                    rf"{_NAME_PART}:[A-Za-z0-9_-]{{1,100}}",
                    hint="Write the organization, a colon, and the team as its address has it.",
                    convert=str.lower,
                ),
                named="team",
            ),
            help="GitHub teams whose members may come in.",
            example=["vision-lab:gpu"],
        ),
    )
    groups: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(line_of_text(300), named="group"),
            help="Groups whose members may come in: by full path at GitLab, by the groups claim with oidc, "
            "by cn or whole name in a directory.",
            example=["vision/gpu"],
        ),
    )
    domains: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            ListOf(
                text_value(
                    "a domain, such as example.edu",
                    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}",
                    convert=str.lower,
                ),
                named="domain",
            ),
            help="Google Workspace domains whose people may come in.",
            example=["example.edu"],
        ),
    )
    approve: bool = field(
        default=False,
        metadata=describe(
            flag(),
            help="Whether somebody who is on no list may ask to be let in: administrators see the request on "
            "the People page and in labdock users, and approve or refuse it.",
            example=True,
        ),
    )
    oidc: Oidc = field(
        default=Oidc(),
        metadata=describe(
            Record(settings_of(Oidc), Oidc),
            help="More about an OpenID Connect provider.",
            example={"groups_claim": "groups"},
        ),
    )
    ldap: Ldap = field(
        default=Ldap(),
        metadata=describe(
            Record(
                settings_of(Ldap),
                Ldap,
                elsewhere=dict.fromkeys(("password", "lookup_password"), _kept_apart(LDAP_PASSWORD)),
            ),
            help="More about a directory.",
            example={"users": "ou=people,dc=example,dc=edu"},
        ),
    )


_GOES_WITH: Mapping[str, tuple[str, ...]] = {
    "client_id": OAUTH_METHODS,
    "server": ("github", "gitlab", "oidc", "ldap"),
    "authority": ("github", "gitlab", "oidc", "ldap"),
    "label": (*OAUTH_METHODS, "ldap"),
    "people": (*OAUTH_METHODS, "ldap"),
    "organizations": ("github",),
    "teams": ("github",),
    "groups": ("gitlab", "oidc", "ldap"),
    "domains": ("google",),
    "oidc": ("oidc",),
    "ldap": ("ldap",),
}
"""Settings that mean something with some methods only."""

_INSTEAD: Mapping[tuple[str, str], str] = {
    ("organizations", "gitlab"): "Write groups.",
    ("organizations", "oidc"): "Write groups.",
    ("teams", "gitlab"): "Write groups.",
    ("groups", "github"): "Write organizations or teams.",
    ("groups", "google"): "Write domains.",
    ("people", LOCAL): "People are invited: labdock users add NAME",
}


def finish_login(reading: Reading) -> None:
    """Check what the settings of ``login`` say together."""
    method = reading.values.get("method")
    if method is None:
        return
    nothing = Login()
    for key in reading.given:
        methods = _GOES_WITH.get(key, METHODS)
        if method not in methods and reading.values.get(key, nothing) not in (nothing, getattr(nothing, key)):
            fix = _INSTEAD.get((key, method), "Take it out, or choose another method.")
            reading.refuse(key, f"goes with {', '.join(methods)}, and login.method is {method}", fix)
    if method == LOCAL:
        _check_local_names(reading)
        return
    provider = PROVIDER_NAMES[method]
    if "admins" not in reading.given:
        # Whoever is called "admin" there is nobody of this lab's.
        _needs(
            reading, f"needs login.admins with {method}", f"Write who administers, as {provider} has them."
        )
    if method in OAUTH_METHODS and not reading.values.get("client_id", "?"):
        fix = "Register an application at the provider: labdock init --login NAME tells how."
        _needs(reading, f"needs login.client_id with {method}", fix)
    if method == "github":
        for key in ("admins", "people"):
            _check_github_names(reading, key)
    _check_server(reading, method)


def _needs(reading: Reading, message: str, hint: str) -> None:
    node = reading.given.get("method", reading.node)
    reading.findings.add(node, f"{reading.path}.method", Wrong(message, hint), show=True)


def _check_local_names(reading: Reading) -> None:
    if "admins" not in reading.given:
        return
    nodes = getattr(reading.given["admins"], "nodes", ())
    for index, name in enumerate(reading.values.get("admins", ())):
        try:
            check_name(name)
        except AccountError as error:
            wrong = Wrong("cannot be a person's name", error.fix)
            reading.findings.add(nodes[index], f"{reading.path}.admins[{index}]", wrong, show=True)


def _check_github_names(reading: Reading, key: str) -> None:
    nodes = getattr(reading.given.get(key), "nodes", ())
    for index, (node, name) in enumerate(zip(nodes, reading.values.get(key, ()), strict=False)):
        if "@" in name:
            wrong = Wrong("is an e-mail address, and GitHub tells none", "Write the GitHub login.")
            reading.findings.add(node, f"{reading.path}.{key}[{index}]", wrong, show=True)


def _check_server(reading: Reading, method: str) -> None:
    if "server" in reading.given and "server" not in reading.values:
        return
    server = reading.values.get("server") or ""
    scheme = server.partition("://")[0]
    if method in ("oidc", "ldap") and not server:
        example = "ldaps://ldap.example.edu" if method == "ldap" else "https://login.example.edu"
        _needs(reading, f"needs login.server with {method}", f"Write its address, such as {example}.")
    elif server and method == "ldap" and scheme == "https":
        reading.refuse("server", "is no address of a directory", "Begin it with ldaps:// or ldap://.")
    elif server and method != "ldap" and scheme != "https":
        reading.refuse(
            "server", "does not begin with https://", "Secrets must not cross the network readable."
        )
    ldap = reading.values.get("ldap")
    if method != "ldap" or ldap is None:
        return
    if scheme == "ldap" and not ldap.start_tls:
        fix = "Begin it with ldaps://, or write login.ldap.start_tls: true"
        reading.refuse("server", "would send passwords readable", fix)
    if not ldap.users:
        _needs(
            reading,
            "needs login.ldap.users with ldap",
            "Write where people are, such as ou=people,dc=example,dc=edu.",
        )
    if reading.values.get("groups") and not ldap.groups:
        reading.refuse(
            "groups",
            "needs login.ldap.groups",
            "Write where groups are, such as ou=groups,dc=example,dc=edu.",
        )


LOGIN_SECTION = Record(
    settings_of(Login), Login, finish_login, elsewhere={CLIENT_SECRET: _kept_apart(CLIENT_SECRET)}
)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may come in, by the configuration; may change while the hub runs. Names are in lower case."""

    admins: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    approve: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> AccessRules:
        """The rules in *text*, as ``to_json`` wrote them."""
        data = json.loads(text)
        approve = data.pop("approve")
        return AccessRules(approve=approve, **{key: tuple(names) for key, names in data.items()})

    @property
    def memberships(self) -> frozenset[str]:
        """Every organization, team, group and domain whose people may come in."""
        return frozenset((*self.organizations, *self.teams, *self.groups, *self.domains))


def access_rules(login: Login) -> AccessRules:
    """Who may come in, as *login* says."""
    return AccessRules(
        login.admins,
        login.people,
        login.organizations,
        login.teams,
        login.groups,
        login.domains,
        login.approve,
    )


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """How people sign in: what the hub reads once when it starts.

    *server* is "" for github.com, gitlab.com and Google. *authority* is PEM text, "" for what the machine
    trusts. *label* is what the sign-in page calls the account.
    """

    method: str = LOCAL
    client_id: str = ""
    server: str = ""
    authority: str = ""
    label: str = ""
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"
    scopes: tuple[str, ...] = ()
    user_base: str = ""
    login_attribute: str = "uid"
    id_attribute: str = "entryUUID"
    lookup_dn: str = ""
    group_base: str = ""
    start_tls: bool = False

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> LoginSettings:
        """The settings in *data*, as JSON has them."""
        return LoginSettings(**{**data, "scopes": tuple(data["scopes"])})

    @property
    def secret(self) -> str:
        """The name of the secret that the method needs; "" for none."""
        if self.method in OAUTH_METHODS:
            return CLIENT_SECRET
        return LDAP_PASSWORD if self.method == "ldap" and self.lookup_dn else ""


def login_settings(login: Login, *, authority: str = "") -> LoginSettings:
    """How people sign in, as *login* says; *authority* is the text of the file that it names."""
    return LoginSettings(
        method=login.method,
        client_id=login.client_id,
        server=login.server or "",
        authority=authority,
        label=login.label or PROVIDER_NAMES.get(login.method, ""),
        name_claim=login.oidc.name_claim,
        groups_claim=login.oidc.groups_claim,
        scopes=login.oidc.scopes,
        user_base=login.ldap.users,
        login_attribute=login.ldap.login_attribute,
        id_attribute=login.ldap.id_attribute,
        lookup_dn=login.ldap.lookup_dn,
        group_base=login.ldap.groups,
        start_tls=login.ldap.start_tls,
    )


def registration(method: str, url: str, server: str = "") -> tuple[str, ...]:
    """What to do at the provider before people of the site at *url* can sign in by *method*, a line each.

    Source of the addresses: the providers' own documentation, November 2026.
    """
    callback = f"{url}{CALLBACK_PATH}"
    places = {
        "github": (
            f"{server or 'https://github.com'}/settings/applications/new "
            "(for an organization: its page, Settings, Developer settings, OAuth apps)",
            f"Homepage URL: {url}",
            f"Authorization callback URL: {callback}",
            "Then: Generate a new client secret.",
        ),
        "gitlab": (
            f"{server or 'https://gitlab.com'}/-/user_settings/applications "
            "(or a group's page, Settings, Applications)",
            f"Redirect URI: {callback}",
            "Confidential: yes. Scopes: openid, profile, email.",
        ),
        "google": (
            "https://console.cloud.google.com/auth/clients: Create client, Web application",
            f"Authorized JavaScript origins: {url}",
            f"Authorized redirect URIs: {callback}",
        ),
        "oidc": (
            f"{server or 'your provider'}: register a confidential web client (authorization code)",
            f"Redirect URI: {callback}",
            "Scopes: openid, profile, email, and what brings the groups.",
        ),
    }
    return ("Register an application at the provider:", *(f"  {line}" for line in places[method]))
