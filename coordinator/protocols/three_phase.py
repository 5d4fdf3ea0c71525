"""Three-phase commit: what comes next for one transaction. Pure: no clock, chance or await.

Two-phase commit leaves a participant that has voted yes waiting for as long as no coordinator speaks. Here a phase lies
between the votes and the decision: *CanCommit* (prepare), *PreCommit*, *DoCommit* (Skeen, "Nonblocking Commit
Protocols", SIGMOD 1981). A participant that hears nothing more can then end the transaction with its peers
(`participant.termination`).

1. The votes are asked for, as in two-phase commit on the classic path. Until the record says *precommitting* the
   coordinator may abort, for a no or for being late.
2. Every vote a yes: *precommitting* goes through the log, and only then is a participant asked to precommit. From here
   on the coordinator alone may not abort: a majority of the participants may have committed already.
3. A majority has precommitted, in the coordinators' ballot: that is the decision, whoever else speaks, and it goes
   through the log. Then everybody is told.

The coordinators never take a higher ballot. If the participants have begun a termination while no coordinator spoke,
they bring it to its end, and the coordinator *follows*: what one of them says it has come to goes into the log as
decided *by participants*. A new leader that finds *precommitting* asks everybody to precommit again.

With `Path.UNSAFE_COMMIT_ON_SILENCE` a participant acts on its own silence. So the textbook's coordinator, too, commits
once *all* have precommitted, or once it is late: whoever has not answered is taken for dead.
"""

from __future__ import annotations

from coordinator.effects import Haste, Step
from coordinator.facts import YES_STATES, Facts
from coordinator.ledger.commands import BY_PARTICIPANTS, BY_VOTES, Begin, Decide, Precommit
from coordinator.ledger.records import Decision, Path, Phase, TransactionRecord
from coordinator.protocols.todo import BACKOFF, BACKOFF_DECIDED, Todo
from coordinator.protocols.two_phase import Plan, begin_of, clean, finish, verdict_of, withdraw
from participant.termination import majority
from participant.wire import BranchState, Verb

__all__ = ["decide"]

_DONE = Step(done=True)


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction; see `protocols.two_phase.decide`."""
    todo = Todo(facts, now, BACKOFF if record is None or record.decision is None else BACKOFF_DECIDED)
    if record is None:
        return _DONE if plan is None else _collect(plan, begin_of(plan), todo)
    if plan is not None and plan.digest != record.digest:
        return withdraw(plan, record, todo)
    match record.phase:
        case Phase.PREPARING:
            return _collect(record, None, todo)
        case Phase.PRECOMMITTING:
            return _precommit(record, todo)
    return _DONE if record.ended else finish(record, todo)


def _collect(work: Plan | TransactionRecord, begin: Begin | None, todo: Todo) -> Step:
    """Phase one: the record of the branches (unless it is there) and the votes at once; then the next phase."""
    deadline = todo.facts.started_at + work.deadline_ms / 1000
    late = todo.now >= deadline or todo.facts.expiry is not None
    votes = [(branch, todo.facts.of(branch.branch)) for branch in work.branches]
    verdict = verdict_of(work, votes, late, todo.facts.expiry)
    if begin is not None:
        todo.propose(begin, Haste.NOW)
    elif verdict is not None:
        todo.propose(verdict if verdict.decision is Decision.ABORT else Precommit(work.gid), Haste.NOW)
    if verdict is None:
        for branch, known in votes:
            if known.state not in YES_STATES:
                todo.call(branch.branch, known, Verb.PREPARE)
        if not late:
            todo.wake(deadline)
    return todo.step()


def _precommit(record: TransactionRecord, todo: Todo) -> Step:
    """Phase two: ask everybody to precommit, until enough have, or one says how they have ended it."""
    decision = _followed(record, todo.facts) or _decided(record, todo)
    if decision is not None:
        todo.propose(decision, Haste.NOW)
        return todo.step()
    for branch in record.branches:
        known = todo.facts.of(branch.branch)
        if not known.precommitted:
            if known.state is BranchState.UNKNOWN:
                who = f"branch {branch.branch} at {branch.participant}"
                todo.contradictions.append(f"{who} knows nothing of a yes that it voted, and does not precommit")
            todo.call(branch.branch, known, Verb.PRECOMMIT)
    return todo.step()


def _followed(record: TransactionRecord, facts: Facts) -> Decide | None:
    """What the participants have decided among themselves, if one of them has said so."""
    for branch in record.branches:
        known = facts.of(branch.branch)
        if known.state is BranchState.COMMITTED:
            return Decide(record.gid, Decision.COMMIT, BY_PARTICIPANTS, at_ms=0)
        if known.state is BranchState.ABORTED:
            reason = clean(known.reason) or "its participants have ended it"
            return Decide(record.gid, Decision.ABORT, BY_PARTICIPANTS, at_ms=0, reason=reason, culprit=branch.branch)
    return None


def _decided(record: TransactionRecord, todo: Todo) -> Decide | None:
    """The commit, if enough have precommitted for it."""
    count = len(record.branches)
    precommitted = sum(todo.facts.of(branch.branch).precommitted for branch in record.branches)
    if record.path is Path.UNSAFE_COMMIT_ON_SILENCE:
        deadline = todo.facts.started_at + record.deadline_ms / 1000
        is_enough = precommitted == count or todo.now >= deadline
        todo.wake(deadline)
    else:
        is_enough = precommitted >= majority(count)
    return Decide(record.gid, Decision.COMMIT, BY_VOTES, at_ms=0) if is_enough else None
