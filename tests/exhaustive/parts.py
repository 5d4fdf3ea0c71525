"""The real parts, run on worlds: `Ledger` (through encoded commands), `decide`, `Facts` and the participant's table.

Owns: taking the real objects apart into tuples, putting them together again, and remembering what they did, by all
that it depends on. Must never do: know what may happen next, or what must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose, Step
from coordinator.facts import Asking, Facts
from coordinator.ledger import snapshot
from coordinator.ledger.commands import Begin, Command, Decide, End, encode
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase, TransactionRecord
from coordinator.ledger.table import Accepted, Ledger
from coordinator.protocols import two_phase
from coordinator.protocols.two_phase import Plan
from participant.branch import Ask, Branch, Verdict, judge
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Verb
from tests.exhaustive.states import (
    CUT_OFF,
    DEADLINE_MS,
    LEADER,
    NAMES,
    NO,
    READ_ONLY,
    YES,
    BranchWorld,
    Fact,
    Proposal,
    Request,
    Violation,
    World,
    added,
    dismissed,
    seen_by_cut_off,
    with_cut_off,
    without_cut_off,
)

__all__ = ["Decider", "Inquiry", "Parts", "Reply", "inquire", "reply"]

Decider: TypeAlias = Callable[[Plan | None, TransactionRecord | None, Facts, float], Step]
Inquiry: TypeAlias = Callable[[TransactionRecord | None], tuple[Decision | None, bool]]
Reply: TypeAlias = Callable[[TransactionRecord | None, Facts], Decision | None]

# What a look at the world brings: the step, what is told, whether an abort for lateness is proposed, and the facts then
# of the proposal and of the branches.
_Looked: TypeAlias = tuple[Step, str, bool, Fact, tuple[Fact, ...]]

_QUESTIONS: dict[str, Verb | type[Command]] = {"Begin": Begin, "Decide": Decide, "End": End, **{v: v for v in Verb}}
_VOTES = {YES: BranchState.PREPARED, READ_ONLY: BranchState.READ_ONLY, NO: BranchState.ABORTED}
_ASKS = {ask.value: ask for ask in (Ask.PREPARE, Ask.COMMIT, Ask.ABORT, Ask.PREVENT, Ask.EXPIRE)}


def inquire(record: TransactionRecord | None) -> tuple[Decision | None, bool]:
    """What a participant in doubt is told, and whether an abort is made durable before."""
    return (Decision.ABORT, True) if record is None else (record.decision, False)


def reply(record: TransactionRecord | None, _: Facts) -> Decision | None:
    """What the driver tells its client, beside what is implied."""
    return None if record is None else record.decision


@dataclass
class Parts:
    """What runs in the world. The canaries replace a part."""

    path: Path = Path.CLASSIC
    decide: Decider = two_phase.decide
    inquire: Inquiry = inquire
    reply: Reply = reply
    takeover: bool = True  # whether a dead leader has a successor
    retry_paths: tuple[Path, ...] = ()  # what the client's next attempts may take; (): the same path
    alarms: bool = True  # whether a contradiction that somebody notices is a violation, or only what comes of it
    _steps: dict[object, _Looked] = field(default_factory=dict)
    _ledgers: dict[object, tuple[Phase, bool, str, tuple[bool, ...]]] = field(default_factory=dict)
    _rivals: dict[object, bool] = field(default_factory=dict)
    _folded: dict[object, Fact] = field(default_factory=dict)
    _idle: dict[object, bool] = field(default_factory=dict)
    _participated: dict[object, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def commits_unrecorded(self) -> bool:
        """Whether a branch may be committed before the commit is recorded: some attempt may leave it to the branch."""
        return Path.ONE_PHASE in (self.path, *self.retry_paths)

    def record(self, world: World) -> TransactionRecord | None:
        """What the ledger holds."""
        if world.phase is None:
            return None
        branches = () if world.tombstone else tuple(map(_branch_record, NAMES, [b.ended for b in world.branches]))
        digest = b"" if world.tombstone else b"d"
        path = Path.CLASSIC if world.tombstone else Path(world.path)
        return TransactionRecord("t", digest, path, world.phase, branches, DEADLINE_MS, 0, revision=1)

    def plan(self, world: World) -> Plan:
        """What the client asked for."""
        names = NAMES[: len(world.branches)]
        return Plan("t", b"d", Path(world.path), tuple(_branch_record(name, False) for name in names), DEADLINE_MS)

    def step(self, world: World) -> World:
        """The driver looks at the world, if there is one, and its effects begin."""
        return self._step(world, LEADER) if world.driver else world

    def step_cut_off(self, world: World) -> World:
        """The cut-off leader looks at what it knows of the world, and its effects begin; its proposals are lost.

        Once it has told something, it has nothing else to tell.
        """
        if world.cut is None:
            return world
        seen = seen_by_cut_off(world, world.cut)
        after = with_cut_off(world, self._step(seen, CUT_OFF))
        return without_cut_off(after) if self._looked(seen)[1] else after

    def _step(self, world: World, who: str) -> World:
        step, told, overdue, proposal_fact, facts = self._looked(world)
        if step.contradiction:
            world = world._replace(alarm=step.contradiction)
        if step.done:
            return dismissed(world)
        world = _told(world, told, who == LEADER and self.answers_readers(world))
        if not step.effects:
            return world
        proposal, named = world.proposal, {b for b, one in zip(NAMES, world.branches, strict=False) if one.named}
        sent: dict[str, tuple[Request, ...]] = {}
        for effect in step.effects:
            match effect:
                case Propose(command=command):
                    proposal, named = _taken_apart(command)
                case Call(branch=name, verb=verb, one_phase=one_phase):
                    sent[name] = ((verb, one_phase, who),)
        return world._replace(
            proposal=proposal,
            proposal_fact=proposal_fact,
            overdue=overdue,
            branches=tuple(
                b._replace(fact=fact, named=name in named, requests=added(b.requests, *sent.get(name, ())))
                for name, b, fact in zip(NAMES, world.branches, facts, strict=False)
            ),
        )

    def answers_readers(self, world: World) -> bool:
        """Whether the driver would answer "undecided" now to somebody who reads, if it has told nothing.

        On the classic path the record answers, and nobody has heard anything before it.
        """
        return world.driver == "plan" and world.phase is Phase.PREPARING and world.path != Path.CLASSIC

    def _looked(self, world: World) -> _Looked:
        branches = tuple((b.ended, b.fact) for b in world.branches)
        asked = (world.phase, world.tombstone, world.path)
        key = (*asked, world.proposal_fact, world.driver, world.late, world.overdue, branches)
        if key not in self._steps:
            self._steps[key] = self._look(world)
        return self._steps[key]

    def _look(self, world: World) -> _Looked:
        facts = _facts(world)
        now = DEADLINE_MS / 1000 if world.late else 0.0
        record = self.record(world)
        plan = self.plan(world) if world.driver == "plan" else None
        step = self.decide(plan, record, facts, now)
        told = self.reply(record, facts) or (step.implied.decision if step.implied is not None else "")
        for effect in step.effects:
            facts.note(effect)
        names = NAMES[: len(world.branches)]
        branch_facts = tuple(_branch_fact(facts, name) for name in names)
        return step, told, facts.overdue, _fact(facts.proposal, ""), branch_facts

    def applied(self, world: World, command: Command) -> World:
        """The command passes the real ledger, as bytes."""
        ended = tuple(b.ended for b in world.branches)
        key = (world.phase, world.tombstone, world.path, ended, command)
        if key not in self._ledgers:
            ledger = Ledger()
            before = self.record(world)
            ledger.restore(snapshot.encode(1, [] if before is None else [before]))
            ledger.apply(1, encode(command))
            after = ledger.get("t")
            if after is None:
                raise Violation(f"{command} left no record")
            ended_after = ended if after.tombstone else tuple(branch.ended for branch in after.branches)
            self._ledgers[key] = (after.phase, after.tombstone, after.decision or "", ended_after)
        phase, tombstone, decision, ended_after = self._ledgers[key]
        return world._replace(
            phase=phase,
            tombstone=tombstone,
            told=world.told or decision,  # anybody may ask from here on
            branches=tuple(b._replace(ended=e) for b, e in zip(world.branches, ended_after, strict=True)),
        )

    def takes_rival(self, world: World) -> bool:
        """Whether the ledger takes a request with another list of branches for the one that it holds."""
        record = self.record(world)
        if record is None or record.tombstone:
            return False
        key = (world.phase, world.path)
        if key not in self._rivals:
            ledger = Ledger()
            ledger.restore(snapshot.encode(1, [record]))
            begin = Begin("t", b"e", record.path, (_branch_record("z", False),), DEADLINE_MS, 0)
            self._rivals[key] = isinstance(ledger.apply(1, encode(begin)), Accepted)
        return self._rivals[key]

    def command(self, world: World, proposal: Proposal, named: Iterable[bool]) -> Command:
        """The proposal as it was made. `named`: which branches it names."""
        kind, decision, by = proposal
        names = tuple(name for name, is_named in zip(NAMES, named, strict=False) if is_named)
        if kind == "Begin":
            plan = self.plan(world)
            return Begin("t", plan.digest, plan.path, plan.branches, plan.deadline_ms, 0)
        return End("t", names) if kind == "End" else Decide("t", Decision(decision), by, 0, done=names)

    def proposal_ended(self, world: World, command: Command) -> World:
        """The driver hears of it; it has not looked yet."""
        facts = _facts(world)
        facts.fold(ProposalEnded(command), 0.0, 0.0)
        return world._replace(
            proposal=None,
            proposal_fact=_fact(facts.proposal, ""),
            branches=tuple(b._replace(named=False) for b in world.branches),
        )

    def folded(self, fact: Fact, verb: str, state: str) -> Fact:
        """What is known of a branch after the answer `state` to `verb`; "": the call came back without one."""
        key = (fact, verb, state)
        if key not in self._folded:
            facts = Facts(0.0)
            _restore(facts.of("a"), fact)
            facts.of("a").state = BranchState(fact[3]) if fact[3] else None
            answer = Answer(BranchState(state)) if state else None
            facts.fold(CallEnded("a", Verb(verb), answer), 0.0, 0.0)
            self._folded[key] = _branch_fact(facts, "a")
        return self._folded[key]

    def participated(self, durable: str, will: str, verb: str, one_phase: bool) -> tuple[str, str, str]:
        """The participant's table: what is durable afterwards, what is answered, and what it calls a contradiction."""
        key = (durable, will, verb, one_phase)
        if key not in self._participated:
            branch = Branch(BranchKey("t", "a"), BranchState(durable))
            ask = Ask.COMMIT_ONE_PHASE if one_phase else _ASKS[verb]
            rule = judge(branch.state, ask)
            if rule.verdict in (Verdict.RUN, Verdict.EMPTY):
                state = _VOTES[will] if ask is Ask.PREPARE else rule.next[0]
                if ask is Ask.COMMIT_ONE_PHASE and will == NO:
                    state = BranchState.ABORTED
                branch = branch.move(ask, state, at_ms=0)
            alarm = rule.why if rule.verdict is Verdict.CONTRADICTION else ""
            self._participated[key] = (branch.state, branch.answer().state, alarm)
        return self._participated[key]

    def without_the_idle(self, world: World) -> World:
        """The world without the requests that nobody waits for and that can change nothing any more."""
        branches = tuple(map(self._without_the_idle, world.branches))
        return world if branches == world.branches else world._replace(branches=branches)

    def _without_the_idle(self, branch: BranchWorld) -> BranchWorld:
        if all(waiting for _, _, waiting in branch.requests):
            return branch
        kept = tuple(r for r in branch.requests if r[2] or not self._is_idle(branch, r))
        return branch if len(kept) == len(branch.requests) else branch._replace(requests=kept)

    def _is_idle(self, branch: BranchWorld, request: Request) -> bool:
        """Whether the request does nothing in any state that the branch may yet come to."""
        key = (branch.durable, branch.will, *request[:2])
        if key not in self._idle:
            states = self.states_after(branch.durable, branch.will)
            answers = [(state, self.participated(state, branch.will, *request[:2])) for state in states]
            self._idle[key] = all(after == state and not alarm for state, (after, _, alarm) in answers)
        return self._idle[key]

    def states_after(self, durable: str, will: str) -> set[str]:
        """Every state that the branch may come to, whatever it is asked."""
        reached, new = {durable}, [durable]
        while new:
            state = new.pop()
            for ask in _ASKS:
                after = {self.participated(state, will, ask, one_phase)[0] for one_phase in (False, True)} - reached
                reached |= after
                new += after
        return reached


