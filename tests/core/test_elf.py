"""What is read of libraries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from labdock.core.elf import Read, SharedObject, parse_shared_object
from tests.adapters.drivers import shared_object


def part_of(data: bytes) -> Read:
    return lambda offset, size: data[offset : offset + size]


@given(st.text("abc.-0123", max_size=60), st.sampled_from((62, 183, 3)))
def test_machine_and_name_are_those_that_were_written(soname: str, machine: int) -> None:
    library = shared_object(soname, machine=machine)
    assert parse_shared_object(part_of(library)) == SharedObject(machine, soname)


def test_a_library_of_32_bits_is_none() -> None:
    assert parse_shared_object(part_of(shared_object("libcuda.so.1", bits=32))) is None


@given(st.binary(max_size=400))
def test_what_is_no_library_is_none(data: bytes) -> None:
    assert parse_shared_object(part_of(data)) is None


@given(st.integers(0, 400), st.binary(min_size=1, max_size=16), st.integers(0, 500))
def test_a_damaged_library_is_read_without_an_error(at: int, junk: bytes, length: int) -> None:
    library = shared_object("libnvidia-ml.so.1")
    damaged = (library[:at] + junk + library[at + len(junk) :])[:length]
    found = parse_shared_object(part_of(damaged))
    assert found is None or len(found.soname) <= 255
