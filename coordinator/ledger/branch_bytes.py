"""The bytes of a branch in a command; see `coordinator.ledger.commands`. Pure."""

from __future__ import annotations

from typing import Any

from coordinator.ledger.errors import CommandError
from coordinator.ledger.records import (
    JITTER_DEFAULT_PERCENT,
    BranchRecord,
    Delivery,
    Mode,
    Reporting,
    Retry,
    StepRecord,
    shared_names,
)
from coordinator.ledger.shapes import (
    ARRAY,
    ARRAY_OR_NIL,
    BYTES,
    INT,
    INT_OR_NIL,
    TEXT,
    TEXT_OR_NIL,
    Shape,
    member_of,
    texts,
)

__all__ = ["branch_fields", "branch_of", "branch_with_step", "fields_with_step", "retry_fields"]

_BRANCH = Shape("branch", TEXT, TEXT, TEXT_OR_NIL, BYTES, INT_OR_NIL)
_STEP = Shape("step", TEXT, ARRAY, TEXT_OR_NIL, TEXT_OR_NIL, ARRAY, ARRAY, added=(INT, ARRAY_OR_NIL, ARRAY_OR_NIL))
_TAKE = Shape("a result that is taken", TEXT, TEXT)
_RETRY = Shape("retry", INT, INT, INT, added=(INT,))
_REPORTING = Shape("how a step is reported", TEXT, TEXT)
_DELIVERY = Shape("how a message is delivered", TEXT, INT, INT)
_DECLARED = 3  # of the fields of a delivery
_MODES = {mode.value: mode for mode in Mode}


def branch_fields(branch: BranchRecord) -> tuple[Any, ...]:
    """Of a branch without its step."""
    return (branch.branch, branch.participant, branch.action, branch.body, branch.works)


def fields_with_step(branch: BranchRecord) -> tuple[Any, ...]:
    """Of a branch of a transaction of steps. Raises CommandError if it has no step."""
    return (*branch_fields(branch), _step_fields(branch))


def _step_fields(branch: BranchRecord) -> tuple[Any, ...]:
    step = branch.step
    if step is None:
        raise CommandError(f"branch {branch.branch} has no step")
    reporting = None if step.reporting is None else (step.reporting.field, step.reporting.secret)
    added = [step.not_before_ms, reporting, None if step.delivery is None else step.delivery[:_DECLARED]]
    while added and not added[-1]:
        added.pop()
    return (step.mode, step.after, step.confirm, step.undo, step.takes, retry_fields(step.retry), *added)


def retry_fields(retry: Retry) -> tuple[int, ...]:
    """As it stands in a command: without a jitter that says nothing."""
    return retry[:3] if retry.jitter_percent == JITTER_DEFAULT_PERCENT else tuple(retry)


def branch_with_step(fields: Any) -> BranchRecord:
    """Raises CommandError."""
    if type(fields) is not tuple or len(fields) != 6 or type(fields[5]) is not tuple:
        raise CommandError("a branch of a transaction of steps is an array of 6 fields, the last one an array")
    *branch, step = fields
    _STEP.check(step)
    mode, after, confirm, undo, takes, retry, *added = step
    for take in takes:
        _TAKE.check(take if type(take) is tuple else ())
    _RETRY.check(retry)
    record = StepRecord(member_of(_MODES, mode, "mode"), texts(after), confirm, undo, takes, Retry(*retry))
    if added:
        not_before_ms, reporting, delivery = (*added, None, None)[:3]
        record = record._replace(not_before_ms=not_before_ms, reporting=_reporting(reporting))
        record = record._replace(delivery=_delivery(delivery))
    return branch_of(tuple(branch))._replace(step=record)


def _reporting(fields: tuple[Any, ...] | None) -> Reporting | None:
    if fields is None:
        return None
    _REPORTING.check(fields)
    return Reporting(*fields)


def _delivery(fields: tuple[Any, ...] | None) -> Delivery | None:
    if fields is None:
        return None
    _DELIVERY.check(fields)
    return Delivery(*fields)


def branch_of(fields: Any) -> BranchRecord:
    """Raises CommandError."""
    if type(fields) is not tuple:
        raise CommandError(f"a branch is an array, not {type(fields).__name__}")
    _BRANCH.check(fields)
    branch, participant, action, body, works = fields
    return BranchRecord(*shared_names(branch, participant, action), body, works=works)
