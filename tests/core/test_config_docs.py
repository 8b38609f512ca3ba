"""The reference page, the JSON Schema and the sample file say what the parser does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from labdock.core.config import DECLARATION, Config, dump, find_problems, parse
from labdock.core.config_docs import json_schema, reference_markdown, sample_yaml
from labdock.core.errors import ConfigError
from labdock.core.settings import ListOf, Problem, Record, node_of
from tests.core.config_files import almost_files, good_files

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def loaded(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def turned_on(sample: str) -> str:
    """*sample* with every setting in it that was turned off turned on."""
    return re.sub(r"^( *)#(?! )", r"\1", sample, flags=re.M)


def test_the_reference_page_is_fresh() -> None:
    page = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    assert page == reference_markdown(), "write it anew with: labdock config docs"


def test_the_schema_file_is_fresh() -> None:
    schema = (REFERENCE / "labdock.schema.json").read_text(encoding="utf-8")
    assert schema == json.dumps(json_schema(), indent=2) + "\n", "write it anew with: labdock config schema"


def test_every_setting_is_on_the_page_in_the_schema_and_in_the_sample() -> None:
    page, sample = reference_markdown(), sample_yaml({})

    def check(record: Record, schema: Any, prefix: str) -> None:
        for setting in record.settings:
            name = f"{prefix}{setting.key}"
            assert f"## {name}\n" in page or f"### `{name}`\n" in page
            assert re.search(rf"^[ #]*{setting.key}:", sample, re.M)
            assert setting.help in schema["properties"][setting.key]["description"]
            inner = schema["properties"][setting.key]
            if isinstance(setting.kind, Record):
                check(setting.kind, inner, f"{name}.")
            elif isinstance(setting.kind, ListOf) and isinstance(setting.kind.kind, Record):
                check(setting.kind.kind, inner["items"], f"{name}[].")

    check(DECLARATION, json_schema(), "")


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@settings(deadline=None)
@given(good_files())
def test_the_schema_takes_what_the_parser_takes(file: dict[str, Any]) -> None:
    assert find_problems(node_of(file)) == ()
    VALIDATOR.validate(file)
    VALIDATOR.validate(dump(parse(node_of(file))))


TOGETHER = re.compile(
    r"has the same (id|name) as|second default|lie one inside the other|site.listen is not given"
    r"|is (more|less) than|goes with|needs login|cannot be a person's name|would send passwords"
    r"|does not begin with https|is no address of a directory"
    # The section site.
    r"|goes with|needs an https address|needs a name that|is no address that|leaves (nobody|the)"
    r"|without HTTPS|is open to others|listen is not given|is where|is an address within|is everybody"
)
"""The rules between two settings, and on sizes written with a unit, which a JSON Schema cannot say."""


@settings(deadline=None)
@given(almost_files())
def test_the_schema_and_the_parser_refuse_the_same_but_for_rules_between_settings(file: Any) -> None:
    problems = [p for p in find_problems(node_of(file)) if not TOGETHER.search(p.message)]
    assert VALIDATOR.is_valid(file) == (problems == [])


@settings(deadline=None)
@given(good_files(), st.data())
def test_one_odd_value_is_refused_by_the_schema_and_the_parser_alike(file: dict[str, Any], data: Any) -> None:
    sections = [key for key in file if isinstance(file[key], dict) and key != "jupyterhub" and file[key]]
    assume(sections)
    section = data.draw(st.sampled_from(sections))
    # What is odd for the others is right for these.
    keys = sorted(set(file[section]) - {"approve", "oidc", "ldap", "acme"})
    assume(keys)
    key = data.draw(st.sampled_from(keys))
    file[section] = {**file[section], key: data.draw(st.sampled_from([{}, {"a": 1}, [[]], True, -1, "\x07"]))}
    assert not VALIDATOR.is_valid(file)
    assert find_problems(node_of(file)) != ()


def test_the_sample_without_values_is_the_defaults() -> None:
    assert parse(node_of(loaded(sample_yaml({})))) == Config()


def problems_turned_on(config: Any) -> list[Problem]:
    """What is wrong with a sample that was turned on, beside settings that go with another way to sign in."""
    return [problem for problem in find_problems(node_of(config)) if "goes with" not in problem.message]


def test_the_sample_turned_on_shows_every_setting() -> None:
    config = loaded(turned_on(sample_yaml({})))
    assert set(config) == {section.key for section in DECLARATION.settings}
    for section in DECLARATION.settings:
        if isinstance(section.kind, Record):
            assert set(config[section.key]) == {setting.key for setting in section.kind.settings}
    assert config["storage"]["shared"] == [{"name": "datasets", "path": "/data", "write": "admins"}]
    assert config["jupyterhub"] == {"JupyterHub": {"active_server_limit": 20}}
    assert problems_turned_on(config) == []


@settings(deadline=None)
@given(good_files())
def test_the_sample_holds_the_given_values_and_nothing_else(values: dict[str, Any]) -> None:
    found = loaded(sample_yaml(values))
    assert parse(node_of(found)) == parse(node_of(values))
    assert {key: value for key, value in found.items() if value is not None} == {
        key: value for key, value in values.items() if value or not isinstance(DECLARED[key], Record)
    }


DECLARED = {section.key: section.kind for section in DECLARATION.settings}


@settings(deadline=None)
@given(good_files())
def test_the_sample_turned_on_is_valid_whatever_was_given(values: dict[str, Any]) -> None:
    # The example of a setting that is turned on may contradict a value given for another.
    values = {key: value for key, value in values.items() if key not in ("storage", "limits", "login")}
    found = loaded(turned_on(sample_yaml(values)))
    assert problems_turned_on(found) == []
    for section, given_values in values.items():
        assert given_values is None or all(found[section][key] == value for key, value in pairs(given_values))


def pairs(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else enumerate(value)


def test_a_sample_is_never_made_of_values_that_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        sample_yaml({"site": {"url": "gpu"}, "limits": {"memory": "8"}})
    assert [line.split(": ")[0] for line in caught.value.details] == [
        "labdock.yaml site.url",
        "labdock.yaml limits.memory",
    ]


def test_text_in_the_sample_stays_text_and_readable() -> None:
    values = {"site": {"name": "Universität: Labor #1", "contact": "no"}}
    sample = sample_yaml(values)
    assert 'name: "Universität: Labor #1"' in sample
    assert loaded(sample)["site"] == values["site"]


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "Null",
        "no",
        "~",
        "1.5",
        "0x1F",
        "1e3",
        ".inf",
        "- a",
        "a: b",
        "a #b",
        " a",
        "[a",
        "a:",
        "é\u202e",
    ],
)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    sample = sample_yaml({"jupyterhub": {"Spawner": {"args": [text], "environment": {text: text}}}})
    assert loaded(sample)["jupyterhub"]["Spawner"] == {"args": [text], "environment": {text: text}}
    assert all(line.isprintable() for line in sample.splitlines())
