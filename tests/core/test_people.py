"""Who the people are: uids and homes for ever, names that may change hands."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labdock.core.errors import AccountError
from labdock.core.people import (
    FIRST_UID,
    LAB_GID,
    NAME_PATTERN,
    RESERVED_NAMES,
    Person,
    Registry,
    check_name,
    forget,
    group_lines,
    host_label,
    passwd_lines,
    register,
)

IDENTITIES = tuple(f"local:{number}" for number in range(5))
NAMES = ("ada", "bob", "ada-200001", "ada-200002", "x")

changes = st.lists(
    st.tuples(st.sampled_from(["register", "forget"]), st.sampled_from(IDENTITIES), st.sampled_from(NAMES)),
    max_size=40,
)

names = st.from_regex(r"[a-z][a-z0-9]{0,9}([._-][a-z0-9]{1,9}){0,2}", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMES
)


def every_registry(history: list[tuple[str, str, str]]) -> list[Registry]:
    """The registries that *history* leads through, the empty one first; what is refused changes nothing."""
    registries = [Registry()]
    for what, identity, name in history:
        now = registries[-1]
        if what == "forget":
            registries.append(forget(now, identity))
            continue
        try:
            registries.append(register(now, identity, name)[0])
        except AccountError:
            registries.append(now)
    return registries


def people(*names: str) -> Registry:
    registry = Registry()
    for name in names:
        registry, _ = register(registry, f"local:{name}", name)
    return registry


@given(changes)
def test_no_uid_or_home_is_ever_given_to_two_identities(history: list[tuple[str, str, str]]) -> None:
    uids: dict[int, str] = {}
    homes: dict[str, str] = {}
    for registry in every_registry(history):
        for person in registry.people:
            assert uids.setdefault(person.uid, person.identity) == person.identity
            assert homes.setdefault(person.home, person.identity) == person.identity


@given(changes)
def test_an_identity_keeps_its_uid_and_home_whatever_happens(history: list[tuple[str, str, str]]) -> None:
    first: dict[str, tuple[int, str]] = {}
    for registry in every_registry(history):
        for person in registry.people:
            assert first.setdefault(person.identity, (person.uid, person.home)) == (person.uid, person.home)


@given(changes)
def test_no_two_people_have_one_name_at_the_same_time(history: list[tuple[str, str, str]]) -> None:
    for registry in every_registry(history):
        names = [person.name for person in registry.current()]
        assert len(names) == len(set(names))


@given(changes)
def test_people_are_in_order_of_uid_and_the_next_uid_is_above_all(
    history: list[tuple[str, str, str]],
) -> None:
    for registry in every_registry(history):
        uids = [person.uid for person in registry.people]
        assert uids == sorted(uids)
        assert registry.next_uid > max(uids, default=FIRST_UID - 1)


def test_the_first_uid_is_not_the_group_of_the_lab() -> None:
    registry, ada = register(Registry(), "local:1", "ada")
    assert ada == Person("local:1", "ada", FIRST_UID, f"ada-{FIRST_UID}")
    assert ada.gid == ada.uid != LAB_GID
    assert registry.find("local:1") == ada


def test_registering_again_changes_nothing() -> None:
    registry = people("ada", "bob")
    assert register(registry, "local:ada", "ada") == (registry, registry.people[0])


def test_a_new_name_keeps_uid_and_home() -> None:
    registry, ada = register(people("ada"), "local:ada", "ada.l")
    assert (ada.name, ada.uid, ada.home) == ("ada.l", FIRST_UID, f"ada-{FIRST_UID}")
    assert registry.current() == (ada,)


def test_a_name_that_somebody_has_is_refused_with_their_uid() -> None:
    with pytest.raises(AccountError, match=f"belongs to somebody else \\(uid {FIRST_UID}\\)"):
        register(people("ada"), "local:other", "ada")
    with pytest.raises(AccountError, match="belongs to somebody else"):
        register(people("ada", "bob"), "local:bob", "ada")


def test_the_name_of_somebody_gone_is_free_but_their_home_and_uid_are_not() -> None:
    registry, ada = register(forget(people("ada"), "local:ada"), "local:other", "ada")
    assert (ada.uid, ada.home) == (FIRST_UID + 1, f"ada-{FIRST_UID + 1}")
    assert registry.current() == (ada,)


def test_an_identity_that_is_gone_is_unknown_and_does_not_come_back() -> None:
    registry = forget(people("ada"), "local:ada")
    assert registry.find("local:ada") is None
    assert registry.current() == ()
    with pytest.raises(AccountError, match="was removed"):
        register(registry, "local:ada", "ada")


def test_forgetting_somebody_unknown_changes_nothing() -> None:
    assert forget(people("ada"), "local:bob") == people("ada")


@pytest.mark.parametrize("name", ["a", "ada", "ada.l", "a-b_c.d", "x1", "a" * 32])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Ada",
        "1a",
        "a--b",
        "a.-b",
        "-a",
        "a-",
        "a" * 33,
        "a b",
        "a/b",
        "..",
        "ä",
        "ada\n",
        *sorted(RESERVED_NAMES),
    ],
)
def test_a_name_that_breaks_the_rule_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(AccountError, match=r"Use 1 to 32 of a-z and 0-9"):
        check_name(name)


@given(names | st.text("az09._-/:A\n ", max_size=34))
def test_every_name_that_is_taken_is_safe_as_a_folder_a_login_and_a_word(name: str) -> None:
    try:
        check_name(name)
    except AccountError:
        return
    assert 1 <= len(name) <= 32
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0].isalpha()
    assert name[-1].isalnum()
    assert not any(pair in name for pair in ("--", "..", "__", "-.", ".-"))


@given(st.lists(names, unique=True))
def test_passwd_and_group_name_everybody_once_in_lines_of_their_own(names: list[str]) -> None:
    known = people(*names).people
    passwd = [line.split(":") for line in passwd_lines(known).splitlines()]
    assert [fields[0] for fields in passwd] == names
    assert all(len(fields) == 7 for fields in passwd)
    assert [int(fields[2]) for fields in passwd] == [person.uid for person in known]
    group = [line.split(":") for line in group_lines(known).splitlines()]
    assert group[0] == ["lab", "x", str(LAB_GID), ",".join(names)]
    assert [(fields[0], int(fields[2])) for fields in group[1:]] == [(p.name, p.gid) for p in known]


def test_passwd_shows_homes_as_sessions_see_them() -> None:
    assert passwd_lines(people("ada").people) == f"ada:x:{FIRST_UID}:{FIRST_UID}:ada:/home/ada:/bin/bash\n"


any_name = st.from_regex(NAME_PATTERN, fullmatch=True)
# From few signs, so that names are alike.
close_names = st.from_regex(r"(?:a|xn)(?:[._-]?[a0]){0,3}", fullmatch=True)


@given(any_name | close_names)
@example("a_" * 15 + "ab")
@example("xn_" + "c_" * 14 + "d")
@example("xn.b")
def test_every_name_has_a_host_that_browsers_and_certificates_take(name: str) -> None:
    label = host_label(name)
    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", label)
    assert not label.startswith("xn--")
    # Read back: so no two names have one label.
    joins = {"-": "-", "--": ".", "---": "_"}
    assert re.sub("-+", lambda join: joins[join[0]], label.removeprefix("0")) == name


@given(close_names, close_names)
def test_no_two_people_share_a_host(one: str, other: str) -> None:
    assert (host_label(one) == host_label(other)) == (one == other)


def test_a_host_is_the_name_where_it_can_be() -> None:
    assert [host_label(name) for name in ("ada", "ada-b", "ada.b", "ada_b", "xn.b")] == [
        "ada",
        "ada-b",
        "ada--b",
        "ada---b",
        "0xn--b",
    ]
    with pytest.raises(AccountError):
        host_label("a--b")
