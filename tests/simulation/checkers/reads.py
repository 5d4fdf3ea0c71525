"""Reads and writes are linearizable. For an append-only list that is decidable in linear time.

Every operation observes a position: a write its own, a read the length of the list. An order of all operations by
position (writes before reads of the same length) respects real time if and only if no operation that began after
another had ended observes less than that one, and no such write observes the same. So it suffices to remember, when
an operation begins, the greatest position observed by any operation that has ended (Herlihy & Wing 1990).
"""

from __future__ import annotations

from tests.simulation.checkers.findings import Findings

__all__ = ["Linearizable"]


class Linearizable:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._floor = 0
        self.reads = 0

    def begin(self) -> int:
        """An operation begins; hand the result back when it ends."""
        return self._floor

    def wrote(self, began: int, position: int) -> None:
        if position <= began:
            self._findings.report("linearizable", f"a write at {position} began after {began} had been observed")
        self._floor = max(self._floor, position)

    def read(self, node: str, began: int, length: int) -> None:
        if length < began:
            what = f"a read at {node} saw {length} commands after {began} had been observed"
            self._findings.report("linearizable", what)
        self._floor = max(self._floor, length)
        self.reads += 1
