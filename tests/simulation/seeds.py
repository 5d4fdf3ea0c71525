"""Which seeds the tests run: so many virtual hours of each world, and every seed that failed once, for ever."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["hours_of", "remember", "seeds_that_failed"]

_FILE = Path(__file__).with_name("seeds.txt")
_HOURS = 100
_SHARES = {"raft": 0.84, "system": 0.12, "pressed": 0.04}


def hours_of(world: str) -> int:
    """Virtual hours of one world in a run of the tests; of all worlds: `SIMULATED_HOURS`, or 100."""
    return max(1, round(int(os.environ.get("SIMULATED_HOURS", _HOURS)) * _SHARES[world]))


def seeds_that_failed(world: str) -> list[tuple[int, float]]:
    """(seed, virtual hours) of one world."""
    lines = (line.partition("#")[0].split() for line in _FILE.read_text().splitlines())
    return [(int(fields[1]), float(fields[2])) for fields in lines if fields and fields[0] == world]


def remember(world: str, seed: int, hours: float, what: str) -> None:
    """Add a seed that failed."""
    with _FILE.open("a") as file:
        file.write(f"{world:<7} {seed:<10} {hours:<5g}  # {what}\n")
