"""Numbers from what was heard: percentiles, and the gap that a fault left. Pure; times are seconds of one clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

__all__ = ["gap_s", "percentile", "wait_s"]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed (nearest rank); 0 if there is none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def gap_s(commits_at_s: Sequence[float], struck_at_s: float, healed_at_s: float) -> float:
    """The longest time without a commit, from the moment of a fault to the first commit after it was healed.

    If nobody committed anything after that, it is counted up to the healing.
    """
    after = sorted(at for at in commits_at_s if at > struck_at_s)
    during = [at for at in after if at < healed_at_s]
    end = next((at for at in after if at >= healed_at_s), healed_at_s)
    return max(later - earlier for earlier, later in pairwise([struck_at_s, *during, end]))


def wait_s(spans_s: Iterable[tuple[float, float]], struck_at_s: float, healed_at_s: float) -> float:
    """The longest that anybody waited because of a fault, given when each began to wait and when it ended."""
    return max(
        (end - max(begin, struck_at_s) for begin, end in spans_s if begin < healed_at_s and end > struck_at_s),
        default=0.0,
    )
