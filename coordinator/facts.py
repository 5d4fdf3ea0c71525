"""What one driver knows beside the record: calls and proposals under way, and what participants have said.

Facts belong to one driver on one leader and may vanish at any moment; nothing that must survive is kept here.
They say what *happened*, never what follows from it: that is `coordinator.protocols`. A driver does

    step = decide(plan, record, facts, now)
    for effect in step.effects: facts.note(effect); start performing it
    when one has ended: facts.fold(event, now, draw), and decide again

Times are seconds of the event loop's clock; a `draw` is a random number, 0 <= draw < 1, kept for the jitter of
the next attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from coordinator.effects import Call, CallEnded, Effect, Event, Propose
from coordinator.ledger.commands import BY_VOTES, Command, Decide, Progress
from participant.wire import BranchState, Verb

__all__ = ["YES_STATES", "Asking", "BranchFacts", "Expiry", "Facts", "Question", "question_of"]

YES_STATES = frozenset((BranchState.PREPARED, BranchState.READ_ONLY, BranchState.COMMITTED))
FINAL_STATES = frozenset((BranchState.READ_ONLY, BranchState.COMMITTED, BranchState.ABORTED))


Question: TypeAlias = Verb | type[Command] | Progress


def question_of(command: Command) -> Question:
    """What a proposal asks of the log: the same kind of command is the same question, but each progress is its own."""
    return command if isinstance(command, Progress) else type(command)


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
        if question != self.question:
            self.question = question
            self.attempts = 0
        self.attempts += 1
        self.in_flight = True

    def end(self, question: Question, now: float, draw: float) -> None:
        """The question has come back. The late end of an older question changes nothing."""
        if question == self.question:
            self.in_flight = False
            self.ended_at = now
            self.draw = draw


class BranchFacts(Asking):
    """What is known of one branch. Its question is a verb.

    `state` is the newest that the participant said, None while it has said nothing: a final state is never
    replaced by a late one that is not. `reason` and `result` go with it. `error` says, for people, why the last call
    came back without a useful answer ("" when it did not).
    """

    __slots__ = ("error", "reason", "result", "state")

    def __init__(self) -> None:
        super().__init__()
        self.state: BranchState | None = None
        self.reason = ""
        self.result: Any = None
        self.error = ""

    def hear(self, event: CallEnded) -> None:
        """Take in what a call brought back."""
        answer = event.answer
        if answer is None:
            self.error = event.error or "no answer"
        elif answer.retry:
            self.error = answer.reason or "asked to come again"
        else:
            self.error = ""
            if answer.state in FINAL_STATES or self.state not in FINAL_STATES:
                self.state = answer.state
                self.reason = answer.reason
                self.result = answer.result


@dataclass(frozen=True, slots=True)
class Expiry:
    """Somebody does not want to wait for the deadline: who (as in `Decide.by`), and why."""

    by: str
    reason: str


class Facts:
    """The facts of one driver. `started_at` is when this leader took the transaction up: its deadline counts
    from there; `expiry` makes it come at once. `proposal` is about the driver's own proposals, of which there is at
    most one at a time; but each branch may have its own progress on its way (`proposal_of`). `overdue`: it has proposed
    to abort without a vote, and nobody knows yet what the log will say.
    """

    __slots__ = ("_branches", "_progress", "expiry", "overdue", "proposal", "started_at")

    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.expiry: Expiry | None = None
        self.overdue = False
        self.proposal = Asking()
        self._branches: dict[str, BranchFacts] = {}
        self._progress: dict[str, Asking] = {}

    def of(self, branch: str) -> BranchFacts:
        """The facts about one branch; blank ones if nothing has happened yet."""
        known = self._branches.get(branch)
        if known is None:
            known = self._branches[branch] = BranchFacts()
        return known

    def proposal_of(self, command: Command) -> Asking:
        """The facts about proposals like this one."""
        if not isinstance(command, Progress):
            return self.proposal
        return self._progress.setdefault(command.branch, Asking())

    @property
    def is_proposing(self) -> bool:
        """Whether some proposal is under way."""
        return self.proposal.in_flight or any(asking.in_flight for asking in self._progress.values())

    def awaits_others(self, branch: str) -> bool:
        """Whether something is under way, other than about this branch, that will come back."""
        if self.is_proposing:
            return True
        return any(known.in_flight and name != branch for name, known in self._branches.items())

    def is_asking_first(self) -> bool:
        """Whether some branch is being asked something for the first time."""
        return any(known.in_flight and known.attempts == 1 for known in self._branches.values())

    def note(self, effect: Effect) -> None:
        """The driver is about to perform `effect`. To be called before anything is awaited."""
        match effect:
            case Call(branch=branch, verb=verb):
                self.of(branch).start(verb)
            case Propose(command=command):
                self.proposal_of(command).start(question_of(command))
                self.overdue |= isinstance(command, Decide) and command.by != BY_VOTES

    def fold(self, event: Event, now: float, draw: float) -> None:
        """An effect has come back at `now`, well or not."""
        if isinstance(event, CallEnded):
            branch = self.of(event.branch)
            branch.end(event.verb, now, draw)
            branch.hear(event)
        else:
            self.proposal_of(event.command).end(question_of(event.command), now, draw)
