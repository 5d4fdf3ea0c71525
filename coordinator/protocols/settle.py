"""Steps behind the decision: what is confirmed, undone or sent, in which order, and until when. Pure.

- What is undone, is undone after all that came after it. A step that may have run is prevented first; what that brings
  says whether there is anything to undo.
- Nothing may fail here: what is refused is begun anew until it is not; see `protocols.stuck`.
- A message with a key is sent when it is its turn (`ledger.lines`). One that was declared so is set aside when it has
  been refused too often, or is too old, and has been tried: then a person decides (`protocols.letters`).
- What is prepared at a participant is told first, because what else is to be done there may need its rows.
"""

from __future__ import annotations

from coordinator.effects import Haste, Step, Work
from coordinator.facts import Asking, BranchFacts
from coordinator.ledger.commands import End, Heard, Progress
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Phase,
    Report,
    Reporting,
    StepRecord,
    TransactionRecord,
)
from coordinator.protocols.attempts import RUN_STATES, body_of, has_begun, is_rested, window_of, with_followers
from coordinator.protocols.letters import is_settled_letter, refusal_of, set_aside
from coordinator.protocols.modes import Does, attempt_name, rules_of, step_of
from coordinator.protocols.retry import Backoff
from coordinator.protocols.todo import Todo
from coordinator.protocols.two_phase import SETTLED, contradictions
from participant.values import packed
from participant.wire import BranchState, Verb

__all__ = ["settle"]

REFUSALS_MAX = 5  # with so many, a caller's haste does not last
REFUSED_BACKOFF = Backoff(base_s=1.0, cap_s=15.0)  # between the attempts that follow, at least

_VERBS = {Does.COMMIT: Verb.COMMIT, Does.ABORT: Verb.ABORT}


def settle(record: TransactionRecord, todo: Todo) -> Step:
    """Ask of each open branch what the decision asks of it, until it has done it.

    What has is noted soon, whoever else is asked for however long: a participant forgets in the end.
    """
    commits = record.phase is Phase.COMMITTING
    settled = {branch.branch for branch in record.branches if branch.ended}
    confirmed: list[str] = []
    for branch in _in_turn(record, commits):
        does = rules_of(branch).on_commit if commits else rules_of(branch).on_abort
        if branch.ended:
            continue
        # What is asked for nothing was recorded behind the back of who decided.
        if (
            does is None
            or is_settled_letter(branch, todo.facts)
            or (_is_free(record, branch, does, settled) and _has_done(record, branch, does, todo))
        ):
            settled.add(branch.branch)
            confirmed.append(branch.branch)
    if confirmed:
        todo.propose(End(record.gid, tuple(confirmed)), Haste.LATER)
    return todo.step()


def _in_turn(record: TransactionRecord, commits: bool) -> list[BranchRecord]:
    """Each behind those that it waits for, which stand before it in the record, or behind it if all is undone."""
    in_order = record.branches if commits else reversed(record.branches)
    return sorted(in_order, key=lambda branch: not _is_prepared(branch))


def _is_prepared(branch: BranchRecord) -> bool:
    return rules_of(branch).before is Does.PREPARE


def _is_free(record: TransactionRecord, branch: BranchRecord, does: Does, settled: set[str]) -> bool:
    """Whether it is the turn of this branch. What is prepared at the same participant goes first: it may hold rows."""
    if does not in _VERBS and any(
        _is_prepared(other) and other.participant == branch.participant and other.branch not in settled
        for other in record.branches
    ):
        return False
    match does:
        case Does.RUN:
            delivery = step_of(branch).delivery
            return (delivery is None or (delivery.turn and not delivery.dead)) and all(
                other.branch in settled or rules_of(other).on_commit is None
                for other in record.branches
                if other.branch in step_of(branch).after
            )
        case Does.UNDO:
            later = with_followers(record, (branch.branch,)) - {branch.branch}
            return all(
                other.branch in settled or rules_of(other).on_abort is None
                for other in record.branches
                if other.branch in later
            )
    return True


