"""Atomicity, seen from the participants: what each branch does agrees with the one decision of its transaction.

A prepared branch commits only if the ledger holds the commit, and aborts only if it holds the abort. At rest every
branch of a committed transaction is committed (or took no part in phase two), and none of an aborted one is.
"""

from __future__ import annotations

from coordinator.ledger.records import Decision
from participant.branch import Branch
from participant.wire import BranchState
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.findings import Findings

__all__ = ["Branches"]

_COMMITTED = frozenset((BranchState.COMMITTED, BranchState.READ_ONLY))
_ABORTED = frozenset((BranchState.ABORTED, BranchState.READ_ONLY))


class Branches:
    def __init__(self, findings: Findings, decisions: Decisions) -> None:
        self._findings = findings
        self._decisions = decisions

    def moves(self, participant: str, before: Branch | None, after: Branch) -> None:
        """A branch is about to change; its row is durable a moment later."""
        if before is None or before.state is not BranchState.PREPARED or after.state is before.state:
            return
        decided = self._decisions.of(after.key.gid)
        wanted = Decision.COMMIT if after.state is BranchState.COMMITTED else Decision.ABORT
        if decided is not wanted:
            what = f"{after.key} at {participant} goes from prepared to {after.state}, recorded is {decided}"
            self._findings.report("a prepared branch waits for the decision", what)

    def check(self, participant: str, branches: list[Branch]) -> None:
        """At rest: every branch that `participant` knows."""
        for branch in branches:
            decided = self._decisions.of(branch.key.gid)
            if branch.state in (BranchState.PREPARED, BranchState.WORKING):
                self._findings.report("nothing stays in doubt", f"{branch.key} at {participant} is {branch.state}")
            elif decided is Decision.COMMIT and branch.state not in _COMMITTED:
                self._findings.report("all or nothing", f"{branch.key} is committed, at {participant} {branch.state}")
            elif decided is Decision.ABORT and branch.state not in _ABORTED:
                self._findings.report("all or nothing", f"{branch.key} is aborted, at {participant} {branch.state}")
            elif decided is None and branch.state is BranchState.COMMITTED:
                self._check_unrecorded(participant, branch)

    def _check_unrecorded(self, participant: str, branch: Branch) -> None:
        """Only a one-phase participant may have committed what no ledger knows, and only if nobody heard of it."""
        if not self._decisions.is_one_phase(branch.key.gid):
            self._findings.report("all or nothing", f"{branch.key} is committed at {participant}, but not recorded")
