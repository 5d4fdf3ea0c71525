"""How long finished branches are remembered, and how they are forgotten: a few at a time, so that others are served."""

from __future__ import annotations

import time

__all__ = ["FORGET_BRANCHES_MAX", "FORGET_INTERVAL_S", "wall_clock_ms"]

FORGET_INTERVAL_S = 10.0
FORGET_BRANCHES_MAX = 5_000  # in one local transaction


def wall_clock_ms() -> int:
    """Milliseconds since 1970, for the retention: it must survive a restart, as no other clock does."""
    return time.time_ns() // 1_000_000
