"""What becomes of the record of a branch, as its transaction is decided and ended. Pure."""

from __future__ import annotations

from coordinator.ledger.records import BranchRecord

__all__ = ["decided", "emptied", "ended_by"]


def decided(branch: BranchRecord, done: tuple[str, ...]) -> BranchRecord:
    """Its body and its count of works have served: phase two needs neither, unless it is a step."""
    ended = branch.branch in done
    if branch.step is not None:
        return _step_of(branch, ended=ended)
    return BranchRecord(branch.branch, branch.participant, branch.action, b"", ended=ended)


def ended_by(branch: BranchRecord, ended: tuple[str, ...]) -> BranchRecord:
    done = branch.ended or branch.branch in ended
    if branch.step is not None:
        return _step_of(branch, ended=done)
    return BranchRecord(branch.branch, branch.participant, branch.action, branch.body, done, branch.works)


def _step_of(branch: BranchRecord, *, ended: bool) -> BranchRecord:
    return branch._replace(ended=ended, body=b"" if ended else branch.body)


def emptied(branch: BranchRecord) -> BranchRecord:
    """Nobody takes a result of a transaction that is over."""
    return branch if branch.step is None else branch._replace(step=branch.step._replace(result=b""))
