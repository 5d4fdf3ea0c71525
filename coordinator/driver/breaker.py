"""Is it worth calling this participant now? The circuit breaker of one participant. Pure: time is an argument.

After FAILURES_MAX calls in a row without an answer, calls would only cost time, connections and patience. Then one
call at a time is let through as a probe, first soon and then ever more rarely; the first answer ends that. Only probes
make probes rarer: how many calls were under way when the participant died says nothing of how long it will be away.
(M. Nygard, "Release It!", 2nd edition, 2018, chapter 5, "Circuit Breaker".)
"""

from __future__ import annotations

__all__ = ["FAILURES_MAX", "PROBE_CAP_S", "PROBE_FIRST_S", "Breaker"]

FAILURES_MAX = 8
PROBE_FIRST_S = 0.1
PROBE_CAP_S = 0.5


class Breaker:
    """Closed at first: calls pass."""

    __slots__ = ("_failures", "_pause_s", "_probe_at", "_probing")

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = PROBE_FIRST_S
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

    def passing(self) -> bool:
        """A call leaves; whether it is a probe."""
        self._probing = self.is_open
        return self._probing

    def admitted(self, now: float) -> None:
        """A transaction begins whose first call will be the probe, after a pause: nobody else may begin meanwhile."""
        self._probe_at = now + self._pause_s

    def answered(self) -> None:
        """A call brought an answer, whatever it said."""
        self._failures = 0
        self._probing = False

    def failed(self, now: float, *, probe: bool) -> None:
        """A call brought none. One that left before the breaker opened says nothing new, even while a probe is out."""
        if probe and self._probing:
            self._probing = False
            self._pause_s = min(PROBE_CAP_S, 2 * self._pause_s)
            self._probe_at = now + self._pause_s
        elif not self.is_open:
            self._failures += 1
            self._pause_s = PROBE_FIRST_S
            self._probe_at = now + PROBE_FIRST_S
