"""When to try again what has failed, and when to tell a person. Sans-IO: time and chance are arguments."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ALARM_AFTER_S", "ALARM_INTERVAL_S", "PAUSE_MAX_S", "PAUSE_MIN_S", "Trouble", "pause_s"]

PAUSE_MIN_S = 0.2  # the first pause; it doubles
PAUSE_MAX_S = 15.0
ALARM_AFTER_S = 30.0
ALARM_INTERVAL_S = 60.0

_DOUBLINGS_MAX = 16


def pause_s(tried: int, chance: float) -> float:
    """How long to wait after so many tries; `chance`, from [0, 1), shortens it by up to a half."""
    pause = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(tried - 1, _DOUBLINGS_MAX))
    return pause * (1.0 - chance / 2.0)


class Trouble(NamedTuple):
    """Something that has failed since `since`, `tried` times, and is tried again at `until`."""

    since: float
    tried: int
    until: float
    alarmed_at: float = float("-inf")

    @classmethod
    def after(cls, before: Trouble | None, now: float, chance: float) -> Trouble:
        """What it is after one more failure."""
        tried = 1 if before is None else before.tried + 1
        until = now + pause_s(tried, chance)
        return cls(now, tried, until) if before is None else before._replace(tried=tried, until=until)

    def is_alarming(self, now: float) -> bool:
        """Whether a person must hear of it (again)."""
        return now >= self.since + ALARM_AFTER_S and now >= self.alarmed_at + ALARM_INTERVAL_S
