"""How long to wait before asking again: capped exponential back-off with full jitter. Pure arithmetic.

Full jitter draws uniformly from nothing to the whole window, because it spreads a crowd of callers best for the
same amount of work (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Backoff", "delay_s"]

DOUBLINGS_MAX = 32  # beyond it the window only overflows; every sensible cap is reached long before


@dataclass(frozen=True, slots=True)
class Backoff:
    """The window after the first attempt, and the largest one, in seconds. `jitter`: the part of it that is drawn; 0
    waits for the whole window each time."""

    base_s: float
    cap_s: float
    jitter: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.base_s <= self.cap_s:
            raise ValueError(f"back-off needs 0 < base_s <= cap_s, got base_s={self.base_s}, cap_s={self.cap_s}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"back-off needs 0 <= jitter <= 1, got {self.jitter}")


def delay_s(backoff: Backoff, attempt: int, draw: float) -> float:
    """The wait after the `attempt`-th attempt (from 1) has failed, for a random `draw`, 0 <= draw < 1."""
    doublings = min(attempt - 1, DOUBLINGS_MAX)
    window_s = min(backoff.cap_s, backoff.base_s * (1 << doublings))
    return window_s * (1 - backoff.jitter + backoff.jitter * draw)