def _has_done(record: TransactionRecord, branch: BranchRecord, does: Does, todo: Todo) -> bool:
    """Whether a branch has done what the decision asks of it; if not, ask."""
    step = step_of(branch)
    match does:
        case Does.COMMIT | Does.ABORT:
            known = todo.facts.of(branch.branch)
            decision = Decision.COMMIT if does is Does.COMMIT else Decision.ABORT
            if known.state in SETTLED[decision]:
                return True
            todo.contradictions.extend(contradictions(branch, known.state, decision))
            todo.call(branch.branch, known, _VERBS[does])
            return False
        case Does.UNDO if not step.done:
            attempt = attempt_name(branch.branch, Does.RUN, step.attempt)
            ran = todo.facts.of(attempt)
            if ran.state is BranchState.ABORTED:
                return True
            if not has_begun(step, ran):
                todo.call(attempt, ran, Verb.PREVENT)
                return False
            return _has_run(record, branch, does, _own(step, ran), todo)
    return _has_run(record, branch, does, step.result, todo)


def _own(step: StepRecord, ran: BranchFacts) -> bytes:
    """The result of a step that is not recorded as done: of one that is reported, only a report gives one."""
    if step.reporting is None:
        return packed(ran.result, "result")
    return step.result if step.reporting.heard is Report.DONE else b""


def _is_rested(record: TransactionRecord, branch: BranchRecord, does: Does, todo: Todo) -> bool:
    """Whether enough time has passed since the attempt before was refused: by its answer, or, long after that, by a
    report. There is no last attempt here, so that a caller's haste must not last."""
    step = step_of(branch)
    if step.settling == 1:
        return True
    window = window_of(step.retry)
    if step.settling > REFUSALS_MAX:
        window = max(window, REFUSED_BACKOFF, key=lambda each: each.cap_s)
    if step.reporting is None:
        former: Asking = todo.facts.of(attempt_name(branch.branch, does, step.settling - 1))
    else:
        former = todo.facts.asking_of(Progress(record.gid, branch.branch, step.settling - 1, Heard.UNSETTLED))
    return is_rested(former, step.settling, window, todo)


def _has_run(record: TransactionRecord, branch: BranchRecord, does: Does, own: bytes, todo: Todo) -> bool:
    """Whether an action behind the decision has run; if not, see to it. What is refused is begun anew."""
    step = step_of(branch)
    attempt = attempt_name(branch.branch, does, step.settling)
    known = todo.facts.of(attempt)
    reporting = step.reporting if does is Does.RUN else None
    if reporting is not None and has_begun(step, known):
        return _is_reported(record, branch, reporting, todo)
    if known.state in RUN_STATES:
        return True
    if known.state is BranchState.ABORTED:
        todo.propose(refusal_of(record.gid, branch, known), Haste.NOW)
    elif does is Does.RUN and (note := set_aside(record.gid, branch, known, todo)) is not None:
        todo.propose(note, Haste.NOW)
    elif _is_time(step, todo) and _is_rested(record, branch, does, todo):
        action = {Does.RUN: branch.action, Does.CONFIRM: step.confirm, Does.UNDO: step.undo}[does]
        body = body_of(record, branch, None if does is Does.RUN else own)
        todo.call(attempt, known, Verb.COMMIT, one_phase=True, work=Work(action or "", body))
    return False


def _is_time(step: StepRecord, todo: Todo) -> bool:
    """Whether a step may begin, so long after the decision; what was refused has begun before."""
    if step.not_before_ms == 0 or step.settling > 1:
        return True
    seen_at = todo.now if todo.facts.decided_at is None else todo.facts.decided_at
    due_at = seen_at + step.not_before_ms / 1000
    if todo.now < due_at:
        todo.wake(due_at)
    return todo.now >= due_at


def _is_reported(record: TransactionRecord, branch: BranchRecord, reporting: Reporting, todo: Todo) -> bool:
    """Whether the work that an action has begun is done. What was reported as refused is begun anew, like an action."""
    settling = step_of(branch).settling
    if reporting.heard is Report.REFUSED:
        todo.propose(Progress(record.gid, branch.branch, settling, Heard.UNSETTLED), Haste.NOW)
    elif not reporting.begun:
        todo.propose(Progress(record.gid, branch.branch, settling, Heard.BEGUN), Haste.LATER)
    return reporting.heard is Report.DONE