def _told(world: World, told: str, reads: bool) -> World:
    """A driver tells its callers what it has; or, if somebody `reads`, that it has nothing."""
    if told:
        contrary = f"the client was told {world.told}, and then {told}" if world.told not in ("", told) else ""
        return world._replace(told=world.told or told, alarm=world.alarm or contrary)
    if reads and world.told:
        return world._replace(alarm=f"the client was told {world.told}, and who asks then hears nothing of it")
    return world


def _branch_record(name: str, ended: bool) -> BranchRecord:
    return BranchRecord(name, f"bank-{name}", None, b"", ended)


def _taken_apart(command: Command) -> tuple[Proposal, set[str]]:
    match command:
        case Decide(decision=decision, by=by, done=done):
            return ("Decide", decision, by), set(done)
        case End(branches=branches):
            return ("End", "", ""), set(branches)
    return ("Begin", "", ""), set()


def _restore(asking: Asking, fact: Fact) -> None:
    asking.question = _QUESTIONS.get(fact[0])
    asking.in_flight = fact[1]
    asking.attempts = fact[2]


def _facts(world: World) -> Facts:
    facts = Facts(0.0)
    facts.overdue = world.overdue
    _restore(facts.proposal, world.proposal_fact)
    for name, branch in zip(NAMES, world.branches, strict=False):
        _restore(facts.of(name), branch.fact)
        facts.of(name).state = BranchState(branch.fact[3]) if branch.fact[3] else None
    return facts


def _fact(asking: Asking, state: str) -> Fact:
    question = asking.question
    name = "" if question is None else question if isinstance(question, Verb) else question.__name__
    return (name, asking.in_flight, min(asking.attempts, 2), state)


def _branch_fact(facts: Facts, name: str) -> Fact:
    return _fact(facts.of(name), facts.of(name).state or "")
