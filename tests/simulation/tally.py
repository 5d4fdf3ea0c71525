"""What happened in a system world, counted: which paths transactions took, and what new leaders took over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from coordinator.ledger.records import Path, TransactionRecord
from coordinator.ledger.table import Ledger
from raftlog.node import RaftLog
from raftlog.port import Leadership, Role
from tests.simulation.bank import Kind
from tests.simulation.checkers.decisions import Decisions

__all__ = ["Tally"]


class Tally:
    """`paths` by name: *mixed* is classic with a branch that could be prevented, *alone* is one branch. `taken_over`
    holds undecided records that a new leader found, by path; `after_telling` those of them that may have been told;
    `open_steps` what such a leader found to be reported, to be sent in order, or set aside."""

    def __init__(self, decisions: Decisions, kinds: Mapping[str, Kind]) -> None:
        self.paths: Counter[str] = Counter()
        self.taken_over: Counter[str] = Counter()
        self.open_steps: Counter[str] = Counter()
        self.after_telling = 0
        self._decisions = decisions
        self._kinds = kinds
        self._seen: set[str] = set()

    def __str__(self) -> str:
        paths, taken_over, steps = (
            ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
            for counts in (self.paths, self.taken_over, self.open_steps)
        )
        told = f"{self.after_telling} after telling"
        return f"begun: {paths}; taken over undecided: {taken_over}, {told}; steps taken over: {steps}"

    def recorded(self, record: TransactionRecord) -> None:
        """Some replica holds this record now."""
        if record.branches and record.gid not in self._seen:
            self._seen.add(record.gid)
            self.paths[self._path_of(record)] += 1

    def watch(self, log: RaftLog, ledger: Ledger) -> None:
        """Count what this replica takes over whenever it comes to lead."""
        led = 0

        def changed(leadership: Leadership) -> None:
            nonlocal led
            if leadership.role is Role.LEADER and leadership.term != led:
                led = leadership.term
                self._take_over(ledger)

        log.subscribe(changed)

    def _take_over(self, ledger: Ledger) -> None:
        for record in ledger.unfinished():
            self.open_steps.update(_open_steps(record))
            if record.decision is None:
                self.taken_over["workflows" if record.workflow is not None else record.path.value] += 1
                if record.path.is_implied:
                    self.after_telling += self._decisions.was_told(record.gid)

    def _path_of(self, record: TransactionRecord) -> str:
        preventable = any(self._kinds[branch.participant].prevent for branch in record.branches)
        if record.path is Path.CLASSIC and preventable:
            return "mixed"
        if record.workflow is not None:
            return "workflows"
        alone = len(record.branches) == 1 and record.path not in (Path.ONE_PHASE, Path.STEPS)
        return f"{record.path.value} alone" if alone else record.path.value


def _open_steps(record: TransactionRecord) -> Iterator[str]:
    """What somebody or something else is waited for, of the branches of a record."""
    for branch in record.branches:
        if branch.ended or branch.step is None:
            continue
        reporting, delivery = branch.step.reporting, branch.step.delivery
        if reporting is not None and reporting.begun and reporting.heard is None:
            yield "to be reported"
        if delivery is not None and delivery.dead and not delivery.dropped:
            yield "set aside"
        elif delivery is not None and delivery.key:
            yield "at its turn" if delivery.turn else "in line"
