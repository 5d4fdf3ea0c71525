"""Which open transactions a person should look at, and why. Pure.

Nothing follows from it for the transaction: what is decided is tried on for ever, ever more rarely. The times are wall
clocks of leaders, present and past, so they are good for an alarm and for no decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from coordinator.ledger.records import BranchRecord, Decision, TransactionRecord
from coordinator.protocols.letters import dead_letters, reason_of
from coordinator.protocols.modes import is_behind, rules_of

__all__ = ["Kind", "Stuck", "Thresholds", "stuck"]


class Kind(StrEnum):
    """What is wrong with it."""

    DEAD = "dead"  # a message was set aside, and a person must say what becomes of it
    DIVERGED = "diverged"  # the code of a workflow does not fit what is recorded of earlier runs
    REFUSED = "refused"  # behind the decision, a participant refuses what it must do
    LATE = "late"  # it should have been decided, or ended, long ago
    UNTOLD = "untold"  # it has ended, and the application has not taken the word


class Stuck(NamedTuple):
    """`why` is for people."""

    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """`late_ms`: undecided for so long after its deadline, or open for so long after its decision. `refusals`: of one
    branch behind the decision."""

    late_ms: int = 60_000
    refusals: int = 5


def stuck(record: TransactionRecord, thresholds: Thresholds, now_ms: int) -> Stuck | None:
    """What is wrong with a transaction at `now_ms`; None if nothing is."""
    if record.finished:
        return None
    if record.ended:
        return _untold(record, thresholds.late_ms, now_ms)
    if record.decision is None and record.workflow is not None and record.workflow.diverged:
        return Stuck(Kind.DIVERGED, record.workflow.diverged)
    return _dead(record) or _refused(record, thresholds.refusals) or _late(record, thresholds.late_ms, now_ms)


def _dead(record: TransactionRecord) -> Stuck | None:
    for branch in dead_letters(record):
        why = f"branch {branch.branch} at {branch.participant} was set aside: {reason_of(branch)}"
        return Stuck(Kind.DEAD, why)
    return None


def _untold(record: TransactionRecord, late_ms: int, now_ms: int) -> Stuck | None:
    late_by_ms = now_ms - record.decided_at_ms
    if late_by_ms < late_ms:
        return None
    return Stuck(Kind.UNTOLD, f"decided {late_by_ms // 1000} s ago, and {record.notify} has not taken the notice")


def _refused(record: TransactionRecord, refusals_max: int) -> Stuck | None:
    commits = record.decision is Decision.COMMIT
    for branch in record.branches:
        if branch.step is None or branch.ended or branch.step.settling <= refusals_max:
            continue
        rules = rules_of(branch)
        does = rules.on_commit if commits else rules.on_abort
        who = f"branch {branch.branch} at {branch.participant}"
        return Stuck(Kind.REFUSED, f"{who} has refused {branch.step.settling - 1} times to {does}")
    return None


def _late(record: TransactionRecord, late_ms: int, now_ms: int) -> Stuck | None:
    is_decided = record.decision is not None
    due_at_ms = record.begun_at_ms + record.deadline_ms
    if is_decided:
        due_at_ms = record.decided_at_ms + max((_allowed_ms(record, branch) for branch in record.branches), default=0)
    late_by_ms = now_ms - due_at_ms
    if late_by_ms < late_ms:
        return None
    if not is_decided:
        return Stuck(Kind.LATE, f"undecided {late_by_ms // 1000} s after its deadline")
    open_ = ", ".join(f"{branch.branch} at {branch.participant}" for branch in record.branches if not branch.ended)
    return Stuck(Kind.LATE, f"decided {late_by_ms // 1000} s ago, and not confirmed by {open_}")


def _allowed_ms(record: TransactionRecord, branch: BranchRecord) -> int:
    """How much later than at once a branch may end behind the decision: work that is reported may take as long there as
    it may before."""
    step = branch.step
    if branch.ended or step is None:
        return 0
    is_reported = step.reporting is not None and is_behind(step)
    return step.not_before_ms + (record.deadline_ms if is_reported else 0)
