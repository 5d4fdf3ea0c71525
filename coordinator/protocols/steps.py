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
- What is undone, is undone after all that came after it. A step that may have run is prevented first; what that brings
  says whether there is anything to undo.
- Behind the decision nothing may fail: what is refused then is begun anew until it is not; see `protocols.stuck`. What
  is prepared at a participant is told first, because what else is to be done there may need its rows.

A new leader asks again whatever the record does not hold; see `protocols.two_phase`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from coordinator.effects import Haste, Step, Work
from coordinator.facts import YES_STATES, BranchFacts, Expiry, Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_VOTES, Decide, End, Heard, Progress
from coordinator.ledger.records import BranchRecord, Decision, Mode, Phase, Retry, StepRecord, TransactionRecord
from coordinator.protocols.modes import DECIDING, Does, attempt_name, rules_of, step_of
from coordinator.protocols.retry import Backoff, delay_s
from coordinator.protocols.todo import BACKOFF, Todo
from coordinator.protocols.two_phase import SETTLED, Plan, begin_of, clean, contradictions
from participant.values import merged, packed
from participant.wire import CONFLICT, BranchState, Verb

__all__ = ["decide"]

REFUSALS_MAX = 5  # behind the decision; with so many, a caller's haste does not last
REFUSED_BACKOFF = Backoff(base_s=1.0, cap_s=15.0)  # between the attempts that follow, at least
CONFLICTS_MAX = 4  # attempts that do not count, because other transactions were in the way

