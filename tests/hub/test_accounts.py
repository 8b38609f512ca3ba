"""The table of accounts and links."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from labdock.core.accounts import LINK_LIFE_S, LinkKind, LinkState, UnknownPersonError, token_hash
from labdock.core.errors import AccountError
from labdock.hub.accounts import KEEP_DEAD_LINKS_S, AccountStore, _Base


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AccountStore]:
    opened = AccountStore(f"sqlite:///{tmp_path}/hub.sqlite")
    yield opened
    opened.close()


def test_an_account_begins_invited_and_without_a_password(store: AccountStore) -> None:
    account = store.add("ada", admin=True, now=5)
    assert account == store.find("ada")
    assert (account.state, account.has_password, account.admin, account.created_at) == (
        "invited",
        False,
        True,
        5,
    )
    assert store.password_hash("ada") is None


def test_two_people_never_share_a_name_and_a_name_keeps_no_identity(store: AccountStore) -> None:
    first = store.add("ada", admin=False, now=1)
    with pytest.raises(AccountError, match="already somebody called 'ada'"):
        store.add("ada", admin=False, now=2)
    store.remove("ada")
    assert store.find("ada") is None
    assert store.add("ada", admin=False, now=3).identity != first.identity


@pytest.mark.parametrize(
    "name", ["", "Ada", "a b", "root", "a--b", "x" * 33, "ada'; drop table labdock_links"]
)
def test_a_name_that_cannot_be_one_makes_no_account(store: AccountStore, name: str) -> None:
    with pytest.raises(AccountError):
        store.add(name, admin=False, now=1)
    assert store.everybody() == ()


def test_a_link_is_used_once_however_many_try_at_the_same_moment(store: AccountStore) -> None:
    store.add("ada", admin=False, now=0)
    token, _ = store.make_link("ada", LinkKind.INVITE, now=0)
    with ThreadPoolExecutor(8) as threads:
        results = list(
            threads.map(lambda i: store.use_link(token, now=1, password_hash=f"hash-{i}"), range(24))
        )
    winners = [i for i, account in enumerate(results) if account is not None]
    assert len(winners) == 1
    assert store.password_hash("ada") == f"hash-{winners[0]}"
    assert store.look_up(token, now=1)[0] is LinkState.USED


@pytest.mark.parametrize("kind", list(LinkKind))
def test_a_link_dies_at_its_hour(store: AccountStore, kind: LinkKind) -> None:
    store.add("ada", admin=False, now=0)
    token, expires_at = store.make_link("ada", kind, now=100)
    assert expires_at == 100 + LINK_LIFE_S[kind]
    assert store.look_up(token, now=expires_at - 1)[0] is LinkState.OPEN
    assert store.look_up(token, now=expires_at)[0] is LinkState.EXPIRED
    assert store.use_link(token, now=expires_at) is None
    assert store.use_link(token, now=expires_at - 1) is not None


def test_a_new_link_voids_the_older_one_of_its_kind_and_person_only(store: AccountStore) -> None:
    for name in ("ada", "bob"):
        store.add(name, admin=False, now=0)
    old, _ = store.make_link("ada", LinkKind.RESET, now=0)
    invite, _ = store.make_link("ada", LinkKind.INVITE, now=0)
    bobs, _ = store.make_link("bob", LinkKind.RESET, now=0)
    new, _ = store.make_link("ada", LinkKind.RESET, now=1)
    states = [store.look_up(token, now=2)[0] for token in (old, invite, bobs, new)]
    assert states == [LinkState.REPLACED, LinkState.OPEN, LinkState.OPEN, LinkState.OPEN]
    assert store.use_link(old, now=2) is None


def test_setting_a_password_voids_links_that_could_undo_it(store: AccountStore) -> None:
    store.add("ada", admin=False, now=0)
    reset, _ = store.make_link("ada", LinkKind.RESET, now=0)
    store.set_password("ada", "hash", now=1)
    assert store.look_up(reset, now=1)[0] is LinkState.REPLACED
    invite, _ = store.make_link("ada", LinkKind.INVITE, now=2)
    reset, _ = store.make_link("ada", LinkKind.RESET, now=2)
    assert store.use_link(reset, now=3, password_hash="other")
    assert store.look_up(invite, now=3)[0] is LinkState.REPLACED


def test_a_sign_in_link_sets_no_password_and_makes_the_account_active(store: AccountStore) -> None:
    store.add("mia", admin=True, now=0)
    token, _ = store.make_link("mia", LinkKind.SIGNIN, now=0)
    account = store.use_link(token, now=7)
    assert account is not None
    assert (account.state, account.activated_at, account.has_password) == ("active", 7, False)


def test_removing_somebody_takes_their_links_along(store: AccountStore) -> None:
    store.add("ada", admin=False, now=0)
    token, _ = store.make_link("ada", LinkKind.INVITE, now=0)
    store.remove("ada")
    store.remove("ada")
    assert store.look_up(token, now=1) == (LinkState.UNKNOWN, None, None)
    assert store.use_link(token, now=1) is None


def test_only_the_hash_of_a_token_is_stored(store: AccountStore, tmp_path: Path) -> None:
    store.add("ada", admin=False, now=0)
    token, _ = store.make_link("ada", LinkKind.INVITE, now=0)
    stored = (tmp_path / "hub.sqlite").read_bytes()
    assert token.encode() not in stored
    assert token_hash(token).encode() in stored


def test_dead_links_are_forgotten_in_the_end(store: AccountStore) -> None:
    store.add("ada", admin=False, now=0)
    token, expires_at = store.make_link("ada", LinkKind.SIGNIN, now=0)
    store.make_link("ada", LinkKind.RESET, now=expires_at + KEEP_DEAD_LINKS_S)
    assert store.look_up(token, now=expires_at)[0] is LinkState.EXPIRED
    store.make_link("ada", LinkKind.RESET, now=expires_at + KEEP_DEAD_LINKS_S + 1)
    assert store.look_up(token, now=expires_at)[0] is LinkState.UNKNOWN


def test_nobody_gets_no_link_and_no_password(store: AccountStore) -> None:
    with pytest.raises(UnknownPersonError):
        store.make_link("ada", LinkKind.RESET, now=0)
    with pytest.raises(UnknownPersonError):
        store.set_password("ada", "hash", now=0)


def test_accounts_survive_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    first = AccountStore(url)
    account = first.add("ada", admin=False, now=0)
    first.close()
    second = AccountStore(url)
    assert second.everybody() == (account,)
    second.close()


def test_the_tables_are_plain_enough_for_postgresql() -> None:
    for table in _Base.metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]  # SQLAlchemy's own gap
        assert "BIGINT" in text
