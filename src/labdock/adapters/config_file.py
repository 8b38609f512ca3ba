"""``labdock.yaml`` on the disk: YAML 1.2 with the place of every value; written whole or not at all."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode
from ruamel.yaml.reader import ReaderError

from labdock.core.config import Config, parse, refusal
from labdock.core.errors import ConfigError, HostError
from labdock.core.settings import Entry, Items, Node, Plain, Problem, Scalar, Table

MOST_BYTES = 256 * 1024
MOST_DEPTH = 32
MOST_NODES = 20_000
"""Bounds on a file: far above any real one, far below what reading it could cost the machine."""

_TOO_DEEP = f"lists and mappings lie more than {MOST_DEPTH} deep here"
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + name for name in ("str", "timestamp", "merge", "value"))
"""Read as the text that stands there: a setting has no use for what else YAML makes of them."""


def read_config(path: Path | None, *, asked: bool = True) -> Config:
    """The configuration in the file *path*; the defaults where there is none.

    *asked* says that somebody named this file, so that it must be there.

    Raises:
        ConfigError: The file is missing though asked for, cannot be read, is not YAML, or has problems.
    """
    if path is None or (not asked and not os.path.lexists(path)):
        return Config()
    return parse(read_node(path), file=str(path))


def read_node(path: Path) -> Node:
    """The file *path* as a tree that knows its places; an empty file is ``Scalar(None)``.

    Raises:
        ConfigError: The file cannot be read, or is not YAML of a sane size.
    """
    return parse_yaml(_read_text(path), file=str(path))


def parse_yaml(text: str, *, file: str) -> Node:
    """*text* as a tree that knows its places; *file* is its name in messages.

    Anchors are followed; a key that repeats is left for the parser of the settings to find.

    Raises:
        ConfigError: With one problem: a mistake in the YAML, a tag, or more depth or values than allowed.
    """
    try:
        root = _yaml().compose(text)
        return Scalar(None) if root is None else _Conversion().node(root, 0)
    except MarkedYAMLError as error:
        raise refusal(file, (_syntax_problem(error),)) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        message = f"the character U+{ord(text[error.position]):04X} cannot be part of a YAML file"
        raise refusal(file, (Problem(line, column, "", "", message, "Take it out."),)) from error
    except YAMLError as error:
        raise refusal(file, (Problem(0, 0, "", "", f"not YAML: {_one_line(str(error))}"),)) from error


def write_config(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write *text* to *path*, whole or not at all; a link is followed, an existing file's mode is kept.

    Raises:
        ConfigError: There is a file and *overwrite* is false.
        HostError: The file cannot be written: no space, no right, no such folder.
    """
    target = Path(os.path.realpath(path))
    try:
        if not overwrite and target.exists():
            raise ConfigError(
                f"{path} exists already.",
                fix="Nothing was changed; name another, or overwrite it with --force.",
            )
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            if overwrite:
                temporary.replace(target)
            else:
                # A link fails when somebody made the file in the meantime; a rename would replace it.
                target.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already.", fix="Nothing was changed; name another, or overwrite it with --force."
        ) from error
    except OSError as error:
        raise HostError(
            f"{path} cannot be written: {error.strerror}.", fix="Nothing was changed; name another place."
        ) from error


def _read_text(path: Path) -> str:
    try:
        # Before it is opened: a named pipe would wait for a writer for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a file.", fix="Name the file that holds the settings.")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no file {path}.", fix="Name one that is there, or make one with: labdock init"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", fix="See who may read it with: ls -l"
        ) from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} is longer than {MOST_BYTES // 1024} KiB.", fix="Is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        problem = Problem(
            line, column, "", "", f"the byte 0x{data[error.start]:02x} is not UTF-8", "Save it as UTF-8."
        )
        raise refusal(str(path), (problem,)) from error


def _yaml() -> YAML:
    # "safe" and pure: the variant that makes plain nodes; nothing is ever constructed from a tag.
    yaml = YAML(typ="safe", pure=True)
    # An anchor given twice is allowed in YAML, and the warning would reach people as a Python one.
    yaml.max_depth = MOST_DEPTH
    yaml.composer.warn_double_anchors = False
    return yaml


class _TooMuchError(MarkedYAMLError):
    """YAML that means more than a configuration may hold, or what a configuration has no use for."""

    def __init__(self, problem: str, mark: StreamMark) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Conversion:
    """YAML nodes to ours, aliases written out, with a bound on what they may add up to."""

    def __init__(self) -> None:
        self._count = 0
        self._constructor = _yaml().constructor

    def node(self, node: YamlNode, depth: int) -> Node:
        """*node* as ours, *depth* levels below the top."""
        mark = node.start_mark
        self._count += 1
        if self._count > MOST_NODES:
            raise _TooMuchError(
                f"with its aliases written out, the file has more than {MOST_NODES} values", mark
            )
        if depth > MOST_DEPTH:
            # Also where an alias stands inside its own anchor.
            raise _TooMuchError(_TOO_DEEP, mark)
        line, column = mark.line + 1, mark.column + 1
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return Items(tuple(self.node(item, depth + 1) for item in node.value), line, column)
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return Table(tuple(self._entry(key, value, depth + 1) for key, value in node.value), line, column)
        if isinstance(node, ScalarNode):
            return Scalar(self._scalar(node), line, column)
        raise _unknown_tag(node)

    def _entry(self, key: YamlNode, value: YamlNode, depth: int) -> Entry:
        ours = self.node(key, depth)
        given = self.node(value, depth)
        if isinstance(given, Scalar) and given.value is None:
            # YAML sees an absent value where the next thing begins; people see it at its key.
            return Entry(ours, Scalar(None, ours.line, ours.column))
        return Entry(ours, given)

    def _scalar(self, node: ScalarNode) -> Plain:
        tag, text = str(node.tag), str(node.value)
        if tag in _PLAIN_TAGS:
            return text
        if tag == _TAG + "null":
            return None
        try:
            match tag.removeprefix(_TAG):
                case "bool":
                    return bool(self._constructor.construct_yaml_bool(node))
                case "int":
                    return int(self._constructor.construct_yaml_int(node))
                case "float":
                    return float(self._constructor.construct_yaml_float(node))
        except (ValueError, KeyError, IndexError) as error:
            raise _TooMuchError(
                f"{_one_line(text)} is not a number or a truth value", node.start_mark
            ) from error
        raise _unknown_tag(node)


def _unknown_tag(node: YamlNode) -> _TooMuchError:
    return _TooMuchError(f"the tag {_one_line(str(node.tag))} has no place here", node.start_mark)


def _syntax_problem(error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    message = _one_line(error.problem or error.context or "not YAML")
    hint = ""
    if isinstance(error, MaxDepthExceededError):
        message = _TOO_DEEP
    elif "'\\t'" in message:
        message, hint = "a tab cannot begin a line or a value", "Indent with spaces."
    elif "mapping values are not allowed" in message:
        hint = "A key stands in the wrong column, or a text with a colon and a space in it needs quotes."
    elif "cannot start any token" in message:
        hint = "A text that begins with this character needs quotes."
    elif "another document" in message:
        message, hint = "a second document begins here", "Keep all settings above the line ---."
    return Problem(mark.line + 1 if mark else 0, mark.column + 1 if mark else 0, "", "", message, hint)


def _one_line(text: str) -> str:
    joined = re.sub(r"\s+", " ", text).strip()
    shown = joined if len(joined) <= 100 else f"{joined[:99]}…"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)
