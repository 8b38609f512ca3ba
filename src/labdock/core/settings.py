"""What settings are made of: nodes that know their place in a file, problems, and kinds of setting.

A *kind* says what a setting can hold. It reads a node into Labdock's value, writes a value back as
plain data, and carries its JSON Schema; ``config`` declares the settings with these kinds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

Plain = None | bool | int | float | str
"""A single value as YAML knows it."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value and where it stands; line and column count from 1, 0 means nowhere."""

    value: Plain
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Items:
    """A list and where it begins."""

    nodes: tuple[Node, ...]
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping and its value."""

    key: Node
    value: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping and where it begins; keys may still repeat or be no text."""

    entries: tuple[Entry, ...]
    line: int = 0
    column: int = 0


Node = Scalar | Items | Table


def node_of(value: Any) -> Node:
    """Plain nested *value* (mappings, lists, single values) as a node that stands nowhere."""
    if isinstance(value, Mapping):
        return Table(tuple(Entry(node_of(key), node_of(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return Items(tuple(node_of(item) for item in value))
    if value is None or isinstance(value, bool | int | float | str):
        return Scalar(value)
    raise TypeError(f"{type(value).__name__} has no place in a configuration")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, with which value, why, and the way out.

    *path* is the setting (``images[0].id``), empty for the file as a whole. *value* is the value as
    shown to people, empty where none matters; *message* continues it as a sentence without its stop.
    """

    line: int
    column: int
    path: str
    value: str
    message: str
    hint: str = ""

    def text(self, file: str) -> str:
        """The one printable form: ``labdock.yaml:14:3 site.nmae: unknown key. Did you mean "name"?``"""
        place = f"{file}:{self.line}:{self.column}" if self.line else file
        where = f"{place} {self.path}" if self.path else place
        return f"{where}: {f'{self.value} {self.message}'.strip()}. {self.hint}".rstrip()


@dataclass(frozen=True, slots=True)
class Wrong:
    """Why a value cannot be taken, as a sentence that the value begins, and the way out."""

    message: str
    hint: str = ""


class Invalid:
    """Stands for a value that had a problem, which is told already."""


INVALID = Invalid()


class Findings:
    """The problems found so far in one file."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def add(self, node: Node, path: str, wrong: Wrong, *, show: bool = False) -> None:
        """Note what is *wrong* at *node*; with *show*, the message begins with a single value."""
        value = ""
        if show and isinstance(node, Scalar):
            value = shorten(quoted(node.value) if isinstance(node.value, str) else json.dumps(node.value))
        self._problems.append(Problem(node.line, node.column, path, value, wrong.message, wrong.hint))

    def __len__(self) -> int:
        return len(self._problems)

    def in_order(self) -> tuple[Problem, ...]:
        """All of them, in the order of the file."""
        return tuple(sorted(self._problems, key=lambda problem: (problem.line, problem.column)))


@dataclass(frozen=True, slots=True)
class Value:
    """A setting that holds a single value.

    *words* say what it is, and continue "is not …". *convert* turns the value of the file into
    Labdock's or says what is wrong with it, *restore* turns it back. An *optional* one may be null,
    which is read as None.
    """

    words: str
    schema: Mapping[str, object]
    convert: Callable[[Plain], object | Wrong]
    restore: Callable[[Any], Plain] = lambda value: value
    optional: bool = False

    def read(self, node: Node, path: str, findings: Findings) -> object:
        if not isinstance(node, Scalar):
            findings.add(node, path, Wrong(f"{type_of(node)} is not {self.words}"))
            return INVALID
        if node.value is None and self.optional:
            return None
        if node.value is None:
            findings.add(node, path, Wrong("has no value", "Write one, or take the line out."))
            return INVALID
        value = self.convert(node.value)
        if isinstance(value, Wrong):
            findings.add(node, path, value, show=True)
            return INVALID
        return value

    def plain(self, value: Any) -> Any:
        return None if self.optional and value is None else self.restore(value)


@dataclass(frozen=True, slots=True)
class Either:
    """A single value, or a mapping in its place; *is_mapping* tells which of the two a value came from."""

    single: Value
    mapping: Record
    is_mapping: Callable[[Any], bool]

    def read(self, node: Node, path: str, findings: Findings) -> object:
        return (self.mapping if isinstance(node, Table) else self.single).read(node, path, findings)

    def plain(self, value: Any) -> Any:
        return (self.mapping if self.is_mapping(value) else self.single).plain(value)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as declared: its key, the attribute that holds it, and all that is said about it.

    *default* is Labdock's value, or MISSING where the setting must be given; *example* is as written
    in a file. *derived* says in words where the default comes from when it is not always the same.
    """

    key: str
    attribute: str
    kind: Kind
    help: str
    default: Any
    example: Any
    unit: str
    derived: str

    @property
    def required(self) -> bool:
        return self.default is MISSING


@dataclass(frozen=True, slots=True)
class Reading:
    """A mapping whose settings were read one by one: what was given, and the values by key.

    A setting that had a problem is missing from *values*; one that was not given has its default there.
    *finish* functions add problems, or replace a default that follows from another setting.
    """

    node: Node
    path: str
    findings: Findings
    given: dict[str, Node]
    values: dict[str, Any]

    def refuse(self, key: str, message: str, hint: str) -> None:
        """Note that the value given for *key* does not go together with another."""
        self.findings.add(self.given[key], join(self.path, key), Wrong(message, hint), show=True)


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys. *make* takes their values by attribute; *finish* checks them together."""

    settings: tuple[Setting, ...]
    make: Callable[..., object]
    finish: Callable[[Reading], None] = lambda reading: None
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Keys that people look for here, and where what they want is set instead."""

    def read(self, node: Node, path: str, findings: Findings) -> object:
        before = len(findings)
        found = entries(node, path, findings)
        if found is None:
            return INVALID
        reading = Reading(node, path, findings, {}, {})
        known = {setting.key: setting for setting in self.settings}
        for key, entry in found.items():
            if key not in known:
                findings.add(entry.key, join(path, key), Wrong("unknown key", self._hint_for(key)))
            elif isinstance(known[key].kind, Value | Either) or not is_null(entry.value):
                # A section or list with nothing below it, all commented out, is as if not written.
                reading.given[key] = entry.value
        for key, setting in known.items():
            if key in reading.given:
                value = setting.kind.read(reading.given[key], join(path, key), findings)
                if not isinstance(value, Invalid):
                    reading.values[key] = value
            elif setting.required:
                findings.add(node, join(path, key), Wrong("is missing", f"Write {key}: {setting.example}"))
            else:
                reading.values[key] = setting.default
        self.finish(reading)
        if len(findings) > before:
            return INVALID
        return self.make(**{setting.attribute: reading.values[setting.key] for setting in self.settings})

    def plain(self, value: Any) -> Any:
        return {s.key: s.kind.plain(getattr(value, s.attribute)) for s in self.settings}

    def _hint_for(self, key: str) -> str:
        if key in self.elsewhere:
            return self.elsewhere[key]
        near = get_close_matches(key, [setting.key for setting in self.settings], 1)
        if near:
            return f'Did you mean "{near[0]}"?'
        for section in self.settings:
            if isinstance(section.kind, Record) and key in {s.key for s in section.kind.settings}:
                return f'It belongs below "{section.key}".'
        return f"Known here: {', '.join(setting.key for setting in self.settings)}."


def _as_they_are(node: Items, path: str, items: tuple[Any, ...], findings: Findings) -> tuple[Any, ...]:
    return items


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of *kind*, in order. No two items agree in what *unique* takes from them, called *named*.

    *finish* gets the list's node and path, the items and the findings, and returns the items to keep.
    """

    kind: Value | Record
    named: str
    unique: Callable[[Any], str] = str
    at_least: int = 0
    finish: Callable[[Items, str, tuple[Any, ...], Findings], tuple[Any, ...]] = _as_they_are

    def read(self, node: Node, path: str, findings: Findings) -> object:
        before = len(findings)
        if not isinstance(node, Items):
            wrong = Wrong("is not a list", "Begin each item with a dash and a space.")
            findings.add(node, path, wrong, show=True)
            return INVALID
        if len(node.nodes) < self.at_least:
            wrong = Wrong("is empty", "Write at least one, or take the line out for the default.")
            findings.add(node, path, wrong)
        items: list[Any] = []
        seen: dict[str, int] = {}
        for index, item in enumerate(node.nodes):
            value = self.kind.read(item, f"{path}[{index}]", findings)
            if isinstance(value, Invalid):
                continue
            first = seen.setdefault(self.unique(value), index)
            if first != index:
                wrong = Wrong(f"has the same {self.named} as {path}[{first}]", "Take one of them out.")
                findings.add(item, f"{path}[{index}]", wrong, show=True)
            items.append(value)
        if len(findings) > before:
            return INVALID
        kept = self.finish(node, path, tuple(items), findings)
        return INVALID if len(findings) > before else kept

    def plain(self, value: Any) -> Any:
        return [self.kind.plain(item) for item in value]


IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"


@dataclass(frozen=True, slots=True)
class Traits:
    """Plain configuration of a traitlets application: class to trait to any value that JSON can hold.

    *reserved* are traits that may not be set in any class, each with the way out.
    """

    reserved: Mapping[str, str]

    def read(self, node: Node, path: str, findings: Findings) -> object:
        before = len(findings)
        classes: dict[str, dict[str, Any]] = {}
        for class_name, entry in (entries(node, path, findings) or {}).items():
            class_path = join(path, class_name)
            if not re.fullmatch(IDENTIFIER, class_name):
                wrong = Wrong("cannot be a class", "Write the name of one, such as Spawner.")
                findings.add(entry.key, class_path, wrong)
                continue
            classes[class_name] = {}
            for trait, given in (entries(entry.value, class_path, findings) or {}).items():
                trait_path = join(class_path, trait)
                if not re.fullmatch(IDENTIFIER, trait):
                    wrong = Wrong("cannot be a trait", "Write the name of one, such as start_timeout.")
                    findings.add(given.key, trait_path, wrong)
                elif trait in self.reserved:
                    findings.add(given.key, trait_path, Wrong("cannot be set here", self.reserved[trait]))
                else:
                    classes[class_name][trait] = _any_value(given.value, trait_path, findings)
        return INVALID if len(findings) > before else classes

    def plain(self, value: Any) -> Any:
        return {class_name: dict(traits) for class_name, traits in value.items()}


Kind = Value | Either | Record | ListOf | Traits


def describe(
    kind: Kind, *, help: str, example: Any, unit: str = "", attribute: str = "", derived: str = ""
) -> dict[str, Any]:
    """The metadata of a dataclass field that declares a setting; the field's default is the setting's.

    *attribute* names what holds the value where that differs from the key; the rest is as in ``Setting``.
    """
    return {
        "kind": kind,
        "help": help,
        "example": example,
        "unit": unit,
        "attribute": attribute,
        "derived": derived,
    }


def settings_of(declared: type) -> tuple[Setting, ...]:
    """The settings that the dataclass *declared* describes, in order."""
    return tuple(
        Setting(
            key=f.name,
            default=f.default if f.default_factory is MISSING else f.default_factory(),
            **{**f.metadata, "attribute": f.metadata["attribute"] or f.name},
        )
        for f in fields(declared)
    )


def text_value(
    words: str,
    pattern: str,
    *,
    hint: str | Callable[[str], str] = "",
    convert: Callable[[str], object | Wrong] = str,
    restore: Callable[[Any], Plain] = lambda value: value,
    optional: bool = False,
) -> Value:
    """A kind that takes text that matches *pattern* as a whole; Python and JSON Schema must read it alike."""
    compiled = re.compile(pattern)

    def read(value: Plain) -> object | Wrong:
        if not isinstance(value, str):
            return Wrong(
                f"is {type_of(Scalar(value))}, not {words}", "If it is meant as text, put it in quotes."
            )
        if not compiled.fullmatch(value):
            return Wrong(f"is not {words}", hint if isinstance(hint, str) else hint(value))
        return convert(value)

    schema = {"type": ["string", "null"] if optional else "string", "pattern": f"^(?:{pattern})$"}
    return Value(words, schema, read, restore, optional)


def line_of_text(most: int, *, may_be_empty: bool = False) -> Value:
    """A kind that takes one line of up to *most* characters, none of them a control character."""
    least = 0 if may_be_empty else 1
    pattern = rf"[^\u0000-\u001f\u007f-\u009f\u2028\u2029\ud800-\udfff]{{{least},{most}}}"
    return text_value(f"one line of {least} to {most} characters", pattern)


def choice(*choices: str, not_yet: Mapping[str, str] | None = None) -> Value:
    """A kind that takes one of *choices*; *not_yet* are values that are only understood, with the way out."""
    words = choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"

    def read(value: Plain) -> object | Wrong:
        if isinstance(value, str) and value in choices:
            return value
        if isinstance(value, str) and value in (not_yet or {}):
            return Wrong("is not there yet", (not_yet or {})[value])
        near = get_close_matches(str(value), choices, 1)
        return Wrong(f"is not {words}", f'Did you mean "{near[0]}"?' if near else "")

    return Value(words, {"enum": list(choices)}, read)


def whole_number(least: int, most: int) -> Value:
    """A kind that takes a whole number from *least* to *most*."""
    words = f"a whole number from {least} to {most}"

    def read(value: Plain) -> object | Wrong:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return Wrong(f"is not {words}")
        return value

    return Value(words, {"type": "integer", "minimum": least, "maximum": most}, read)


def number_or_none(least: int, most: int) -> Value:
    """A kind that takes a whole number from *least* to *most*, or the word none, which is read as None."""
    words = f'a whole number from {least} to {most}, or "none"'
    number = whole_number(least, most)

    def read(value: Plain) -> object | Wrong:
        if value == "none":
            return None
        found = number.convert(value)
        return Wrong(f"is not {words}") if isinstance(found, Wrong) else found

    schema = {"anyOf": [dict(number.schema), {"const": "none"}]}
    return Value(words, schema, read, lambda value: "none" if value is None else value)


def flag() -> Value:
    """A kind that takes true or false."""
    words = "true or false"

    def read(value: Plain) -> object | Wrong:
        return value if isinstance(value, bool) else Wrong(f"is not {words}", "Write true or false.")

    return Value(words, {"type": "boolean"}, read)


def entries(node: Node, path: str, findings: Findings) -> dict[str, Entry] | None:
    """The entries of the mapping *node* by key, less those whose key is wrong; None if it is no mapping."""
    if is_null(node):
        return {}
    if not isinstance(node, Table):
        wrong = Wrong("is not a mapping", "Write each setting on a line of its own, as key: value.")
        findings.add(node, path, wrong, show=True)
        return None
    found: dict[str, Entry] = {}
    for entry in node.entries:
        key = entry.key
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            wrong = Wrong(
                f"{type_of(key)} cannot be a key", "A key is a word; if it is one, put it in quotes."
            )
            findings.add(key, path, wrong)
        elif key.value in found:
            line = found[key.value].key.line
            place = f"The first is on line {line}; keep" if line else "Keep"
            findings.add(key, join(path, key.value), Wrong("is given twice", f"{place} one of them."))
        else:
            found[key.value] = entry
    return found


def value_of(node: Node, key: str) -> Node:
    """The value of *key* in the mapping *node*; *node* itself where there is none."""
    if isinstance(node, Table):
        for entry in node.entries:
            if isinstance(entry.key, Scalar) and entry.key.value == key:
                return entry.value
    return node


def is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def type_of(node: Node) -> str:
    """What *node* is, in words for people."""
    if not isinstance(node, Scalar):
        return "a list" if isinstance(node, Items) else "a mapping"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true or false"
    return "text" if isinstance(node.value, str) else "a number"


def join(path: str, key: str) -> str:
    """The path of *key* below *path*; a key that is not a plain word is quoted."""
    shown = key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else shorten(quoted(key))
    return f"{path}.{shown}" if path else shown


def quoted(text: str) -> str:
    """*text* in double quotes as YAML reads it, on one line; what a terminal might obey is escaped."""
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
        for c in json.dumps(text, ensure_ascii=False)
    )


def shorten(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _any_value(node: Node, path: str, findings: Findings) -> Any:
    """The plain value of *node*, of whatever shape, as far as JSON can hold it."""
    match node:
        case Items(nodes):
            return [_any_value(item, f"{path}[{index}]", findings) for index, item in enumerate(nodes)]
        case Table():
            found = entries(node, path, findings) or {}
            return {key: _any_value(entry.value, join(path, key), findings) for key, entry in found.items()}
        case Scalar(value):
            if isinstance(value, float) and not math.isfinite(value):
                findings.add(node, path, Wrong("is not a finite number"), show=True)
            return value
