"""Is it worth calling this participant now? The circuit breaker of one participant. Pure: time is an argument.

After FAILURES_MAX calls in a row without an answer, calls would only cost time, connections and patience. Then one
call at a time is let through as a probe, first soon and then ever more rarely; the first answer ends that.
(M. Nygard, "Release It!", 2nd edition, 2018, chapter 5, "Circuit Breaker".)
"""

from __future__ import annotations

from coordinator.protocols.retry import DOUBLINGS_MAX

__all__ = ["FAILURES_MAX", "PROBE_CAP_S", "PROBE_FIRST_S", "Breaker"]

FAILURES_MAX = 8
PROBE_FIRST_S = 0.1
PROBE_CAP_S = 2.0


class Breaker:
    """Closed at first: calls pass."""

    __slots__ = ("_failures", "_probe_at", "_probing")

    def __init__(self) -> None:
        self._failures = 0
        self._probe_at = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the participant is taken for dead."""
        return self._failures >= FAILURES_MAX

    @property
    def probe_at(self) -> float | None:
        """When the next probe may leave; None while calls pass, or while a probe is under way."""
        return self._probe_at if self.is_open and not self._probing else None

    def may_pass(self, now: float) -> bool:
        """Whether a call may leave now, be it as a probe."""
        return not self.is_open or (not self._probing and now >= self._probe_at)

    def passing(self) -> None:
        """A call leaves."""
        self._probing = self.is_open

    def answered(self) -> None:
        """A call brought an answer, whatever it said."""
        self._failures = 0
        self._probing = False

    def failed(self, now: float) -> None:
        """A call brought none."""
        self._failures += 1
        self._probing = False
        if self.is_open:
            doublings = min(self._failures - FAILURES_MAX, DOUBLINGS_MAX)
            self._probe_at = now + min(PROBE_CAP_S, PROBE_FIRST_S * (1 << doublings))
