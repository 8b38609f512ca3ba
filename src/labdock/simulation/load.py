"""What a busy lab does with its cards, as a function of the time: nothing is remembered, nothing is random.

Each card goes through spells of training, evaluation and idleness, all decided by a seed, the card's number
and the clock; so a restart goes on where it was, and two who compute it agree.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from labdock.simulation.machine import Model

SPELL_S = 300
"""How long a card does one thing."""

_EPOCH_S, _CHECK_S = 60, 8
"""While it trains: the time from one check of the model to the next, and how long a check takes."""

_FILL_S = 20
"""Loading a model and its data into the card's memory."""

_COOL_S = 45.0
"""A card's way to a new temperature is two thirds done after this time."""

_COLD_C, _RISE_C = 31, 44


@dataclass(frozen=True, slots=True)
class Load:
    """What a card measures: percent, percent, bytes, °C, mW, percent."""

    utilization: int = 0
    memory_utilization: int = 0
    memory_used: int = 0
    temperature: int = _COLD_C
    power: int = 0
    fan: int = 0


@dataclass(frozen=True, slots=True)
class _Spell:
    """What a card does for one spell: its usual utilisation, and the share of the memory it takes."""

    kind: str
    busy: float
    memory: float


def load_at(model: Model, number: int, seed: str, time_s: float) -> Load:
    """What card *number* of *model* measures at *time_s* (Unix time); *seed* tells machines apart."""
    # Not all cards change at once.
    moment = time_s + _chance(seed, number, 0, "offset") * SPELL_S
    index, into_s = int(moment // SPELL_S), moment % SPELL_S
    now, before = _spell(seed, number, index), _spell(seed, number, index - 1)
    busy = _busy(now, into_s, _chance(seed, number, int(moment // 2), "jitter"))
    filled = before.memory + (now.memory - before.memory) * min(1.0, into_s / _FILL_S)
    warm = now.busy + (before.busy - now.busy) * math.exp(-into_s / _COOL_S)
    idle_mw, limit_mw = model.power_mw
    return Load(
        utilization=round(100 * busy),
        memory_utilization=round(55 * busy),
        memory_used=round(model.memory_bytes * filled),
        temperature=round(_COLD_C + _RISE_C * warm),
        power=round(idle_mw + (limit_mw - idle_mw) * 0.93 * busy),
        fan=round(30 + 50 * warm) if model.fan else 0,
    )


def idle(model: Model) -> Load:
    """What a card measures that nobody uses."""
    return Load(power=model.power_mw[0], fan=30 if model.fan else 0)


def _spell(seed: str, number: int, index: int) -> _Spell:
    choice, size = _chance(seed, number, index, "kind"), _chance(seed, number, index, "size")
    if choice < 0.55:
        return _Spell("training", 0.85 + 0.13 * size, 0.45 + 0.45 * size)
    if choice < 0.75:
        return _Spell("evaluation", 0.35 + 0.25 * size, 0.2 + 0.3 * size)
    # A notebook that nobody runs a cell in often goes on holding memory.
    return _Spell("idle", 0.0, 0.25 * size if size > 0.5 else 0.0)


def _busy(spell: _Spell, into_s: float, jitter: float) -> float:
    """Which part of the card works, 0 to 1."""
    if spell.kind == "idle":
        return 0.0
    if into_s < _FILL_S:
        return 0.04 + 0.08 * jitter
    if spell.kind == "evaluation":
        return spell.busy + 0.2 * (jitter - 0.5)
    if into_s % _EPOCH_S < _CHECK_S:
        return 0.4 + 0.2 * jitter
    return min(1.0, spell.busy + 0.04 * (jitter - 0.5))


def _chance(seed: str, number: int, index: int, what: str) -> float:
    """A number from 0 up to 1, the same for the same arguments."""
    digest = hashlib.blake2b(f"{seed}/{number}/{index}/{what}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / (1 << 56)
