"""Small worlds of three-phase commit: the log, its coordinators, and participants that end it among themselves.

What decides is the real code: `three_phase.decide`, the ledger's `find`, and the functions of
`participant.termination`.

What was sent may arrive at any later time, any number of times, or never, and so may its answer; whoever sent it may
be dead by then. So nothing is taken off the network: a ballot that was begun can be promised for ever, a proposal be
agreed to for ever, and whoever concludes something does so from any part of what was answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, combinations, product
from typing import Any, NamedTuple

from coordinator.effects import CallEnded, Propose
from coordinator.facts import Facts
from coordinator.ledger.commands import Command, Decide, Precommit
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase, TransactionRecord
from coordinator.ledger.transitions import Event, Transition, find
from coordinator.protocols import three_phase
from participant import termination
from participant.termination import COORDINATORS, Ask, Ballot, Ending, Heard, Leaning, Policy, Register, Silence
from participant.wire import Answer, BranchState, Verb
from participant.wire_three_phase import Terms

DEADLINE_MS = 1_000
UNKNOWN, PREPARED = BranchState.UNKNOWN, BranchState.PREPARED
COMMITTED, ABORTED = BranchState.COMMITTED, BranchState.ABORTED
ENDS = {COMMITTED: Ending.COMMIT, ABORTED: Ending.ABORT}
STATES = {ending: state for state, ending in ENDS.items()}
ASKS = {Leaning.PRECOMMITTED: Ask.PRECOMMIT, Leaning.PREABORTED: Ask.PREABORT}
EVENTS = {Decision.COMMIT: Event.COMMIT, Decision.ABORT: Event.ABORT}


class Found(AssertionError):
    """Two ends that differ, or a commit that somebody had refused; with the schedule."""


class Round(NamedTuple):
    """One ballot of a participant: what was promised in it, what was ever proposed, and who ever agreed to what.

    Its owner may go on with it after a restart, or in two processes, so that it concludes as often as it likes.
    """

    ballot: Ballot
    promises: tuple[Heard | None, ...]
    proposed: frozenset[Leaning] = frozenset()
    agreed: frozenset[tuple[int, Leaning]] = frozenset()


class World(NamedTuple):
    """`precommitting`: the log has said so once. `precommitted`: who has ever told the coordinators so."""

    phase: Phase
    precommitting: bool
    states: tuple[BranchState, ...]
    registers: tuple[Register, ...]
    voted: frozenset[int]
    precommitted: frozenset[int] = frozenset()
    rounds: tuple[Round, ...] = ()


class Rules:
    """How participants and coordinators behave. Canaries override one of the methods."""

    policy = Policy.QUORUM

    def __init__(self, count: int, ballots: dict[int, int], *, gossip: bool = True) -> None:
        """`ballots`: how many each participant (from 0) may take. Without `gossip`, no peer tells another the end
        unless that one asks: it would only take a register away."""
        self.count = count
        self.gossip = gossip
        self.ballots = ballots
        self.concluded: dict[Any, frozenset[tuple[Phase, str]]] = {}

    def first(self) -> World:
        return World(Phase.PREPARING, False, (UNKNOWN,) * self.count, (Register(),) * self.count, frozenset())

    def moves(self, world: World) -> Iterator[tuple[str, World]]:
        yield from self.votes(world)
        yield from self.coordinate(world)
        for i in range(self.count):
            yield from self.hear_coordinators(world, i)
            yield from self.begin(world, i)
            yield from self.be_told(world, i)
        for r in range(len(world.rounds)):
            yield from self.canvass(world, r)
            yield from self.conclude_canvass(world, r)
            yield from self.lean(world, r)
            yield from self.conclude_leaning(world, r)

    # The coordinators

    def votes(self, world: World) -> Iterator[tuple[str, World]]:
        for i, state in enumerate(world.states):
            if state is UNKNOWN:
                yield f"{i} votes yes", changed(world, i, state=PREPARED)._replace(voted=world.voted | {i})
                yield f"{i} votes no", changed(world, i, state=ABORTED)

    def coordinate(self, world: World) -> Iterator[tuple[str, World]]:
        """Any leader, with any part of what it may have heard, early or late."""
        if world.phase in (Phase.PREPARING, Phase.PRECOMMITTING):
            could = tuple(self.could_hear(world, i) for i in range(self.count))
            key = (world.phase, could)
            if key not in self.concluded:
                self.concluded[key] = frozenset(self.conclusions(world.phase, could))
            for phase, why in self.concluded[key]:
                yield (
                    f"the log says {phase}: {why}",
                    world._replace(phase=phase, precommitting=world.precommitting or phase is Phase.PRECOMMITTING),
                )

    def could_hear(self, world: World, i: int) -> tuple[str, ...]:
        said = ["nothing"]
        if i in world.voted:
            said.append("yes")
        if i in world.precommitted:
            said.append("precommitted")
        if world.states[i] in ENDS:
            said.append(world.states[i].value)
        return tuple(said)

    def conclusions(self, phase: Phase, could: tuple[tuple[str, ...], ...]) -> Iterator[tuple[Phase, str]]:
        for heard in product(*could):
            for late in (False, True):
                record = self.record(phase)
                for command in self.propose(record, heard, late):
                    row = find(record, event_of(command), command)
                    if isinstance(row, Transition) and row.becomes not in (None, phase):
                        assert row.becomes is not None
                        yield row.becomes, f"{type(command).__name__}, {', '.join(heard)}"

    def record(self, phase: Phase) -> TransactionRecord:
        branches = tuple(BranchRecord(str(i), f"bank-{i}", "do", b"") for i in range(self.count))
        is_unsafe = self.policy is Policy.UNSAFE_COMMIT_ON_SILENCE
        path = Path.UNSAFE_COMMIT_ON_SILENCE if is_unsafe else Path.THREE_PHASE
        return TransactionRecord("t", b"d", path, phase, branches, DEADLINE_MS, 0)

    def propose(self, record: TransactionRecord, heard: Iterable[str], late: bool) -> list[Command]:
        facts = Facts(0.0)
        for i, said in enumerate(heard):
            for verb, answer in answers_of(said):
                facts.fold(CallEnded(str(i), verb, answer), 0.0, 0.5)
        step = three_phase.decide(None, record, facts, 2.0 if late else 0.5)
        return [effect.command for effect in step.effects if isinstance(effect, Propose)]

    def hear_coordinators(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        state = world.states[i]
        if world.precommitting and state is PREPARED:
            register = self.moved(world.registers[i], Ask.PRECOMMIT, COORDINATORS)
            if register is not None:
                told = world._replace(precommitted=world.precommitted | {i})
                yield f"{i} precommits for the coordinators", changed(told, i, register=register)
        if world.phase is Phase.COMMITTING and state is PREPARED:
            yield f"{i} is told to commit", changed(world, i, state=COMMITTED)
        if world.phase in (Phase.ABORTING, Phase.ABORTED) and state in (PREPARED, UNKNOWN):
            yield f"{i} is told to abort", changed(world, i, state=ABORTED)

    # The participants

    def moved(self, register: Register, ask: Ask, ballot: Ballot) -> Register | None:
        return termination.moved(register, ask, ballot)

    def after_canvass(self, ballot: Ballot, heard: tuple[Heard, ...]) -> Ending | Leaning | None:
        return termination.after_canvass(ballot, self.count, heard)

    def begin(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        if world.states[i] is not PREPARED:
            return
        if self.policy is Policy.UNSAFE_COMMIT_ON_SILENCE:
            does = termination.on_silence(
                self.policy,
                world.registers[i],
                i + 1,
                is_deciding=False,
                silent_s=9.0,
                promised_s=9.0,
                patience_s=5.0,
            )
            yield (
                f"{i} hears nothing: {does}",
                changed(world, i, state=COMMITTED if does is Silence.COMMIT else ABORTED),
            )
        elif sum(r.ballot.place == i + 1 for r in world.rounds) < self.ballots.get(i, 0):
            ballot = termination.next_ballot(world.registers[i], i + 1)
            if any(r.ballot == ballot for r in world.rounds):
                return  # it goes on with that one, as the other moves say
            register = self.moved(world.registers[i], Ask.CANVASS, ballot)
            assert register is not None
            promises = tuple(register if j == i else None for j in range(self.count))
            rounds = tuple(sorted((*world.rounds, Round(ballot, promises)), key=lambda r: r.ballot))
            yield f"{i} begins ballot {tuple(ballot)}", changed(world._replace(rounds=rounds), i, register=register)

    def be_told(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        """By whoever knows the end."""
        for end in {state for state in world.states if state in ENDS}:
            if self.gossip and world.states[i] is PREPARED:
                yield f"{i} is told by a peer: {end}", changed(world, i, state=end)

    def canvass(self, world: World, r: int) -> Iterator[tuple[str, World]]:
        round_ = world.rounds[r]
        for i, state in enumerate(world.states):
            if round_.promises[i] is not None:
                continue  # asked again, it could add only that it has agreed to what is proposed
            following, said = self.canvassed(world, i, state, round_.ballot)
            if said is not None:
                promises = (*round_.promises[:i], said, *round_.promises[i + 1 :])
                yield f"{i} is canvassed for {tuple(round_.ballot)}", with_round(following, r, promises=promises)

    def canvassed(self, world: World, i: int, state: BranchState, ballot: Ballot) -> tuple[World, Heard | None]:
        if state is UNKNOWN:
            return changed(world, i, state=ABORTED), Ending.ABORT
        if state in ENDS:
            return world, ENDS[state]
        register = self.moved(world.registers[i], Ask.CANVASS, ballot)
        return (world, None) if register is None else (changed(world, i, register=register), register)

    def conclude_canvass(self, world: World, r: int) -> Iterator[tuple[str, World]]:
        """Who proposes leans so itself first; if it may not, another process of it was quicker."""
        round_ = world.rounds[r]
        owner = round_.ballot.place - 1
        for step in {self.after_canvass(round_.ballot, heard) for heard in parts(round_.promises)}:
            if step is None or world.states[owner] is not PREPARED:
                continue
            if isinstance(step, Ending):
                yield f"{owner} finds {step} in {tuple(round_.ballot)}", changed(world, owner, state=STATES[step])
                continue
            register = self.moved(world.registers[owner], ASKS[step], round_.ballot)
            if register is not None and step not in round_.proposed:
                agreed = round_.agreed | {(owner, step)}
                told = with_round(world, r, proposed=round_.proposed | {step}, agreed=agreed)
                yield f"{owner} proposes {step} in {tuple(round_.ballot)}", changed(told, owner, register=register)

    def lean(self, world: World, r: int) -> Iterator[tuple[str, World]]:
        round_ = world.rounds[r]
        for leaning in round_.proposed:
            for i, state in enumerate(world.states):
                if state is PREPARED and (i, leaning) not in round_.agreed:
                    register = self.moved(world.registers[i], ASKS[leaning], round_.ballot)
                    if register is not None:
                        told = with_round(world, r, agreed=round_.agreed | {(i, leaning)})
                        yield f"{i} is {leaning} in {tuple(round_.ballot)}", changed(told, i, register=register)

    def conclude_leaning(self, world: World, r: int) -> Iterator[tuple[str, World]]:
        round_ = world.rounds[r]
        owner = round_.ballot.place - 1
        if world.states[owner] is not PREPARED:
            return
        for leaning in round_.proposed:
            count = sum(each is leaning for _, each in round_.agreed)
            said = [Register(leaning, round_.ballot, round_.ballot)] * count
            ending = termination.after_leaning(round_.ballot, leaning, self.count, said)
            if ending is not None:
                yield f"{owner} ends it: {ending}", changed(world, owner, state=STATES[ending])


def event_of(command: Command) -> Event:
    match command:
        case Precommit():
            return Event.PRECOMMIT
        case Decide(decision=decision):
            return EVENTS[decision]
    raise ValueError(command)


def answers_of(said: str) -> list[tuple[Verb, Answer]]:
    """What a leader has heard, in its words."""
    match said:
        case "nothing":
            return []
        case "yes":
            return [(Verb.PREPARE, Answer(PREPARED))]
        case "precommitted":
            register = Register(Leaning.PRECOMMITTED, COORDINATORS, COORDINATORS)
            return [(Verb.PRECOMMIT, Answer(PREPARED, three_phase=Terms(register=register)))]
    return [(Verb.PREPARE, Answer(BranchState(said)))]


def changed(world: World, i: int, *, state: BranchState | None = None, register: Register | None = None) -> World:
    states, registers = list(world.states), list(world.registers)
    states[i] = state or states[i]
    registers[i] = register or registers[i]
    return world._replace(states=tuple(states), registers=tuple(registers))


def with_round(world: World, r: int, **changes: Any) -> World:
    rounds = list(world.rounds)
    rounds[r] = rounds[r]._replace(**changes)
    return world._replace(rounds=tuple(rounds))


@lru_cache(100_000)
def parts(promises: tuple[Heard | None, ...]) -> frozenset[tuple[Heard, ...]]:
    """Every part of what was answered."""
    said = [each for each in promises if each is not None]
    subsets = chain.from_iterable(combinations(said, size) for size in range(len(said) + 1))
    return frozenset(subsets)


def search(rules: Rules) -> tuple[int, set[str]]:
    """Visit every world: how many there are, and the ends that participants come to. Raises Found."""
    first = rules.first()
    came: dict[World, tuple[World, str] | None] = {first: None}
    waiting, ends = [first], set()
    while waiting:
        world = waiting.pop()
        ends |= {state.value for state in world.states if state in ENDS}
        broken = check(world)
        if broken:
            raise Found("\n".join((broken, *told(came, world), str(world))))
        for label, following in rules.moves(world):
            if following not in came:
                came[following] = (world, label)
                waiting.append(following)
    return len(came), ends


def check(world: World) -> str:
    """What is wrong with a world."""
    ends = {state for state in world.states if state in ENDS}
    if world.phase is Phase.COMMITTING:
        ends.add(COMMITTED)
    if world.phase in (Phase.ABORTING, Phase.ABORTED):
        ends.add(ABORTED)
    if len(ends) > 1:
        return "two ends differ"
    return (
        "committed without a yes of everybody" if ends == {COMMITTED} and len(world.voted) < len(world.states) else ""
    )


def told(came: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    """The schedule."""
    labels = []
    while (before := came[world]) is not None:
        world, label = before
        labels.append(label)
    return [f"  {number}. {label}" for number, label in enumerate(reversed(labels), start=1)]
