"""What is written as YAML is read back as it was."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from labdock.adapters.yaml_text import to_yaml

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co")), max_size=30)
# What other readers of YAML take for something else than a text.
tricky = st.sampled_from(
    [
        "",
        "yes",
        "off",
        "null",
        "~",
        "0x1F",
        "0o17",
        "1e3",
        "12:30",
        "- a",
        "a: b",
        "# x",
        "{}",
        "*a",
        "&a",
        "'",
        '"',
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | tricky,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | tricky, inner, max_size=4),
    max_leaves=12,
)


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@given(values)
def test_every_plain_value_comes_back_as_it_was(value: Any) -> None:
    assert read(to_yaml(value)) == value


def test_keys_keep_their_order_and_lists_are_a_line_each() -> None:
    assert to_yaml({"b": 1, "a": ["x", {"c": None}]}) == "b: 1\na:\n- x\n- c: null\n"


def test_a_long_line_is_not_folded() -> None:
    path = "/srv/" + "word " * 60 + "end"
    assert path in to_yaml({"path": path})
