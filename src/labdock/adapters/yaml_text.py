"""Plain values → YAML text, for files that others read."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML


def to_yaml(value: Any) -> str:
    """*value* (mappings, lists, texts, numbers) as block-style YAML, keys in their own order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None upstream
    yaml.width = 1000
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()
