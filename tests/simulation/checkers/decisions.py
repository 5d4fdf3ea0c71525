"""One transaction, one decision: the same on every replica, in every answer, and for ever.

Two things fix a decision. The first replica whose ledger holds one does. And so does the first leader that takes one
for true before any ledger holds it, because from then on somebody may hear of it: it may do so once the record of the
branches is in its ledger, and on the classic path never. Whatever fixed it, no replica, no leader and no caller may
say otherwise later. A question that begins after an answer was heard must get the same answer (a *deciding*, or a
*not found*, would be older).
"""

from __future__ import annotations

from collections import Counter, deque

from coordinator.ledger.commands import Decide
from coordinator.ledger.records import Decision, Path, TransactionRecord
from participant.ids import BranchKey
from tests.simulation.checkers.findings import Findings

__all__ = ["Decisions"]

_ASKED_MAX = 200


class Decisions:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._decided: dict[str, Decision] = {}
        self._decided_at: dict[str, int] = {}  # the revision
        self._told: dict[str, Decision] = {}  # somebody was told, or may have been
        self._begun: dict[str, tuple[Path, dict[str, str]]] = {}  # by gid: the path, and participants by branch
        self._refused: set[tuple[str, str]] = set()  # steps of workflows, by gid and branch
        self._revisions: dict[int, tuple[str, str]] = {}
        self._heard: dict[str, Decision] = {}
        self._intended: dict[str, frozenset[Path]] = {}
        self._asked: deque[tuple[float, str]] = deque(maxlen=_ASKED_MAX)
        self._never_begun: set[str] = set()
        self.answers: Counter[str] = Counter()
        self.ahead = 0  # answers that a caller heard before any ledger held the decision

    # What is known ---------------------------------------------------------------------------------------------

    def of(self, gid: str) -> Decision | None:
        """The decision that some ledger holds."""
        return self._decided.get(gid)

    def due(self, key: BranchKey, participant: str) -> Decision | None:
        """What some ledger holds for one branch: of what is recorded without it, or with its refusal, it can only be
        rolled back."""
        begun = self._begun.get(key.gid)
        if begun is not None and (begun[1].get(key.branch) != participant or (key.gid, key.branch) in self._refused):
            return Decision.ABORT
        return self._decided.get(key.gid)

    def was_told(self, gid: str) -> bool:
        """Whether somebody may have heard how it ended."""
        return gid in self._told

    def heard(self, gid: str) -> Decision | None:
        """The decision that some caller has heard by now."""
        return self._heard.get(gid)

    def may_take(self, gid: str, path: Path) -> bool:
        """Whether `gid` was asked for on this path."""
        return path in self._intended.get(gid, ())

    def recent(self, since: float) -> list[str]:
        """What was asked for since then, by any caller."""
        return [gid for at, gid in self._asked if at >= since]

    @property
    def revision(self) -> int:
        """The latest that any ledger has held: what was applied once is never lost."""
        return max(self._revisions, default=0)

    @property
    def committed(self) -> list[str]:
        return [gid for gid, decision in self._decided.items() if decision is Decision.COMMIT]

    # What happens ----------------------------------------------------------------------------------------------

    def intended(self, gid: str, now: float, *paths: Path) -> None:
        """A caller is about to ask for `gid`, whose branches make it take one of these paths."""
        self._intended[gid] = frozenset(paths)
        self._asked.append((now, gid))

    def recorded(self, replica: str, record: TransactionRecord) -> None:
        """`replica` holds this record now."""
        self._check_revision(replica, record)
        if record.branches:
            self._check_branches(replica, record)
        if record.decision is None:
            if record.revision > self._decided_at.get(record.gid, record.revision):
                self._findings.report("no decision is reversed", f"{replica} holds {record.gid} as undecided again")
            return
        decided = self._decided.setdefault(record.gid, record.decision)
        self._decided_at.setdefault(record.gid, record.revision)
        if decided is not record.decision:
            what = f"{replica} holds {record.gid} as {record.decision}, it was decided as {decided}"
            self._findings.report("no decision is reversed", what)
        self._stays_true(record.gid, record.decision, f"{replica} holds")

    def implied(self, replica: str, decide: Decide) -> None:
        """`replica` leads, and takes this for true: from now on whoever asks there may be told."""
        if decide.gid not in self._decided:
            self._check_implied(decide.gid, f"{replica}: {decide.decision}")
        self._told.setdefault(decide.gid, decide.decision)
        self._stays_true(decide.gid, decide.decision, f"{replica} says")

    def answered(self, gid: str, decision: Decision) -> None:
        """A caller hears how `gid` ended."""
        self.answers[decision.value] += 1
        if gid not in self._decided:
            self.ahead += 1
            self._check_implied(gid, f"a caller hears {decision}")
        self._told.setdefault(gid, decision)
        self._stays_true(gid, decision, "a caller hears")
        self._heard[gid] = decision

    def read(self, gid: str, before: Decision | None, now: str | None) -> None:
        """A question that began when callers had heard `before` was answered by `now` (None: not found)."""
        if before is not None and now != before.value:
            self._findings.report("no read is older than an answer", f"{gid}: {now} after {before.value} was heard")

    def not_begun(self, gid: str, *, surely: bool) -> None:
        """A caller heard that nothing was begun, and will not ask again. `surely`: no request of his may have been
        doubled on its way, so that it comes once more after it was answered."""
        self.answers["not begun"] += 1
        if surely:
            self._never_begun.add(gid)

    def check(self) -> None:
        """At rest."""
        for gid in sorted(self._never_begun):
            if self._decided.get(gid) is Decision.COMMIT:
                self._findings.report("what was not begun is not committed", gid)
        for gid, told in sorted(self._told.items()):
            if gid not in self._decided:
                self._findings.report("what was told stays true", f"{gid}: {told} was told, and nothing is recorded")

    # Inside ----------------------------------------------------------------------------------------------------

    def _check_revision(self, replica: str, record: TransactionRecord) -> None:
        seen = (record.gid, record.phase.value)
        known = self._revisions.setdefault(record.revision, seen)
        if known != seen:
            what = f"revision {record.revision} is {seen} at {replica}, and {known} elsewhere"
            self._findings.report("ledgers are equal", what)

    def _check_branches(self, replica: str, record: TransactionRecord) -> None:
        """All are there from the beginning; those of a workflow come one by one, and some replica may be behind."""
        now = {branch.branch: branch.participant for branch in record.branches}
        path, begun = self._begun.setdefault(record.gid, (record.path, now))
        count = (max if record.workflow is None else min)(len(now), len(begun))
        if record.workflow is not None:
            pairs = zip(record.branches, record.workflow.asked, strict=True)
            self._refused.update((record.gid, branch.branch) for branch, asked in pairs if asked.refused is not None)
        if path is not record.path or list(now.items())[:count] != list(begun.items())[:count]:
            what = f"{replica} holds {record.gid} as {record.path} {now}, it was begun as {path} {begun}"
            self._findings.report("the branches are frozen", what)
        elif len(now) > len(begun):
            self._begun[record.gid] = (path, now)

    def _check_implied(self, gid: str, what: str) -> None:
        """No ledger holds the decision: may it be known?"""
        path, _ = self._begun.get(gid, (None, None))
        if path is None or not path.is_implied:
            promise = "an answer is recorded before it is given"
            self._findings.report(promise, f"{gid}: {what}, recorded is no decision, the path is {path}")

    def _stays_true(self, gid: str, decision: Decision, who: str) -> None:
        for known, how in ((self._told.get(gid), "told"), (self._decided.get(gid), "recorded")):
            if known not in (None, decision):
                self._findings.report("what was told stays true", f"{gid}: {who} {decision}, {how} was {known}")
