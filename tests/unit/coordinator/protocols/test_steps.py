"""Steps: what the stories in `tests/traces` do not show."""

from __future__ import annotations

from coordinator.effects import Call, CallEnded, ProposalEnded, Propose, Step
from coordinator.facts import Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_VOTES, Command, Decide, Heard, Progress
from coordinator.ledger.records import BranchRecord, Decision, Mode, Path, Retry, StepRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.protocol import decide
from coordinator.protocols.steps import REFUSALS_MAX
from coordinator.protocols.two_phase import Plan, begin_of
from participant.wire import CONFLICT, Answer, BranchState, Verb

DEADLINE_MS = 10_000


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


def refused(leader: Leader, times: int, reason: str) -> str:
    """What is said in the end of a branch whose undo is refused so often."""
    said = ""
    for _ in range(times):
        leader.now += 100.0
        for name in called(leader.step()):
            leader.facts.fold(CallEnded(name, Verb.COMMIT, Answer(BranchState.ABORTED, reason)), leader.now, 0.5)
        for command in proposed(leader.step()):
            leader.ledger.execute(command)
            leader.facts.fold(ProposalEnded(command), leader.now, 0.5)
        said = leader.step().contradiction
    return said


def test_a_person_is_told_of_refusals_but_not_of_conflicts_which_end_by_themselves() -> None:
    leader = Leader(branch("a", "bank", Mode.SAGA))
    leader.ledger.execute(Progress("t", "a", 1, Heard.DONE))
    leader.ledger.execute(Decide("t", Decision.ABORT, BY_DEADLINE, 0))
    assert not refused(leader, 2 * REFUSALS_MAX, f"{CONFLICT}the row stayed locked")
    assert not refused(leader, REFUSALS_MAX - 1, "the account is closed")
    assert "needs a person" in refused(leader, 1, "the account is closed")


def test_an_undo_waits_for_what_is_prepared_at_the_same_participant() -> None:
    leader = Leader(branch("a", "bank", Mode.TWO_PHASE), branch("b", "bank", Mode.SAGA))
    leader.ledger.execute(Progress("t", "b", 1, Heard.DONE))
    leader.ledger.execute(Decide("t", Decision.ABORT, BY_VOTES, 0))
    assert called(leader.step()) == ["a"]
    leader.facts.fold(CallEnded("a", Verb.ABORT, Answer(BranchState.ABORTED)), leader.now, 0.5)
    assert called(leader.step()) == ["b:undo"]
