"""Transactions that go step by step: sagas, TCC and messages, and any mixture of them. What comes next; pure.

The decision is made as in two-phase commit, and is as final: when all that comes before it has succeeded, or when some
of that has been refused for good, or is late. What each branch is asked before it and behind it stands in
`protocols.modes`. Rules:

- Nothing is called before the record of the steps is there: what has run must be undone, whoever leads by then.
- A step is called when those that it comes after have succeeded, and the results that it takes are recorded.
- The pivot is called last. While it may have been called, there is no abort unless it has been prevented: its own
  answer is the decision, as that of the last agent of two-phase commit (Gray, "Notes on Data Base Operating Systems",
  1978, section 5.8.3.3).
- What is undone, is undone after all that came after it. A step that may have run is prevented first; what that brings
  says whether there is anything to undo.
- Behind the decision nothing may fail: what is refused then is begun anew until it is not, and a person is told. What
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
from coordinator.protocols.modes import Does, attempt_name, rules_of, step_of
from coordinator.protocols.retry import Backoff, delay_s
from coordinator.protocols.todo import BACKOFF, BACKOFF_DECIDED, Todo
from coordinator.protocols.two_phase import SETTLED, Plan, begin_of, clean, contradictions
from participant.values import merged, packed
from participant.wire import CONFLICT, BranchState, Verb

__all__ = ["REFUSALS_MAX", "decide"]

REFUSALS_MAX = 5  # behind the decision; with so many, one after the other, a person is told

_DONE = Step(done=True)
_SETTLED = frozenset((BranchState.COMMITTED, BranchState.READ_ONLY))
_NOTHING_TO_UNDO = frozenset((BranchState.ABORTED, BranchState.READ_ONLY))
_VERBS = {Does.COMMIT: Verb.COMMIT, Does.ABORT: Verb.ABORT}


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction; see `protocols.two_phase.decide`."""
    if record is None:
        return _DONE if plan is None else _begin(plan, Todo(facts, now, BACKOFF))
    if record.finished or (plan is not None and plan.digest != record.digest):
        return _DONE  # of another request of this gid, nothing was called
    if record.phase is Phase.PREPARING:
        return _advance(record, Todo(facts, now, BACKOFF))
    return _settle(record, Todo(facts, now, BACKOFF_DECIDED))


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
    def is_last(self) -> bool:
        return self.step.attempt >= self.step.retry.attempts_max


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
    pivot = next((each for each in steps.values() if each.step.mode is Mode.PIVOT), None)
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
    elif late and pivot is not None:
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

    That a branch has refused says that the pivot was not called, unless it is the pivot.
    """
    gid = record.gid
    if all(each.is_done for each in steps.values()):
        return Decide(gid, Decision.COMMIT, BY_VOTES, at_ms=0, done=_settled_by_commit(record, steps))
    refused = next((each for each in steps.values() if each.is_refused and (late or each.is_last)), None)
    done = _settled_by_abort(record, steps)
    if refused is not None and refused.known.question is not Verb.PREVENT:
        reason = clean(refused.known.reason) or "refused"
        return Decide(gid, Decision.ABORT, BY_VOTES, 0, reason, refused.branch.branch, done)
    if refused is not None or (late and not has_pivot):
        open_ = ", ".join(
            f"{each.branch.branch} at {each.branch.participant}" for each in steps.values() if not each.is_done
        )
        why = expiry or Expiry(BY_DEADLINE, f"not done within {record.deadline_ms} ms: {open_}")
        return Decide(gid, Decision.ABORT, why.by, at_ms=0, reason=clean(why.reason), done=done)
    return None


def _settled_by_commit(record: TransactionRecord, steps: _Steps) -> tuple[str, ...]:
    """The branches to which nothing is owed once it is decided to commit."""
    return tuple(
        branch.branch
        for branch in record.branches
        if rules_of(branch).on_commit is None
        or (branch.branch in steps and steps[branch.branch].known.state is BranchState.READ_ONLY)
    )


def _settled_by_abort(record: TransactionRecord, steps: _Steps) -> tuple[str, ...]:
    """The branches to which nothing is owed once it is decided to abort: they have refused, or were never called."""
    settled = {branch.branch for branch in record.branches if rules_of(branch).on_abort is None}
    settled |= {name for name, each in steps.items() if each.known.state is BranchState.READ_ONLY}
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

    It waits for results that are needed behind it. All else is noted when it costs nothing, so that a later leader need
    not ask again.
    """
    taken = _taken(record)
    waits = False
    for name, each in steps.items():
        step = each.step
        if each.is_refused and verdict is None and not late:
            todo.propose(Progress(record.gid, name, step.attempt, Heard.REFUSED), Haste.NOW)
        elif each.is_done and not step.done:
            is_taken = name in taken
            if is_taken or (verdict is None and not todo.facts.is_proposing):
                kept = packed(each.known.result, "result") if is_taken else b""
                haste = Haste.SOON if is_taken else Haste.LATER
                todo.propose(Progress(record.gid, name, step.attempt, Heard.DONE, kept), haste)
            waits |= is_taken and verdict is not None and verdict.decision is Decision.COMMIT
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
    if not all(steps[source].step.done for _, source in step.takes if source != name):
        return False
    return _is_rested(name, each.does, step.attempt, step.retry, todo)


