"""Messages of one key, of any number of transactions that are under way at the same time.

Goal: those that are delivered take effect in the order of their begin, one at a time, wherever leaders die, whatever is
refused, aborted or asked again; those of other keys are not held up, nor those behind one that was set aside, which
loses its place; and in the end nobody waits. Whose turn it is, is the same on a replica that was restored from a
snapshot at any moment.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose
from coordinator.facts import Facts
from coordinator.ledger.commands import BY_DEADLINE, Command, Decide, Heard, decode, encode
from coordinator.ledger.records import BranchRecord, Decision, Delivery, Mode, Path, Retry, StepRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.declaration import check
from coordinator.protocols.letters import dead_letters, wanted
from coordinator.protocols.modes import name_of
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan, begin_of
from participant.wire import Answer, BranchState

KEYS = ("k", "l")
STEPS_MAX = 3_000
PIVOT = StepRecord(Mode.PIVOT, (), None, None, (), Retry(1, 100, 100))


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    """Transactions with one to three messages each, of the same key, of others, or of none."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        branches = [BranchRecord("p", "bank", "do", b"", step=PIVOT)]
        for place, key in enumerate(draw(st.lists(st.sampled_from((*KEYS, "")), min_size=1, max_size=3))):
            earlier = [
                b.branch for b in branches[1:] if b.step and b.step.delivery and not b.step.delivery.attempts_max
            ]
            after = tuple(draw(st.lists(st.sampled_from(earlier), unique=True))) if earlier else ()
            limit = draw(st.sampled_from((0, 0, 2)))
            step = PIVOT._replace(mode=Mode.FORWARD, after=after, delivery=Delivery(key, limit))
            branches.append(BranchRecord(f"m{place}", "mail", "send", b"", step=step))
        check(branches)
        made.append(Plan(f"t{number}", b"d", Path.STEPS, tuple(branches), 10_000))
    return made


class _World:
    """A leader that drives all of them, a log, and participants that refuse now and then."""

    def __init__(self, plans: list[Plan], chance: Random) -> None:
        self.chance = chance
        self.ledger = Ledger()
        self.waiting = plans  # to begin
        self.facts: dict[str, Facts] = {}
        self.proposals: list[tuple[str, Command]] = []
        self.calls: list[tuple[str, Call]] = []
        self.states: dict[tuple[str, str], BranchState] = {}
        self.ran: list[tuple[str, str]] = []
        self.set_aside: set[tuple[str, str]] = set()
        self.now = 0.0
        self.refusing = 0.3

    def commit(self, command: Command) -> None:
        self.ledger.execute(decode(encode(command, 1)))
        finished = list(self.ledger._finished)
        assert len(set(finished)) == len(finished), "what is finished twice is forgotten again and again"
        replica = Ledger()
        replica.restore([b"".join(self.ledger.snapshot())])
        if self.chance.random() < 0.5:
            self.ledger = replica  # its lines are remade from the records

    def step(self) -> None:
        for record in self.ledger.unfinished():
            facts = self.facts.setdefault(record.gid, Facts(self.now))
            if record.decision is not None:
                facts.saw_decision(self.now)
            for effect in decide(None, record, facts, self.now).effects:
                facts.note(effect)
                if isinstance(effect, Propose):
                    self.proposals.append((record.gid, effect.command))
                else:
                    self.calls.append((record.gid, effect))
        self.now += 20.0  # every pause is over
        happens = self.chance.choice(["begin", "apply", "apply", "answer", "answer", "answer", "crash"])
        if happens == "begin" and self.waiting:
            self.commit(begin_of(self.waiting.pop(0)))
        elif happens == "apply" and self.proposals:
            gid, command = self.proposals.pop(0)
            self.commit(command)
            self.facts[gid].fold(ProposalEnded(command), self.now, 0.5)
        elif happens == "answer" and self.calls:
            gid, call = self.calls.pop(self.chance.randrange(len(self.calls)))
            self.facts[gid].fold(CallEnded(call.branch, call.verb, self.act(gid, call)), self.now, 0.5)
        elif happens == "crash" and self.refusing:
            self.facts = {}
            self.proposals, self.calls = [], []

    def act(self, gid: str, call: Call) -> Answer:
        key = (gid, call.branch)
        if key not in self.states:
            refused = self.chance.random() < self.refusing
            self.states[key] = BranchState.ABORTED if refused or not call.one_phase else BranchState.COMMITTED
            if self.states[key] is BranchState.COMMITTED:
                self.ran.append((gid, name_of(call.branch)))
        return Answer(self.states[key])

    def decide_letters(self) -> None:
        """Somebody has dead letters delivered again, or gives them up."""
        for record in self.ledger.unfinished():
            for branch in dead_letters(record):
                self.set_aside.add((record.gid, branch.branch))
                heard = self.chance.choice((Heard.REDELIVERED, Heard.DROPPED))
                self.commit(wanted(record, branch, heard, "ann"))

    def expire(self) -> None:
        """Somebody aborts one that is undecided, whose pivot was never called."""
        undecided = [r.gid for r in self.ledger.unfinished() if r.decision is None and (r.gid, "p") not in self.states]
        if undecided:
            gid = self.chance.choice(undecided)
            self.states[gid, "p"] = BranchState.ABORTED
            record = self.ledger.get(gid)
            names = tuple(branch.branch for branch in record.branches) if record else ()
            self.commit(Decide(gid, Decision.ABORT, BY_DEADLINE, 1, done=names))


@settings(max_examples=200, deadline=None)
@given(plans(), st.integers(0, 2**32))
def test_messages_of_one_key_take_effect_in_the_order_of_their_begin(made: list[Plan], seed: int) -> None:
    """Seen red with lines that are not remade, with a turn for whoever joins, and with one that is not passed on."""
    begun = [(plan.gid, branch) for plan in made for branch in plan.branches]
    world = _World(list(made), Random(seed))
    for number in range(STEPS_MAX):
        world.step()
        if number % 50 == 25 and world.refusing:
            world.expire()
        if number % 100 == 99:
            world.decide_letters()
        if number == 300:
            world.refusing = 0.0
        if not world.waiting and not world.ledger.unfinished():
            break
    assert not world.waiting
    assert not world.ledger.unfinished(), "somebody waits for ever"
    for key in KEYS:
        line = [(gid, b.branch) for gid, b in begun if b.step and b.step.delivery and b.step.delivery.key == key]
        done = [place for place in world.ran if place in line and place not in world.set_aside]
        assert done == [place for place in line if place in done]
