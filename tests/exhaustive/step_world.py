"""A small world of steps, searched completely: one transaction, its leader, its participants, messages in between.

Ledger, `decide`, facts and the participants' table are the real ones. What must come about sooner or later (`moves`):
a request is delivered, and answered if somebody waits; the oldest proposal is applied; the deadline passes; who was
given a token reports that the work is done; a person decides about a dead letter. What need not (`faults`), each as
often as `Budget` allows: the leader dies, and its last proposals with it; it is cut off from the log, does not know it,
and goes on asking participants and hearing them; a call or a proposal is given up, and comes about never, or later; a
request is under way a second time; work is reported as refused. If nothing is recorded when the leader dies, the client
posts again, or does not.

What bounds it: these budgets. Waiting is over at once, an answer is heard as soon as it is given (that it is on its way
while something else happens makes a difference only if its leader dies or gives it up, and then nobody hears it).
Proposals are applied in their order, as in production (`driver.performer`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, TypeVar

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose
from coordinator.facts import Facts
from coordinator.ledger.commands import Command, Heard, decode, encode
from coordinator.ledger.records import BranchRecord, Path, Report, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols import protocol
from coordinator.protocols.letters import dead_letters, wanted
from coordinator.protocols.two_phase import Plan
from tests.support.step_scene import GID, StepScene

__all__ = ["Budget", "Census", "Found", "SmallWorld", "explored", "search"]

DEADLINE_MS = 1_000
OPEN, CLOSED = 1, 2
T = TypeVar("T")


class Found(AssertionError):
    """A promise is broken; the message holds the schedule."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`deaths` of workers, and `twins` of them, are of workflows (`workflow_world`)."""

    crashes: int = 0
    losses: int = 0
    copies: int = 0
    cuts: int = 0
    deaths: int = 0
    twins: int = 0
    declines: int = 0


class _Proposal(NamedTuple):
    """`heard`: somebody waits for its end."""

    command: Command
    heard: bool = True


class Census(NamedTuple):
    """What a search has seen."""

    worlds: int
    ends: frozenset[str]  # the phases that it ended in


class _Leader:
    """One leader. `sees`: the record as a leader that is cut off holds it for ever."""

    def __init__(self, plan: Plan | None) -> None:
        self.plan = plan
        self.facts = Facts(0.0)
        self.now = 0.0
        self.sees: TransactionRecord | None = None

    def copied(self) -> _Leader:
        other = copy(self)
        facts: Any = _twin(self.facts)
        facts.proposal = _twin(facts.proposal)
        facts._branches = {name: _twin(known) for name, known in facts._branches.items()}
        facts._notes = {note: _twin(known) for note, known in (facts._notes or {}).items()}
        other.facts = facts
        return other

    def key(self) -> object:
        facts: Any = self.facts
        known = tuple(
            (name, _asking(one), one.state, one.reason, one.result) for name, one in sorted(facts._branches.items())
        )
        progress = tuple((note, _asking(one)) for note, one in sorted((facts._notes or {}).items()))
        seen = None if self.sees is None else self.sees.revision
        return self.plan is None, self.now, known, progress, _asking(facts.proposal), facts.overdue, seen


