"""Asking a provider whether it knows this site, and a directory whether it answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labdock.adapters.directory import check_directory
from labdock.adapters.login_check import check_login
from labdock.core.finding import Finding
from labdock.core.login import LoginSettings
from tests.providers.github import GitHub
from tests.providers.gitlab import GitLab
from tests.providers.google import Google
from tests.providers.ldap import GROUPS, LOOKUP, PEOPLE, Ldap, running_ldap
from tests.providers.oidc import running_oidc
from tests.providers.serving import Authority, serving

CALLBACK = "https://gpu.example.edu/hub/oauth_callback"

Right = tuple[LoginSettings, str]


@pytest.fixture(
    scope="module", params=["github", "gitlab", "google", pytest.param("oidc", marks=pytest.mark.programs)]
)
def right(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Right]:
    """What each provider takes: the settings, and the secret."""
    method: str = request.param
    folder, authority = tmp_path_factory.mktemp(method), Authority()
    login = LoginSettings(method, authority=authority.pem, label="The Provider")
    if method == "oidc":
        with running_oidc(folder, authority, CALLBACK, method="client_secret_basic") as (oidc, application):
            found = replace(login, client_id=application.client_id, server=oidc.url)
            yield found, application.secret
        return
    kinds = {"github": GitHub, "gitlab": GitLab, "google": Google}
    with serving(kinds[method](), authority, folder) as provider:
        application = provider.register(CALLBACK)
        yield replace(login, client_id=application.client_id, server=provider.url), application.secret


def wrong(finding: Finding, seen: str, fix: str) -> None:
    assert not finding.ok
    assert seen in finding.seen
    assert fix in finding.fix


def test_the_right_client_and_secret_are_known(right: Right) -> None:
    assert check_login(right[0], CALLBACK, right[1]) == Finding(
        "sign-in", True, "The Provider knows this site, and takes its secret"
    )


def test_a_wrong_secret_is_told_and_not_shown(right: Right) -> None:
    finding = check_login(right[0], CALLBACK, "a-wrong-secret")
    wrong(finding, "refuses the client secret", "labdock secret set client_secret")
    assert "a-wrong-secret" not in str(finding)


def test_a_wrong_client_id_is_told(right: Right) -> None:
    finding = check_login(replace(right[0], client_id="nobody"), CALLBACK, right[1])
    wrong(finding, "client id", "login.client_id")


def test_a_provider_that_is_not_there_or_not_trusted_is_told(right: Right) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"https://127.0.0.1:{unused.getsockname()[1]}"
        wrong(
            check_login(replace(right[0], server=nowhere), CALLBACK, right[1]), "cannot be reached", "reaches"
        )
    finding = check_login(replace(right[0], authority=""), CALLBACK, right[1])
    wrong(finding, "is not trusted", "login.authority")


def test_where_the_provider_tells_a_wrong_callback_is_found(right: Right) -> None:
    if right[0].method == "oidc":
        finding = check_login(right[0], "https://old.example.edu/hub/oauth_callback", right[1])
        wrong(finding, "another callback", "exactly https://old.example.edu/hub/oauth_callback")
        finding = check_login(replace(right[0], server=right[0].server + "/realm"), CALLBACK, right[1])
        wrong(finding, "no OpenID provider", "login.server")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ldap, LoginSettings]]:
    folder: Path = tmp_path_factory.mktemp("ldap")
    authority = Authority()
    with running_ldap(folder, authority) as running:
        login = LoginSettings(
            "ldap",
            server=running.url,
            authority=authority.pem,
            label="The Directory",
            user_base=PEOPLE,
            group_base=GROUPS,
            lookup_dn=LOOKUP,
        )
        yield running, login


@pytest.mark.programs
def test_a_directory_that_shows_people_is_fine(directory: tuple[Ldap, LoginSettings]) -> None:
    running, login = directory
    assert check_directory(login, running.lookup_password).ok
    over_starttls = replace(login, server=running.plain_url, start_tls=True)
    assert check_directory(over_starttls, running.lookup_password).ok


@pytest.mark.programs
def test_each_way_in_which_a_directory_is_set_up_wrongly_is_told(
    directory: tuple[Ldap, LoginSettings],
) -> None:
    running, login = directory
    password = running.lookup_password
    wrong(check_directory(login, "not-it"), "refuses the name or the password", "ldap_password")
    wrong(check_directory(login, ""), "refuses the name or the password", "ldap_password")
    nowhere = "ou=nowhere,dc=lab,dc=example"
    wrong(check_directory(replace(login, user_base=nowhere), password), nowhere, "login.ldap.users")
    wrong(check_directory(replace(login, group_base=nowhere), password), nowhere, "login.ldap.groups")
    wrong(check_directory(replace(login, lookup_dn=""), password), PEOPLE, "login.ldap.lookup_dn")
    wrong(check_directory(replace(login, authority=""), password), "not trusted", "login.authority")
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        gone = replace(login, server=f"ldaps://127.0.0.1:{unused.getsockname()[1]}")
        wrong(check_directory(gone, password), "cannot be reached", "reaches")


@pytest.mark.programs
def test_a_server_that_says_nothing_is_left_after_a_while(
    directory: tuple[Ldap, LoginSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, login = directory
    # Not five and ten seconds, as in earnest.
    monkeypatch.setattr("labdock.adapters.directory.CONNECT_WITHIN_S", 0.5)
    monkeypatch.setattr("labdock.adapters.directory.ANSWER_WITHIN_S", 1)
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        port = mute.getsockname()[1]
        for silent in (
            replace(login, server=f"ldaps://127.0.0.1:{port}"),
            replace(login, server=f"ldap://127.0.0.1:{port}", start_tls=True),
        ):
            began = time.monotonic()
            wrong(check_directory(silent, running.lookup_password), "did not answer", "reaches")
            assert time.monotonic() - began < 5
