"""What a change makes of a record and of its branches. Pure; `table.Ledger` asks whether it is legal."""

from __future__ import annotations

from coordinator.ledger.commands import Decide
from coordinator.ledger.records import BranchRecord, Path, Phase, TransactionRecord

__all__ = ["decided", "emptied", "ended", "moved", "tombstone"]


def tombstone(command: Decide) -> TransactionRecord:
    """Of what was made aborted before it was begun."""
    return TransactionRecord(command.gid, b"", Path.CLASSIC, Phase.PREPARING, (), 0, command.at_ms)


def moved(
    record: TransactionRecord,
    phase: Phase,
    branches: tuple[BranchRecord, ...],
    revision: int,
    decide: Decide | None,
) -> TransactionRecord:
    """`dataclasses.replace`, at a third of its price: every command on every replica passes here."""
    same = (record.gid, record.digest, record.path, phase, branches, record.deadline_ms, record.begun_at_ms)
    if decide is not None:
        decided = (decide.at_ms, decide.by, decide.reason, decide.culprit)
    else:
        decided = (record.decided_at_ms, record.decided_by, record.reason, record.culprit)
    asked = (record.trace, record.key, record.notify, record.notified)
    return TransactionRecord(*same, *decided, revision, *asked, record.workflow, record.notice_dropped)


def decided(branch: BranchRecord, done: tuple[str, ...]) -> BranchRecord:
    """Its body and its count of works have served: phase two needs neither, unless it is a step."""
    ended = branch.branch in done
    if branch.step is not None:
        return _step_of(branch, ended=ended or branch.ended)
    return BranchRecord(branch.branch, branch.participant, branch.action, b"", ended=ended)


def ended(branch: BranchRecord, confirmed: tuple[str, ...]) -> BranchRecord:
    """Nothing more is owed to it, if it has confirmed."""
    done = branch.ended or branch.branch in confirmed
    if branch.step is not None:
        return _step_of(branch, ended=done)
    return BranchRecord(branch.branch, branch.participant, branch.action, branch.body, done, branch.works)


def _step_of(branch: BranchRecord, *, ended: bool) -> BranchRecord:
    return branch._replace(ended=ended, body=b"" if ended else branch.body)


def emptied(branch: BranchRecord) -> BranchRecord:
    """Nobody takes a result of a transaction that is over."""
    return branch if branch.step is None else branch._replace(step=branch.step._replace(result=b""))
