"""A file of people: taken whole or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labdock.core.errors import ConfigError
from labdock.core.people_list import Entry, parse_people


def problems(text: str, *, local: bool = False) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_people(text, file="people.csv", local=local)
    return caught.value.details


def test_people_are_read_as_spreadsheets_write_them() -> None:
    text = '\ufeffName,Admin,As\r\nmia-smith,yes,mia\r\n"kim@lab.example",,\r\n\r\nLee,no,\r\n'
    assert parse_people(text, file="people.csv", local=False) == (
        Entry("mia-smith", True, "mia", 2),
        Entry("kim@lab.example", False, "", 3),
        Entry("Lee", False, "", 5),
    )
    assert parse_people("name\n", file="people.csv", local=True) == ()


def test_every_problem_is_told_with_its_line() -> None:
    text = "name,admin,as\nmia,maybe,\nkim smith,,\nlee,yes\nMIA,no,\npat,,Root 1\n"
    found = problems(text)
    assert [line.split(":")[1] for line in found] == ["2", "3", "4", "5", "6"]
    assert 'admin is "maybe", not yes or no.' in found[0]
    assert "MIA is in line 2 too" in found[3]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column is called name"),
        ("mia\nkim\n", "no column is called name"),
        ("name,mail\nmia,x\n", 'unknown column "mail"'),
        ("name;admin\nmia;yes\n", "Save it with commas"),
        ("name,name\nmia,mia\n", "a column is there twice"),
        ('name\n"mia\n', "it is no comma-separated text"),
    ],
)
def test_a_file_of_another_shape_says_what_it_lacks(text: str, problem: str) -> None:
    assert any(problem in line for line in problems(text))


def test_local_names_follow_the_rules_of_names() -> None:
    assert "cannot be a person's name" in problems("name\nMia\n", local=True)[0]
    assert "one name" in problems("name,as\nmia,kim\n", local=True)[0]


@given(st.text(max_size=200), st.booleans())
def test_no_file_is_taken_by_half_or_ends_in_a_traceback(text: str, local: bool) -> None:
    try:
        entries = parse_people(text, file="people.csv", local=local)
    except ConfigError as error:
        assert error.details
    else:
        assert len({entry.who.lower() for entry in entries}) == len(entries)
