"""As much of an ELF file as tells which machine a library is for and what programs call it.

Offsets and tags are those of the System V ABI, "Object Files" and "Dynamic Linking", for 64-bit files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[int, int], bytes]
"""(offset, size) → that part of the file, shorter where the file ends."""

_LARGEST_TABLE = 1 << 20
_LONGEST_NAME = 255
_LOAD, _DYNAMIC = 1, 2
_DT_NULL, _DT_STRTAB, _DT_SONAME = 0, 5, 14


@dataclass(frozen=True, slots=True)
class SharedObject:
    """A 64-bit library: the machine's number in ELF, and its DT_SONAME, empty if it has none."""

    machine: int
    soname: str


def parse_shared_object(read: Read) -> SharedObject | None:
    """The library that *read* gives the parts of; None if it is no 64-bit little-endian one."""
    header = read(0, 64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01" or _number(header, 16, 2) != 3:
        return None
    machine = _number(header, 18, 2)
    entry_size, entries = _number(header, 54, 2), _number(header, 56, 2)
    if entry_size < 56:
        return None
    table = read(_number(header, 32, 8), min(entry_size * entries, _LARGEST_TABLE))
    segments = [table[at : at + entry_size] for at in range(0, len(table) - entry_size + 1, entry_size)]
    dynamic = next((one for one in segments if _number(one, 0, 4) == _DYNAMIC), None)
    tags = {} if dynamic is None else _tags(read(_number(dynamic, 8, 8), _size(dynamic)))
    if _DT_SONAME not in tags or _DT_STRTAB not in tags:
        return SharedObject(machine, "")
    strings = _offset(segments, tags[_DT_STRTAB])
    if strings is None:
        return None
    name = read(strings + tags[_DT_SONAME], _LONGEST_NAME + 1).partition(b"\0")[0]
    return (
        SharedObject(machine, name.decode("ascii", errors="replace")) if len(name) <= _LONGEST_NAME else None
    )


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _size(segment: bytes) -> int:
    return min(_number(segment, 32, 8), _LARGEST_TABLE)


def _tags(dynamic: bytes) -> dict[int, int]:
    tags: dict[int, int] = {}
    for at in range(0, len(dynamic) - 15, 16):
        tag = _number(dynamic, at, 8)
        if tag == _DT_NULL:
            break
        tags.setdefault(tag, _number(dynamic, at + 8, 8))
    return tags


def _offset(segments: list[bytes], address: int) -> int | None:
    """Where in the file the loaded *address* lies."""
    for one in segments:
        start = _number(one, 16, 8)
        if _number(one, 0, 4) == _LOAD and start <= address < start + _number(one, 32, 8):
            return _number(one, 8, 8) + address - start
    return None
