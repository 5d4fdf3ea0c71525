"""From records to what callers see, and from what they ask for to the ledger's query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, TypeAlias

from coordinator.driver.doing import Doing
from coordinator.driver.examination import Examination, Held
from coordinator.driver.waiters import Known
from coordinator.driver.workflows import Claimed
from coordinator.errors import RequestError
from coordinator.examined import ExaminationView, HeldView
from coordinator.ledger.records import BranchRecord, Decision, StepRecord, TransactionRecord, WorkflowRecord
from coordinator.ledger.table import Cursor, Page, PageQuery
from coordinator.protocols.letters import dead_letters, reason_of
from coordinator.protocols.stuck import Stuck
from coordinator.protocols.workflow import Answer
from coordinator.wire import (
    BranchView,
    FieldProblem,
    Outcome,
    OutcomeView,
    Problem,
    TransactionPage,
    TransactionView,
    handle_of,
    unpack_body,
)
from coordinator.wire_queries import AttemptView, DoingView, ListQuery
from coordinator.wire_steps import StepView, WorkflowView
from coordinator.wire_workflows import ClaimAnswer, OfferView, StepAnswer

__all__ = [
    "Judge",
    "branch_view",
    "claim_view",
    "examination_view",
    "outcome_view",
    "page_query_of",
    "page_view",
    "problem_of",
    "step_view",
    "transaction_view",
]

Judge: TypeAlias = Callable[[TransactionRecord], Stuck | None]
"""What is wrong with a transaction now (`driver.watch.Watch.stuck`)."""

_OUTCOMES = {Decision.COMMIT: Outcome.COMMITTED, Decision.ABORT: Outcome.ABORTED, None: Outcome.DECIDING}


def outcome_view(known: Known) -> OutcomeView:
    """What is known, *deciding* if that is nothing."""
    outcome = _OUTCOMES[known.decision]
    aborted = outcome is Outcome.ABORTED
    return OutcomeView(
        gid=known.gid,
        outcome=outcome,
        reason=(known.reason or known.by) if aborted else None,
        branch=known.culprit if aborted else None,
        handle=handle_of(known.gid) if outcome is Outcome.DECIDING else None,
    )


def transaction_view(
    record: TransactionRecord, judge: Judge | None = None, doing: Doing | None = None, *, is_alone: bool = False
) -> TransactionView:
    """The whole record, what `judge` finds wrong with it, and what is being done about it. Results of steps, which may
    be large, only if it is shown alone."""
    stuck = None if judge is None else judge(record)
    decided = record.decision is not None
    return TransactionView(
        gid=record.gid,
        outcome=_OUTCOMES[record.decision],
        phase=record.phase,
        path=record.path,
        branches=[branch_view(branch, refused, is_alone=is_alone) for branch, refused in _with_refusals(record)],
        deadline_ms=record.deadline_ms,
        begun_at_ms=record.begun_at_ms,
        decided_at_ms=record.decided_at_ms if decided else None,
        decided_by=record.decided_by if decided else None,
        reason=record.reason or None,
        branch=record.culprit,
        revision=record.revision,
        key=record.key or None,
        notify=record.notify or None,
        notified=record.notified,
        notice_dropped=record.notice_dropped or None,
        doing=None if doing is None else _doing_view(doing),
        stuck=None if stuck is None else stuck.why,
        workflow=None if record.workflow is None else _workflow_view(record.workflow),
    )


def _workflow_view(workflow: WorkflowRecord) -> WorkflowView:
    result = unpack_body(workflow.result)
    return WorkflowView(name=workflow.name, result=result, diverged=workflow.diverged or None)


def _doing_view(doing: Doing) -> DoingView:
    attempts = [
        AttemptView(
            branch=each.to or None,
            asks=each.asks,
            times=each.times,
            under_way=each.is_under_way,
            heard=each.heard,
            error=each.error or None,
        )
        for each in doing.attempts
    ]
    return DoingView(attempts=attempts, next_ms=None if doing.next_s is None else int(doing.next_s * 1_000))


def branch_view(branch: BranchRecord, refused: str | None = None, *, is_alone: bool = True) -> BranchView:
    """One branch of a record; with its result, if the record is not one of many. `refused`: why, of a workflow's."""
    fields = _branch_fields(branch, refused)
    if is_alone and branch.step is not None and branch.step.result:
        fields["step"] = fields["step"].model_copy(update={"result": unpack_body(branch.step.result)})
    return BranchView(**fields)


def _with_refusals(record: TransactionRecord) -> Iterator[tuple[BranchRecord, str | None]]:
    asked = () if record.workflow is None else record.workflow.asked
    for branch, each in zip_longest(record.branches, asked):
        yield branch, None if each is None else each.refused


