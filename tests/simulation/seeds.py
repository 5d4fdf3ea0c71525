"""Which seeds the tests run: so many virtual hours of each world, and every seed that failed once, for ever."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["remember", "runs_of"]

_FILE = Path(__file__).with_name("seeds.txt")
_HOURS = 100
_SHARES = {"raft": 0.83, "system": 0.10, "pressed": 0.03, "steps": 0.02, "three": 0.01}
# In an hour: so many runs, with so many virtual hours of faults in each.
_RUNS = {"raft": (1, 1.0), "system": (3, 0.25), "pressed": (2, 0.25), "steps": (2, 0.25), "three": (3, 0.25)}


def runs_of(world: str) -> list[tuple[int, float]]:
    """(seed, virtual hours) of every run of one world: for all worlds together `SIMULATED_HOURS`, or 100, and the seeds
    that failed once."""
    runs_per_hour, hours = _RUNS[world]
    total = max(1, round(int(os.environ.get("SIMULATED_HOURS", _HOURS)) * _SHARES[world]))
    return [*((seed, hours) for seed in range(runs_per_hour * total)), *_seeds_that_failed(world)]


def _seeds_that_failed(world: str) -> list[tuple[int, float]]:
    lines = (line.partition("#")[0].split() for line in _FILE.read_text().splitlines())
    return [(int(fields[1]), float(fields[2])) for fields in lines if fields and fields[0] == world]


def remember(world: str, seed: int, hours: float, what: str) -> None:
    """Add a seed that failed."""
    with _FILE.open("a") as file:
        file.write(f"{world:<7} {seed:<10} {hours:<5g}  # {what}\n")
