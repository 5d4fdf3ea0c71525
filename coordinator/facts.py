"""What one driver knows beside the record: calls and proposals under way, and what participants have said.

Facts belong to one driver on one leader and may vanish at any moment; nothing that must survive is kept here.
They say what *happened*, never what follows from it: that is `coordinator.protocols`. A driver does

    if record holds a decision: facts.saw_decision(now)
    step = decide(plan, record, facts, now)
    for effect in step.effects: facts.note(effect); start performing it
    when one has ended: facts.fold(event, now, draw), and decide again

Times are seconds of the event loop's clock; a `draw` is a random number, 0 <= draw < 1, kept for the jitter of
the next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from coordinator.effects import Call, CallEnded, Effect, Event, ProposalEnded, Propose, Tell, TellEnded
from coordinator.ledger.commands import BY_VOTES, Command, Decide, Notified, Progress
from coordinator.ledger.records import Notice
from participant.termination import COORDINATORS, Leaning
from participant.wire import Answer, BranchState, Verb

__all__ = ["YES_STATES", "Asking", "BranchFacts", "Expiry", "Facts", "NoticeFacts", "Question"]

YES_STATES = frozenset((BranchState.PREPARED, BranchState.READ_ONLY, BranchState.COMMITTED))
FINAL_STATES = frozenset((BranchState.READ_ONLY, BranchState.COMMITTED, BranchState.ABORTED))


Question: TypeAlias = Verb | type[Command] | Notice


class Asking:
    """One kind of question to one party: is it under way, how often was it asked in a row, when did it end.

    `attempts` counts from 1 with the first time, and starts again when another question is asked.
    """

    __slots__ = ("attempts", "draw", "ended_at", "in_flight", "question")

    def __init__(self) -> None:
        self.question: Question | None = None
        self.in_flight = False
        self.attempts = 0
        self.ended_at = 0.0
        self.draw = 0.0

    def start(self, question: Question) -> None:
        """The question goes out now."""
        if question is not self.question:
            self.question = question
            self.attempts = 0
        self.attempts += 1
        self.in_flight = True

    def end(self, question: Question, now: float, draw: float) -> None:
        """The question has come back. The late end of an older question changes nothing."""
        if question is self.question:
            self.in_flight = False
            self.ended_at = now
            self.draw = draw


class BranchFacts(Asking):
    """What is known of one branch. Its question is a verb.

    `state` is the newest that the participant said, None while it has said nothing: a final state is never
    replaced by a late one that is not. `reason` and `result` go with it. `error` says, for people, why the last call
    came back without a useful answer ("" when it did not). `precommitted`: it has promised the coordinators to, which
    it does not take back (three phases only).
    """

    __slots__ = ("error", "precommitted", "reason", "result", "state")

    def __init__(self) -> None:
        super().__init__()
        self.state: BranchState | None = None
        self.reason = ""
        self.result: Any = None
        self.error = ""
        self.precommitted = False

    def hear(self, event: CallEnded) -> None:
        """Take in what a call brought back."""
        answer = event.answer
        if answer is None:
            self.error = event.error or "no answer"
        elif answer.retry:
            self.error = answer.reason or "asked to come again"
        else:
            self.error = ""
            self.precommitted |= _has_precommitted(answer)
            if answer.state in FINAL_STATES or self.state not in FINAL_STATES:
                self.state = answer.state
                self.reason = answer.reason
                self.result = answer.result


def _has_precommitted(answer: Answer) -> bool:
    register = None if answer.three_phase is None else answer.three_phase.register
    if register is None:
        return False
    return register.accepted == COORDINATORS and register.leaning is Leaning.PRECOMMITTED


class NoticeFacts(Asking):
    """What is known of telling the application. Its question is a notice.

    `taken` is the newest one that the application took; `error` says, for people, why it did not take the last ("" when
    it did).
    """

    __slots__ = ("error", "taken")

    def __init__(self) -> None:
        super().__init__()
        self.taken = Notice.NONE
        self.error = ""


@dataclass(frozen=True, slots=True)
class Expiry:
    """Somebody does not want to wait for the deadline: who (as in `Decide.by`), and why."""

    by: str
    reason: str


class Facts:
    """The facts of one driver. `started_at` is when this leader took the transaction up: its deadline counts
    from there; `expiry` makes it come at once. `proposal` is about the driver's own proposals, of which there is at
    most one at a time, beside notes (`asking_of`). `overdue`: it has proposed to abort without a vote, and
    nobody knows yet what the log will say. `submitted`: the sender has said here that its source is done.
    `decided_at`: when this driver first saw the decision in the record.
    """

    __slots__ = (
        "_branches",
        "_notes",
        "_notice",
        "decided_at",
        "expiry",
        "overdue",
        "proposal",
        "started_at",
        "submitted",
    )

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.decided_at: float | None = None
        self.expiry: Expiry | None = None
        self.overdue = False
        self.submitted = False
        self.proposal = Asking()
        self._branches: dict[str, BranchFacts] = {}
        self._notes: dict[Progress | Notified, Asking] | None = None
        self._notice: NoticeFacts | None = None

    def of(self, branch: str) -> BranchFacts:
        """The facts about one branch; blank ones if nothing has happened yet."""
        known = self._branches.get(branch)
        if known is None:
            known = self._branches[branch] = BranchFacts()
        return known

    def asking_of(self, command: Command) -> Asking:
        """What is known of proposing it. Each note, of a step or of a notice, is proposed for itself, all else one at a
        time."""
        if not isinstance(command, Progress | Notified):
            return self.proposal
        if self._notes is None:
            self._notes = {}
        asking = self._notes.get(command)
        if asking is None:
            asking = self._notes[command] = Asking()
        return asking

    @property
    def notice(self) -> NoticeFacts:
        """The facts about telling the application; blank ones if nothing has happened yet."""
        if self._notice is None:
            self._notice = NoticeFacts()
        return self._notice

    def asked(self) -> tuple[tuple[str, BranchFacts], ...]:
        """Each attempt of a branch that was asked something, by its name at the participant."""
        return tuple([(name, known) for name, known in self._branches.items() if known.question is not None])

    @property
    def is_proposing(self) -> bool:
        """Whether some proposal is under way."""
        return self.proposal.in_flight or any(asking.in_flight for asking in (self._notes or {}).values())

    def awaits_others(self, branch: str) -> bool:
        """Whether something is under way, other than about this branch, that will come back."""
        if self.is_proposing:
            return True
        return any(known.in_flight and name != branch for name, known in self._branches.items())

    def saw_decision(self, now: float) -> None:
        """The record holds a decision. To be called before `decide`."""
        if self.decided_at is None:
            self.decided_at = now

    def note(self, effect: Effect) -> None:
        """The driver is about to perform `effect`. To be called before anything is awaited."""
        match effect:
            case Call(branch=branch, verb=verb):
                self.of(branch).start(verb)
            case Tell(notice=notice):
                self.notice.start(notice)
            case Propose(command=command):
                self.asking_of(command).start(type(command))
                self.overdue |= isinstance(command, Decide) and command.by != BY_VOTES

    def fold(self, event: Event, now: float, draw: float) -> None:
        """An effect has come back at `now`, well or not."""
        match event:
            case CallEnded():
                branch = self.of(event.branch)
                branch.end(event.verb, now, draw)
                branch.hear(event)
            case TellEnded(notice=notice, error=error):
                self.notice.end(notice, now, draw)
                self.notice.error = error
                if not error:
                    self.notice.taken = notice
            case ProposalEnded(command=command):
                self.asking_of(command).end(type(command), now, draw)
