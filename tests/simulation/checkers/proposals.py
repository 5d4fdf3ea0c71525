"""What was answered stays true: an acknowledged command was applied where it says, a refused one never is."""

from __future__ import annotations

from tests.simulation.checkers.applied import AppliedSequence, short
from tests.simulation.checkers.findings import Findings

__all__ = ["Proposals"]


class Proposals:
    def __init__(self, findings: Findings, sequence: AppliedSequence) -> None:
        self._findings = findings
        self._sequence = sequence
        self._acknowledged: dict[bytes, int] = {}
        self._refused: list[bytes] = []
        self._refusals = 0
        self.unknown = 0

    @property
    def counts(self) -> str:
        return f"{len(self._acknowledged)} acknowledged, {self._refusals} refused, {self.unknown} unknown"

    def acknowledged(self, command: bytes, position: int) -> None:
        """The proposer heard that `command` was applied at `position`."""
        self._acknowledged[command] = position
        there = self._sequence.position_of(command)
        if there != position:
            what = f"{short(command)} was acknowledged at position {position}, but was applied at {there}"
            self._findings.report("an acknowledged command was applied", what)

    def refused(self, command: bytes) -> None:
        """The proposer heard a refusal, and will not propose `command` again."""
        self._refused.append(command)
        self._refusals += 1

    def check(self, applied_everywhere: int) -> None:
        """At rest: nothing acknowledged is missing on any node, and nothing refused was applied after all."""
        last = max(self._acknowledged.values(), default=0)
        if applied_everywhere < last:
            what = f"position {last} was acknowledged, but some node has only {applied_everywhere} commands"
            self._findings.report("acknowledged commands survive", what)
        for command in self._refused:
            there = self._sequence.position_of(command)
            if there is not None:
                what = f"{short(command)} was refused, but was applied at position {there}"
                self._findings.report("a refused command is not applied", what)
        self._refused.clear()
