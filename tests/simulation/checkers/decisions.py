"""One transaction, one decision: the same on every replica, in every answer, and for ever.

The first replica whose ledger holds a decision fixes it. No other replica may hold another one, no caller may hear
another one, and none may hear one before some ledger holds it. A question that begins after an answer was heard must
get the same answer (a *deciding*, or a *not found*, would be older).
"""

from __future__ import annotations

from collections import Counter

from coordinator.ledger.records import Decision, Path, TransactionRecord
from tests.simulation.checkers.findings import Findings

__all__ = ["Decisions"]


class Decisions:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._decided: dict[str, Decision] = {}
        self._decided_at: dict[str, int] = {}  # the revision
        self._paths: dict[str, Path] = {}
        self._revisions: dict[int, tuple[str, str]] = {}
        self._heard: dict[str, Decision] = {}
        self._never_begun: set[str] = set()
        self.answers: Counter[str] = Counter()

    def of(self, gid: str) -> Decision | None:
        """The decision that some ledger holds."""
        return self._decided.get(gid)

    def heard(self, gid: str) -> Decision | None:
        """The decision that some caller has heard by now."""
        return self._heard.get(gid)

    def is_one_phase(self, gid: str) -> bool:
        """Whether the participant of `gid` decides, as far as any ledger knows the transaction."""
        return self._paths.get(gid, Path.ONE_PHASE) is Path.ONE_PHASE

    @property
    def committed(self) -> list[str]:
        return [gid for gid, decision in self._decided.items() if decision is Decision.COMMIT]

    def recorded(self, replica: str, record: TransactionRecord) -> None:
        """`replica` holds this record now."""
        seen = (record.gid, record.phase.value)
        known = self._revisions.setdefault(record.revision, seen)
        if known != seen:
            what = f"revision {record.revision} is {seen} at {replica}, and {known} elsewhere"
            self._findings.report("ledgers are equal", what)
        if record.branches:
            self._paths[record.gid] = record.path
        if record.decision is None:
            if record.revision > self._decided_at.get(record.gid, record.revision):
                self._findings.report("no decision is reversed", f"{replica} holds {record.gid} as undecided again")
            return
        decided = self._decided.setdefault(record.gid, record.decision)
        self._decided_at.setdefault(record.gid, record.revision)
        if decided is not record.decision:
            what = f"{replica} holds {record.gid} as {record.decision}, it was decided as {decided}"
            self._findings.report("no decision is reversed", what)

    def answered(self, gid: str, decision: Decision) -> None:
        """A caller hears how `gid` ended."""
        self.answers[decision.value] += 1
        held = self._decided.get(gid)
        if held is not decision:
            self._findings.report("an answer is recorded before it is given", f"{gid}: {decision}, recorded is {held}")
        self._heard[gid] = decision

    def read(self, gid: str, before: Decision | None, now: str | None) -> None:
        """A question that began when callers had heard `before` was answered by `now` (None: not found)."""
        if before is not None and now != before.value:
            self._findings.report("no read is older than an answer", f"{gid}: {now} after {before.value} was heard")

    def not_begun(self, gid: str) -> None:
        """A caller heard that nothing was begun, and will not ask again."""
        self.answers["not begun"] += 1
        self._never_begun.add(gid)

    def check(self) -> None:
        """At rest."""
        for gid in sorted(self._never_begun):
            if self._decided.get(gid) is Decision.COMMIT:
                self._findings.report("what was not begun is not committed", gid)