def _branch_fields(branch: BranchRecord, refused: str | None = None) -> dict[str, Any]:
    return {
        "branch": branch.branch,
        "participant": branch.participant,
        "action": branch.action,
        "ended": branch.ended,
        "step": None if branch.step is None else _step_view(branch, branch.step, refused),
    }


def _delivery_fields(branch: BranchRecord) -> dict[str, Any]:
    delivery = None if branch.step is None else branch.step.delivery
    if delivery is None:
        return {}
    is_dead = delivery.dead and not delivery.dropped
    return {
        "order_key": delivery.key or None,
        "awaits_turn": not (delivery.turn or delivery.dead or branch.ended),
        "dead": reason_of(branch) if is_dead and not branch.ended else None,
        "word": delivery.word or None,
    }


def _step_view(branch: BranchRecord, step: StepRecord, refused: str | None) -> StepView:
    reporting = step.reporting
    return StepView(
        mode=step.mode,
        after=list(step.after),
        confirm=step.confirm,
        undo=step.undo,
        done=step.done,
        attempt=step.attempt,
        settling=step.settling,
        not_before_ms=step.not_before_ms,
        awaits_report=reporting is not None and reporting.begun and reporting.heard is None,
        reported=None if reporting is None else reporting.heard,
        **_delivery_fields(branch),
        refused=refused,
    )


def examination_view(examined: Examination) -> ExaminationView:
    """The record's branches, and what is held of them."""
    record = examined.record
    branches = [_held_view(held) for held in examined.held]
    return ExaminationView(gid=record.gid, phase=record.phase, decision=record.decision, branches=branches)


def _held_view(held: Held) -> HeldView:
    answer = held.answer
    return HeldView(
        **_branch_fields(held.branch),
        state=None if answer is None else answer.state,
        reason=None if answer is None else answer.reason or None,
        error=held.error or None,
        damage=held.damage or None,
    )


def page_view(page: Page, judge: Judge | None = None) -> TransactionPage:
    """One page; its cursor is text that `page_query_of` reads."""
    cursor = None if page.cursor is None else f"{page.cursor[0]}.{page.cursor[1]}"
    return TransactionPage(transactions=[transaction_view(record, judge) for record in page.records], cursor=cursor)


def claim_view(claimed: Claimed) -> ClaimAnswer:
    """What a worker is to run."""
    return ClaimAnswer(offers=[_offer_view(record) for record in claimed.offers], lost=list(claimed.lost))


def _offer_view(record: TransactionRecord) -> OfferView:
    workflow = record.workflow
    if workflow is None:
        raise ValueError(f"{record.gid} is no workflow")
    return OfferView(
        gid=record.gid,
        workflow=workflow.name,
        input=unpack_body(workflow.input),
        begun_at_ms=record.begun_at_ms,
        steps=len(workflow.asked),
    )


def step_view(record: TransactionRecord, number: int, answer: Answer) -> StepAnswer:
    """What has become of a workflow's step."""
    asked = () if record.workflow is None else record.workflow.asked[number - 1 : number]
    at_ms = asked[0].at_ms if asked else 0
    return StepAnswer(state=answer.state, result=answer.result, reason=answer.reason, at_ms=at_ms)


def problem_of(error: RequestError, path: str, request_id: str) -> Problem:
    """The problem document of an error (RFC 9457)."""
    return Problem(
        type=f"urn:commitd:problem:{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=path,
        code=error.code,
        retry_safe=error.retry_safe,
        retry_after_s=error.retry_after_s,
        request_id=request_id,
        errors=[FieldProblem(field=wrong.field, detail=wrong.detail) for wrong in error.fields],
    )


def page_query_of(query: ListQuery, judge: Judge | None = None) -> PageQuery:
    """What a caller's query asks of the ledger."""
    return PageQuery(
        limit=query.limit,
        after=_cursor_of(query.cursor),
        phases=frozenset(query.phase) or None,
        participant=query.participant,
        begun_from_ms=query.begun_after_ms,
        begun_before_ms=query.begun_before_ms,
        key=query.key,
        also=_also(query, judge),
    )


def _also(query: ListQuery, judge: Judge | None) -> Callable[[TransactionRecord], bool] | None:
    is_stuck = judge if query.stuck else None
    if is_stuck is None and not query.dead:
        return None
    return lambda record: (
        (is_stuck is None or is_stuck(record) is not None)
        and (not query.dead or (not record.finished and bool(dead_letters(record))))
    )


def _cursor_of(text: str | None) -> Cursor | None:
    if text is None:
        return None
    begun_at_ms, _, gid = text.partition(".")
    return int(begun_at_ms), gid
