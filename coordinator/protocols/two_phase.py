"""Two-phase commit with presumed abort: what comes next for one transaction. Pure: no clock, chance or await.

Votes are asked for while the record of the branches goes through the log; when both are there, the decision goes
through the log. What is *done* here is in the record; what was merely *heard* is in the facts, and a leader that takes
over starts with none: it asks again, because every question may be repeated.

When may a caller be told?

- *Classic*: once the record holds the decision.
- *Staged* and *one-phase*: once the record of the branches is there and the votes are in. The decision is then
  *implied*: every vote is durable and irrevocable, a branch that has not voted can be *prevented* from voting yes, so
  whoever leads next finds the same votes and decides the same. (The state of a transaction is a function of durable
  votes alone: Gray & Lamport 2006, section 4; staging the record beside the writes is CockroachDB's "parallel commits",
  Taft et al., SIGMOD 2020, section 3.2.) The explicit decision follows soon, in a batch.

A leader that has taken a staged transaction over may not abort it for being late: an earlier leader may have heard all
the votes. It asks for them again until the deadline, and from then on prevents; the answers decide. The leader
that began it knows that nobody was told anything yet, so it may.

Rules that hold on every path (Gray & Lamport, "Consensus on Transaction Commit", 2006, section 3; Mohan, Lindsay &
Obermarck, "Transaction Management in the R* Distributed Database Management System", 1986, section 3):

- no commit call unless the record holds COMMIT, except the one-phase call, whose participant decides by itself;
- no abort call unless the record holds ABORT;
- no decision is proposed before the record of the branches is there;
- a branch that voted no, or read-only, takes no part in phase two;
- a branch is ended only by its own word.

Commands leave here with `at_ms=0`: whoever proposes them stamps them (`commands.encode`), since the wall clock
never takes part in a decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.effects import Haste, Step
from coordinator.facts import YES_STATES, BranchFacts, Expiry, Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_VOTES, Begin, Decide, End
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase, TransactionRecord
from coordinator.protocols.todo import BACKOFF, BACKOFF_DECIDED, Todo
from participant.wire import BranchState, Capabilities, Verb

__all__ = [
    "BACKOFF",
    "BACKOFF_DECIDED",
    "SETTLED",
    "Plan",
    "begin_of",
    "choose_path",
    "clean",
    "contradictions",
    "decide",
    "finish",
    "verdict_of",
    "withdraw",
]

REASON_CHARS_MAX = 512  # of a participant's reason, in the record

SETTLED = {
    Decision.COMMIT: frozenset((BranchState.COMMITTED, BranchState.READ_ONLY)),
    Decision.ABORT: frozenset((BranchState.ABORTED, BranchState.READ_ONLY)),
}
_DONE = Step(done=True)

_Votes: TypeAlias = list[tuple[BranchRecord, BranchFacts]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller asked for; used while there is no record. Fields as in `ledger.commands.Begin`."""

    gid: str
    digest: bytes
    path: Path
    branches: tuple[BranchRecord, ...]
    deadline_ms: int
    trace: str = ""
    key: str = ""
    notify: str = ""


