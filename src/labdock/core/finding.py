"""One thing that was looked at, by ``labdock doctor`` or by the check of an image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is fine, what was seen, and the way out when it is not."""

    check: str
    ok: bool
    seen: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
