"""Work that a step only begins: it is done when its action has run and somebody has said so, and as was said first.

At every moment: what the record says to be reported of an attempt, somebody has reported, and it stays so; a step is
done, or a transaction committed, only with the report that it is done; an answer to a report is recorded before.
That the action has run, and how often in all, `checkers.steps` sees.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from coordinator.ledger.records import BranchRecord, Decision, Mode, Report, StepRecord, TransactionRecord
from participant.branch import Branch
from participant.wire import BranchState
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.steps import split

__all__ = ["Reports"]

_Attempt: TypeAlias = tuple[str, str, int]  # gid, branch, and which attempt at its action


class Reports:
    """`heard` counts what is recorded, by mode and report; `refused` those that came too late."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._sent: dict[_Attempt, set[Report]] = {}
        self._answered: set[tuple[_Attempt, Report]] = set()
        self._first: dict[_Attempt, Report] = {}
        self._running: dict[tuple[str, str], int] = {}
        self._declined: set[_Attempt] = set()  # behind the decision, where another attempt follows
        self._ran: set[_Attempt] = set()
        self.heard: Counter[tuple[Mode, Report]] = Counter()
        self.refused = 0

    def __str__(self) -> str:
        return f"reports: {self.heard.total()} taken, {self.refused} too late"

    # Whoever reports

    def sending(self, token: str, report: Report) -> None:
        """Somebody is about to report."""
        self._sent.setdefault(_attempt_of(token), set()).add(report)

    def answered(self, token: str, report: Report) -> None:
        """The report was taken. An attempt that has ended otherwise counts as refused."""
        attempt = _attempt_of(token)
        self._answered.add((attempt, report))
        is_past = report is Report.REFUSED and self._is_past(attempt)
        if self._first.get(attempt) is not report and not is_past:
            what = f"{attempt}: {report} was answered, recorded is {self._first.get(attempt)}"
            self._findings.report("a report is recorded before it is answered", what)

    def too_late(self, token: str, report: Report) -> None:
        """The report was refused, because nobody waits for it."""
        attempt = _attempt_of(token)
        self.refused += 1
        if (attempt, report) in self._answered and not self._is_past(attempt):
            self._findings.report("a report is answered alike for ever", f"{attempt}: {report}")

    # What becomes of it

    def recorded(self, record: TransactionRecord) -> None:
        """The newest record of a transaction."""
        for branch in record.branches:
            step = branch.step
            if step is not None and step.reporting is not None:
                self._check_branch(record, branch, step, step.reporting.heard)

    def moves(self, after: Branch) -> None:
        """An attempt is about to have run, well or not."""
        name, what, attempt = split(after.key.branch)
        if after.state is BranchState.COMMITTED and not what:
            self._ran.add((after.key.gid, name, attempt))

    def effects_due(self, gid: str, name: str) -> int:
        """How often the action of a step takes effect, if it is to: once, and once for each beginning that was reported
        as refused behind the decision."""
        return 1 + sum((gid, name) == attempt[:2] for attempt in self._declined & self._ran)

    def _check_branch(
        self, record: TransactionRecord, branch: BranchRecord, step: StepRecord, heard: Report | None
    ) -> None:
        attempt = (record.gid, branch.branch, step.running)
        self._running[attempt[:2]] = step.running
        first = self._first.get(attempt)
        if first is not heard and first is not None:
            self._findings.report("the first report counts", f"{attempt}: {heard} after {first}")
        if first is None and heard is not None:
            self._first[attempt] = heard
            self.heard[step.mode, heard] += 1
            if heard not in self._sent.get(attempt, ()):
                self._findings.report("nothing is reported that nobody has said", f"{attempt}: {heard}")
        if step.mode is Mode.FORWARD:
            is_done = branch.ended and record.decision is Decision.COMMIT
            if heard is Report.REFUSED:
                self._declined.add(attempt)
        else:
            is_done = step.done or record.decision is Decision.COMMIT
        if is_done and heard is not Report.DONE:
            self._findings.report("what is reported is done when that was said", f"{attempt}: {heard}")

    def _is_past(self, attempt: _Attempt) -> bool:
        return attempt[2] < self._running.get(attempt[:2], 1)


def _attempt_of(token: str) -> _Attempt:
    gid, name, attempt, _ = token.split("/")
    return gid, name, int(attempt)
