"""What tests of several folders share: the engine, and one running Labdock for all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from labdock.adapters import host
from labdock.cli.instance import engine_socket as find_socket
from labdock.cli.up import read_images
from tests.stack import Stack, running_stack, sweep_left_over


@pytest.fixture(scope="session")
def engine_socket() -> Path:
    """The socket of an engine that answers; `make test` has started one."""
    path = find_socket(os.environ)
    if not host.socket_answers(path):
        pytest.fail(f"no Docker engine answers at {path}: run scripts/prepare-tests")
    return path


@pytest.fixture(scope="session")
def stack(engine_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One Labdock for the whole run, set up by `labdock up` and taken down at the end."""
    sweep_left_over(engine_socket)
    with running_stack(tmp_path_factory.mktemp("stack"), engine_socket) as running:
        yield running


@pytest.fixture(scope="session")
def gpu_stack(engine_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One Labdock more for the whole run, with four simulated GPUs."""
    folder = tmp_path_factory.mktemp("gpus")
    with running_stack(
        folder, engine_socket, "g", simulated_gpus=4, more="gpus: {per_session: 2}\n"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def small_image(stack: Stack) -> str:
    """An image with ``sh``, ``id``, ``sleep`` and ``python3``: the one all of Labdock's stand on."""
    return read_images().base.tag
