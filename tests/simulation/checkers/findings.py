"""Where checkers report what must not happen. The first report stops the world."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.simulation.process import in_dead_process
from coordinator.simulation.trace import Trace

__all__ = ["Findings", "Violation"]


class Violation(AssertionError):
    """A promise was broken in this run."""


class Findings:
    """The violations of one run, in the order they were seen."""

    def __init__(self, trace: Trace) -> None:
        self.all: list[str] = []
        self._trace = trace
        self._stop: Callable[[], None] = lambda: None

    def when_first(self, stop: Callable[[], None]) -> None:
        """Call `stop` at the first violation."""
        self._stop = stop

    def report(self, promise: str, what: str) -> None:
        """`promise` names what is broken, `what` says how."""
        if in_dead_process():
            return
        self._trace.note("VIOLATION", promise, what)
        self.all.append(f"{promise}: {what}")
        if len(self.all) == 1:
            self._stop()

    def raise_first(self) -> None:
        """Raises Violation if anything was reported."""
        if self.all:
            raise Violation("\n".join(self.all[:10]))
