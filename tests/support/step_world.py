"""A transaction of steps in a small world with chance: its leader, the log, its participants, messages in between.

Ledger, `decide`, facts and the participants' table are the real ones. Messages are late, lost, doubled; leaders die
with their proposals, or with them in the log; time passes. `step_scene` says what must be true when all is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from coordinator.effects import Call, CallEnded, Event, ProposalEnded, Propose, Work
from coordinator.facts import Expiry, Facts
from coordinator.ledger.commands import BY_EXPIRY, Command, decode, encode
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, Report, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.modes import name_of, step_of
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan
from participant.wire import Answer, Verb
from tests.support.step_scene import GID, StepScene

__all__ = ["Fates", "StepWorld"]

STEPS_MAX = 5_000  # of a run to its end without faults
IDLE = 0.1  # how often time passes although something is under way


@dataclass(frozen=True, slots=True)
class Fates:
    """How often each fault strikes, as a chance for each event; `refusals`: how often each action is refused.
    `foreign`: actions that their participant does not understand."""

    lost: float = 0.1
    doubled: float = 0.1
    crash: float = 0.05
    late: float = 0.02
    cancel: float = 0.0
    reports: float = 0.1  # somebody who was given a token reports, and whatever was heard of it, again
    declines: float = 0.2  # of these
    sends: float = 0.1  # the sender of a source goes on: it commits, then it submits
    refusals: Mapping[str, int] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


@dataclass
class StepWorld:
    branches: tuple[BranchRecord, ...]
    chance: Random
    fates: Fates = Fates()
    deadline_ms: int = 10_000

    def __post_init__(self) -> None:
        self.now = 0.0
        self.ledger = Ledger()
        self.plan: Plan | None = Plan(GID, b"d", Path.STEPS, self.branches, self.deadline_ms)
        self.facts: Facts | None = Facts(0.0)
        self.term = 1
        self.wake_at: float | None = None
        self.alarms: list[str] = []
        self.proposals: list[Command] = []
        self.requests: list[tuple[int, Call]] = []
        self.scene = StepScene(self.branches, self.fates.refusals, self.fates.foreign)
        self._decided: Decision | None = None
        self._source = next((b.branch for b in self.branches if step_of(b).mode is Mode.SOURCE), None)
        self._has_sent = False
        self._decided_at = 0.0
        self._drive()

    @property
    def record(self) -> TransactionRecord | None:
        return self.ledger.get(GID)

    @property
    def over(self) -> bool:
        record = self.record
        return record is not None and record.finished and not self.requests and not self.proposals

    def run(self, events: int) -> None:
        """Let so many things happen, well or not; then let everything come to its end."""
        for _ in range(events):
            if self.over:
                break
            self._happen()
        fates = self.fates
        self.fates = replace(fates, lost=0, doubled=0, crash=0, late=0, cancel=0, declines=0)
        for _ in range(STEPS_MAX):
            if self.over:
                if self._source is not None and not self._has_sent:
                    self._send(self._source)  # too late
                return
            self._happen()
        raise AssertionError(f"no end: {self.record}, {self.requests}, {self.proposals}, wakes at {self.wake_at}")

    def _happen(self) -> None:
        if self._source is not None and self.record is not None and self.chance.random() < self.fates.sends:
            self._send(self._source)
        for attempt in list(self.scene.tokens):
            if self.record is not None and self.chance.random() < self.fates.reports:
                self._report(self.record, attempt)
        roll = self.chance.random()
        if roll < self.fates.crash:
            self._crash()
        elif roll < self.fates.crash + self.fates.late:
            self.now += self.deadline_ms / 1000
            self._drive()
        elif roll < self.fates.crash + self.fates.late + self.fates.cancel and self.facts is not None:
            self.facts.expiry = Expiry(BY_EXPIRY + "ann", "not wanted any more")
            self._drive()
        else:
            choices = [*range(len(self.requests)), *(-1 for _ in self.proposals[:1])]
            if not choices or (self.fates.late and self.chance.random() < IDLE):
                self._wait()
            elif (chosen := self.chance.choice(choices)) < 0:
                self._apply(self.proposals.pop(0))
            else:
                self._deliver(chosen)

    def _report(self, record: TransactionRecord, attempt: str) -> None:
        first = Report.REFUSED if self.chance.random() < self.fates.declines else Report.DONE
        note = self.scene.report(record, attempt, self.scene.reports.get(attempt, first))
        if note is not None and self.chance.random() >= self.fates.lost:
            self._commit(note)
            self._drive()

    def _wait(self) -> None:
        if self.facts is None:
            self._take_over()
        elif self.wake_at is not None:
            self.now = max(self.now, self.wake_at)
            self._drive()

    def _crash(self) -> None:
        """The leader dies; its proposals, in their order, are lost from some place on."""
        kept = self.chance.randint(0, len(self.proposals))
        for command in self.proposals[:kept]:
            self._commit(command)
        self.proposals.clear()
        self.term += 1
        self.facts, self.plan = None, None
        self._take_over()

    def _take_over(self) -> None:
        if self.record is None:
            self.plan = Plan(GID, b"d", Path.STEPS, self.branches, self.deadline_ms)  # the client posts again
        self.facts = Facts(self.now)
        self._drive()

    def _apply(self, command: Command) -> None:
        """The log takes it, unless it has too much to do."""
        if self.chance.random() >= self.fates.lost:
            self._commit(command)
        self._heard(ProposalEnded(command))

    def _commit(self, command: Command) -> None:
        self.ledger.execute(decode(encode(command, 1)))
        self.ledger.restore([b"".join(self.ledger.snapshot())])
        record = self.record
        if record is not None and record.decision is not None:
            assert self._decided in (None, record.decision), "a decision is final"
            if self._decided is None:
                self._decided_at = self.now
            self._decided = record.decision

    def _deliver(self, index: int) -> None:
        term, call = self.requests.pop(index)
        if self.chance.random() < self.fates.doubled:
            self.requests.append((0, call))
        if self.chance.random() < self.fates.lost:
            answer = None
        else:
            answer = self.scene.act(call)
            if self.chance.random() < self.fates.lost:
                answer = None
        if term == self.term:
            self._heard(CallEnded(call.branch, call.verb, answer))

    def _heard(self, event: Event) -> None:
        if self.facts is not None:
            self.facts.fold(event, self.now, self.chance.random())
            self._drive()

    def _drive(self) -> None:
        if self.facts is None:
            return
        if self.record is not None and self.record.decision is not None:
            self.facts.saw_decision(self.now)
        step = decide(self.plan, self.record, self.facts, self.now)
        for effect in step.effects:
            self.facts.note(effect)
            if isinstance(effect, Propose):
                self.proposals.append(effect.command)
            elif isinstance(effect, Call):
                self.requests.append((self.term, effect))
        self.wake_at = step.wake_at
        if step.contradiction:
            self.alarms.append(step.contradiction)
        if step.done:
            self.facts = None

    def _participate(self, call: Call) -> Answer:
        before = len(self.scene.ran)
        answer = self.scene.act(call)
        for name in self.scene.ran[before:]:
            self._audit_time(name)
        return answer

    def _audit_time(self, name: str) -> None:
        """What runs now, does not run too early."""
        delay_ms = next(step_of(b).not_before_ms for b in self.branches if b.branch == name_of(name))
        assert delay_ms == 0 or self._decided is Decision.COMMIT
        assert self.now >= self._decided_at + delay_ms / 1000 or delay_ms == 0, f"{name} has run too early"

    def _send(self, source: str) -> None:
        """The sender commits its own transaction; once it has, it says so to whoever leads, or is not heard."""
        if not self._has_sent:
            self._has_sent = True
            self._participate(Call(source, Verb.COMMIT, True, Work("send", b"")))
        elif self.facts is not None and self.chance.random() >= self.fates.lost:
            self.facts.submitted = True
            self._drive()

    def audit(self) -> None:
        """What must be true now, whatever has happened."""
        record = self.record
        assert record is not None
        self.scene.audit(record)
