"""What the steps before the decision and those behind it have in common: bodies, pauses, and who follows whom. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.facts import Asking, BranchFacts
from coordinator.ledger.records import BranchRecord, Retry, StepRecord, TransactionRecord
from coordinator.protocols.modes import step_of
from coordinator.protocols.reports import token_of
from coordinator.protocols.retry import Backoff, delay_s
from coordinator.protocols.todo import Todo
from participant.values import merged, packed
from participant.wire import BranchState

__all__ = ["RUN_STATES", "body_of", "has_begun", "is_rested", "taken", "window_of", "with_followers"]

RUN_STATES = frozenset((BranchState.COMMITTED, BranchState.READ_ONLY))


def has_begun(step: StepRecord, known: BranchFacts) -> bool:
    """Whether the action of a step has run; what it has begun may take longer, if that is reported."""
    return known.state in RUN_STATES or (step.reporting is not None and step.reporting.begun)


def with_followers(record: TransactionRecord, names: Iterable[str]) -> set[str]:
    """These branches, and all that come after one of them, be it through others."""
    found = set(names)
    for branch in record.branches:  # each stands behind what it comes after
        if not found.isdisjoint(step_of(branch).after):
            found.add(branch.branch)
    return found


def window_of(retry: Retry) -> Backoff:
    """The pauses that a step's declaration asks for."""
    return Backoff(retry.base_ms / 1000, retry.cap_ms / 1000, retry.jitter_percent / 100)


def is_rested(former: Asking, attempt: int, window: Backoff, todo: Todo) -> bool:
    """Whether enough time has passed since the attempt before this one was refused, which `former` knows."""
    due_at = former.ended_at + delay_s(window, attempt - 1, former.draw)
    if todo.now < due_at:
        todo.wake(due_at)
    return todo.now >= due_at


def taken(record: TransactionRecord) -> set[str]:
    """The branches whose results somebody takes: of a workflow, its code takes each."""
    if record.workflow is not None:
        return {branch.branch for branch in record.branches}
    return {source for branch in record.branches for _, source in step_of(branch).takes}


def body_of(record: TransactionRecord, branch: BranchRecord, own: bytes | None = None) -> bytes:
    """The body of a step with the results that it takes, and its token if it is reported. `own`: its own result, where
    that is to be in it."""
    step = step_of(branch)
    results = {other.branch: step_of(other).result for other in record.branches}
    if own is not None:
        results[branch.branch] = own
    takes = [(field, source) for field, source in step.takes if own is not None or source != branch.branch]
    fields = {field: results[source] for field, source in takes}
    if step.reporting is not None:
        fields[step.reporting.field] = packed(token_of(record.gid, branch.branch, step), "token")
    return merged(branch.body, fields) if fields else branch.body
