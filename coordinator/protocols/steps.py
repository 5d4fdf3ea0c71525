"""Transactions that go step by step: sagas, TCC and messages, and any mixture of them. What comes next; pure.

The decision is made as in two-phase commit, and is as final: when all that comes before it has succeeded, or when some
of that has been refused for good, or is late. What each branch is asked before it and behind it stands in
`protocols.modes`. Rules:

- Nothing is called before the record of the steps is there: what has run must be undone, whoever leads by then.
- A step is called when those that it comes after have succeeded, and the results that it takes are recorded.
- The pivot is called last. While it may have been called, there is no abort unless it has been prevented: its own
  answer is the decision, as that of the last agent of two-phase commit (Gray, "Notes on Data Base Operating Systems",
  1978, section 5.8.3.3).
- A source is not called, but prevented: once its sender has said that it is done, or when it is late. So a sender that
  says nothing more is asked back, at the deadline of whoever leads.
- The steps of a workflow come one by one, and whether there is one more, only its code knows. So its success is no
  decision, but its return is (`protocols.workflow`), and what is refused for good is its business; the pivot and the
  deadline are as above.
- A step that is reported (`protocols.reports`) is done when its action has run and its work is reported as done. What
  is reported as refused has failed for good; and since its action has run, it is undone like any other.

A new leader asks again whatever the record does not hold; see `protocols.two_phase`. What comes behind the decision is
in `protocols.settle`.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from coordinator.effects import Haste, Step, Work
from coordinator.facts import YES_STATES, BranchFacts, Expiry, Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_VOTES, Decide, Heard, Progress
from coordinator.ledger.records import BranchRecord, Decision, Mode, Phase, Report, StepRecord, TransactionRecord
from coordinator.protocols.attempts import body_of, has_begun, is_rested, taken, window_of, with_followers
from coordinator.protocols.modes import DECIDING, Does, attempt_name, rules_of, step_of
from coordinator.protocols.settle import settle
from coordinator.protocols.todo import BACKOFF, Todo
from coordinator.protocols.two_phase import Plan, begin_of, clean
from coordinator.protocols.workflow import refusal
from participant.values import packed, unpacked
from participant.wire import CONFLICT, BranchState, Verb

__all__ = ["decide"]

CONFLICTS_MAX = 4  # attempts that do not count, because other transactions were in the way

_DONE = Step(done=True)


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction; see `protocols.two_phase.decide`."""
    if record is None:
        return _DONE if plan is None else _begin(plan, Todo(facts, now, BACKOFF))
    if record.ended or (plan is not None and plan.digest != record.digest):
        return _DONE  # of another request of this gid, nothing was called
    if record.phase is Phase.PREPARING:
        return _advance(record, Todo(facts, now, BACKOFF))
    return settle(record, Todo(facts, now, BACKOFF))  # a participant that comes back does not ask for steps


def _begin(plan: Plan, todo: Todo) -> Step:
    todo.propose(begin_of(plan), Haste.NOW)
    return todo.step()


class _Before(NamedTuple):
    """A branch before the decision: what it is asked, as which attempt, and what is known of that."""

    branch: BranchRecord
    step: StepRecord
    does: Does
    attempt: str
    known: BranchFacts

    @property
    def is_done(self) -> bool:
        if self.step.done or self.does is Does.PREPARE:
            return self.step.done or self.known.state in YES_STATES
        reporting = self.step.reporting
        return self.has_begun and (reporting is None or reporting.heard is Report.DONE)

    @property
    def has_begun(self) -> bool:
        """Whether its action has run, be it done by that or not."""
        return has_begun(self.step, self.known)

    @property
    def is_refused(self) -> bool:
        return not self.is_done and self.known.state is BranchState.ABORTED

    @property
    def is_declined(self) -> bool:
        """Whether its work was reported as refused, though its action has run."""
        return self.has_begun and self.step.reporting is not None and self.step.reporting.heard is Report.REFUSED

    @property
    def has_only_read(self) -> bool:
        """Whether it is prepared without anything to commit. What runs is undone whatever it has written."""
        return self.does is Does.PREPARE and self.known.state is BranchState.READ_ONLY

    @property
    def is_last(self) -> bool:
        """Whether there is no attempt after this one. Some more are free if others were in the way of an action. A vote
        is asked for once: by the name of that attempt the branch asks how it is to end."""
        free = CONFLICTS_MAX if self.does is Does.RUN and self.known.reason.startswith(CONFLICT) else 0
        return self.step.attempt >= self.step.retry.attempts_max + free

    @property
    def is_misunderstood(self) -> bool:
        """Whether it was answered that nothing was done, and never will be for such a request. That is no refusal: an
        earlier request may have been understood."""
        return not self.is_done and self.known.state is BranchState.UNKNOWN


