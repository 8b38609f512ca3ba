"""Tests that build every image of Labdock's own: gigabytes, so only `make test-images` runs them."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr == "images":
        return
    left_out = [item for item in items if item.get_closest_marker("images") is not None]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
