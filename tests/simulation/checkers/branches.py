"""What participants do with their branches, and what they say of them, must agree with what is recorded.

At every moment: a prepared branch is committed or aborted only after some ledger holds that decision; a branch
commits unprepared only where its participant may decide alone; and what a participant said of a branch stays true.
In three phases, participants may end a transaction that no ledger has decided, but in one way only.
At rest: no branch is in doubt, and every branch ended as its transaction did.
"""

from __future__ import annotations

from coordinator.ledger.records import Decision, Path
from participant.branch import FINAL, Branch
from participant.ids import BranchKey
from participant.wire import Answer, BranchState
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.findings import Findings
from tests.simulation.checkers.steps import Steps

__all__ = ["Branches"]

_COMMITTED = frozenset((BranchState.COMMITTED, BranchState.READ_ONLY))
_ABORTED = frozenset((BranchState.ABORTED, BranchState.READ_ONLY))
_PROMISES = FINAL | {BranchState.PREPARED}


class Branches:
    def __init__(self, findings: Findings, decisions: Decisions, steps: Steps) -> None:
        self._findings = findings
        self._decisions = decisions
        self._steps = steps
        self.by_peers: dict[str, Decision] = {}  # what participants have come to before any ledger
        self._said: dict[tuple[str, BranchKey], BranchState] = {}

    def moves(self, participant: str, before: Branch | None, after: Branch) -> None:
        """A branch is about to change; its row is durable a moment later."""
        if self._steps.owns(after.key):
            self._steps.moves(participant, after)
            return
        was = BranchState.UNKNOWN if before is None else before.state
        if was is BranchState.PREPARED and after.state is not was:
            decided = self._decisions.due(after.key, participant)
            wanted = Decision.COMMIT if after.state is BranchState.COMMITTED else Decision.ABORT
            if decided is None and self._decisions.may_take(after.key.gid, Path.THREE_PHASE):
                self._end_by_peers(participant, after, wanted)
            elif decided is not wanted:
                what = f"{after.key} at {participant} goes from prepared to {after.state}, recorded is {decided}"
                self._findings.report("a prepared branch waits for the decision", what)
        elif after.state is BranchState.COMMITTED and not self._decisions.may_take(after.key.gid, Path.ONE_PHASE):
            what = f"{after.key} at {participant} commits without having voted"
            self._findings.report("a branch votes before it commits", what)

    def _end_by_peers(self, participant: str, branch: Branch, ending: Decision) -> None:
        known = self.by_peers.setdefault(branch.key.gid, ending)
        if known is not ending:
            what = f"{branch.key} at {participant} is {branch.state}, a peer has come to {known}"
            self._findings.report("participants end it in one way", what)

    def said(self, participant: str, key: BranchKey, answer: Answer) -> None:
        """A participant answers: what it says is a fact from now on."""
        if answer.retry or answer.state not in _PROMISES:
            return
        known = self._said.get((participant, key))
        self._said[participant, key] = answer.state
        if known in FINAL and answer.state is not known and known is not BranchState.READ_ONLY:
            what = f"{key} at {participant} is {answer.state} after it was {known}"
            self._findings.report("what a participant says stays true", what)

    def check(self, participant: str, branches: list[Branch]) -> None:
        """At rest: every branch that `participant` knows."""
        for branch in branches:
            if self._steps.owns(branch.key):
                continue
            decided = self._decisions.due(branch.key, participant)
            if branch.state in (BranchState.PREPARED, BranchState.WORKING):
                self._findings.report("nothing stays in doubt", f"{branch.key} at {participant} is {branch.state}")
            elif decided is Decision.COMMIT and branch.state not in _COMMITTED:
                self._findings.report("all or nothing", f"{branch.key} is committed, at {participant} {branch.state}")
            elif decided is Decision.ABORT and branch.state not in _ABORTED:
                self._findings.report("all or nothing", f"{branch.key} is aborted, at {participant} {branch.state}")
            elif decided is None and branch.state is BranchState.COMMITTED:
                self._check_unrecorded(participant, branch)

    def _check_unrecorded(self, participant: str, branch: Branch) -> None:
        """Only who decides alone may have committed what no ledger knows, and only if nobody heard of it."""
        if not self._decisions.may_take(branch.key.gid, Path.ONE_PHASE):
            self._findings.report("all or nothing", f"{branch.key} is committed at {participant}, but not recorded")
