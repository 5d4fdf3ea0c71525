"""Workflows: code that is run anew hears the same again, and its return is the decision.

At every moment: what the code hears stands in the record, and is the same in every run; what a step gives is what its
bank has given; code that does the same again is never said to diverge; a workflow commits when its code has returned,
or its pivot has run, and not otherwise; what its caller is told is what the code has returned. At rest: whatever was
begun has ended. That the steps take effect, once or not at all, `checkers.steps` sees.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

from coordinator.ledger.records import BranchRecord, Decision, Mode, TransactionRecord
from participant.values import unpacked
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.steps import Steps

__all__ = ["REFUSED", "Flows"]

REFUSED = "refused"

_Place: TypeAlias = tuple[str, str]  # gid, branch


class Flows:
    """`counts` how it went: what the code heard, how often it heard that again in a later run, and how it ended."""

    def __init__(self, findings: Findings, decisions: Decisions, steps: Steps) -> None:
        self._findings = findings
        self._decisions = decisions
        self._steps = steps
        self._begun: dict[str, None] = {}  # somebody was told so
        self._heard: dict[_Place, Any] = {}
        self._recorded: dict[_Place, bool] = {}  # what is answered: whether it was refused
        self._returned: dict[str, Any] = {}
        self._results: dict[str, Any] = {}  # of what is committed, as recorded
        self.counts: Counter[str] = Counter()

    def __str__(self) -> str:
        return f"workflows: {', '.join(f'{count} {what}' for what, count in sorted(self.counts.items())) or 'none'}"

    # Callers

    def begun(self, gid: str) -> None:
        """A caller was told that it is recorded."""
        self._begun[gid] = None

    def told(self, gid: str, result: Any) -> None:
        """A caller was told that it is committed, with this result."""
        if result != self._results.get(gid):
            what = f"{gid}: {result!r} was told, recorded is {self._results.get(gid)!r}"
            self._findings.report("a caller is told what the code has returned", what)

    # The code

    def hears(self, gid: str, name: str, told: Any, due: Any) -> None:
        """The code hears what a step has given, or REFUSED; `due`: what it gives, if it is done."""
        is_refused = told == REFUSED
        if self._recorded.get((gid, name)) is not is_refused:
            self._findings.report("what the code hears is recorded", f"{gid}: {name}: {told!r}")
        if (gid, name) in self._heard:
            self.counts["answers heard again"] += 1
        else:
            self.counts["refusals heard" if is_refused else "steps heard"] += 1
        if self._heard.setdefault((gid, name), told) != told:
            what = f"{gid}: {name}: {told!r}, in an earlier run {self._heard[gid, name]!r}"
            self._findings.report("every run hears the same", what)
        if is_refused:
            self._steps.refused(gid, name)
        elif told != due:
            self._findings.report("the code hears what its steps have given", f"{gid}: {name}: {told!r}")

    def returns(self, gid: str, result: Any) -> None:
        """The code is about to return."""
        self._returned.setdefault(gid, result)  # every run hears the same, so that it returns the same

    # What becomes of it

    def recorded(self, record: TransactionRecord) -> None:
        """The newest record of a transaction."""
        workflow = record.workflow
        if workflow is None:
            return
        if workflow.diverged:
            self._findings.report(
                "code that does the same again does not diverge", f"{record.gid}: {workflow.diverged}"
            )
        answers = zip(record.branches, workflow.asked, strict=False) if record.decision is None else ()
        for branch, asked in answers:
            if asked.refused is not None or _is_done(branch):
                self._recorded[record.gid, branch.branch] = asked.refused is not None
        if record.decision is not None and record.gid not in self._results:
            self.counts[f"end in {record.decision}"] += 1
            self._results[record.gid] = unpacked(workflow.result)
            if record.decision is Decision.COMMIT:
                self._check_commit(record, self._results[record.gid])

    def check(self) -> None:
        """At rest."""
        for gid in self._begun:
            if self._decisions.of(gid) is None:
                self._findings.report("a workflow that was begun ends", gid)
        self._begun.clear()

    def _check_commit(self, record: TransactionRecord, result: Any) -> None:
        gid = record.gid
        steps = [branch.step for branch in record.branches if branch.step is not None]
        by_pivot = any(step.mode is Mode.PIVOT and step.done for step in steps)
        returned = self._returned.get(gid)
        if (result is None and not by_pivot) or (result is not None and result != returned):
            what = f"{gid}: recorded is {result!r}, the code has returned {returned!r}"
            self._findings.report("a workflow commits when its code has returned", what)


def _is_done(branch: BranchRecord) -> bool:
    step = branch.step
    return branch.ended or (step is not None and (step.done or step.mode is Mode.FORWARD))
