"""A step of a protocol in the making: what is due goes into it, what is not yet due says when it will be. Pure."""

from __future__ import annotations

from coordinator.effects import Call, Effect, Haste, Propose, Step, Tell, Work
from coordinator.facts import Asking, BranchFacts, Facts, Question
from coordinator.ledger.commands import Command, Decide
from coordinator.ledger.records import Notice
from coordinator.protocols.retry import Backoff, delay_s
from participant.wire import Verb

__all__ = ["BACKOFF", "BACKOFF_DECIDED", "Todo"]

BACKOFF = Backoff(base_s=0.05, cap_s=1.0)
# Once decided, nobody waits, and a participant that comes back asks by itself; thousands of branches may be owed to it.
BACKOFF_DECIDED = Backoff(base_s=0.05, cap_s=15.0)


class Todo:
    """What `decide` has found to be done at `now`; the same question is asked again after `backoff`."""

    __slots__ = ("backoff", "contradictions", "effects", "facts", "now", "wake_at")

    def __init__(self, facts: Facts, now: float, backoff: Backoff) -> None:
        self.facts = facts
        self.now = now
        self.backoff = backoff
        self.effects: list[Effect] = []
        self.wake_at: float | None = None
        self.contradictions: list[str] = []

    def propose(self, command: Command, haste: Haste) -> None:
        """Put it into the log, unless that is under way."""
        if self._due(self.facts.asking_of(command), type(command)):
            self.effects.append(Propose(command, haste))

    def call(
        self, branch: str, known: BranchFacts, verb: Verb, *, one_phase: bool = False, work: Work | None = None
    ) -> None:
        """Ask a branch, unless that is under way; `known` is what is known of it."""
        if self._due(known, verb):
            self.effects.append(Call(branch, verb, one_phase, work))

    def tell(self, notice: Notice) -> None:
        """Tell the application, one thing after the other."""
        known = self.facts.notice
        if not known.in_flight and self._due(known, notice):
            self.effects.append(Tell(notice))

    def wake(self, at: float) -> None:
        """Look again then, if nothing happens before."""
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at

    def step(self, implied: Decide | None = None) -> Step:
        """What has come together."""
        return Step(tuple(self.effects), self.wake_at, False, "; ".join(self.contradictions), implied)

    def _due(self, asking: Asking, question: Question) -> bool:
        """A new question does not wait for the end of an old one; the same one waits for its turn."""
        if asking.question is not question:
            return True
        if asking.in_flight:
            return False
        due_at = asking.ended_at + delay_s(self.backoff, asking.attempts, asking.draw)
        if self.now < due_at:
            self.wake(due_at)
        return self.now >= due_at
