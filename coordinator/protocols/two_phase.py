"""Two-phase commit with presumed abort: what comes next for one transaction. Pure: no clock, chance or await.

Votes are asked for while the record of the branches goes through the log; when both are there, the decision goes
through the log; only then is anybody told. What is *done* here is in the record; what was merely *heard* is in the
facts, and a leader that takes over starts with none: it asks again, because every question may be repeated.

Rules that hold on every path (Gray & Lamport, "Consensus on Transaction Commit", 2006, section 3; Mohan, Lindsay &
Obermarck, "Transaction Management in the R* Distributed Database Management System", 1986, section 3):

- no commit call unless the record holds COMMIT, except the one-phase call, whose participant decides by itself;
- no abort call unless the record holds ABORT;
- no decision is proposed before the record of the branches is there;
- a branch that voted no, or read-only, takes no part in phase two;
- a branch is ended only by its own word.

Commands leave here with `at_ms=0`: whoever proposes them stamps them (`commands.stamped`), since the wall clock
never takes part in a decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.effects import Call, Effect, Propose, Step
from coordinator.facts import Asking, BranchFacts, Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_VOTES, Begin, Command, Decide, End
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase, TransactionRecord
from coordinator.protocols.retry import Backoff, delay_s
from participant.wire import BranchState, Capabilities, Verb

__all__ = ["BACKOFF", "BACKOFF_DECIDED", "Plan", "choose_path", "decide"]

BACKOFF = Backoff(base_s=0.05, cap_s=1.0)
# Once decided, nobody waits, and a participant that comes back asks by itself; thousands of branches may be owed to it.
BACKOFF_DECIDED = Backoff(base_s=0.05, cap_s=15.0)
REASON_CHARS_MAX = 512  # of a participant's reason, in the record

_YES = frozenset((BranchState.PREPARED, BranchState.READ_ONLY, BranchState.COMMITTED))
_SETTLED = {
    Decision.COMMIT: frozenset((BranchState.COMMITTED, BranchState.READ_ONLY)),
    Decision.ABORT: frozenset((BranchState.ABORTED, BranchState.READ_ONLY)),
}
_DONE = Step(done=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a caller asked for; used while there is no record. Fields as in `ledger.commands.Begin`."""

    gid: str
    digest: bytes
    path: Path
    branches: tuple[BranchRecord, ...]
    deadline_ms: int


def choose_path(branches: Sequence[BranchRecord], capabilities: Mapping[str, Capabilities]) -> Path:
    """The cheapest path that every participant can take. `capabilities` by participant name.

    On the one-phase path a late transaction is decided by preventing it, so the participant must be able to.
    """
    if len(branches) > 1:
        return Path.CLASSIC
    able = capabilities[branches[0].participant]
    return Path.ONE_PHASE if able.one_phase and able.prevent else Path.CLASSIC


def decide(plan: Plan | None, record: TransactionRecord | None, facts: Facts, now: float) -> Step:
    """What to do now for one transaction.

    `plan` is what was asked for, None after a takeover; `record` what this replica's ledger holds, None while it
    holds nothing; `now` in seconds of the clock of `facts`. The driver calls it at the start, after each
    `facts.fold`, whenever the record has changed, and at `step.wake_at`; asking once too often is harmless:
    an effect that is under way according to `facts` is not asked for again.
    """
    todo = _Todo(facts, now, BACKOFF if record is None or record.decision is None else BACKOFF_DECIDED)
    if record is None:
        return _DONE if plan is None else _collect(plan, _begin(plan), todo)
    if plan is not None and plan.digest != record.digest:
        return _withdraw(plan, record, todo)
    if record.phase is Phase.PREPARING:
        return _collect(record, None, todo)
    return _DONE if record.finished else _finish(record, todo)


class _Todo:
    """A step in the making: what is due goes into it, what is not yet due says when it will be."""

    __slots__ = ("backoff", "contradictions", "effects", "facts", "now", "wake_at")

    def __init__(self, facts: Facts, now: float, backoff: Backoff) -> None:
        self.facts = facts
        self.now = now
        self.backoff = backoff
        self.effects: list[Effect] = []
        self.wake_at: float | None = None
        self.contradictions: list[str] = []

    def propose(self, command: Command, *, urgent: bool = True) -> None:
        if self._due(self.facts.proposal, type(command)):
            self.effects.append(Propose(command, urgent))

    def call(self, branch: str, verb: Verb, *, one_phase: bool = False) -> None:
        if self._due(self.facts.of(branch), verb):
            self.effects.append(Call(branch, verb, one_phase))

    def wake(self, at: float) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at

    def step(self) -> Step:
        return Step(tuple(self.effects), self.wake_at, contradiction="; ".join(self.contradictions))

    def _due(self, asking: Asking, question: Verb | type[Command]) -> bool:
        """A new question does not wait for the end of an old one; the same one waits for its turn."""
        if asking.question is not question:
            return True
        if asking.in_flight:
            return False
        due_at = asking.ended_at + delay_s(self.backoff, asking.attempts, asking.draw)
        if self.now < due_at:
            self.wake(due_at)
        return self.now >= due_at


def _begin(plan: Plan) -> Begin:
    return Begin(plan.gid, plan.digest, plan.path, plan.branches, plan.deadline_ms, at_ms=0)