class SmallWorld:
    """Whoever waits for a request's answer: "leader", "cut off", or "" for nobody.

    `committed`: what every command has made of every record, for this world and all that come of it.
    """

    def __init__(self, branches: tuple[BranchRecord, ...], refusals: dict[str, int], budget: Budget) -> None:
        self.scene = StepScene(branches, refusals)
        self.plan = Plan(GID, b"d", Path.STEPS, branches, DEADLINE_MS)
        self.budget = budget
        self.committed: dict[tuple[TransactionRecord | None, Command], TransactionRecord | None] = {}
        self.record: TransactionRecord | None = None
        self.leader: _Leader | None = _Leader(self.plan)
        self.cut: _Leader | None = None
        self.proposals: list[_Proposal] = []
        self.requests: list[tuple[str, Call]] = []
        self._drive()

    def copied(self) -> SmallWorld:
        other = copy(self)
        other.scene = self.scene.copied()
        other.leader = self.leader and self.leader.copied()
        other.cut = self.cut and self.cut.copied()
        other.proposals, other.requests = list(self.proposals), list(self.requests)
        return other

    def key(self) -> object:
        """Two worlds with the same key go on alike."""
        record = self.record and self.record._replace(revision=0)
        return (
            record,
            self.leader and self.leader.key(),
            self.cut and self.cut.key(),
            tuple(self.proposals),
            frozenset(Counter(self.requests).items()),
            frozenset(self.scene.rows.items()),
            tuple(self.scene.ran),
            frozenset(self.scene.tokens.items()),
            frozenset(self.scene.reports.items()),
            self.budget,
        )

    @property
    def is_over(self) -> bool:
        return self.record is not None and self.record.finished

    @property
    def is_idle(self) -> bool:
        """Whether nothing more has to happen."""
        return not self.proposals and not self.requests and not self.scene.reporters()

    def audit(self) -> None:
        """What must be true when it is over."""
        assert self.record is not None
        self.scene.audit(self.record)

    def moves(self) -> Iterator[tuple[str, SmallWorld]]:
        if self.proposals:
            yield self._after("apply", lambda world: world._apply())
        for who, call in dict.fromkeys(self.requests):
            yield self._after(f"deliver {_told(call)} for {who}", lambda world, r=(who, call): world._deliver(*r))
        for letter in dead_letters(self.record) if self.record is not None else ():
            for heard in (Heard.REDELIVERED, Heard.DROPPED):
                label = f"{letter.branch} is {heard}"
                yield self._after(label, lambda world, b=letter, h=heard: world._decide_letter(b, h))
        for attempt in self.scene.reporters():
            yield self._after(f"report {attempt}", lambda world, a=attempt: world._report(a, Report.DONE))
        if self.leader is not None and self.leader.now == 0 and (self.record is None or self.record.decision is None):
            yield self._after("late", lambda world: world._late())

    def faults(self) -> Iterator[tuple[str, SmallWorld]]:
        if self.leader is None:
            return
        if self.budget.declines:
            budget = replace(self.budget, declines=self.budget.declines - 1)
            for attempt in self.scene.reporters():
                yield self._after(
                    f"decline {attempt}", lambda world, a=attempt: world._report(a, Report.REFUSED), budget
                )
        kept = range(len(self.proposals) + 1)
        if self.budget.crashes:
            budget = replace(self.budget, crashes=self.budget.crashes - 1)
            for count in kept:
                yield self._after(f"crash, {count} kept", lambda world, n=count: world._crash(n), budget)
            if self.record is None:
                yield self._after("crash, and nobody posts again", lambda world: world._crash(0, gone=True), budget)
        if self.budget.cuts and self.record is not None and self.record.decision is None:
            budget = replace(self.budget, cuts=self.budget.cuts - 1)
            for count in kept:
                yield self._after(f"cut off, {count} kept", lambda world, n=count: world._cut_off(n), budget)
        if self.budget.losses:
            budget = replace(self.budget, losses=self.budget.losses - 1)
            for who, call in dict.fromkeys(self.requests):
                if who == "leader":
                    for later in (True, False):
                        how = f"give up {_told(call)}, {'which comes later' if later else 'which is lost'}"
                        yield self._after(how, lambda world, c=call, x=later: world._give_up(c, x), budget)
            if self.proposals and self.proposals[0].heard:
                for later in (True, False):
                    how = f"give up the proposal, {'which comes later' if later else 'which is lost'}"
                    yield self._after(how, lambda world, x=later: world._give_up_proposal(x), budget)
        if self.budget.copies:
            budget = replace(self.budget, copies=self.budget.copies - 1)
            for call in dict.fromkeys(call for _, call in self.requests):
                yield self._after(f"copy {_told(call)}", lambda world, c=call: world.requests.append(("", c)), budget)

    # Inside

    def _after(self, label: str, what: Any, budget: Budget | None = None) -> tuple[str, SmallWorld]:
        world = self.copied()
        world.budget = budget or self.budget
        what(world)
        return label, world

    def _commit(self, command: Command) -> None:
        before = None if self.record is None else self.record.decision
        if (self.record, command) not in self.committed:
            self.committed[self.record, command] = _committed(self.record, command)
        self.record = self.committed[self.record, command]
        assert before is None or (self.record is not None and self.record.decision is before), "a decision is final"

    def _apply(self) -> None:
        command, heard = self.proposals.pop(0)
        self._commit(command)
        if heard and self.leader is not None:
            self.leader.facts.fold(ProposalEnded(command), self.leader.now, 0.0)
        self._drive()

    def _deliver(self, who: str, call: Call) -> None:
        self.requests.remove((who, call))
        answer = self.scene.act(call)
        leader = {"leader": self.leader, "cut off": self.cut}.get(who)
        if leader is not None:
            leader.facts.fold(CallEnded(call.branch, call.verb, answer), leader.now, 0.0)
            self._drive()

    def _report(self, attempt: str, report: Report) -> None:
        assert self.record is not None
        note = self.scene.report(self.record, attempt, report)
        if note is not None:
            self._commit(note)
            self._drive()

    def _decide_letter(self, letter: BranchRecord, heard: Heard) -> None:
        assert self.record is not None
        self._commit(wanted(self.record, letter, heard, "ann"))
        self._drive()

    def _late(self) -> None:
        assert self.leader is not None
        self.leader.now = DEADLINE_MS / 1000
        self._drive()

    def _crash(self, kept: int, gone: bool = False) -> None:
        for command, _ in self.proposals[:kept]:
            self._commit(command)
        self.proposals.clear()
        self._unheard("leader", "")
        self.leader = None if gone else _Leader(self.plan if self.record is None else None)
        self._drive()

    def _cut_off(self, kept: int) -> None:
        cut = self.leader
        assert cut is not None
        cut.sees = self.record
        self._unheard("leader", "cut off")
        self.leader = None
        self.cut = cut
        for command, _ in self.proposals[:kept]:
            self._commit(command)
        self.proposals.clear()
        self.leader = _Leader(None)
        self._drive()

    def _give_up(self, call: Call, later: bool) -> None:
        self.requests.remove(("leader", call))
        if later:
            self.requests.append(("", call))
        assert self.leader is not None
        self.leader.facts.fold(CallEnded(call.branch, call.verb, None), self.leader.now, 0.0)
        self._drive()

    def _give_up_proposal(self, later: bool) -> None:
        command = self.proposals.pop(0).command
        if later:
            self.proposals.insert(0, _Proposal(command, heard=False))
        assert self.leader is not None
        self.leader.facts.fold(ProposalEnded(command), self.leader.now, 0.0)
        self._drive()

    def _unheard(self, who: str, by: str) -> None:
        self.requests = [(by if waits == who else waits, call) for waits, call in self.requests]

    def _drive(self) -> None:
        for who, leader in (("leader", self.leader), ("cut off", self.cut)):
            if leader is None:
                continue
            record = self.record if leader.sees is None else leader.sees
            step = protocol.decide(leader.plan, record, leader.facts, leader.now)
            for effect in step.effects:
                leader.facts.note(effect)
                if not isinstance(effect, Propose):
                    self.requests.append((who, effect))
                elif leader.sees is None:
                    self._propose(effect)
            assert not step.contradiction, step.contradiction
            if step.done:
                self.leader = None

    def _propose(self, effect: Propose) -> None:
        self.proposals.append(_Proposal(effect.command))