def _is_rested(name: str, does: Does, attempt: int, retry: Retry, todo: Todo) -> bool:
    """Whether enough time has passed since the attempt before was refused."""
    if attempt == 1:
        return True
    former = todo.facts.of(attempt_name(name, does, attempt - 1))
    window = Backoff(retry.base_ms / 1000, retry.cap_ms / 1000)
    due_at = former.ended_at + delay_s(window, attempt - 1, former.draw)
    if todo.now < due_at:
        todo.wake(due_at)
    return todo.now >= due_at


def _call_before(record: TransactionRecord, each: _Before, todo: Todo) -> None:
    if each.does is Does.PREPARE:
        todo.call(each.attempt, each.known, Verb.PREPARE)
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

    One End names all that have, unless another is just being asked: then it waits for that.
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
    is_asking = bool(todo.effects) or todo.facts.is_asking_first()
    if confirmed and not is_asking:
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
                other.branch in settled or rules_of(other).before is not None
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
            if ran.state in _NOTHING_TO_UNDO:
                return True
            if ran.state is not BranchState.COMMITTED:
                todo.call(attempt, ran, Verb.PREVENT)
                return False
            return _has_run(record, branch, does, packed(ran.result, "result"), todo)
    return _has_run(record, branch, does, step.result, todo)


def _has_run(record: TransactionRecord, branch: BranchRecord, does: Does, own: bytes, todo: Todo) -> bool:
    """Whether an action behind the decision has run; if not, see to it. What is refused is begun anew."""
    step = step_of(branch)
    attempt = attempt_name(branch.branch, does, step.settling)
    known = todo.facts.of(attempt)
    if known.state in _SETTLED:
        return True
    if _needs_person(branch, does, todo.facts):
        who = f"branch {branch.branch} at {branch.participant}"
        todo.contradictions.append(f"{who} has refused {step.settling - 1} times to {does}: it needs a person")
    if known.state is BranchState.ABORTED:
        todo.propose(Progress(record.gid, branch.branch, step.settling, Heard.UNSETTLED), Haste.NOW)
    elif _is_rested(branch.branch, does, step.settling, step.retry, todo):
        action = {Does.RUN: branch.action, Does.CONFIRM: step.confirm, Does.UNDO: step.undo}[does]
        body = _body(record, branch, None if does is Does.RUN else own)
        todo.call(attempt, known, Verb.COMMIT, one_phase=True, work=Work(action or "", body))
    return False


def _needs_person(branch: BranchRecord, does: Does, facts: Facts) -> bool:
    """Whether the last attempts, as far as this leader has heard of them, were refused, and not for a conflict: that
    ends by itself."""
    settling = step_of(branch).settling
    if settling <= REFUSALS_MAX:
        return False
    last = (facts.of(attempt_name(branch.branch, does, n)) for n in range(settling - REFUSALS_MAX, settling))
    return all(known.state is BranchState.ABORTED and not known.reason.startswith(CONFLICT) for known in last)
