"""What an engine counts of its branches since its start, and the `ResourceStatus` made of it.

Owns the totals, and nothing that a branch depends on: without them every answer would be the same. Times are arguments.
Must never do: look at a clock, or cost a branch more than a few additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sized

from participant.ids import BranchKey
from participant.resource import PREPARED_BOUNDS_MS, ResourceStatus

__all__ = ["Measures"]


class Measures:
    """The totals of one engine."""

    def __init__(self) -> None:
        self._decided = 0
        self._prepared_sum_s = 0.0
        self._prepared_by_ms = [0] * (len(PREPARED_BOUNDS_MS) + 1)
        self._conflicts = 0

    def decided(self, prepared_s: float) -> None:
        """A branch has ended that was prepared for so long."""
        self._decided += 1
        self._prepared_sum_s += prepared_s
        self._prepared_by_ms[bisect_left(PREPARED_BOUNDS_MS, prepared_s * 1_000)] += 1

    def conflict(self) -> None:
        """A branch has voted no because of the rows of others."""
        self._conflicts += 1

    def status(self, now: float, prepared: Mapping[BranchKey, float], waiting: Sized, working: Sized) -> ResourceStatus:
        """All measures at `now`. `prepared`: since when each branch is prepared, oldest first."""
        return ResourceStatus(
            prepared=len(prepared),
            oldest_prepared_s=now - next(iter(prepared.values()), now),
            waiting=len(waiting),
            working=len(working),
            decided=self._decided,
            prepared_sum_s=self._prepared_sum_s,
            prepared_by_ms=tuple(self._prepared_by_ms),
            conflicts=self._conflicts,
        )