def search(branches: tuple[BranchRecord, ...], budget: Budget, refusals: dict[str, int] | None = None) -> Census:
    """Visit every world of a transaction that is declared; see `explored`."""
    return explored(SmallWorld(branches, refusals or {}, budget))


def explored(first: SmallWorld) -> Census:
    """Visit every world from this one on. Raises Found with the schedule that leads to the first that breaks a promise.

    Depth first, with the path on a stack: a world that is met again on its own path means that it goes round for ever.
    """
    seen = {first.key(): OPEN}
    ends: set[str] = set()
    stack = [("", first, _next(first))]
    while stack:
        _, world, successors = stack[-1]
        schedule = [label for label, _, _ in stack]
        try:
            label, following = next(successors, ("", None))
            if following is None:
                _check_end(world, ends)
                seen[world.key()] = CLOSED
                stack.pop()
                continue
            schedule.append(label)
            key = following.key()
            mark = seen.get(key)
            assert mark != OPEN, "it goes round for ever"
            if mark is None:
                if following.is_over:
                    following.audit()
                seen[key] = OPEN
                stack.append((label, following, _next(following)))
        except AssertionError as broken:
            lines = "\n".join(f"  {number}. {line}" for number, line in enumerate(schedule))
            raise Found(f"{broken}\n{lines}") from broken
    return Census(len(seen), frozenset(ends))


def _next(world: SmallWorld) -> Iterator[tuple[str, SmallWorld]]:
    yield from world.moves()
    yield from world.faults()


def _check_end(world: SmallWorld, ends: set[str]) -> None:
    """If nothing more has to happen, it must have ended."""
    letters = [] if world.record is None else dead_letters(world.record)
    if world.is_idle and not letters:
        if world.record is None:
            assert not world.scene.ran, "something has run of which there is no record"
            return
        assert world.is_over, f"it never ends: {world.record}"
        ends.add(world.record.phase.value)


def _asking(asking: Any) -> object:
    """Of how often it was asked, only whether it is the first time makes a difference."""
    return asking.question, asking.in_flight, min(asking.attempts, 2)


def _twin(one: T) -> T:
    """What `copy` makes of an object that has slots, in less time."""
    other = object.__new__(type(one))
    for name in _slots(type(one)):
        setattr(other, name, getattr(one, name))
    return other


@cache
def _slots(cls: type) -> tuple[str, ...]:
    return tuple(name for base in cls.__mro__ for name in getattr(base, "__slots__", ()))


def _committed(record: TransactionRecord | None, command: Command) -> TransactionRecord | None:
    """What the ledger holds afterwards."""
    ledger = Ledger()
    if record is not None:
        ledger.restore([_snapshot_of(record)])
    ledger.execute(decode(encode(command, 1)))
    return ledger.get(GID)


def _snapshot_of(record: TransactionRecord) -> bytes:
    ledger: Any = Ledger()
    ledger._records[GID] = record
    ledger.revision = record.revision
    return b"".join(ledger.snapshot())


def _told(call: Call) -> str:
    return f"{call.branch}: {call.verb}"
