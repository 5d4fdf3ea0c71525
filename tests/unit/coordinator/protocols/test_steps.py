"""Steps: what the stories in `tests/traces` do not show."""

from __future__ import annotations

import pytest

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose, Step
from coordinator.facts import Facts
from coordinator.ledger.commands import BY_VOTES, Begin, Command, Decide, Heard, Progress
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, Retry, StepRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan, begin_of
from participant.wire import CONFLICT, Answer, BranchState, Verb

DEADLINE_MS = 10_000
ATTEMPTS = 40
PAUSE_MAX_S = 1.0
LONGEST = 0.999  # the draw that waits longest

PIVOT = StepRecord(Mode.PIVOT, (), None, None, (), Retry(1, 100, 100))
FORWARD = PIVOT._replace(mode=Mode.FORWARD)
SAGA = PIVOT._replace(mode=Mode.SAGA, undo="undo", done=True)


@pytest.mark.parametrize(("step", "decision"), [(FORWARD, Decision.COMMIT), (SAGA, Decision.ABORT)])
def test_a_step_behind_the_decision_is_asked_for_soon_however_long_it_was_away(
    step: StepRecord, decision: Decision
) -> None:
    """Its participant does not ask by itself when it comes back, as one in doubt does. Red with its longer pauses."""
    ledger = Ledger()
    branches = (BranchRecord("pay", "bank", "do", b"", step=PIVOT), BranchRecord("b", "mail", "do", b"", step=step))
    ledger.execute(Begin("t", b"d", Path.STEPS, branches, 1_000, 0))
    ledger.execute(Decide("t", decision, BY_VOTES, 0, done=("pay",)))
    facts, now = Facts(0.0), 0.0
    for _ in range(ATTEMPTS):
        asked = decide(None, ledger.get("t"), facts, now)
        (call,) = asked.effects
        assert isinstance(call, Call)
        facts.note(call)
        facts.fold(CallEnded(call.branch, Verb.COMMIT, None, "nobody there"), now, LONGEST)
        wake_at = decide(None, ledger.get("t"), facts, now).wake_at
        assert wake_at is not None
        assert now < wake_at <= now + PAUSE_MAX_S
        now = wake_at


def branch(name: str, participant: str, mode: Mode, takes: tuple[tuple[str, str], ...] = ()) -> BranchRecord:
    step = StepRecord(mode, (), "confirm", "undo", takes, Retry(1, 100, 100))
    return BranchRecord(name, participant, "do", b"", step=step)


def reservation(name: str) -> BranchRecord:
    """Its confirm and its undo take its own result, so that this has to be recorded."""
    return branch(name, f"bank-{name}", Mode.TCC, (("own", name),))


class Leader:
    """A driver without a loop: the test says how each effect came back."""

    def __init__(self, *branches: BranchRecord) -> None:
        plan = Plan("t", b"d", Path.STEPS, branches, DEADLINE_MS)
        self.ledger = Ledger()
        self.ledger.execute(begin_of(plan))
        self.facts = Facts(0.0)
        self.now = 0.0

    def step(self) -> Step:
        step = decide(None, self.ledger.get("t"), self.facts, self.now)
        for effect in step.effects:
            self.facts.note(effect)
        return step

    def has_run(self, name: str) -> list[Command]:
        """The branch answers; what is proposed now?"""
        answer = Answer(BranchState.COMMITTED, result=f"result of {name}")
        self.facts.fold(CallEnded(name, Verb.COMMIT, answer), self.now, 0.5)
        return proposed(self.step())


def proposed(step: Step) -> list[Command]:
    return [effect.command for effect in step.effects if isinstance(effect, Propose)]


def called(step: Step) -> list[str]:
    return [effect.branch for effect in step.effects if isinstance(effect, Call)]


def names_of(commands: list[Command]) -> list[str]:
    return [command.branch for command in commands if isinstance(command, Progress)]


def test_each_result_is_proposed_once_while_that_is_under_way() -> None:
    leader = Leader(*map(reservation, "abc"))
    leader.step()
    assert names_of(leader.has_run("a")) == ["a"]
    assert names_of(leader.has_run("b")) == ["b"]
    assert names_of(leader.has_run("c")) == ["c"]
    assert not proposed(leader.step())


def test_results_that_the_log_does_not_take_are_proposed_again_after_a_pause() -> None:
    """It may have too much to do; then to ask at once, again and again, would make it worse."""
    leader = Leader(*map(reservation, "ab"))
    leader.step()
    lost = [*leader.has_run("a"), *leader.has_run("b")]
    for command in lost:
        leader.facts.fold(ProposalEnded(command), leader.now, 0.5)
    step = leader.step()
    assert not step.effects
    assert step.wake_at is not None
    leader.now = step.wake_at
    assert proposed(leader.step()) == lost
    assert {command.heard for command in lost if isinstance(command, Progress)} == {Heard.DONE}


def test_what_is_behind_the_decision_waits_for_what_is_prepared_at_the_same_participant() -> None:
    """That may hold the very rows, and then each attempt would be refused until it has gone."""
    held = branch("a", "bank", Mode.TWO_PHASE)
    there, elsewhere = branch("b", "bank", Mode.FORWARD), branch("c", "shop", Mode.FORWARD)
    leader = Leader(held, there, elsewhere)
    leader.ledger.execute(Decide("t", Decision.COMMIT, BY_VOTES, 0))
    assert called(leader.step()) == ["a", "c"]
    leader.facts.fold(CallEnded("a", Verb.COMMIT, Answer(BranchState.COMMITTED)), leader.now, 0.5)
    assert called(leader.step()) == ["b"]


def test_an_undo_waits_for_what_is_prepared_at_the_same_participant() -> None:
    leader = Leader(branch("a", "bank", Mode.TWO_PHASE), branch("b", "bank", Mode.SAGA))
    leader.ledger.execute(Progress("t", "b", 1, Heard.DONE))
    leader.ledger.execute(Decide("t", Decision.ABORT, BY_VOTES, 0))
    assert called(leader.step()) == ["a"]
    leader.facts.fold(CallEnded("a", Verb.ABORT, Answer(BranchState.ABORTED)), leader.now, 0.5)
    assert called(leader.step()) == ["b:undo"]


@pytest.mark.parametrize(("mode", "again"), [(Mode.SAGA, True), (Mode.TWO_PHASE, False)])
def test_an_action_that_others_were_in_the_way_of_is_begun_anew_and_a_vote_is_not(mode: Mode, again: bool) -> None:
    """The simulator found a vote that was: its second attempt was prepared, and the first one told to commit."""
    leader = Leader(branch("a", "bank", mode), branch("b", "shop", Mode.PIVOT)._replace(step=PIVOT))
    leader.step()
    verb = Verb.COMMIT if again else Verb.PREPARE
    leader.facts.fold(CallEnded("a", verb, Answer(BranchState.ABORTED, f"{CONFLICT}a row")), leader.now, 0.5)
    (command,) = proposed(leader.step())
    assert isinstance(command, Progress) is again