_DONE = Step(done=True)
_SETTLED = frozenset((BranchState.COMMITTED, BranchState.READ_ONLY))
_VERBS = {Does.COMMIT: Verb.COMMIT, Does.ABORT: Verb.ABORT}


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction; see `protocols.two_phase.decide`."""
    if record is None:
        return _DONE if plan is None else _begin(plan, Todo(facts, now, BACKOFF))
    if record.ended or (plan is not None and plan.digest != record.digest):
        return _DONE  # of another request of this gid, nothing was called
    if record.phase is Phase.PREPARING:
        return _advance(record, Todo(facts, now, BACKOFF))
    return _settle(record, Todo(facts, now, BACKOFF))  # a participant that comes back does not ask for steps


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
        yes = YES_STATES if self.does is Does.PREPARE else _SETTLED
        return self.step.done or self.known.state in yes

    @property
    def is_refused(self) -> bool:
        return not self.is_done and self.known.state is BranchState.ABORTED

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
        if does is not None:
            attempt = attempt_name(branch.branch, does, step.attempt)
            found[branch.branch] = _Before(branch, step, does, attempt, facts.of(attempt))
    return found


def _advance(record: TransactionRecord, todo: Todo) -> Step:
    """Before the decision: call what is due, record what has succeeded, and decide when all has, or cannot any more."""
    steps = _before(record, todo.facts)
    pivot = next((each for each in steps.values() if each.step.mode in DECIDING), None)
    deadline = todo.facts.started_at + record.deadline_ms / 1000
    late = todo.now >= deadline or todo.facts.expiry is not None
    if pivot is not None and pivot.is_done:
        late = False  # it is decided; what is not known here of the others will be again
    if todo.now < deadline:
        todo.wake(deadline)
    verdict = _verdict(record, steps, pivot is not None, late, todo.facts.expiry)
    noting = _note(record, steps, late, verdict, todo)
    if verdict is not None:
        if not noting:
            todo.propose(verdict, Haste.NOW)
    elif pivot is not None and (late or pivot.is_misunderstood):
        todo.call(pivot.attempt, pivot.known, Verb.PREVENT)
    else:
        for each in steps.values():
            if not each.is_done and not each.is_refused and _is_due(each, steps, todo):
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
    refused = next((each for each in steps.values() if _is_final(each, late)), None)
    if refused is not None and (refused.known.question is not Verb.PREVENT or not late):
        reason = clean(refused.known.reason) or "refused"
        done = _settled_by_abort(record, steps)
        return Decide(gid, Decision.ABORT, BY_VOTES, 0, reason, refused.branch.branch, done)
    if refused is not None or (late and not has_pivot):
        open_ = ", ".join(
            f"{each.branch.branch} at {each.branch.participant}" for each in steps.values() if not each.is_done
        )
        done = _settled_by_abort(record, steps)
        why = expiry or Expiry(BY_DEADLINE, f"not done within {record.deadline_ms} ms: {open_}")
        return Decide(gid, Decision.ABORT, why.by, at_ms=0, reason=clean(why.reason), done=done)
    return None


def _is_final(each: _Before, late: bool) -> bool:
    """Whether a branch will not succeed any more. Of a pivot, only its own no says so."""
    if each.is_misunderstood:
        return each.step.mode not in DECIDING
    return each.is_refused and (late or each.is_last)


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
    settled |= _with_followers(record, (name for name, each in steps.items() if each.is_refused))
    return tuple(branch.branch for branch in record.branches if branch.branch in settled)


def _with_followers(record: TransactionRecord, names: Iterable[str]) -> set[str]:
    """These branches, and all that come after one of them, be it through others."""
    found = set(names)
    for branch in record.branches:  # each stands behind what it comes after
        if not found.isdisjoint(step_of(branch).after):
            found.add(branch.branch)
    return found


def _note(record: TransactionRecord, steps: _Steps, late: bool, verdict: Decide | None, todo: Todo) -> bool:
    """Let the log hold how far the steps have come; whether the decision must wait for it.

    It waits for results that are needed behind it. All else is noted when it costs nothing, but before an abort: then a
    later leader need not ask again, when a participant may have forgotten.
    """
    taken = _taken(record)
    waits = False
    for name, each in steps.items():
        step = each.step
        if each.is_refused and verdict is None and not late:
            todo.propose(Progress(record.gid, name, step.attempt, Heard.REFUSED), Haste.NOW)
        elif each.is_done and not step.done:
            is_taken = name in taken
            commits = verdict is not None and verdict.decision is Decision.COMMIT
            if is_taken or not commits:
                kept = packed(each.known.result, "result") if is_taken else b""
                haste = Haste.SOON if is_taken else Haste.LATER
                todo.propose(Progress(record.gid, name, step.attempt, Heard.DONE, kept), haste)
            waits |= is_taken and commits
    return waits


def _taken(record: TransactionRecord) -> set[str]:
    """The branches whose results somebody takes."""
    return {source for branch in record.branches for _, source in step_of(branch).takes}


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
    return _is_rested(name, each.does, step.attempt, _window(step.retry), todo)


def _window(retry: Retry) -> Backoff:
    return Backoff(retry.base_ms / 1000, retry.cap_ms / 1000)


def _is_rested(name: str, does: Does, attempt: int, window: Backoff, todo: Todo) -> bool:
    """Whether enough time has passed since the attempt before was refused."""
    if attempt == 1:
        return True
    former = todo.facts.of(attempt_name(name, does, attempt - 1))
    due_at = former.ended_at + delay_s(window, attempt - 1, former.draw)
    if todo.now < due_at:
        todo.wake(due_at)
    return todo.now >= due_at


def _is_time(step: StepRecord, todo: Todo) -> bool:
    """Whether a step may begin, so long after the decision; what was refused has begun before."""
    if step.not_before_ms == 0 or step.settling > 1:
        return True
    seen_at = todo.now if todo.facts.decided_at is None else todo.facts.decided_at
    due_at = seen_at + step.not_before_ms / 1000
    if todo.now < due_at:
        todo.wake(due_at)
    return todo.now >= due_at


def _call_before(record: TransactionRecord, each: _Before, todo: Todo) -> None:
    if each.does is Does.PREPARE:
        todo.call(each.attempt, each.known, Verb.PREPARE)
    elif each.does is Does.FIND:
        todo.call(each.attempt, each.known, Verb.PREVENT)
    else:
        work = Work(each.branch.action or "", _body(record, each.branch))
        todo.call(each.attempt, each.known, Verb.COMMIT, one_phase=True, work=work)


def _body(record: TransactionRecord, branch: BranchRecord, own: bytes | None = None) -> bytes:
    """The body of a step with the results that it takes. `own`: its own result, where that is to be in it."""
    results = {other.branch: step_of(other).result for other in record.branches}
    if own is not None:
        results[branch.branch] = own
    takes = [(field, source) for field, source in step_of(branch).takes if own is not None or source != branch.branch]
    return merged(branch.body, {field: results[source] for field, source in takes}) if takes else branch.body


# Behind the decision.


def _settle(record: TransactionRecord, todo: Todo) -> Step:
    """Ask of each open branch what the decision asks of it, until it has done it.

    What has is noted soon, whoever else is asked for however long: a participant forgets in the end.
    """
    commits = record.phase is Phase.COMMITTING
    settled = {branch.branch for branch in record.branches if branch.ended}
    confirmed: list[str] = []
    for branch in _in_turn(record, commits):
        does = rules_of(branch).on_commit if commits else rules_of(branch).on_abort
        if branch.ended or does is None:
            continue
        if _is_free(record, branch, does, settled) and _has_done(record, branch, does, todo):
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
            return all(
                other.branch in settled or rules_of(other).on_commit is None
                for other in record.branches
                if other.branch in step_of(branch).after
            )
        case Does.UNDO:
            later = _with_followers(record, (branch.branch,)) - {branch.branch}
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
            if ran.state not in _SETTLED:
                todo.call(attempt, ran, Verb.PREVENT)
                return False
            return _has_run(record, branch, does, packed(ran.result, "result"), todo)
    return _has_run(record, branch, does, step.result, todo)


def _window_behind(step: StepRecord) -> Backoff:
    """There is no last attempt here, so that a caller's haste must not last."""
    window = _window(step.retry)
    return max(window, REFUSED_BACKOFF, key=lambda each: each.cap_s) if step.settling > REFUSALS_MAX else window


def _has_run(record: TransactionRecord, branch: BranchRecord, does: Does, own: bytes, todo: Todo) -> bool:
    """Whether an action behind the decision has run; if not, see to it. What is refused is begun anew."""
    step = step_of(branch)
    attempt = attempt_name(branch.branch, does, step.settling)
    known = todo.facts.of(attempt)
    if known.state in _SETTLED:
        return True
    if known.state is BranchState.ABORTED:
        todo.propose(Progress(record.gid, branch.branch, step.settling, Heard.UNSETTLED), Haste.NOW)
    elif _is_time(step, todo) and _is_rested(branch.branch, does, step.settling, _window_behind(step), todo):
        action = {Does.RUN: branch.action, Does.CONFIRM: step.confirm, Does.UNDO: step.undo}[does]
        body = _body(record, branch, None if does is Does.RUN else own)
        todo.call(attempt, known, Verb.COMMIT, one_phase=True, work=Work(action or "", body))
    return False
