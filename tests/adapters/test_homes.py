"""People on disk: the list, homes, shared folders, names."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from labdock.adapters.homes import PEOPLE_FILE, Homes
from labdock.core.errors import AccountError, HostError
from labdock.core.people import FIRST_UID, LAB_GID
from labdock.core.site import AgentRules
from tests.agent.builders import agent_rules

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to other users")


@pytest.fixture
def rules(tmp_path: Path) -> AgentRules:
    (tmp_path / "data").mkdir()
    return agent_rules(tmp_path / "storage")


@pytest.fixture
def homes(rules: AgentRules, tmp_path: Path) -> Homes:
    (tmp_path / "storage").mkdir()
    made = Homes(rules, tmp_path / "data")
    made.prepare()
    return made


def again(rules: AgentRules, tmp_path: Path) -> Homes:
    return Homes(rules, tmp_path / "data")


def rights(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_somebody_new_gets_a_home_that_is_theirs_alone(homes: Homes, tmp_path: Path) -> None:
    person = homes.add("local:ada", "ada")
    assert rights(tmp_path / "storage/homes" / person.home) == (person.uid, person.gid, 0o700)
    assert list((tmp_path / "storage/homes").iterdir()) == [tmp_path / "storage/homes" / person.home]


def test_everybody_is_remembered_after_a_restart(homes: Homes, rules: AgentRules, tmp_path: Path) -> None:
    homes.add("local:ada", "ada")
    homes.add("local:bob", "bob")
    homes.remove("local:ada")
    assert again(rules, tmp_path).registry == homes.registry
    assert rights(tmp_path / "data" / PEOPLE_FILE)[2] == 0o600


def test_a_home_is_kept_as_it_is_when_its_person_comes_again(homes: Homes, tmp_path: Path) -> None:
    person = homes.add("local:ada", "ada")
    home = tmp_path / "storage/homes" / person.home
    (home / "thesis.txt").write_text("pages")
    home.chmod(0o755)
    assert homes.add("local:ada", "lovelace").home == person.home
    assert (home / "thesis.txt").read_text() == "pages"
    assert rights(home)[2] == 0o755


def test_names_resolve_as_soon_as_somebody_is_there(homes: Homes, tmp_path: Path) -> None:
    names = tmp_path / "storage/names"
    assert (names / "passwd").read_text() == ""
    homes.add("local:ada", "ada")
    assert (names / "passwd").read_text() == f"ada:x:{FIRST_UID}:{FIRST_UID}:ada:/home/ada:/bin/bash\n"
    assert (names / "group").read_text() == f"lab:x:{LAB_GID}:ada\nada:x:{FIRST_UID}:\n"
    homes.remove("local:ada")
    assert (names / "passwd").read_text() == ""
    assert rights(names / "passwd") == (0, 0, 0o644)
    assert rights(names / "group") == (0, 0, 0o644)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1, "people": [], "gone": []}',
        '{"format": 1, "people": [{"identity": "a"}], "gone": [], "next_uid": 200001}',
        '{"format": 1, "people": [], "gone": 7, "next_uid": 200001}',
    ],
)
def test_a_list_that_cannot_be_understood_is_an_error_and_stays_as_it_is(
    rules: AgentRules, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "data" / PEOPLE_FILE
    file.write_text(text)
    with pytest.raises(HostError, match="cannot be understood"):
        again(rules, tmp_path)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("field", "value"),
    [("uid", 0), ("uid", True), ("uid", FIRST_UID + 7), ("home", "../etc"), ("home", ""), ("name", 5)],
)
def test_a_list_that_we_could_not_have_written_is_not_believed(
    homes: Homes, rules: AgentRules, tmp_path: Path, field: str, value: object
) -> None:
    homes.add("local:ada", "ada")
    file = tmp_path / "data" / PEOPLE_FILE
    data = json.loads(file.read_text())
    data["people"][0][field] = value
    file.write_text(json.dumps(data))
    with pytest.raises(HostError, match="cannot be understood"):
        again(rules, tmp_path)


def test_two_people_with_one_uid_are_not_believed(homes: Homes, rules: AgentRules, tmp_path: Path) -> None:
    homes.add("local:ada", "ada")
    homes.add("local:bob", "bob")
    file = tmp_path / "data" / PEOPLE_FILE
    file.write_text(
        file.read_text()
        .replace(str(FIRST_UID + 1), str(FIRST_UID))
        .replace(f'"next_uid": {FIRST_UID}', f'"next_uid": {FIRST_UID + 2}')
    )
    with pytest.raises(HostError, match="same uid"):
        again(rules, tmp_path)


def test_a_lost_list_gives_no_uid_a_second_time(homes: Homes, rules: AgentRules, tmp_path: Path) -> None:
    homes.add("local:ada", "ada")
    last = homes.add("local:bob", "bob").uid
    homes.remove("local:bob")
    (tmp_path / "data" / PEOPLE_FILE).unlink()
    assert again(rules, tmp_path).add("local:eve", "eve").uid == last + 1


def test_a_removed_home_is_set_aside_with_all_that_is_in_it(homes: Homes, tmp_path: Path) -> None:
    person = homes.add("local:ada", "ada")
    (tmp_path / "storage/homes" / person.home / "thesis.txt").write_text("pages")
    aside = homes.remove("local:ada")
    assert aside == tmp_path / "storage/removed" / person.home
    assert (aside / "thesis.txt").read_text() == "pages"
    assert not (tmp_path / "storage/homes" / person.home).exists()
    assert homes.remove("local:ada") == aside
    assert rights(tmp_path / "storage/removed")[2] == 0o700


def test_a_home_is_deleted_without_following_its_links(homes: Homes, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("kept")
    home = tmp_path / "storage/homes" / homes.add("local:ada", "ada").home
    (home / "folder").symlink_to(precious)
    (home / "file").symlink_to(precious / "data")
    (home / "locked").mkdir(mode=0o000)
    aside = homes.remove("local:ada")
    assert aside is not None
    homes.delete(aside)
    assert (precious / "data").read_text() == "kept"
    assert not aside.exists()


def test_somebody_unknown_is_removed_without_a_word(homes: Homes) -> None:
    assert homes.remove("local:nobody") is None


def test_a_removed_identity_does_not_come_back(homes: Homes) -> None:
    homes.add("local:ada", "ada")
    homes.remove("local:ada")
    with pytest.raises(AccountError):
        homes.add("local:ada", "ada")
    assert homes.add("local:ada2", "ada").uid == FIRST_UID + 1


def test_a_link_in_place_of_a_home_is_refused(homes: Homes, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / "storage/homes" / f"ada-{FIRST_UID}").symlink_to(target)
    with pytest.raises(HostError, match="no folder"):
        homes.add("local:ada", "ada")
    assert rights(target)[0] == 0


def test_somebody_elses_folder_in_place_of_a_home_is_refused(homes: Homes, tmp_path: Path) -> None:
    (tmp_path / "storage/homes" / f"ada-{FIRST_UID}").mkdir()
    with pytest.raises(HostError, match="owned by uid 0"):
        homes.add("local:ada", "ada")


def test_a_home_that_was_half_made_is_finished(homes: Homes, tmp_path: Path) -> None:
    (tmp_path / "storage/homes" / f".new-ada-{FIRST_UID}").mkdir()
    person = homes.add("local:ada", "ada")
    assert rights(tmp_path / "storage/homes" / person.home) == (person.uid, person.gid, 0o700)


def test_shared_folders_of_our_own_belong_to_the_lab(homes: Homes, tmp_path: Path) -> None:
    shared = tmp_path / "storage/shared"
    assert rights(shared / "scratch") == (0, LAB_GID, 0o2770)
    assert rights(shared / "datasets") == (0, LAB_GID, 0o2755)
    assert not (shared / "models").exists()
    (shared / "scratch").chmod(0o700)
    homes.prepare()
    assert rights(shared / "scratch") == (0, LAB_GID, 0o2770)


def test_a_link_in_place_of_a_shared_folder_is_refused(homes: Homes, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o755)
    scratch = tmp_path / "storage/shared/scratch"
    scratch.rmdir()
    scratch.symlink_to(precious)
    with pytest.raises(HostError):
        homes.prepare()
    assert rights(precious) == (0, 0, 0o755)
