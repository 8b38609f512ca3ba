"""The table of accounts and links."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from labdock.core.accounts import LINK_LIFE_S, LinkKind, LinkState, Standing, UnknownPersonError, token_hash
from labdock.core.admission import Presented
from labdock.core.errors import AccountError
from labdock.hub.accounts import KEEP_DEAD_LINKS_S, KEEP_REQUESTS_S, AccountStore, _Base


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
        statement = str(CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]  # SQLAlchemy's own gap
        assert "CREATE TABLE" in statement


# --- people who sign in elsewhere ---

MIA = Presented(
    "github:1", "Mia", email="mia@lab.example", full_name="Mia M.", groups=frozenset({"vision-lab"})
)


@pytest.fixture
def github(tmp_path: Path) -> Iterator[AccountStore]:
    store = AccountStore(f"sqlite:///{tmp_path}/hub.sqlite", "github")
    yield store
    store.close()


def test_a_renamed_login_keeps_its_account(github: AccountStore) -> None:
    made = github.enrol(MIA, Standing.LISTED, now=5)
    assert (made.name, sorted(made.aliases)) == ("mia", ["mia", "mia@lab.example"])
    found, taken = github.recognise(replace(MIA, login="mia-smith", groups=frozenset()))
    assert found is not None
    assert (found.name, found.login, found.groups, taken) == ("mia", "mia-smith", frozenset(), frozenset())
    assert found.aliases == {"mia", "mia-smith", "mia@lab.example"}
    assert github.everybody() == (found,)


def test_a_login_registered_anew_is_somebody_else_with_no_claim_to_it(github: AccountStore) -> None:
    github.enrol(MIA, Standing.LISTED, now=5)
    github.recognise(replace(MIA, login="mia-smith", email=""))
    thief = Presented("github:666", "mia", email="mia@lab.example")
    found, taken = github.recognise(thief)
    assert (found, sorted(taken)) == (None, ["mia", "mia@lab.example"])
    stranger = github.enrol(thief, Standing.WAITING, now=6)
    assert (stranger.name, stranger.aliases) == ("mia-2", frozenset())
    again, _ = github.recognise(MIA)
    assert again is not None
    assert again.identity == "github:1"


def test_who_is_expected_gets_the_account_and_nobody_after_them(github: AccountStore) -> None:
    expected = github.expect("Kim-L", name="kim", admin=True, now=1)
    assert (expected.name, expected.state, expected.admin) == ("kim", "invited", True)
    found, _ = github.recognise(Presented("github:7", "kim-l"))
    assert found is not None
    assert found.identity == expected.identity
    github.recognise(Presented("github:7", "kim-new"))
    assert github.recognise(Presented("github:8", "kim-l")) == (None, frozenset({"kim-l"}))
    for login, name in (("kim-l", "other"), ("else", "kim"), ("kim-new", "kim-new")):
        with pytest.raises(AccountError):
            github.expect(login, name=name, admin=False, now=2)


def test_an_account_of_another_way_to_sign_in_is_carried_over_by_an_administrators_word(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    local = AccountStore(url)
    old = local.add("ada", admin=False, now=0)
    local.close()
    store = AccountStore(url, "github")
    # A stranger's login of the same name opens nothing.
    assert store.recognise(Presented("github:3", "ada"))[0] is None
    store.expect("ada-l", name="ada", admin=False, now=1)
    found, _ = store.recognise(Presented("github:4", "ada-l"))
    assert found is not None
    assert found.identity == old.identity
    store.close()


def test_strangers_cannot_fill_the_table(github: AccountStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labdock.hub.accounts.MOST_WAITING", 3)
    for number in range(3):
        github.enrol(Presented(f"github:{number}", f"s{number}"), Standing.WAITING, now=0)
    with pytest.raises(AccountError, match="no more can"):
        github.enrol(Presented("github:99", "s99"), Standing.WAITING, now=0)
    github.set_standing("s1", Standing.ADDED)
    github.enrol(Presented("github:99", "s99"), Standing.WAITING, now=0)


def test_requests_that_nobody_answers_make_room_and_can_be_dismissed(github: AccountStore) -> None:
    github.enrol(Presented("github:1", "old"), Standing.WAITING, now=0)
    github.enrol(Presented("github:2", "was-in"), Standing.LISTED, now=0)
    github.activate("was-in", now=1)
    github.set_standing("was-in", Standing.WAITING)
    github.enrol(Presented("github:3", "new"), Standing.WAITING, now=KEEP_REQUESTS_S + 1)
    assert [account.name for account in github.everybody()] == ["new", "was-in"]
    assert github.recognise(Presented("github:9", "old")) == (None, frozenset())
    assert github.dismiss_requests(made_before=KEEP_REQUESTS_S + 2) == 1
    assert [account.name for account in github.everybody()] == ["was-in"]


def test_a_password_of_who_asked_for_the_name_opens_nothing_for_whoever_gets_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    local = AccountStore(url)
    local.add("kim", admin=False, now=0)
    local.set_password("kim", "a stranger's", now=0)
    store = AccountStore(url, "github")
    store.expect("kim-lee", name="kim", admin=False, now=1)
    assert local.password_hash("kim") is None
    store.close()
    local.close()


def test_who_is_removed_is_forgotten_and_their_names_are_free(github: AccountStore) -> None:
    github.enrol(MIA, Standing.LISTED, now=5)
    github.remove("mia")
    assert github.recognise(replace(MIA, identity="github:2")) == (None, frozenset())
    assert github.of_identity("github:1") is None


def test_a_database_of_the_first_version_is_carried_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    with create_engine(url).begin() as old:
        old.execute(
            text(
                "CREATE TABLE labdock_accounts (identity VARCHAR(64) PRIMARY KEY, name VARCHAR(32) UNIQUE, "
                "password_hash VARCHAR(255), admin BOOLEAN NOT NULL, created_at BIGINT NOT NULL, "
                "activated_at BIGINT)"
            )
        )
        old.execute(text("INSERT INTO labdock_accounts VALUES ('local:1', 'ada', 'hash', 1, 3, 4)"))
    store = AccountStore(url)
    (ada,) = store.everybody()
    assert (ada.name, ada.admin, ada.standing, ada.login, ada.groups) == (
        "ada",
        True,
        Standing.ADDED,
        "",
        frozenset(),
    )
    store.close()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(["ann", "ben", "cat"]), st.sampled_from(Standing)),
        max_size=12,
    )
)
def test_no_account_is_ever_opened_by_two_identities(visits: list[tuple[int, str, Standing]]) -> None:
    with TemporaryDirectory() as folder:
        store = AccountStore(f"sqlite:///{folder}/hub.sqlite", "github")
        opened: dict[str, str] = {}
        for number, login, standing in visits:
            presented = Presented(f"github:{number}", login)
            account, _ = store.recognise(presented)
            account = account or store.enrol(presented, standing, now=0)
            assert opened.setdefault(account.name, presented.identity) == presented.identity
        assert len(store.everybody()) == len(opened) == len({number for number, _, _ in visits})
        aliases = [alias for account in store.everybody() for alias in account.aliases]
        assert len(aliases) == len(set(aliases))
        store.close()