_Steps: TypeAlias = dict[str, _Before]


def _before(record: TransactionRecord, facts: Facts) -> _Steps:
    """The branches that are asked something before the decision, by name."""
    found: _Steps = {}
    for branch in record.branches:
        step, does = step_of(branch), rules_of(branch).before
        if does is not None and not branch.ended:
            attempt = attempt_name(branch.branch, does, step.attempt)
            found[branch.branch] = _Before(branch, step, does, attempt, facts.of(attempt))
    return found


def _advance(record: TransactionRecord, todo: Todo) -> Step:
    """Before the decision: call what is due, record what has succeeded, and decide when all has, or cannot any more."""
    steps = _before(record, todo.facts)
    pivot = next((each for each in steps.values() if each.step.mode in DECIDING), None)
    deadline = todo.facts.started_at + record.deadline_ms / 1000
    late = todo.now >= deadline or todo.facts.expiry is not None
    returns = record.workflow is None
    if pivot is not None and pivot.is_done:
        returns |= late  # nobody waits for its code any longer
        late = False  # it is decided; what is not known here of the others will be again
    if todo.now < deadline:
        todo.wake(deadline)
    verdict = _verdict(record, steps, pivot is not None, late, todo.facts.expiry)
    if verdict is not None and verdict.decision is Decision.COMMIT and not returns:
        verdict = _overdue(record, steps, todo.facts.expiry) if late else None
    noting = _note(record, steps, late, verdict, todo)
    if verdict is not None:
        if not noting:
            todo.propose(verdict, Haste.NOW)
    elif pivot is not None and (late or pivot.is_misunderstood):
        todo.call(pivot.attempt, pivot.known, Verb.PREVENT)
    else:
        for each in steps.values():
            if not each.has_begun and not each.is_done and not each.is_refused and _is_due(each, steps, todo):
                _call_before(record, each, todo)
    return todo.step()


def _verdict(
    record: TransactionRecord, steps: _Steps, has_pivot: bool, late: bool, expiry: Expiry | None
) -> Decide | None:
    """The decision that follows from what has succeeded, from what was refused, or from the time; else None.

    That a branch has refused says that the pivot was not called, unless it is the pivot. Who was prevented before it
    was late, is a source.
    """
    gid = record.gid
    if all(each.is_done for each in steps.values()):
        return Decide(gid, Decision.COMMIT, BY_VOTES, at_ms=0, done=_settled_by_commit(record, steps))
    declined = next((each for each in steps.values() if each.is_declined), None)
    if declined is not None:
        reason = clean(str(unpacked(declined.step.result))) or "refused"
        done = _settled_by_abort(record, steps)
        return Decide(gid, Decision.ABORT, BY_VOTES, 0, reason, declined.branch.branch, done)
    is_code = record.workflow is not None
    refused = next((each for each in steps.values() if _is_final(each, late, is_code)), None)
    if refused is not None and (refused.known.question is not Verb.PREVENT or not late):
        reason = clean(refused.known.reason) or "refused"
        done = _settled_by_abort(record, steps)
        return Decide(gid, Decision.ABORT, BY_VOTES, 0, reason, refused.branch.branch, done)
    return _overdue(record, steps, expiry) if refused is not None or (late and not has_pivot) else None


