"""Messages of one key take effect in the order in which their transactions were begun, whoever leads meanwhile.

The order of begin is that in which records appear. A message waits for those before it until they have taken effect,
are aborted, or are set aside. What is delivered again after that stands at the end, and is late.
"""

from __future__ import annotations

from typing import TypeAlias

from coordinator.ledger.records import Decision, TransactionRecord
from participant.branch import Branch
from participant.wire import BranchState
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.steps import split

__all__ = ["Order"]

_Place: TypeAlias = tuple[str, str]  # gid, branch


class Order:
    """`delivered` counts messages with a key that have taken effect; `waited` those that had others before them when
    they were begun."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._lines: dict[str, dict[_Place, None]] = {}  # by key
        self._keys: dict[_Place, str] = {}
        self._late: set[_Place] = set()  # were set aside once
        self._gone: set[_Place] = set()  # have taken effect, or never will
        self.delivered = 0
        self.waited = 0

    def __str__(self) -> str:
        return f"in order: {self.delivered} delivered, {self.waited} begun behind others"

    def recorded(self, record: TransactionRecord) -> None:
        """The newest record of a transaction."""
        for branch in record.branches:
            delivery = None if branch.step is None else branch.step.delivery
            if delivery is None or not delivery.key:
                continue
            place = (record.gid, branch.branch)
            line = self._lines.setdefault(delivery.key, {})
            if branch.ended or record.decision is Decision.ABORT:
                self._gone.add(place)
            elif delivery.dead:
                self._late.add(place)
            if place in self._gone or delivery.dead:
                line.pop(place, None)
            elif place not in line:
                self.waited += bool(line)
                line[place] = None
            self._keys[place] = delivery.key

    def moves(self, after: Branch) -> None:
        """An attempt is about to have run, well or not."""
        place = (after.key.gid, split(after.key.branch)[0])
        if after.state is not BranchState.COMMITTED or place not in self._keys or place in self._gone:
            return
        self._gone.add(place)
        self.delivered += 1
        line = self._lines[self._keys[place]]
        first = next(iter(line), None)
        if first != place and place not in self._late:
            what = f"{place} of {self._keys[place]!r} before {first}"
            self._findings.report("messages of one key take effect in the order of their begin", what)
        line.pop(place, None)

    def waits_behind(self, place: _Place) -> bool:
        """Whether a message of the same key stands in line."""
        return bool(self._lines.get(self._keys.get(place, "")))
