"""A transaction of steps in a small world with chance: its leader, the log, its participants, messages in between.

Ledger, `decide`, facts and the participants' table are the real ones. Messages are late, lost, doubled; leaders die
with their proposals, or with them in the log; time passes. What has run at the participants is written down in order,
and `audit` says what must be true of that when all is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from coordinator.effects import Call, CallEnded, Event, ProposalEnded, Propose
from coordinator.facts import Expiry, Facts
from coordinator.ledger.commands import BY_EXPIRY, Command, decode, encode
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.modes import name_of, step_of
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan
from participant.branch import Ask, Branch, Verdict, judge
from participant.ids import BranchKey
from participant.values import digest_of, unpacked
from participant.wire import Answer, BranchState, Verb

__all__ = ["Fates", "StepWorld", "all_before"]

GID = "t"
STEPS_MAX = 5_000  # of a run to its end without faults
IDLE = 0.1  # how often time passes although something is under way
_ASKS = {Verb.PREPARE: Ask.PREPARE, Verb.ABORT: Ask.ABORT, Verb.PREVENT: Ask.PREVENT}


@dataclass(frozen=True, slots=True)
class Fates:
    """How often each fault strikes, as a chance for each event; `refusals`: how often each action is refused."""

    lost: float = 0.1
    doubled: float = 0.1
    crash: float = 0.05
    late: float = 0.02
    cancel: float = 0.0
    refusals: Mapping[str, int] = field(default_factory=dict)


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
        self.rows: dict[str, Branch] = {}
        self.ran: list[str] = []  # the attempts whose action has taken effect, in order
        self.bodies: dict[str, object] = {}
        self.asked = Counter[str]()
        self._decided: Decision | None = None
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
        calm, self.fates = Fates(0, 0, 0, 0, refusals=self.fates.refusals), self.fates
        self.fates = calm
        for _ in range(STEPS_MAX):
            if self.over:
                return
            self._happen()
        raise AssertionError(f"no end: {self.record}, {self.requests}, {self.proposals}, wakes at {self.wake_at}")

    def _happen(self) -> None:
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
            self._decided = record.decision

    def _deliver(self, index: int) -> None:
        term, call = self.requests.pop(index)
        if self.chance.random() < self.fates.doubled:
            self.requests.append((0, call))
        if self.chance.random() < self.fates.lost:
            answer = None
        else:
            answer = self._participate(call)
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
        step = decide(self.plan, self.record, self.facts, self.now)
        for effect in step.effects:
            self.facts.note(effect)
            if isinstance(effect, Propose):
                self.proposals.append(effect.command)
            else:
                self.requests.append((self.term, effect))
        self.wake_at = step.wake_at
        if step.contradiction:
            self.alarms.append(step.contradiction)
        if step.done:
            self.facts = None

    def _participate(self, call: Call) -> Answer:
        """The participant: its table, and an action that is refused as often as it is fated."""
        name = call.branch
        branch = self.rows.get(name) or Branch(BranchKey(GID, name))
        ask = _ASKS.get(call.verb, Ask.COMMIT_ONE_PHASE if call.one_phase else Ask.COMMIT)
        action, body, digest = self._work(call)
        assert not branch.is_bound_to_another(digest), f"{name} is called with another body"
        rule = judge(branch.state, ask)
        if rule.verdict not in (Verdict.RUN, Verdict.EMPTY):
            assert rule.verdict is not Verdict.CONTRADICTION, f"{ask} of {name}, which is {branch.state}"
            return branch.answer(rule.why)
        state, result = rule.next[0], None
        if ask in (Ask.PREPARE, Ask.COMMIT_ONE_PHASE):
            self.asked[action] += 1
            if self.asked[action] <= self.fates.refusals.get(action, 0):
                state = BranchState.ABORTED
            else:
                result = f"result of {name}"
                self.ran.append(name)
                self.bodies[name] = body
        reason = "no" if state is BranchState.ABORTED else ""
        self.rows[name] = branch.move(ask, state, at_ms=0, digest=digest, reason=reason).giving(result)
        return self.rows[name].answer()

    def _work(self, call: Call) -> tuple[str, object, bytes]:
        if call.work is not None:
            return call.work.action, unpacked(call.work.body), digest_of(call.work.action, call.work.body)
        branch = next(b for b in self.branches if b.branch == name_of(call.branch))
        return branch.action or "", unpacked(branch.body), b""

    # When all is over

    def audit(self) -> None:
        """What must be true now, whatever has happened."""
        record = self.record
        assert record is not None
        assert record.finished
        counts = Counter(_what(name) for name in self.ran)
        assert all(count == 1 for count in counts.values()), f"something has taken effect twice: {self.ran}"
        for branch in record.branches:
            self._audit_branch(branch, record.decision is Decision.COMMIT, counts)
        self._audit_order(self.branches, record.decision is Decision.COMMIT)
        assert not any(row.state is BranchState.PREPARED for row in self.rows.values()), "a branch is left prepared"

    def _audit_branch(self, branch: BranchRecord, committed: bool, counts: Counter[tuple[str, str]]) -> None:
        name, mode = branch.branch, step_of(branch).mode
        has_run, confirmed, undone = (bool(counts[name, what]) for what in ("", "confirm", "undo"))
        if committed:
            assert has_run, f"{name} has not run"
            assert not undone, f"{name} was undone"
            assert confirmed is (mode is Mode.TCC), f"{name} confirmed: {confirmed}"
            if mode is Mode.TWO_PHASE:
                assert self.rows[name].state is BranchState.COMMITTED
            return
        assert not confirmed, f"{name} was confirmed"
        match mode:
            case Mode.TWO_PHASE:
                assert name not in self.rows or self.rows[name].state is BranchState.ABORTED
            case Mode.TCC | Mode.SAGA:
                assert undone is has_run, f"{name} ran: {has_run}, undone: {undone}"
            case Mode.PIVOT | Mode.FORWARD:
                assert not has_run, f"{name} has run, and all was aborted"

    def _audit_order(self, branches: Sequence[BranchRecord], committed: bool) -> None:
        places = {_what(name): place for place, name in enumerate(self.ran)}
        for branch in branches:
            for other in all_before(branches, branch):
                mine, its = places.get((branch.branch, "")), places.get((other, ""))
                if mine is not None:
                    assert its is not None, f"{branch.branch} ran without {other}"
                    assert its < mine, f"{branch.branch} ran before {other}"
                my_undo, its_undo = places.get((branch.branch, "undo")), places.get((other, "undo"))
                if my_undo is not None and its_undo is not None:
                    assert my_undo < its_undo, f"{other} was undone before {branch.branch}"
            for field_, source in step_of(branch).takes:
                self._audit_result(branch.branch, field_, source)
            own, undo = places.get((branch.branch, "")), places.get((branch.branch, "undo"))
            assert undo is None or (own is not None and own < undo)
        assert committed or not any(what == "confirm" for _, what in places)

    def _audit_result(self, name: str, field_: str, source: str) -> None:
        """Who has run with a result, has run with the right one."""
        for attempt, body in self.bodies.items():
            what = _what(attempt)
            if what[0] != name or (source == name and what[1] == ""):
                continue
            assert isinstance(body, dict)
            given = str(body[field_]).removeprefix("result of ")
            assert _what(given) == (source, ""), f"{attempt} was given {body}"


def all_before(branches: Sequence[BranchRecord], branch: BranchRecord) -> set[str]:
    """What a branch comes after, be it through others."""
    steps = {each.branch: step_of(each) for each in branches}
    found: set[str] = set()
    waiting = [*steps[branch.branch].after]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(steps[name].after)
    return found


def _what(attempt: str) -> tuple[str, str]:
    """The branch, and what of it: "", "confirm" or "undo"."""
    name, *more = attempt.split(":")
    return name, next((word for word in more if not word.isdigit()), "")
