"""Steps: what the stories in `tests/traces` do not show."""

from __future__ import annotations

from coordinator.effects import CallEnded, ProposalEnded, Propose, Step
from coordinator.facts import Facts
from coordinator.ledger.commands import Command, Heard, Progress
from coordinator.ledger.records import BranchRecord, Mode, Path, Retry, StepRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.protocol import decide
from coordinator.protocols.two_phase import Plan, begin_of
from participant.wire import Answer, BranchState, Verb

DEADLINE_MS = 10_000


def reservation(name: str) -> BranchRecord:
    """Its confirm and its undo take its own result, so that this has to be recorded."""
    step = StepRecord(Mode.TCC, (), "confirm", "cancel", (("own", name),), Retry(1, 100, 100))
    return BranchRecord(name, f"bank-{name}", "reserve", b"", step=step)


class Leader:
    """A driver without a loop: the test says how each effect came back."""

    def __init__(self, names: str) -> None:
        plan = Plan("t", b"d", Path.STEPS, tuple(reservation(name) for name in names), DEADLINE_MS)
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


def names_of(commands: list[Command]) -> list[str]:
    return [command.branch for command in commands if isinstance(command, Progress)]


def test_each_result_is_proposed_once_while_that_is_under_way() -> None:
    leader = Leader("abc")
    leader.step()
    assert names_of(leader.has_run("a")) == ["a"]
    assert names_of(leader.has_run("b")) == ["b"]
    assert names_of(leader.has_run("c")) == ["c"]
    assert not proposed(leader.step())


def test_results_that_the_log_does_not_take_are_proposed_again_after_a_pause() -> None:
    """It may have too much to do; then to ask at once, again and again, would make it worse."""
    leader = Leader("ab")
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
