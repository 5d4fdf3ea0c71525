"""Which seeds the tests run: some of each world, and those that failed once (`seeds.txt`). New seeds: `make soak`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["remember", "runs_of"]

_FILE = Path(__file__).with_name("seeds.txt")
# So many seeds, with so many virtual hours of faults in each. A world that is cheap for what it covers has more.
_RUNS = {
    "raft": (20, 0.75),
    "system": (12, 0.25),
    "pressed": (3, 0.25),
    "steps": (3, 0.15),
    "workflows": (1, 0.05),
    "three": (3, 0.25),
}


def runs_of(world: str) -> list[tuple[int, float]]:
    """(seed, virtual hours) of every run of one world."""
    seeds, hours = _RUNS[world]
    longest = dict.fromkeys(range(seeds), hours)
    for seed, its_hours in _seeds_that_failed(world):
        longest[seed] = max(its_hours, longest.get(seed, 0.0))
    return list(longest.items())


def _seeds_that_failed(world: str) -> list[tuple[int, float]]:
    lines = (line.partition("#")[0].split() for line in _FILE.read_text().splitlines())
    return [(int(fields[1]), float(fields[2])) for fields in lines if fields and fields[0] == world]


def remember(world: str, seed: int, hours: float, what: str) -> None:
    """Add a seed that failed."""
    with _FILE.open("a") as file:
        file.write(f"{world:<7} {seed:<10} {hours:<5g}  # {what}\n")
