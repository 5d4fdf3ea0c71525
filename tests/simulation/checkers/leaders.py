"""At most one leader a term (Election Safety; Ongaro & Ousterhout 2014, figure 3)."""

from __future__ import annotations

from tests.simulation.checkers.findings import Findings

__all__ = ["OneLeaderPerTerm"]


class OneLeaderPerTerm:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._leaders: dict[int, str] = {}

    @property
    def elections(self) -> int:
        return len(self._leaders)

    def leads(self, node: str, term: int) -> None:
        """`node` believes that it leads `term`."""
        leader = self._leaders.setdefault(term, node)
        if leader != node:
            self._findings.report("one leader a term", f"{leader} and {node} lead term {term}")
