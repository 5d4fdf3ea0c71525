"""Looking for what was broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.checkers.findings import Violation
from tests.simulation.world import World

__all__ = ["is_found"]

SEEDS_MAX = 30
HOURS = 0.5


def is_found(world: Callable[[int], World], *promises: str, first: int = 0) -> bool:
    """Whether a violation of one of these promises is reported within so many seeds, from the `first` on: one that is
    known to show it, where those before would take long.

    The words matter: code that is broken on purpose may also just raise, which would prove nothing.
    """
    for seed in range(first, first + SEEDS_MAX):
        try:
            world(seed).run(HOURS)
        except Violation as violation:
            if any(promise in str(violation) for promise in promises):
                return True
    return False
