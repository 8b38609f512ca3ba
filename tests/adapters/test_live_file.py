"""A file that is replaced while it is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from labdock.adapters.live_file import LiveFile
from labdock.core.errors import HostError
from labdock.core.session import ImageChoice
from labdock.core.shelf import allowed_from_json, choices_from_json, choices_to_json


class Parser:
    """Reads JSON, and counts how often."""

    asked = 0

    def __call__(self, text: str) -> Any:
        self.asked += 1
        return json.loads(text)


def replace_with(path: Path, text: str) -> None:
    """As the command line does it: written beside, then renamed."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def test_a_file_is_read_once_while_it_stays(tmp_path: Path) -> None:
    path, parse = tmp_path / "a.json", Parser()
    path.write_text('{"a": 1}')
    live = LiveFile(path, parse)
    assert parse.asked == 0
    assert [live.value() for _ in range(5)] == [{"a": 1}] * 5
    assert parse.asked == 1


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("1")
    live = LiveFile(path, Parser())
    assert live.value() == 1
    replace_with(path, "2")
    # Same size and, on a coarse clock, the same time: the file is another one all the same.
    os.utime(path, ns=(0, 0))
    assert live.value() == 2
    path.write_text("[3]")
    assert live.value() == [3]


@pytest.mark.parametrize("broken", [None, "", "{", "[1", "\udcff"])
def test_a_file_that_is_missing_or_broken_is_told_and_used_again_once_it_is_mended(
    tmp_path: Path, broken: str | None
) -> None:
    path = tmp_path / "images.json"
    path.write_text("1")
    live = LiveFile(path, Parser())
    assert live.value() == 1
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken.encode("utf-8", "surrogateescape"))
    for _ in range(2):
        with pytest.raises(HostError, match=r"images\.json cannot be read") as told:
            live.value()
        assert told.value.fix == "Write it anew with: labdock up"
        assert live.problem() == str(told.value)
    replace_with(path, "2")
    assert live.problem() is None
    assert live.value() == 2


@pytest.mark.parametrize(
    "text", ["[]", "1", "null", "{}", '{"images": 1, "allowed": []}', '{"images": [{"x": 1}]}']
)
@pytest.mark.parametrize("parse", [choices_from_json, allowed_from_json])
def test_json_of_another_shape_is_a_broken_file(tmp_path: Path, text: str, parse: Any) -> None:
    path = tmp_path / "images.json"
    path.write_text(text)
    with pytest.raises(HostError):
        LiveFile(path, parse).value()


def test_what_the_command_line_writes_is_what_the_hub_reads(tmp_path: Path) -> None:
    images = (ImageChoice("cpu", "Zürich", "labdock/cpu:1", default=True, details="Python 3.13, 640 MB"),)
    path = tmp_path / "images.json"
    path.write_text(choices_to_json(images))
    assert LiveFile(path, choices_from_json).value() == images
