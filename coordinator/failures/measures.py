"""What one run came to, and many of them together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cell", "Run", "Spread", "cell_of"]


@dataclass(frozen=True, slots=True)
class Run:
    """`atomic`: at rest, every participant holds what the client was told, once. `locks_held_s`: the longest time for
    which a branch was prepared, so that nobody else could change its rows; `others_held_s`: the same, of all
    participants but the one that held them longest. `unknown_s`: from the client's first request to its answer.
    `half_done_s`: how long, all together, the part of one participant could be seen there without that of another.
    `needless_abort`: it was aborted, though no participant had anything against it."""

    atomic: bool
    committed: bool
    needless_abort: bool
    recorded: bool
    locks_held_s: float
    others_held_s: float
    unknown_s: float
    half_done_s: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one measure over all runs, in milliseconds."""

    p50: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of at least one value."""
        ordered = sorted(seconds)
        return cls(round(ordered[(len(ordered) - 1) // 2] * 1_000, 1), round(ordered[-1] * 1_000, 1))


@dataclass(frozen=True, slots=True)
class Cell:
    """One protocol in one scenario, over `runs` seeds. `broken`: how many runs were not atomic. `dropped`: how
    many of the needless aborts are of transactions that were recorded."""

    protocol: str
    scenario: str
    runs: int
    broken: int
    committed: int
    needless_aborts: int
    dropped: int
    locks_held_ms: Spread
    others_held_ms: Spread
    unknown_ms: Spread
    half_done_ms: Spread

    @property
    def atomic(self) -> bool:
        """Whether every run was."""
        return self.broken == 0


def cell_of(protocol: str, scenario: str, runs: Sequence[Run]) -> Cell:
    """Of at least one run."""
    return Cell(
        protocol,
        scenario,
        len(runs),
        sum(not run.atomic for run in runs),
        sum(run.committed for run in runs),
        sum(run.needless_abort for run in runs),
        sum(run.needless_abort and run.recorded for run in runs),
        Spread.of([run.locks_held_s for run in runs]),
        Spread.of([run.others_held_s for run in runs]),
        Spread.of([run.unknown_s for run in runs]),
        Spread.of([run.half_done_s for run in runs]),
    )
