"""What is true of a transaction: the replicated record. Small, immutable, made only by `table.Ledger`.

The record knows *what was decided*, never what a replica is doing about it: calls in flight, attempts and
last errors are facts of one driver (`coordinator/facts.py`) and may vanish with it.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

__all__ = ["BranchRecord", "Decision", "Path", "Phase", "TransactionRecord", "shared_names"]

NAMES_SHARED_MAX = 1_024  # combinations; of others, each record has its own


class Path(StrEnum):
    """How the transaction commits (docs: commit path). Chosen once, at begin."""

    CLASSIC = "classic"  # votes first, then the decision through the log
    ONE_PHASE = "one-phase"  # a single branch: its participant decides
    STAGED = "staged"  # committed when this record and every vote are durable


class Phase(StrEnum):
    """Where the transaction stands. Only `transitions.TRANSITIONS` says what may follow what."""

    PREPARING = "preparing"  # begun, undecided
    COMMITTING = "committing"  # decided, some branch has not confirmed yet
    ABORTING = "aborting"
    COMMITTED = "committed"  # decided, and every branch has confirmed
    ABORTED = "aborted"


class Decision(StrEnum):
    COMMIT = "commit"
    ABORT = "abort"


class BranchRecord(NamedTuple):
    """One participant's part. `body` is the msgpack encoding of what the caller posted, empty once decided.

    `works`, of a branch without an action: how much work the caller has seen it do; None if it did not say.
    """

    branch: str
    participant: str
    action: str | None
    body: bytes
    ended: bool = False  # nothing more is owed to it: it confirmed the decision, or needs no phase two
    works: int | None = None


class TransactionRecord(NamedTuple):
    """One transaction, as every replica knows it.

    `digest` identifies the request, so that the same gid with another body can be refused. `deadline_ms` is a
    duration: each leader counts it from when *it* took the transaction up, so that no two machines' clocks are
    ever compared and a leader change aborts nothing. The `*_at_ms` are wall-clock milliseconds of the proposing
    leader, for people and for retention, never for a decision. `decided_by` is "votes", "deadline", "inquiry",
    "operator NAME" or "deadline set by NAME"; `culprit` the branch that voted no. `revision` is the ledger's counter
    at the last change. `trace` is the caller's (`participant.traceparent`), "" without one; nothing depends on it.
    """

    gid: str
    digest: bytes
    path: Path
    phase: Phase
    branches: tuple[BranchRecord, ...]
    deadline_ms: int
    begun_at_ms: int
    decided_at_ms: int = 0
    decided_by: str = ""
    reason: str = ""
    culprit: str | None = None
    revision: int = 0
    trace: str = ""

    @property
    def tombstone(self) -> bool:
        """Whether it was made aborted before it was begun: it names no branches, whatever they would have been."""
        return not self.branches

    @property
    def finished(self) -> bool:
        """Whether nothing is owed to any branch any more."""
        return self.phase is Phase.COMMITTED or self.phase is Phase.ABORTED

    @property
    def decision(self) -> Decision | None:
        """The decision, or None while there is none."""
        match self.phase:
            case Phase.PREPARING:
                return None
            case Phase.COMMITTING | Phase.COMMITTED:
                return Decision.COMMIT
            case Phase.ABORTING | Phase.ABORTED:
                return Decision.ABORT


@lru_cache(NAMES_SHARED_MAX)  # `sys.intern` would keep every name for ever, on some versions of Python
def shared_names(branch: str, participant: str, action: str | None) -> tuple[str, str, str | None]:
    """The same names; but equal ones are the same objects, because the same few stand in nearly every record."""
    return branch, participant, action
