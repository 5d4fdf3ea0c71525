"""A stand-in for the driver, and the words of these tests: the test says how each effect came back, and looks at what
`decide` asks for next. Ledger, facts and `decide` are the real ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.effects import CallEnded, Effect, Haste, ProposalEnded, Propose, Step
from coordinator.facts import Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_VOTES, Begin, Command, Decide, End
from coordinator.ledger.records import BranchRecord, Decision, Path, TransactionRecord
from coordinator.ledger.table import Accepted, Ledger
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan
from participant.wire import Answer, BranchState, Verb

__all__ = ["COMMITTED", "DEADLINE_MS", "DEADLINE_S", "READ_ONLY", "UNKNOWN", "YES", "Driver", "abort", "begin_of",
           "begun", "commit", "end", "no", "overdue", "plan", "soon", "started", "taken_over"]  # fmt: skip

DEADLINE_MS = 10_000
DEADLINE_S = DEADLINE_MS / 1000
YES = Answer(BranchState.PREPARED)
READ_ONLY = Answer(BranchState.READ_ONLY)
COMMITTED = Answer(BranchState.COMMITTED)
UNKNOWN = Answer(BranchState.UNKNOWN)


def no(reason: str = "no money") -> Answer:
    return Answer(BranchState.ABORTED, reason)


def plan(names: str = "ab", path: Path = Path.CLASSIC) -> Plan:
    return Plan("t", b"d", path, tuple(BranchRecord(n, f"bank-{n}", "debit", b"") for n in names), DEADLINE_MS)


def begin_of(asked: Plan) -> Begin:
    return Begin(asked.gid, asked.digest, asked.path, asked.branches, asked.deadline_ms, at_ms=0)


def commit(done: tuple[str, ...] = ()) -> Decide:
    return Decide("t", Decision.COMMIT, BY_VOTES, 0, done=done)


def abort(reason: str, culprit: str, done: tuple[str, ...]) -> Decide:
    return Decide("t", Decision.ABORT, BY_VOTES, 0, reason, culprit, done)


def overdue(reason: str, done: tuple[str, ...] = ()) -> Decide:
    return Decide("t", Decision.ABORT, BY_DEADLINE, 0, reason, done=done)


def soon(command: Command) -> Propose:
    return Propose(command, Haste.SOON)


def end(*branches: str) -> Propose:
    """Nobody waits for an end."""
    return Propose(End("t", branches), Haste.LATER)


@dataclass
class Driver:
    """It notes every effect, and hears of nothing unless the test says so."""

    plan: Plan | None
    ledger: Ledger = field(default_factory=Ledger)
    facts: Facts = field(default_factory=lambda: Facts(0.0))
    now: float = 0.0

    @property
    def record(self) -> TransactionRecord | None:
        return self.ledger.get("t")

    def step(self) -> Step:
        step = decide(self.plan, self.record, self.facts, self.now)
        for effect in step.effects:
            self.facts.note(effect)
        return step

    def effects(self) -> tuple[Effect, ...]:
        return self.step().effects

    def apply(self, command: Command) -> None:
        assert isinstance(self.ledger.execute(command), Accepted)

    def hear(self, branch: str, verb: Verb, answer: Answer | None, error: str = "") -> Step:
        """The call came back; what comes next, all of it?"""
        self.facts.fold(CallEnded(branch, verb, answer, error), self.now, 0.5)
        return self.step()

    def proposed(self, command: Command) -> tuple[Effect, ...]:
        """The proposal was applied; what comes next?"""
        self.apply(command)
        return self.lost(command)

    def lost(self, command: Command) -> tuple[Effect, ...]:
        """The proposal came back, and this replica's ledger does not hold it; what comes next?"""
        self.facts.fold(ProposalEnded(command), self.now, 0.5)
        return self.effects()

    def called(self, branch: str, verb: Verb, answer: Answer | None, error: str = "") -> tuple[Effect, ...]:
        """The call came back; which effects come next?"""
        return self.hear(branch, verb, answer, error).effects


def started(names: str = "ab", path: Path = Path.CLASSIC) -> Driver:
    """A driver whose first effects are under way."""
    driver = Driver(plan(names, path))
    driver.step()
    return driver


def begun(names: str = "ab", path: Path = Path.CLASSIC) -> Driver:
    """The record of the branches is there, and no vote."""
    driver = started(names, path)
    assert driver.plan is not None
    driver.proposed(begin_of(driver.plan))
    return driver


def taken_over(*commands: Command, names: str = "ab", path: Path = Path.CLASSIC) -> Driver:
    """A new leader: the record, and nothing else."""
    driver = Driver(None)
    for command in (begin_of(plan(names, path)), *commands):
        driver.apply(command)
    return driver