def _overdue(record: TransactionRecord, steps: _Steps, expiry: Expiry | None) -> Decide:
    """It is too late, or somebody says so."""
    silent = [f"{each.branch.branch} at {each.branch.participant}" for each in steps.values() if not each.is_done]
    open_ = ", ".join(silent) or "its code has not returned"
    why = expiry or Expiry(BY_DEADLINE, f"not done within {record.deadline_ms} ms: {open_}")
    done = _settled_by_abort(record, steps)
    return Decide(record.gid, Decision.ABORT, why.by, at_ms=0, reason=clean(why.reason), done=done)


def _is_final(each: _Before, late: bool, is_code: bool) -> bool:
    """Whether a branch will not succeed any more, and nothing else is tried. Of a pivot, only its own no says so."""
    if each.is_misunderstood:
        return each.step.mode not in DECIDING
    return each.is_refused and (late or (each.is_last and not is_code))


def _settled_by_commit(record: TransactionRecord, steps: _Steps) -> tuple[str, ...]:
    """The branches to which nothing is owed once it is decided to commit."""
    return tuple(
        branch.branch
        for branch in record.branches
        if rules_of(branch).on_commit is None or (branch.branch in steps and steps[branch.branch].has_only_read)
    )


def _settled_by_abort(record: TransactionRecord, steps: _Steps) -> tuple[str, ...]:
    """The branches to which nothing is owed once it is decided to abort: they have refused, or were never called."""
    settled = {branch.branch for branch in record.branches if rules_of(branch).on_abort is None}
    settled |= {name for name, each in steps.items() if each.has_only_read}
    settled |= with_followers(record, (name for name, each in steps.items() if each.is_refused))
    declined = {name for name, each in steps.items() if each.is_declined}
    settled |= with_followers(record, declined) - declined
    return tuple(branch.branch for branch in record.branches if branch.branch in settled)


def _note(record: TransactionRecord, steps: _Steps, late: bool, verdict: Decide | None, todo: Todo) -> bool:
    """Let the log hold how far the steps have come; whether the decision must wait for it.

    It waits for results that are needed behind it. All else is noted when it costs nothing, but before an abort: then a
    later leader need not ask again, when a participant may have forgotten.
    """
    results = taken(record)
    waits = False
    for name, each in steps.items():
        step = each.step
        if each.is_refused and verdict is None and not late:
            reason = clean(each.known.reason)
            todo.propose(refusal(record, name, step.attempt, reason, is_last=each.is_last), Haste.NOW)
        elif step.reporting is not None:
            if each.has_begun and not step.reporting.begun:
                todo.propose(Progress(record.gid, name, step.attempt, Heard.BEGUN), Haste.LATER)
        elif each.is_done and not step.done:
            is_taken = name in results
            commits = verdict is not None and verdict.decision is Decision.COMMIT
            if is_taken or not commits:
                kept = packed(each.known.result, "result") if is_taken else b""
                haste = Haste.LATER if not is_taken else Haste.SOON if record.workflow is None else Haste.NOW
                todo.propose(Progress(record.gid, name, step.attempt, Heard.DONE, kept), haste)
            waits |= is_taken and commits
    return waits


def _is_due(each: _Before, steps: _Steps, todo: Todo) -> bool:
    """Whether a step may be called: all that it comes after is done, and what it takes is in the record."""
    step, name = each.step, each.branch.branch
    others = (other for other in steps if other != name) if step.mode is Mode.PIVOT else step.after
    if not all(steps[other].is_done for other in others):
        return False
    if each.does is Does.FIND:
        return todo.facts.submitted
    if not all(steps[source].step.done for _, source in step.takes if source != name):
        return False
    former = todo.facts.of(attempt_name(name, each.does, step.attempt - 1))
    return step.attempt == 1 or is_rested(former, step.attempt, window_of(step.retry), todo)


def _call_before(record: TransactionRecord, each: _Before, todo: Todo) -> None:
    if each.does is Does.PREPARE:
        todo.call(each.attempt, each.known, Verb.PREPARE)
    elif each.does is Does.FIND:
        todo.call(each.attempt, each.known, Verb.PREVENT)
    else:
        work = Work(each.branch.action or "", body_of(record, each.branch))
        todo.call(each.attempt, each.known, Verb.COMMIT, one_phase=True, work=work)
