"""``labdock.yaml`` on a real disk."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labdock.adapters.config_file import MOST_BYTES, parse_yaml, read_config, write_config
from labdock.core.config import Config, find_problems, parse
from labdock.core.errors import ConfigError, HostError
from labdock.core.settings import Items, Scalar, Table


def refused(text: str) -> ConfigError:
    """The error that *text* ends in."""
    with pytest.raises(ConfigError) as caught:
        parse(parse_yaml(text, file="labdock.yaml"))
    return caught.value


def only_line(text: str) -> str:
    (line,) = refused(text).details
    return line


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    assert read_config(None) == Config()
    assert read_config(tmp_path / "labdock.yaml", asked=False) == Config()


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file"):
        read_config(tmp_path / "labdock.yaml")


def test_a_link_that_leads_nowhere_is_not_taken_for_no_file(tmp_path: Path) -> None:
    path = tmp_path / "labdock.yaml"
    path.symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="There is no file"):
        read_config(path, asked=False)


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "{}\n", "~\n", "\ufeff# a mark\n"])
def test_an_empty_file_is_all_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labdock.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_config(path) == Config()


def test_a_file_is_read_with_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "labdock.yaml"
    path.write_text("site: {name: Würzburg}\nlimits:\n  memory: 64G\n  cpus: 8\n", encoding="utf-8")
    config = read_config(path)
    assert (config.site.name, config.limits.memory_bytes, config.limits.cpus) == ("Würzburg", 64 * 2**30, 8.0)


def test_every_problem_names_file_line_column_and_key(tmp_path: Path) -> None:
    path = tmp_path / "labdock.yaml"
    path.write_text("site:\n  nmae: Lab\nlimits:\n  memory: 8X\n  pids:\nstop: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    first, second, third, fourth = caught.value.details
    assert first == f'{path}:2:3 site.nmae: unknown key. Did you mean "name"?'
    assert second.startswith(f'{path}:4:11 limits.memory: "8X" is not a size')
    assert third.startswith(f"{path}:5:3 limits.pids: has no value")
    assert fourth.startswith(f"{path}:6:1 stop: unknown key")
    assert caught.value.message == f"{path} has 4 problems."


def test_a_key_given_twice_is_refused_at_its_second_place() -> None:
    text = "site: {name: a}\nlimits: {}\nsite: {name: b}\n"
    assert (
        only_line(text) == "labdock.yaml:3:1 site: is given twice. The first is on line 1; keep one of them."
    )


def test_anchors_are_followed() -> None:
    text = "site:\n  name: &n Lab\n  contact: *n\nimages:\n  - &i {id: a}\n  - {id: b, label: *n}\n"
    config = parse(parse_yaml(text, file="labdock.yaml"))
    assert (config.site.contact, config.images[1].label) == ("Lab", "Lab")


@pytest.mark.filterwarnings("error")
def test_an_anchor_given_twice_is_no_warning() -> None:
    assert parse(parse_yaml("site: {name: &a x, contact: &a y}", file="f")).site.contact == "y"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"),
        ("010", 10),
        ("0x10", 16),
        ("1e3", 1000.0),
        ("True", True),
        ("~", None),
        ("2026-01-01", "2026-01-01"),
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("1:30", "1:30"),
        ("'5'", "5"),
        ("=", "="),
    ],
)
def test_values_are_read_as_in_yaml_1_2(written: str, value: object) -> None:
    node = parse_yaml(f"[{written}]", file="f")
    assert isinstance(node, Items)
    assert node.nodes == (Scalar(value, 1, 2),)  # type: ignore[arg-type]  # the table holds plain values only


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        (
            "site:\n\tname: Lab\n",
            "labdock.yaml:2:1: a tab cannot begin a line or a value. Indent with spaces.",
        ),
        ("site: [1\n", "labdock.yaml:2:1: expected"),
        ("site:\n  name: a: b\n", "labdock.yaml:2:10: mapping values are not allowed here. A key stands"),
        ("site: {name: @lab}\n", "labdock.yaml:1:14: found character '@'"),
        ("site: *nope\n", "labdock.yaml:1:7: found undefined alias"),
        ("site: {}\n---\nsite: {}\n", "labdock.yaml:2:1: a second document begins here"),
        ("site:\n  name: a\x07\n", "labdock.yaml:2:10: the character U+0007 cannot be part of a YAML file"),
        ("site: !!python/name:os.system x\n", "labdock.yaml:1:7: the tag"),
        ("site: !!binary aGk=\n", "labdock.yaml:1:7: the tag"),
        ("site: !secret {a: b}\n", "labdock.yaml:1:7: the tag"),
        ("site: !!int x\n", "labdock.yaml:1:7: x is not a number or a truth value"),
        ("site: !!bool x\n", "labdock.yaml:1:7: x is not a number or a truth value"),
        ("site: " + "9" * 5000, "labdock.yaml:1:7: 999"),
        ("- a\n- b\n", "labdock.yaml:1:1: is not a mapping"),
        ("just text\n", 'labdock.yaml:1:1: "just text" is not a mapping'),
        ("%YAML 9.0\n---\na: 1\n", "labdock.yaml:1:1: found incompatible YAML document"),
        ("&a [*a]", "labdock.yaml:1:1: lists and mappings lie more than 32 deep"),
    ],
)
def test_what_is_not_yaml_is_one_clear_problem_with_its_place(text: str, begin: str) -> None:
    assert only_line(text).startswith(begin)


def test_aliases_that_multiply_are_stopped_at_once() -> None:
    rows = ["jupyterhub:", "  A:", "    a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    began = time.monotonic()
    assert "more than 20000 values" in only_line("\n".join(rows))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 30_000, "- " * 100_000, "? " * 100_000])
def test_nesting_without_end_is_stopped_at_once(text: str) -> None:
    began = time.monotonic()
    assert "more than 32 deep" in only_line(text)
    assert time.monotonic() - began < 5


@settings(deadline=None)
@given(st.text(st.sampled_from("ab:-?[]{}&*!|>'\"%@#,\n \t0.~é\x00\\<=_1ex"), max_size=60))
def test_no_text_at_all_ends_in_anything_but_a_tree_or_an_error_with_one_line(text: str) -> None:
    try:
        node = parse_yaml(text, file="labdock.yaml")
    except ConfigError as error:
        (line,) = error.details
        assert line.startswith("labdock.yaml")
        assert "\n" not in line
    else:
        assert isinstance(node, Scalar | Items | Table)
        find_problems(node)


def test_what_is_not_utf_8_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "labdock.yaml"
    path.write_bytes(b"site:\n  name: W\xfcrzburg\n")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert caught.value.details == (f"{path}:2:10: the byte 0xfc is not UTF-8. Save it as UTF-8.",)


def test_a_folder_a_pipe_and_a_device_are_no_configuration(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="is not a file"):
            read_config(path)


def test_a_file_far_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "labdock.yaml"
    path.write_text("#" * (MOST_BYTES + 1), encoding="utf-8")
    with pytest.raises(ConfigError, match="longer than 256 KiB"):
        read_config(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "labdock.yaml"
    path.write_text("site: {}\n", encoding="utf-8")
    path.chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        read_config(path)


def test_a_path_through_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        read_config(tmp_path / "file" / "labdock.yaml")


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path: Path) -> None:
    write_config(tmp_path / "labdock.yaml", "site: {name: Würzburg}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["labdock.yaml"]
    assert read_config(tmp_path / "labdock.yaml").site.name == "Würzburg"


def test_a_file_is_not_overwritten_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "labdock.yaml"
    write_config(path, "one\n")
    with pytest.raises(ConfigError, match="exists already"):
        write_config(path, "two\n")
    assert path.read_text(encoding="utf-8") == "one\n"
    write_config(path, "two\n", overwrite=True)
    assert path.read_text(encoding="utf-8") == "two\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["labdock.yaml"]


def test_overwriting_keeps_the_mode_and_follows_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "labdock.yaml"
    write_config(real, "one\n")
    real.chmod(0o600)
    link.symlink_to(real)
    write_config(link, "two\n", overwrite=True)
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "two\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file or directory"):
        write_config(tmp_path / "no" / "labdock.yaml", "x\n")
