"""Whoever wants to be told of a transaction is told: what is recorded, and of its end at least once."""

from __future__ import annotations

from coordinator.ledger.records import Decision, TransactionRecord
from coordinator.webhooks import NoticeView
from coordinator.wire import Outcome
from tests.simulation.checkers.decisions import Decisions
from tests.simulation.checkers.findings import Findings

__all__ = ["Notices"]

_SAID = {Outcome.COMMITTED: Decision.COMMIT, Outcome.ABORTED: Decision.ABORT}


class Notices:
    """`repeats` counts notices that came again."""

    def __init__(self, findings: Findings, decisions: Decisions) -> None:
        self._findings = findings
        self._decisions = decisions
        self._ended: set[str] = set()  # of those that are wanted to be told of
        self._heard: set[tuple[str, str]] = set()
        self.repeats = 0

    def recorded(self, record: TransactionRecord) -> None:
        """Some replica holds this record now."""
        if record.notify and record.ended:
            self._ended.add(record.gid)

    def heard(self, notice: NoticeView) -> None:
        """The application takes a notice."""
        gid = notice.data.gid
        if self._decisions.of(gid) is not _SAID[notice.data.outcome]:
            self._findings.report("an application hears what is recorded", f"{gid}: {notice.data.outcome}")
        if notice.type == "transaction.ended" and gid not in self._ended:
            self._findings.report("an application hears what is recorded", f"{gid} has not ended")
        self.repeats += (notice.type, gid) in self._heard
        self._heard.add((notice.type, gid))

    def check(self) -> None:
        """Everything has come to rest."""
        for gid in self._ended:
            if ("transaction.ended", gid) not in self._heard:
                self._findings.report("an application that wants to be told is told", gid)

    def __str__(self) -> str:
        return f"{len(self._ended)} told of, {self.repeats} notices repeated"