def choose_path(branches: Sequence[BranchRecord], capabilities: Mapping[str, Capabilities]) -> Path:
    """The cheapest path that every participant can take. `capabilities` by participant name.

    Without the record of the decision, what has become of a branch is found out by preventing it; so on every path
    but the classic one, each participant must be able to.
    """
    if not all(capabilities[branch.participant].prevent for branch in branches):
        return Path.CLASSIC
    if len(branches) == 1 and capabilities[branches[0].participant].one_phase:
        return Path.ONE_PHASE
    return Path.STAGED


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction.

    `plan` is what was asked for, None after a takeover; `record` what this replica's ledger holds, None while it
    holds nothing; `now` in seconds of the clock of `facts`. The driver calls it at the start, after each
    `facts.fold`, whenever the record has changed, and at `step.wake_at`; asking once too often is harmless:
    an effect that is under way according to `facts` is not asked for again.
    """
    todo = Todo(facts, now, BACKOFF if record is None or record.decision is None else BACKOFF_DECIDED)
    if record is None:
        return _DONE if plan is None else _collect(plan, begin_of(plan), True, todo)
    if plan is not None and plan.digest != record.digest:
        return withdraw(plan, record, todo)
    if record.phase is Phase.PREPARING:
        return _collect(record, None, plan is not None, todo)
    return _DONE if record.ended else finish(record, todo)


def begin_of(plan: Plan) -> Begin:
    """The record of what was asked for."""
    begun = (plan.gid, plan.digest, plan.path, plan.branches, plan.deadline_ms)
    return Begin(*begun, at_ms=0, trace=plan.trace, key=plan.key, notify=plan.notify)


def _collect(work: Plan | TransactionRecord, begin: Begin | None, first_hand: bool, todo: Todo) -> Step:
    """Phase one: the record of the branches (unless it is there) and the votes at once; then the decision.

    `first_hand`: this leader began the transaction, so nobody else can have told its outcome to anybody.
    """
    deadline = todo.facts.started_at + work.deadline_ms / 1000
    late = todo.now >= deadline or todo.facts.expiry is not None
    may_abort = work.path is Path.CLASSIC or (work.path is Path.STAGED and first_hand)
    votes = [(branch, todo.facts.of(branch.branch)) for branch in work.branches]
    verdict = verdict_of(work, votes, late and may_abort, todo.facts.expiry)
    implied = None
    if begin is not None:
        todo.propose(begin, Haste.NOW)
    elif verdict is not None:
        # An abort of our own that is under way may still win in the log; then the votes imply nothing.
        if work.path is not Path.CLASSIC and verdict.by == BY_VOTES and not todo.facts.overdue:
            implied = verdict
        todo.propose(verdict, Haste.SOON if implied else Haste.NOW)
    if verdict is None:
        verb = _question(work.path, late and not may_abort)
        for branch, known in votes:
            if known.state not in YES_STATES:
                todo.call(branch.branch, known, verb, one_phase=verb is Verb.COMMIT)
        if not late:
            todo.wake(deadline)
    return todo.step(implied)


def _question(path: Path, prevent: bool) -> Verb:
    """What a branch that has not voted is asked."""
    if prevent:
        return Verb.PREVENT
    return Verb.COMMIT if path is Path.ONE_PHASE else Verb.PREPARE


def verdict_of(work: Plan | TransactionRecord, votes: _Votes, overdue: bool, expiry: Expiry | None) -> Decide | None:
    """The decision that follows from the votes or, when it is `overdue`, from their absence; else None."""
    unanimous = True
    for branch, known in votes:
        if known.state not in YES_STATES:
            if known.state is BranchState.ABORTED:
                return _refused(work, branch.branch, known, votes, expiry)
            unanimous = False
    if unanimous:
        return Decide(work.gid, Decision.COMMIT, BY_VOTES, at_ms=0, done=_settled(votes, Decision.COMMIT))
    if overdue:
        silent = ", ".join(_silence(branch, known) for branch, known in votes if known.state not in YES_STATES)
        return _overdue(
            work, expiry or Expiry(BY_DEADLINE, f"no vote within {work.deadline_ms} ms from {silent}"), votes
        )
    return None


def _silence(branch: BranchRecord, known: BranchFacts) -> str:
    """Who has not voted, and what is known of why."""
    who = f"{branch.branch} at {branch.participant}"
    return f"{who} ({clean(known.error)})" if known.error else who


def _refused(
    work: Plan | TransactionRecord, branch: str, known: BranchFacts, votes: _Votes, expiry: Expiry | None
) -> Decide:
    if known.question is Verb.PREVENT:
        late = Expiry(BY_DEADLINE, f"no outcome within {work.deadline_ms} ms from {branch}")
        return _overdue(work, expiry or late, votes)
    done = _settled(votes, Decision.ABORT)
    reason = clean(known.reason) or "voted no"
    return Decide(work.gid, Decision.ABORT, BY_VOTES, at_ms=0, reason=reason, culprit=branch, done=done)


def _overdue(work: Plan | TransactionRecord, expiry: Expiry, votes: _Votes) -> Decide:
    done = _settled(votes, Decision.ABORT)
    return Decide(work.gid, Decision.ABORT, expiry.by, at_ms=0, reason=clean(expiry.reason), done=done)


def _settled(votes: _Votes, decision: Decision) -> tuple[str, ...]:
    """The branches to which nothing is owed once this is decided."""
    settled = SETTLED[decision]
    return tuple([branch.branch for branch, known in votes if known.state in settled])


def finish(record: TransactionRecord, todo: Todo) -> Step:
    """Phase two: tell every open branch until it confirms.

    One End names all of them, unless a branch keeps us waiting: then the others are ended without it.
    """
    decision = Decision.COMMIT if record.phase is Phase.COMMITTING else Decision.ABORT
    verb = Verb.COMMIT if decision is Decision.COMMIT else Verb.ABORT
    settled = SETTLED[decision]
    confirmed: list[str] = []
    in_time = False  # some first call has not come back yet
    for branch in record.branches:
        if branch.ended:
            continue
        known = todo.facts.of(branch.branch)
        if known.state in settled:
            confirmed.append(branch.branch)
            continue
        in_time |= known.question is not verb or (known.in_flight and known.attempts == 1)
        todo.contradictions.extend(contradictions(branch, known.state, decision))
        todo.call(branch.branch, known, verb)
    if confirmed and not in_time:
        todo.propose(End(record.gid, tuple(confirmed)), Haste.LATER)
    return todo.step()


def withdraw(plan: Plan, record: TransactionRecord, todo: Todo) -> Step:
    """The gid is not ours: it was made aborted before our Begin came, or begun by another request.

    Nobody records our branches then. A participant that has prepared one finds out by asking; being told is
    quicker, so each that was called is told once.
    """
    waiting = False
    for branch in plan.branches if record.tombstone else ():
        known = todo.facts.of(branch.branch)
        todo.contradictions.extend(contradictions(branch, known.state, Decision.ABORT))
        if known.question is Verb.ABORT:
            waiting |= known.in_flight
        elif known.question is not None and known.state not in SETTLED[Decision.ABORT]:
            todo.call(branch.branch, known, Verb.ABORT)
    if todo.effects or waiting:
        return todo.step()
    return Step(done=True, contradiction="; ".join(todo.contradictions))


def contradictions(branch: BranchRecord, state: BranchState | None, decision: Decision) -> tuple[str, ...]:
    """What cannot be true together: a participant broke its promise, lost its disk, or was decided by hand."""
    who = f"branch {branch.branch} at {branch.participant}"
    if decision is Decision.ABORT and state is BranchState.COMMITTED:
        return (f"{who} says committed, but the transaction is aborted",)
    if decision is Decision.COMMIT and state is BranchState.ABORTED:
        return (f"{who} says aborted, but the transaction is committed",)
    if decision is Decision.COMMIT and state is BranchState.UNKNOWN:
        return (f"{who} knows nothing of a branch that it had prepared, but the transaction is committed",)
    return ()


def clean(reason: str) -> str:
    """A participant's text, fit for the record: bounded, and free of what UTF-8 cannot hold."""
    return reason[:REASON_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
