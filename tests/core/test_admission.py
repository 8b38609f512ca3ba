"""Who may come in: the rules, and names that change hands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.accounts import Account, Standing
from labdock.core.admission import Presented, Reason, judge, name_from, newcomer
from labdock.core.login import AccessRules
from labdock.core.people import RESERVED_NAMES, check_name

RULES = AccessRules(admins=("mia",), people=("kim@lab.example",), organizations=("vision-lab",))
MIA = Presented("github:1", "Mia", groups=frozenset())

words = st.sampled_from(["mia", "kim", "lee", "kim@lab.example", "vision-lab", "chem"])
rules = st.builds(
    AccessRules,
    admins=st.lists(words, max_size=2).map(tuple),
    people=st.lists(words, max_size=2).map(tuple),
    organizations=st.lists(words, max_size=2).map(tuple),
    approve=st.booleans(),
)
accounts = st.builds(
    Account,
    identity=st.just("github:1"),
    name=st.just("x"),
    admin=st.booleans(),
    has_password=st.booleans(),
    created_at=st.just(0),
    activated_at=st.sampled_from([None, 1]),
    standing=st.sampled_from(Standing),
    groups=st.frozensets(words),
    aliases=st.frozensets(words),
)


def test_administrators_listed_people_and_members_may_in_and_nobody_else() -> None:
    def verdict(**facts: object) -> tuple[bool, bool]:
        found = judge(RULES, newcomer(replace(MIA, **facts), ()))  # type: ignore[arg-type]  # any field
        return found.admitted, found.admin

    assert verdict() == (True, True)
    assert verdict(login="kim", email="Kim@Lab.example") == (True, False)
    assert verdict(login="lee", groups=frozenset({"vision-lab"})) == (True, False)
    assert verdict(login="lee", groups=frozenset({"chem"})) == (False, False)
    assert verdict(login="lee") == (False, False)


@pytest.mark.parametrize(("approve", "reason"), [(True, Reason.WAITING), (False, Reason.UNLISTED)])
def test_who_is_on_no_list_waits_only_where_that_is_offered(approve: bool, reason: Reason) -> None:
    stranger = newcomer(Presented("github:9", "stranger"), ())
    assert judge(replace(RULES, approve=approve), stranger).reason is reason


def test_a_login_that_somebody_else_showed_first_is_on_no_list() -> None:
    thief = newcomer(Presented("github:666", "mia"), taken={"mia"})
    assert thief.aliases == frozenset()
    assert judge(RULES, thief).reason is Reason.UNLISTED


@pytest.mark.parametrize("login", ["\u212aim", "\uff4bim", "k\u0131m", "kim\u200b"])
def test_a_login_that_only_looks_like_a_listed_one_is_on_no_list(login: str) -> None:
    rules = AccessRules(admins=("kim",))
    assert not judge(rules, newcomer(Presented("oidc:1", login), ())).admitted
    assert judge(rules, newcomer(Presented("oidc:1", "Kim"), ())).admin


@given(rules, accounts)
def test_a_refusal_outweighs_everything(rules: AccessRules, account: Account) -> None:
    refused = judge(rules, replace(account, standing=Standing.REFUSED))
    assert (refused.admitted, refused.admin) == (False, False)


@given(rules, accounts)
def test_nobody_waits_for_ever_who_was_approved(rules: AccessRules, account: Account) -> None:
    assert judge(rules, replace(account, standing=Standing.ADDED)).admitted


@given(rules, accounts)
def test_whoever_is_let_in_is_so_by_somebodys_word(rules: AccessRules, account: Account) -> None:
    verdict = judge(rules, account)
    by_list = account.aliases & {*rules.admins, *rules.people} or account.groups & rules.memberships
    if verdict.admitted:
        assert account.admin or account.standing is Standing.ADDED or by_list
    if verdict.admin:
        assert account.admin or account.aliases & set(rules.admins)
    nothing = AccessRules()
    if judge(nothing, replace(account, admin=False, standing=Standing.LISTED)).admitted:
        raise AssertionError("somebody is in by no rule")


@given(st.text(max_size=60), st.sets(st.from_regex(r"[a-z]{1,3}(-[2-4])?", fullmatch=True)))
def test_a_name_made_of_a_login_is_a_name_that_nobody_has(login: str, taken: set[str]) -> None:
    name = name_from(login, taken)
    assert check_name(name) == name
    assert name not in taken
    assert name not in RESERVED_NAMES


def test_names_stay_readable() -> None:
    assert name_from("Mia-Smith", ()) == "mia-smith"
    assert name_from("mia.smith@lab.example", {"mia.smith"}) == "mia.smith-2"
    assert name_from("_-9lives--of.cats", ()) == "u9lives-of.cats"
    assert name_from("root", ()) == "root-2"
    assert name_from("日本", ()) == "u"
    assert name_from("a" * 40, {"a" * 32}) == "a" * 30 + "-2"