def _collect(work: Plan | TransactionRecord, begin: Begin | None, todo: _Todo) -> Step:
    """Phase one: the record of the branches (unless it is there) and the votes at once; then the decision."""
    deadline = todo.facts.started_at + work.deadline_ms / 1000
    late = todo.now >= deadline
    verdict = _verdict(work, todo.facts, late)
    proposal = begin or verdict
    if proposal is not None:
        todo.propose(proposal)
    if verdict is None:
        one_phase = work.path is Path.ONE_PHASE
        verb = Verb.PREPARE if not one_phase else Verb.PREVENT if late else Verb.COMMIT
        for branch in work.branches:
            if todo.facts.of(branch.branch).state not in _YES:
                todo.call(branch.branch, verb, one_phase=verb is Verb.COMMIT)
        if not late:
            todo.wake(deadline)
    return todo.step()


def _verdict(work: Plan | TransactionRecord, facts: Facts, late: bool) -> Decide | None:
    """The decision that follows from the votes or from their absence; None while they are waited for.

    On the one-phase path the participant decides, so that being late decides nothing by itself: the participant
    is asked to prevent what it has not done yet, and its answer is the vote.
    """
    silent: list[str] = []
    for branch in work.branches:
        known = facts.of(branch.branch)
        if known.state is BranchState.ABORTED:
            return _refused(work, branch.branch, facts)
        if known.state not in _YES:
            silent.append(_silence(branch, known))
    if not silent:
        done = _settled(work, facts, Decision.COMMIT)
        return Decide(work.gid, Decision.COMMIT, BY_VOTES, at_ms=0, done=done)
    if late and work.path is not Path.ONE_PHASE:
        return _overdue(work, f"no vote within {work.deadline_ms} ms from {', '.join(silent)}", facts)
    return None


def _silence(branch: BranchRecord, known: BranchFacts) -> str:
    """Who has not voted, and what is known of why."""
    who = f"{branch.branch} at {branch.participant}"
    return f"{who} ({_clean(known.error)})" if known.error else who


def _refused(work: Plan | TransactionRecord, branch: str, facts: Facts) -> Decide:
    known = facts.of(branch)
    if known.question is Verb.PREVENT:
        return _overdue(work, f"no outcome within {work.deadline_ms} ms from {branch}", facts)
    done = _settled(work, facts, Decision.ABORT)
    reason = _clean(known.reason) or "voted no"
    return Decide(work.gid, Decision.ABORT, BY_VOTES, at_ms=0, reason=reason, culprit=branch, done=done)


def _overdue(work: Plan | TransactionRecord, reason: str, facts: Facts) -> Decide:
    done = _settled(work, facts, Decision.ABORT)
    return Decide(work.gid, Decision.ABORT, BY_DEADLINE, at_ms=0, reason=_clean(reason), done=done)


def _settled(work: Plan | TransactionRecord, facts: Facts, decision: Decision) -> tuple[str, ...]:
    """The branches to which nothing is owed once this is decided."""
    return tuple(b.branch for b in work.branches if facts.of(b.branch).state in _SETTLED[decision])


def _finish(record: TransactionRecord, todo: _Todo) -> Step:
    """Phase two: tell every open branch until it confirms.

    One End names all of them, unless a branch keeps us waiting: then the others are ended without it.
    """
    decision = Decision.COMMIT if record.phase is Phase.COMMITTING else Decision.ABORT
    verb = Verb.COMMIT if decision is Decision.COMMIT else Verb.ABORT
    confirmed: list[str] = []
    in_time = False  # some first call has not come back yet
    for branch in record.branches:
        if branch.ended:
            continue
        known = todo.facts.of(branch.branch)
        if known.state in _SETTLED[decision]:
            confirmed.append(branch.branch)
            continue
        in_time |= known.question is not verb or (known.in_flight and known.attempts == 1)
        todo.contradictions.extend(_contradiction(branch, known.state, decision))
        todo.call(branch.branch, verb)
    if confirmed and not in_time:
        todo.propose(End(record.gid, tuple(confirmed)), urgent=False)
    return todo.step()


def _withdraw(plan: Plan, record: TransactionRecord, todo: _Todo) -> Step:
    """The gid is not ours: it was made aborted before our Begin came, or begun by another request.

    Nobody records our branches then. A participant that has prepared one finds out by asking; being told is
    quicker, so each that was called is told once.
    """
    waiting = False
    for branch in plan.branches if record.tombstone else ():
        known = todo.facts.of(branch.branch)
        todo.contradictions.extend(_contradiction(branch, known.state, Decision.ABORT))
        if known.question is Verb.ABORT:
            waiting |= known.in_flight
        elif known.question is not None and known.state not in _SETTLED[Decision.ABORT]:
            todo.call(branch.branch, Verb.ABORT)
    if todo.effects or waiting:
        return todo.step()
    return Step(done=True, contradiction="; ".join(todo.contradictions))


def _contradiction(branch: BranchRecord, state: BranchState | None, decision: Decision) -> tuple[str, ...]:
    """What cannot be true together: a participant broke its promise, lost its disk, or was decided by hand."""
    who = f"branch {branch.branch} at {branch.participant}"
    if decision is Decision.ABORT and state is BranchState.COMMITTED:
        return (f"{who} says committed, but the transaction is aborted",)
    if decision is Decision.COMMIT and state is BranchState.ABORTED:
        return (f"{who} says aborted, but the transaction is committed",)
    if decision is Decision.COMMIT and state is BranchState.UNKNOWN:
        return (f"{who} knows nothing of a branch that it had prepared, but the transaction is committed",)
    return ()


def _clean(reason: str) -> str:
    """A participant's text, fit for the record: bounded, and free of what UTF-8 cannot hold."""
    return reason[:REASON_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
