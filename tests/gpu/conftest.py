"""Tests on a real NVIDIA card; elsewhere they are left out, and the run says how many."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu") is not None]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
