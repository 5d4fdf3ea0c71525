"""A small world, searched completely: one transaction, its leader, its participants, every message between them.

The rules are the real ones: `Ledger` (through encoded commands), `decide`, `Facts` and the participant's table are run
for every step; only their state is taken apart into a `World` of plain tuples, so that two ways of arriving at the same
state are one. What may happen:

- a request or an answer is delivered, in any order; the pending proposal is applied;
- the deadline passes; a participant in doubt asks, as soon as it likes;
- a call is given up while its request is still under way, and arrives late (`timeouts` times);
- one party crashes (`crashes` times): a participant keeps what is durable and breaks its connections; the leader loses
  its facts and perhaps its pending proposal, and the next one starts with what the ledger holds. Requests that the
  old leader had sent may still arrive. If nothing was recorded, the client may post its request again.

Branches of one will are interchangeable, so a world is kept with its branches sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose, Step
from coordinator.facts import Asking, Facts
from coordinator.ledger import snapshot
from coordinator.ledger.commands import BY_INQUIRY, Begin, Command, Decide, End, encode
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase, TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols import two_phase
from coordinator.protocols.two_phase import Plan
from participant.branch import Ask, Branch, Verdict, judge
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Verb

NAMES = ("a", "b", "c", "d", "e")
DEADLINE_MS = 1000
YES, NO, READ_ONLY = "yes", "no", "read-only"
FINISHED = (Phase.COMMITTED, Phase.ABORTED)

M = TypeVar("M", tuple[str, str], tuple[str, bool, bool])  # a message
Fact: TypeAlias = tuple[str, bool, int, str]  # question, in flight, attempts (at most 2), state
BLANK: Fact = ("", False, 0, "")


class BranchWorld(NamedTuple):
    """Everything about one branch. Texts are "" where there is none, so that branches can be sorted."""

    will: str
    durable: str  # the participant's BranchState
    ended: bool  # in the record
    named: bool  # by the pending proposal
    fact: Fact
    requests: tuple[tuple[str, bool, bool], ...]  # verb, one phase, whether somebody still waits for the answer
    answers: tuple[tuple[str, str], ...]  # verb, state; "" for a broken connection


class World(NamedTuple):
    """One state of everything."""

    phase: Phase | None  # of the record
    tombstone: bool
    proposal: tuple[str, str, str] | None  # pending: kind, decision, by
    proposal_fact: Fact
    driver: str  # "plan", "takeover", or "" for none
    late: bool
    crashes: int  # that may still happen
    timeouts: int
    retries: int
    excused: bool  # an abort needs no vote against it
    told: str  # the decision that the client has heard
    branches: tuple[BranchWorld, ...]


class Violation(AssertionError):
    """A promise is broken; the message holds the schedule."""


Decider: TypeAlias = Callable[[Plan | None, TransactionRecord | None, Facts, float], Step]
Inquiry: TypeAlias = Callable[[TransactionRecord | None], tuple[Decision | None, bool]]
Reply: TypeAlias = Callable[[TransactionRecord | None, Facts], Decision | None]


def inquire(record: TransactionRecord | None) -> tuple[Decision | None, bool]:
    """What a participant in doubt is told, and whether an abort is made durable before."""
    return (Decision.ABORT, True) if record is None else (record.decision, False)


def reply(record: TransactionRecord | None, _: Facts) -> Decision | None:
    """What the driver tells its client."""
    return None if record is None else record.decision


@dataclass
class Rules:
    """What runs in the world. The canaries replace a part."""

    path: Path = Path.CLASSIC
    decide: Decider = two_phase.decide
    inquire: Inquiry = inquire
    reply: Reply = reply
    takeover: bool = True  # whether a dead leader has a successor
    _steps: dict[object, tuple[Step, str, Fact, tuple[Fact, ...]]] = field(default_factory=dict)
    _ledgers: dict[object, tuple[Phase, bool, str, tuple[bool, ...]]] = field(default_factory=dict)

    # The real parts, each remembered by what it depends on

    def record(self, world: World) -> TransactionRecord | None:
        if world.phase is None:
            return None
        branches = () if world.tombstone else tuple(map(_branch_record, NAMES, [b.ended for b in world.branches]))
        digest = b"" if world.tombstone else b"d"
        return TransactionRecord("t", digest, self.path, world.phase, branches, DEADLINE_MS, 0, revision=1)

    def plan(self, world: World) -> Plan:
        names = NAMES[: len(world.branches)]
        return Plan("t", b"d", self.path, tuple(_branch_record(name, False) for name in names), DEADLINE_MS)

    def step(self, world: World) -> World:
        """The driver looks at the world, if there is one, and its effects begin."""
        if not world.driver:
            return world
        branches = tuple((b.ended, b.fact) for b in world.branches)
        key = (world.phase, world.tombstone, world.proposal_fact, world.driver, world.late, branches)
        if key not in self._steps:
            self._steps[key] = self._look(world)
        step, told, proposal_fact, facts = self._steps[key]
        if step.done:
            return _dismissed(world)
        if told and not world.told:
            world = world._replace(told=told)
        if not step.effects:
            return world
        proposal, named = world.proposal, {b for b, one in zip(NAMES, world.branches, strict=False) if one.named}
        sent: dict[str, tuple[tuple[str, bool, bool], ...]] = {}
        for effect in step.effects:
            match effect:
                case Propose(command=command):
                    proposal, named = _taken_apart(command)
                case Call(branch=name, verb=verb, one_phase=one_phase):
                    sent[name] = ((verb, one_phase, True),)
        return world._replace(
            proposal=proposal,
            proposal_fact=proposal_fact,
            branches=tuple(
                b._replace(fact=fact, named=name in named, requests=_add(b.requests, *sent.get(name, ())))
                for name, b, fact in zip(NAMES, world.branches, facts, strict=False)
            ),
        )

    def _look(self, world: World) -> tuple[Step, str, Fact, tuple[Fact, ...]]:
        facts = _facts(world)
        now = DEADLINE_MS / 1000 if world.late else 0.0
        record = self.record(world)
        plan = self.plan(world) if world.driver == "plan" else None
        step = self.decide(plan, record, facts, now)
        told = self.reply(record, facts) or ""
        for effect in step.effects:
            facts.note(effect)
        names = NAMES[: len(world.branches)]
        return step, told, _fact(facts.proposal, ""), tuple(_branch_fact(facts, name) for name in names)

    def applied(self, world: World, command: Command) -> World:
        """The command passes the real ledger, as bytes."""
        ended = tuple(b.ended for b in world.branches)
        key = (world.phase, world.tombstone, ended, command)
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

    # What may happen next

    def successors(self, world: World) -> Iterator[tuple[str, World]]:
        """Every next world that must come about sooner or later, and how."""
        if world.proposal is not None:
            yield f"{world.proposal[0]} is applied", self._proposal_applied(world)
        for i, branch in enumerate(world.branches):
            for request in set(branch.requests):
                yield f"{request[0]} reaches {branch.will}", self._request_delivered(world, i, request)
            for answer in set(branch.answers):
                yield f"{answer[0]}: {answer[1] or 'unknown'} from {branch.will}", self._answered(world, i, answer)
            if branch.durable == BranchState.PREPARED:
                decision, makes_durable = self.inquire(self.record(world))
                if decision is not None:
                    yield f"{branch.will} inquires", self._inquired(world, i, decision, makes_durable)
        if world.driver and not world.late and world.phase in (None, Phase.PREPARING):
            yield "the deadline passes", self.step(world._replace(late=True, excused=True))

    def faults(self, world: World) -> Iterator[tuple[str, World]]:
        """Every next world that need not come about."""
        for i, branch in enumerate(world.branches):
            if world.timeouts and branch.fact[1]:
                yield f"{branch.fact[0]} to {branch.will} is given up", self._given_up(world, i)
            if world.crashes and (branch.requests or branch.answers):
                yield f"{branch.will} crashes", self._participant_crashed(world, i)
        if world.crashes and world.driver:
            yield "the leader crashes", self._leader_crashed(world)
            if world.proposal is not None:
                yield "the leader crashes, its proposal survives", self._leader_crashed(self._survived(world))
        if world.retries and not world.driver and world.phase is None:
            yield "the client posts again", self.step(world._replace(driver="plan", retries=0))

    def _survived(self, world: World) -> World:
        return self.applied(world, self._command(world))

    def _command(self, world: World) -> Command:
        assert world.proposal is not None
        kind, decision, by = world.proposal
        named = tuple(name for name, b in zip(NAMES, world.branches, strict=False) if b.named)
        if kind == "Begin":
            plan = self.plan(world)
            return Begin("t", plan.digest, plan.path, plan.branches, plan.deadline_ms, 0)
        return End("t", named) if kind == "End" else Decide("t", Decision(decision), by, 0, done=named)

    def _proposal_applied(self, world: World) -> World:
        command = self._command(world)
        after = self.applied(world, command)
        facts = _facts(world)
        facts.fold(ProposalEnded(command), 0.0, 0.0)
        return self.step(after._replace(proposal=None, proposal_fact=_fact(facts.proposal, "")))

    def _request_delivered(self, world: World, i: int, request: tuple[str, bool, bool]) -> World:
        verb, one_phase, wanted = request
        branch = world.branches[i]
        durable, state = _participate(branch.durable, branch.will, verb, one_phase)
        answers = _add(branch.answers, (verb, state)) if wanted else branch.answers
        return _with(
            world, i, branch._replace(durable=durable, requests=_less(branch.requests, request), answers=answers)
        )

    def _answered(self, world: World, i: int, answer: tuple[str, str]) -> World:
        branch = world.branches[i]
        fact = _folded(branch.fact, *answer)
        return self.step(_with(world, i, branch._replace(fact=fact, answers=_less(branch.answers, answer))))

    def _inquired(self, world: World, i: int, decision: Decision, makes_durable: bool) -> World:
        if makes_durable:
            world = self.applied(world, Decide("t", Decision.ABORT, BY_INQUIRY, 0))._replace(excused=True)
        branch = world.branches[i]
        verb = Verb.COMMIT if decision is Decision.COMMIT else Verb.ABORT
        durable, _ = _participate(branch.durable, branch.will, verb, False)
        return self.step(_with(world, i, branch._replace(durable=durable)))

    def _given_up(self, world: World, i: int) -> World:
        branch = world.branches[i]
        verb = branch.fact[0]
        late = tuple(sorted((v, o, wanted and v != verb) for v, o, wanted in branch.requests))
        answers = tuple(answer for answer in branch.answers if answer[0] != verb)
        given_up = branch._replace(requests=late, answers=answers, fact=_folded(branch.fact, verb, ""))
        return self.step(_with(world, i, given_up)._replace(timeouts=world.timeouts - 1))

    def _participant_crashed(self, world: World, i: int) -> World:
        branch = world.branches[i]
        broken = [(verb, "") for verb, _, wanted in branch.requests if wanted]
        broken += [(verb, "") for verb, _ in branch.answers]
        after = branch._replace(requests=(), answers=tuple(sorted(broken)))
        return _with(world, i, after)._replace(crashes=world.crashes - 1)

    def _leader_crashed(self, world: World) -> World:
        after = _dismissed(world)._replace(crashes=world.crashes - 1, late=False)
        unfinished = self.takeover and after.phase is not None and after.phase not in FINISHED
        return self.step(after._replace(driver="takeover")) if unfinished else after


# Taking the real objects apart, and putting them together


def _branch_record(name: str, ended: bool) -> BranchRecord:
    return BranchRecord(name, f"bank-{name}", None, b"", ended)


def _taken_apart(command: Command) -> tuple[tuple[str, str, str], set[str]]:
    match command:
        case Decide(decision=decision, by=by, done=done):
            return ("Decide", decision, by), set(done)
        case End(branches=branches):
            return ("End", "", ""), set(branches)
    return ("Begin", "", ""), set()


_QUESTIONS: dict[str, Verb | type[Command]] = {"Begin": Begin, "Decide": Decide, "End": End, **{v: v for v in Verb}}


def _restore(asking: Asking, fact: Fact) -> None:
    asking.question = _QUESTIONS.get(fact[0])
    asking.in_flight = fact[1]
    asking.attempts = fact[2]


def _facts(world: World) -> Facts:
    facts = Facts(0.0)
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


_FOLDED: dict[tuple[Fact, str, str], Fact] = {}


def _folded(fact: Fact, verb: str, state: str) -> Fact:
    key = (fact, verb, state)
    if key not in _FOLDED:
        facts = Facts(0.0)
        _restore(facts.of("a"), fact)
        facts.of("a").state = BranchState(fact[3]) if fact[3] else None
        answer = Answer(BranchState(state)) if state else None
        facts.fold(CallEnded("a", Verb(verb), answer), 0.0, 0.0)
        _FOLDED[key] = _branch_fact(facts, "a")
    return _FOLDED[key]


_PARTICIPATED: dict[tuple[str, str, str, bool], tuple[str, str]] = {}
_VOTES = {YES: BranchState.PREPARED, READ_ONLY: BranchState.READ_ONLY, NO: BranchState.ABORTED}
_ASKS = {Verb.PREPARE: Ask.PREPARE, Verb.COMMIT: Ask.COMMIT, Verb.ABORT: Ask.ABORT, Verb.PREVENT: Ask.PREVENT}


def _participate(durable: str, will: str, verb: str, one_phase: bool) -> tuple[str, str]:
    """The participant's table: what is durable afterwards, and what is answered."""
    key = (durable, will, verb, one_phase)
    if key not in _PARTICIPATED:
        branch = Branch(BranchKey("t", "a"), BranchState(durable))
        ask = Ask.COMMIT_ONE_PHASE if one_phase else _ASKS[Verb(verb)]
        rule = judge(branch.state, ask)
        if rule.verdict in (Verdict.RUN, Verdict.EMPTY):
            state = _VOTES[will] if ask is Ask.PREPARE else rule.next[0]
            if ask is Ask.COMMIT_ONE_PHASE and will == NO:
                state = BranchState.ABORTED
            branch = branch.move(ask, state, at_ms=0)
        _PARTICIPATED[key] = (branch.state, branch.answer().state)
    return _PARTICIPATED[key]


