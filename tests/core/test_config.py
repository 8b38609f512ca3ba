"""The rules of ``labdock.yaml``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labdock.core.config import (
    DECLARATION,
    RESERVED_TRAITS,
    Config,
    Image,
    Shared,
    dump,
    find_problems,
    parse,
)
from labdock.core.errors import ConfigError
from labdock.core.gpus import ALL, EXCLUSIVE, MIG, Share, Sharing
from labdock.core.login import access_rules, login_settings
from labdock.core.session import Limits
from labdock.core.settings import (
    Entry,
    Findings,
    Items,
    ListOf,
    Node,
    Problem,
    Record,
    Scalar,
    Table,
    node_of,
)
from labdock.core.site_settings import Listen
from labdock.core.sizes import format_size
from tests.core.config_files import good_files, trees


def parsed(**sections: Any) -> Config:
    return parse(node_of(sections))


def problems(**sections: Any) -> list[str]:
    """The problems of a file with *sections*, in their printed form."""
    return [
        problem.text("labdock.yaml").removeprefix("labdock.yaml ")
        for problem in find_problems(node_of(sections))
    ]


def only_problem(**sections: Any) -> str:
    (text,) = problems(**sections)
    return text


def test_no_settings_are_all_defaults() -> None:
    assert parse(Scalar(None)) == Config() == parsed()


def test_a_section_or_list_with_nothing_below_it_is_as_if_not_written() -> None:
    assert parsed(site=None, login={"admins": None}, storage={"shared": None}, images=None) == Config()
    assert parsed(jupyterhub={"Spawner": None}).jupyterhub == {"Spawner": {}}


def test_the_default_limits_are_those_of_a_session() -> None:
    assert Config().limits == Limits() == parsed(limits={}).limits


def test_every_setting_says_what_it_is_and_takes_its_own_example() -> None:
    def check(record: Record) -> None:
        for setting in record.settings:
            findings = Findings()
            setting.kind.read(node_of(setting.example), setting.key, findings)
            assert findings.in_order() == ()
            assert setting.help.endswith(".")
            inner = setting.kind.kind if isinstance(setting.kind, ListOf) else setting.kind
            if isinstance(inner, Record):
                check(inner)

    check(DECLARATION)


def test_the_printable_form_has_file_place_key_value_and_the_way_out() -> None:
    problem = Problem(14, 3, "stop.idel_after", "", "unknown key", 'Did you mean "idle_after"?')
    assert problem.text("labdock.yaml") == (
        'labdock.yaml:14:3 stop.idel_after: unknown key. Did you mean "idle_after"?'
    )
    assert (
        Problem(2, 9, "limits.pids", '"x"', "is not a number").text("f")
        == 'f:2:9 limits.pids: "x" is not a number.'
    )
    assert Problem(0, 0, "", "", "not YAML").text("f") == "f: not YAML."


def test_problems_come_in_the_order_of_the_file() -> None:
    site = Table((Entry(Scalar("nam", 9, 3), Scalar(1, 9, 8)),), 9, 3)
    top = Table((Entry(Scalar("site", 8, 1), site), Entry(Scalar("limit", 2, 1), Scalar(1, 2, 8))))
    with pytest.raises(ConfigError) as caught:
        parse(top, file="lab.yaml")
    assert caught.value.details == (
        'lab.yaml:2:1 limit: unknown key. Did you mean "limits"?',
        'lab.yaml:9:3 site.nam: unknown key. Did you mean "name"?',
    )
    assert str(caught.value) == "lab.yaml has 2 problems. Nothing was changed."


def test_an_unknown_key_gets_the_best_hint_there_is() -> None:
    assert only_problem(limits={"memroy": "8G"}) == 'limits.memroy: unknown key. Did you mean "memory"?'
    assert only_problem(admins=["ada"]) == 'admins: unknown key. It belongs below "login".'
    assert only_problem(limits={"zzz": 1}) == "limits.zzz: unknown key. Known here: cpus, memory, shm, pids."


def test_a_key_with_anything_in_it_stays_on_one_line() -> None:
    assert only_problem(**{"a\nb\x1b[0m\u202e": 1}).startswith(r'"a\nb\u001b[0m\u202e": unknown key.')


def test_a_key_given_twice_counts_as_one_problem_and_its_second_value_is_not_read() -> None:
    pair = (Entry(Scalar("name", 2, 3), Scalar("a", 2, 9)), Entry(Scalar("name", 5, 3), Scalar(7, 5, 9)))
    (problem,) = find_problems(Table((Entry(Scalar("site", 1, 1), Table(pair, 2, 3)),)))
    assert problem == Problem(
        5, 3, "site.name", "", "is given twice", "The first is on line 2; keep one of them."
    )


@pytest.mark.parametrize(
    ("url", "kept", "listen"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000", Listen("127.0.0.1", 9000)),
        ("http://LocalHost:9000/", "http://localhost:9000", Listen("127.0.0.1", 9000)),
        ("http://localhost:80", "http://localhost", Listen("127.0.0.1", 80)),
        ("http://[::1]:8001", "http://[::1]:8001", Listen("::1", 8001)),
        ("http://127.0.0.2", "http://127.0.0.2", Listen("127.0.0.2", 80)),
    ],
)
def test_a_url_of_this_machine_says_where_to_listen(url: str, kept: str, listen: Listen) -> None:
    site = parsed(site={"url": url}).site
    assert (site.url, site.listen) == (kept, listen)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("gpu.example.edu", "Write http://gpu.example.edu ("),
        ("https://gpu.example.edu/lab", "Write https://gpu.example.edu ("),
        ("https://ada:secret@gpu.example.edu:8443?x=1", "Write https://gpu.example.edu:8443 ("),
        ("ftp://gpu.example.edu", "Write http:// or https://"),
        ("http://", "Write http:// or https://"),
        ("http://256.0.0.1", "Write http:// or https://"),
        ("http://x:0", "Write http:// or https://"),
        ("http://x:65536", "Write http:// or https://"),
        ("http://-x-", "Write http:// or https://"),
        ("http://x\n", "Write http:// or https://"),
        ("http://[::1::]", ""),
    ],
)
def test_an_address_that_is_none_is_refused_with_the_one_that_was_meant(url: str, hint: str) -> None:
    text = only_problem(site={"url": url})
    assert text.startswith("site.url: ")
    assert hint in text


@pytest.mark.parametrize(
    "listen", ["8000", "localhost:8000", "127.0.0.1", "127.0.0.1:0", "[1::2::3]:80", "::1:80", ":80"]
)
def test_listen_takes_an_address_and_a_port_only(listen: str) -> None:
    assert only_problem(site={"listen": listen}).startswith(f'site.listen: "{listen}" ')


def test_a_listen_address_prints_as_it_is_written() -> None:
    for text in ("127.0.0.1:8000", "[::1]:8000"):
        assert str(parsed(site={"listen": text}).site.listen) == text


def test_a_number_where_text_is_due_asks_for_quotes() -> None:
    assert only_problem(site={"name": 42}) == (
        "site.name: 42 is a number, not one line of 1 to 80 characters. "
        "If it is meant as text, put it in quotes."
    )


def test_a_setting_without_a_value_is_not_guessed() -> None:
    assert (
        only_problem(limits={"memory": None})
        == "limits.memory: has no value. Write one, or take the line out."
    )


GITHUB = {"method": "github", "client_id": "Iv1.abc", "admins": ["Mia"]}
LDAP = {"method": "ldap", "server": "ldaps://ldap.lab", "admins": ["mia"], "ldap": {"users": "ou=people"}}


def test_each_way_to_sign_in_is_one_line_and_what_it_needs() -> None:
    login = parsed(login={**GITHUB, "organizations": ["Vision-Lab"], "teams": ["Vision-Lab:GPU"]}).login
    assert (login.admins, login.organizations, login.teams) == (
        ("mia",),
        ("vision-lab",),
        ("vision-lab:gpu",),
    )
    assert access_rules(login).memberships == {"vision-lab", "vision-lab:gpu"}
    oidc = {**GITHUB, "method": "oidc", "server": "https://login.lab/realms/x/", "groups": ["staff"]}
    assert login_settings(parsed(login=oidc).login).server == "https://login.lab/realms/x"
    assert login_settings(parsed(login=LDAP).login).label == "the directory"
    assert only_problem(login={"method": "locl"}).endswith('Did you mean "local"?')


@pytest.mark.parametrize(
    ("login", "problem"),
    [
        ({**GITHUB, "client_id": ""}, "needs login.client_id with github. Register an application"),
        ({"method": "github", "client_id": "a"}, "needs login.admins with github. Write who administers"),
        ({**GITHUB, "method": "oidc"}, "needs login.server with oidc. Write its address"),
        ({**GITHUB, "groups": ["a"]}, "goes with gitlab, oidc, ldap, and login.method is github. Write org"),
        ({"people": ["kim"]}, "login.method is local. People are invited: labdock users add NAME"),
        ({**GITHUB, "server": "ldaps://x"}, "does not begin with https://."),
        ({**LDAP, "server": "https://x"}, "is no address of a directory."),
        ({**LDAP, "server": "ldap://x"}, "would send passwords readable."),
        ({**LDAP, "groups": ["staff"]}, "needs login.ldap.groups."),
        ({**LDAP, "ldap": {}}, "needs login.ldap.users with ldap."),
        ({**GITHUB, "method": "google", "domains": ["lab"]}, '"lab" is not a domain'),
        (
            {**GITHUB, "people": ["kim", "lee@lab.example"]},
            '"lee@lab.example" is an e-mail address, and GitHub',
        ),
        ({**GITHUB, "client_secret": "s"}, "run: labdock secret set client_secret"),
        ({**LDAP, "ldap": {"users": "o=a", "password": "s"}}, "run: labdock secret set ldap_password"),
        ({**GITHUB, "admins": ["mia smith"]}, "is not what somebody is called where they sign in"),
    ],
)
def test_ways_to_sign_in_that_cannot_work_are_refused(login: dict[str, Any], problem: str) -> None:
    assert problem in only_problem(login=login)


def test_administrators_need_names_that_people_can_have() -> None:
    assert parsed(login={"admins": ["mia", "sam.b"]}).login.admins == ("mia", "sam.b")
    assert '"root" cannot be a person\'s name' in only_problem(login={"admins": ["root"]})
    assert "has the same name as login.admins[0]" in only_problem(login={"admins": ["mia", "mia"]})
    assert only_problem(login={"admins": []}).startswith("login.admins: is empty")
    assert only_problem(login={"admins": "mia"}) == (
        'login.admins: "mia" is not a list. Begin each item with a dash and a space.'
    )


@pytest.mark.parametrize(
    "path",
    [
        "data",
        "/",
        "",
        "/a//b",
        "/a/../b",
        "/a/.",
        "/proc",
        "/etc/x",
        "/var/run/docker.sock",
        "/run/",
        "/var",
        "/var/lib/",
        "/a\nb",
    ],
)
def test_a_folder_that_is_not_absolute_or_belongs_to_the_system_cannot_be_shared(path: str) -> None:
    folder = {"name": "x", "path": path}
    assert only_problem(storage={"shared": [folder]}).startswith("storage.shared[0].path: ")


@pytest.mark.parametrize(
    "path", ["/data", "/data/", "/etcetera", "/.hidden", "/a..b/c", "/var/data", "/home/x y"]
)
def test_any_other_folder_can_be_shared(path: str) -> None:
    (folder,) = parsed(storage={"shared": [{"name": "x", "path": path}]}).storage.shared
    assert folder == Shared("x", path.rstrip("/"), "nobody")


@pytest.mark.parametrize("path", ["/srv", "/srv/labdock", "/srv/labdock/homes/ada"])
def test_a_shared_folder_can_never_show_the_homes(path: str) -> None:
    text = only_problem(storage={"root": "/srv/labdock", "shared": [{"name": "x", "path": path}]})
    assert text.startswith(
        f'storage.shared[0].path: "{path}" and storage.root /srv/labdock lie one inside the other'
    )


def test_a_folder_beside_the_homes_can_be_shared() -> None:
    shared = [{"name": "x", "path": "/srv/labdock-data"}]
    assert parsed(storage={"root": "/srv/labdock/", "shared": shared}).storage.root == "/srv/labdock"


def test_shared_folders_have_names_of_their_own() -> None:
    shared = [{"name": "x"}, {"name": "y"}, {"name": "x"}]
    assert only_problem(storage={"shared": shared}).startswith(
        "storage.shared[2]: has the same name as storage.shared[0]"
    )
    assert only_problem(storage={"shared": [{"write": "admins"}]}) == (
        "storage.shared[0].name: is missing. Write name: datasets"
    )


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        ("8G", 8 * 2**30),
        ("1.5G", 3 * 2**29),
        ("512M", 2**29),
        ("200000K", 200_000 * 1024),
        ("1T", 2**40),
        (2**30, 2**30),
        ("none", None),
    ],
)
def test_sizes_are_powers_of_1024_and_plain_numbers_are_bytes(
    written: object, size_bytes: int | None
) -> None:
    assert parsed(limits={"memory": written, "shm": "1M"}).limits.memory_bytes == size_bytes


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("8g", "Write 8G."),
        ("8 GB", "Write 8G."),
        ("1.5gib", "Write 1.5G."),
        ("8X", "powers of 1024"),
        ("-8G", "powers of 1024"),
        ("0G", "powers of 1024"),
        ("", "powers of 1024"),
        (8, "did you mean 8G?"),
        (-8, "the least that works"),
        ("1M", "less than 128M, the least that works"),
        (2**61, "is more than"),
        (True, "is not a size"),
        (1.5, "is not a size"),
        (float("nan"), "is not a size"),
    ],
)
def test_what_is_no_size_is_refused_with_the_one_that_was_meant(written: object, hint: str) -> None:
    text = only_problem(limits={"memory": written, "shm": "1M"})
    assert text.startswith("limits.memory: ")
    assert hint in text


def test_shared_memory_cannot_be_more_than_the_memory() -> None:
    assert only_problem(limits={"memory": "4G", "shm": "5G"}) == (
        'limits.shm: "5G" is more than limits.memory, 4G. Write shm: 4G or less.'
    )
    assert only_problem(limits={"memory": "1G"}) == (
        'limits.memory: "1G" is less than limits.shm, 2G by default. Add shm: 1G or less.'
    )
    assert only_problem(limits={"shm": "9G"}).startswith('limits.shm: "9G" is more than limits.memory, 8G')
    assert parsed(limits={"memory": "none", "shm": "90G"}).limits.shm_bytes == 90 * 2**30
    assert parsed(limits={"memory": "4G", "shm": "4096M"}).limits.shm_bytes == 2**32


@pytest.mark.parametrize("cpus", [0, -1, 0.05, 5000, True, "two", float("nan"), float("inf"), "None"])
def test_what_is_no_number_of_cores_is_refused(cpus: object) -> None:
    assert only_problem(limits={"cpus": cpus}).startswith("limits.cpus: ")


@pytest.mark.parametrize(("written", "cpus"), [(2, 2.0), (0.5, 0.5), ("none", None)])
def test_cores_may_be_whole_halved_or_unlimited(written: object, cpus: float | None) -> None:
    assert parsed(limits={"cpus": written}).limits.cpus == cpus


@pytest.mark.parametrize("pids", [63, 4_194_305, 100.0, "100", True])
def test_what_is_no_number_of_processes_is_refused(pids: object) -> None:
    assert only_problem(limits={"pids": pids}).startswith("limits.pids: ")


def test_cards_are_shared_in_one_of_four_ways() -> None:
    shares = ["exclusive", "mig", "all", {"seats": 4}]
    assert [parsed(gpus={"share": share}).gpus.share for share in shares] == [
        EXCLUSIVE,
        MIG,
        ALL,
        Share(Sharing.SEATS, 4),
    ]


@pytest.mark.parametrize(
    ("share", "words"),
    [
        ("seats", "say how many"),
        ("turns", "not part of this version"),
        ("exlusive", 'Did you mean "exclusive"?'),
        ({"seats": 1}, "a whole number from 2 to 1000"),
        ({"seat": 4}, 'Did you mean "seats"?'),
        ({}, "is missing"),
        ([4], "a list is not one of exclusive, all, mig"),
    ],
)
def test_a_way_of_sharing_that_is_none_is_refused_with_the_way_out(share: object, words: str) -> None:
    assert any(words in problem for problem in problems(gpus={"share": share}))


def test_a_line_of_limits_names_somebody_and_a_number() -> None:
    assert "names nobody" in only_problem(gpus={"limits": [{"cards": 1}]})
    assert "says no number" in only_problem(gpus={"limits": [{"people": ["ada"]}]})
    together = only_problem(gpus={"limits": [{"people": ["ada"], "cards": 1, "together": 4}]})
    assert "gpus.limits[0].together" in together
    assert "no group is named" in together


def test_a_line_for_a_card_says_something_about_it() -> None:
    assert "says nothing about the card" in only_problem(gpus={"cards": [{"card": "A100"}]})


def test_the_same_card_cannot_have_two_exceptions() -> None:
    rules = [{"card": "A100", "use": False}, {"card": "A100", "share": "all"}]
    assert "has the same card as gpus.cards[0]" in only_problem(gpus={"cards": rules})


def test_exactly_one_image_is_the_default() -> None:
    assert [i.default for i in parsed(images=[{"id": "a"}, {"id": "b"}]).images] == [True, False]
    assert [i.default for i in parsed(images=[{"id": "a"}, {"id": "b", "default": True}]).images] == [
        False,
        True,
    ]
    twice = [{"id": "a", "default": True}, {"id": "b"}, {"id": "c", "default": True}]
    assert only_problem(images=twice) == (
        "images[2].default: is a second default, beside images[0]. Keep it with one image."
    )


def test_an_image_needs_an_id_of_its_own_and_no_more() -> None:
    assert parsed(images=[{"id": "a-1"}]).images == (Image("a-1", "a-1", "builtin/cpu", default=True),)
    assert only_problem(images=[{"id": "a"}, {"id": "a"}]).startswith(
        "images[1]: has the same id as images[0]"
    )
    assert only_problem(images=[{"label": "A"}]).startswith("images[0].id: is missing")
    assert only_problem(images=[{"id": "A"}]).startswith('images[0].id: "A" is not an id')
    assert only_problem(images=[]).startswith("images: is empty")


@pytest.mark.parametrize(
    ("base", "end"),
    [
        ("builtin/toch", "is no image of Labdock's. Did you mean builtin/torch?"),
        ("torch", "is no image of Labdock's. Did you mean builtin/torch?"),
        ("builtin/r", "is no image of Labdock's. Known: builtin/cpu"),
        ("NVIDIA/cuda", "is not the name of an image."),
        ("a b", "is not the name of an image."),
        ("x:tag:tag", "is not the name of an image."),
    ],
)
def test_a_base_that_is_none_is_told_with_the_way_out(base: str, end: str) -> None:
    assert end in only_problem(images=[{"id": "a", "base": base}])


@pytest.mark.parametrize(
    "base",
    [
        "builtin/torch",
        "nvidia/cuda:13.0.1-devel-ubuntu24.04",
        "quay.io/jupyter/pytorch-notebook:latest",
        "localhost:5000/lab/own",
        "debian@sha256:" + "0" * 64,
    ],
)
def test_a_base_is_a_built_in_image_or_one_that_can_be_pulled(base: str) -> None:
    assert parsed(images=[{"id": "a", "base": base}]).images[0].base == base


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("apt", ["ffmpeg", "g++", "libgl1=1.7.0-1+b2"], ["Foo", "a; rm -r /", "-y", "a\nb"]),
        (
            "pip",
            ["einops", "lightning>=2.5, <3", "ray[tune,train]==2.9", "x @ https://lab.example/x.whl"],
            ["foo bar", "-r other.txt", "--index-url=x", "a\nRUN b", "x @ file:///etc/passwd"],
        ),
        ("conda", ["r-base", "gdal=3.10", "conda-forge::x >=1.0,<2"], ["a; b", "-c x", "a\nb", "$(x)"]),
    ],
)
def test_packages_are_names_and_nothing_that_a_build_would_obey(
    setting: str, good: list[str], bad: list[str]
) -> None:
    assert getattr(parsed(images=[{"id": "a", setting: good}]).images[0], setting) == tuple(good)
    for word in bad:
        assert f"images[0].{setting}[0]" in only_problem(images=[{"id": "a", setting: [word]}])


def test_a_package_is_asked_for_once_however_it_is_written() -> None:
    assert "has the same package as" in only_problem(
        images=[{"id": "a", "pip": ["Scikit_Learn", "scikit-learn>1"]}]
    )


def test_plain_jupyterhub_configuration_passes_as_it_is() -> None:
    given = {"JupyterHub": {"db_url": "postgresql:///hub", "tornado_settings": {"a": [1, {"b": None}]}}}
    assert parsed(jupyterhub=given).jupyterhub == given


@pytest.mark.parametrize("trait", RESERVED_TRAITS)
def test_what_labdock_needs_cannot_be_taken_from_it_in_any_class(trait: str) -> None:
    for owner in ("JupyterHub", "Proxy", "AnySubclass"):
        text = only_problem(jupyterhub={owner: {trait: 1, "log_level": 10}})
        assert text == f"jupyterhub.{owner}.{trait}: cannot be set here. {RESERVED_TRAITS[trait]}"


def test_classes_and_traits_must_be_names() -> None:
    assert only_problem(jupyterhub={"c.Spawner": {}}).startswith('jupyterhub."c.Spawner": cannot be a class')
    assert only_problem(jupyterhub={"Spawner": {"a b": 1}}).startswith(
        'jupyterhub.Spawner."a b": cannot be a trait'
    )
    assert only_problem(jupyterhub={"Spawner": 1}).startswith("jupyterhub.Spawner: 1 is not a mapping")
    assert only_problem(jupyterhub=[]).startswith("jupyterhub: is not a mapping")


def test_values_of_jupyterhub_that_json_cannot_hold_are_refused() -> None:
    deep = {"Spawner": {"args": [{"a": float("inf")}]}}
    assert only_problem(jupyterhub=deep) == "jupyterhub.Spawner.args[0].a: Infinity is not a finite number."
    assert "a number cannot be a key" in only_problem(jupyterhub={"Spawner": {"env": {1: "x"}}})


@pytest.mark.parametrize("value", [1, "x", True, [], [1]])
@pytest.mark.parametrize("section", ["site", "login", "storage", "limits", "jupyterhub"])
def test_a_section_that_is_no_mapping_is_one_problem(section: str, value: object) -> None:
    assert "is not a mapping" in only_problem(**{section: value})


@settings(deadline=None)
@given(good_files())
def test_what_is_dumped_reads_as_the_same(file: dict[str, Any]) -> None:
    config = parse(node_of(file))
    assert parse(node_of(dump(config))) == config


@settings(deadline=None)
@given(st.integers(1, 2**60))
def test_a_size_is_written_as_exactly_itself(size_bytes: int) -> None:
    written = format_size(size_bytes)
    size = {"memory": "none", "shm": written}
    if size_bytes >= 2**20:
        assert parsed(limits=size).limits.shm_bytes == size_bytes
    else:
        assert "is less than 1M" in only_problem(limits=size)


@settings(deadline=None)
@given(trees())
def test_any_tree_is_a_configuration_or_a_refusal_with_every_problem(tree: Node) -> None:
    found = find_problems(tree)
    try:
        config = parse(tree)
    except ConfigError as error:
        assert len(error.details) == len(found) > 0
        assert all("\n" not in line and line.startswith("labdock.yaml") for line in error.details)
    else:
        assert found == ()
        assert sum(image.default for image in config.images) == 1
        assert config.limits.memory_bytes is None or config.limits.shm_bytes <= config.limits.memory_bytes


WHOLE = {
    "site": {"name": "Lab", "url": "http://127.0.0.1:8000", "listen": "127.0.0.1:8000", "contact": "ada"},
    "login": {"method": "local", "admins": ["ada", "bob"]},
    "storage": {
        "root": "/srv/labdock",
        "shared": [{"name": "a", "path": "/data", "write": "admins"}, {"name": "b"}],
    },
    "limits": {"cpus": 2, "memory": "8G", "shm": "1G", "pids": 100},
    "images": [{"id": "a", "label": "A", "base": "builtin/cpu", "default": True}, {"id": "b", "label": "B"}],
    "jupyterhub": {"Spawner": {"start_timeout": 60}, "JupyterHub": {"db_url": "sqlite://"}},
}

MISTAKES: tuple[tuple[tuple[str | int, ...], object], ...] = (
    (("stop",), {}),
    (("site", "nmae"), "x"),
    (("site", "name"), 1),
    (("site", "url"), "x"),
    (("site", "listen"), "x"),
    (("site", "contact"), ["x"]),
    (("login", "method"), "git"),
    (("login", "admins", 1), "bob smith"),
    (("storage", "root"), "x"),
    (("storage", "shared", 0, "write"), "all"),
    (("storage", "shared", 1, "name"), None),
    (("storage", "shared", 1, "extra"), 1),
    (("limits", "cpus"), 0),
    (("limits", "memory"), "8"),
    (("limits", "shm"), True),
    (("limits", "pids"), "many"),
    (("images", 0, "base"), "builtin/x"),
    (("images", 1, "id"), "B"),
    (("images", 1, "default"), "yes"),
    (("jupyterhub", "Spawner", "cmd"), "x"),
    (("jupyterhub", "Spawner", "start_timeout"), float("nan")),
    (("jupyterhub", "a b"), {}),
)


def test_the_whole_file_without_mistakes_is_taken() -> None:
    assert problems(**WHOLE) == []


@settings(deadline=None)
@given(st.sets(st.sampled_from(range(len(MISTAKES)))))
def test_there_are_as_many_problems_as_mistakes(chosen: set[int]) -> None:
    file: Any = copy.deepcopy(WHOLE)
    for index in chosen:
        (*way, last), value = MISTAKES[index]
        place = file
        for step in way:
            place = place[step]
        place[last] = value
    assert len(problems(**file)) == len(chosen)


def test_what_has_no_place_in_yaml_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="object has no place"):
        node_of([object()])
    assert node_of([{"a": (1,)}]) == Items((Table((Entry(Scalar("a"), Items((Scalar(1),))),)),))