def _add(messages: tuple[M, ...], *more: M) -> tuple[M, ...]:
    return tuple(sorted(messages + more)) if more else messages


def _less(messages: tuple[M, ...], message: M) -> tuple[M, ...]:
    index = messages.index(message)
    return messages[:index] + messages[index + 1 :]


def _with(world: World, i: int, branch: BranchWorld) -> World:
    return world._replace(branches=(*world.branches[:i], branch, *world.branches[i + 1 :]))


def _dismissed(world: World) -> World:
    """No driver any more: its facts are gone and nobody waits for answers; what was sent may still arrive."""
    return world._replace(
        driver="",
        proposal=None,
        proposal_fact=BLANK,
        branches=tuple(
            b._replace(
                fact=BLANK, named=False, answers=(), requests=tuple(sorted((v, o, False) for v, o, _ in b.requests))
            )
            for b in world.branches
        ),
    )


def sorted_world(world: World) -> World:
    """The one of its kind: which branch of a will is called what does not matter."""
    return world._replace(branches=tuple(sorted(world.branches)))


def first_world(rules: Rules, wills: tuple[str, ...], *, crashes: int, timeouts: int) -> World:
    """The client's request has arrived at the leader."""
    branches = tuple(BranchWorld(will, BranchState.UNKNOWN, False, False, BLANK, (), ()) for will in sorted(wills))
    world = World(None, False, None, BLANK, "plan", False, crashes, timeouts, 1, False, "", branches)
    return sorted_world(rules.step(world))
