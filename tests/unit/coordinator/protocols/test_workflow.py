"""What a workflow's code is told, what it may ask for, and what follows from it for the engine of steps."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.effects import Call, CallEnded, Haste, ProposalEnded, Propose, Work
from coordinator.facts import Expiry, Facts
from coordinator.ledger.commands import BY_DEADLINE, BY_VOTES, BY_WORKFLOW, Begin, Decide, End, Extend, Heard, Progress
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Mode,
    Path,
    Phase,
    Retry,
    StepRecord,
    TransactionRecord,
    WorkflowRecord,
)
from coordinator.ledger.table import Accepted, Ledger
from coordinator.ledger.workflows import StepState
from coordinator.protocols.declaration import Misdeclared
from coordinator.protocols.protocol import decide
from coordinator.protocols.workflow import Answer, answer_of, check_next, placed, return_of, step_name
from participant.wire import Answer as Said
from participant.wire import BranchState, Verb

BEGIN = Begin("t", b"d", Path.STEPS, (), 10_000, 1, workflow=WorkflowRecord("book", b""))
DONE = Said(BranchState.COMMITTED, result="seat 1A")
NO = Said(BranchState.ABORTED, "no seat")
UNDO = {Mode.SAGA: "undo", Mode.TCC: "cancel"}


def step(number: int, mode: Mode = Mode.SAGA, attempts: int = 1) -> BranchRecord:
    confirm = "confirm" if mode is Mode.TCC else None
    record = StepRecord(mode, (), confirm, UNDO.get(mode), (), Retry(attempts, 100, 100))
    return BranchRecord(step_name(number), "desk", "do", b"", step=record)


class Leader:
    """A driver without a loop, and the code's questions: the test says what comes back."""

    def __init__(self, *branches: BranchRecord) -> None:
        self.ledger = Ledger()
        self.facts = Facts(0.0)
        self.now = 0.0
        self.apply(BEGIN)
        for branch in branches:
            self.ask(branch)

    @property
    def record(self) -> TransactionRecord:
        record = self.ledger.get("t")
        assert record is not None
        return record

    def apply(self, command: Any) -> None:
        assert isinstance(self.ledger.execute(command), Accepted), command

    def ask(self, branch: BranchRecord) -> tuple[Any, ...]:
        number = len(self.record.branches) + 1
        self.apply(Extend("t", number, b"", placed(self.record, branch), 0))
        return self.effects()

    def effects(self) -> tuple[Any, ...]:
        made = decide(None, self.record, self.facts, self.now)
        for effect in made.effects:
            self.facts.note(effect)
        return made.effects

    def hear(self, branch: str, said: Said | None, verb: Verb = Verb.COMMIT) -> tuple[Any, ...]:
        self.facts.fold(CallEnded(branch, verb, said), self.now, 0.0)
        return self.effects()

    def propose(self, effects: tuple[Any, ...]) -> tuple[Any, ...]:
        """What is proposed is applied; what comes next?"""
        for effect in effects:
            assert isinstance(effect, Propose)
            self.apply(effect.command)
            self.facts.fold(ProposalEnded(effect.command), self.now, 0.0)
        return self.effects()

    def do(self, branch: BranchRecord) -> tuple[Any, ...]:
        """Ask for it, and have it done; what comes next?"""
        self.ask(branch)
        verb = Verb.PREPARE if branch.step is not None and branch.step.mode is Mode.TWO_PHASE else Verb.COMMIT
        said = Said(BranchState.PREPARED) if verb is Verb.PREPARE else DONE
        return self.propose(self.hear(branch.branch, said, verb))


def test_an_answer_is_recorded_at_once_and_told_from_the_record() -> None:
    """Write before you speak: the code hears nothing that the next leader would not know."""
    leader = Leader()
    assert answer_of(leader.record, 1) == Answer(StepState.PENDING)
    assert leader.ask(step(1)) == (Call("s1", Verb.COMMIT, True, Work("do", b"")),)
    effects = leader.hear("s1", DONE)
    assert [(type(effect.command), effect.haste) for effect in effects] == [(Progress, Haste.NOW)]
    assert answer_of(leader.record, 1) == Answer(StepState.PENDING)
    assert leader.propose(effects) == ()
    assert answer_of(leader.record, 1) == Answer(StepState.DONE, "seat 1A")


def test_success_decides_nothing_before_the_code_returns() -> None:
    """Seen red with an engine that takes the steps that there are for all of them."""
    leader = Leader()
    assert leader.do(step(1)) == ()
    leader.apply(return_of(leader.record, 1, b"\x07"))
    assert leader.record.phase is Phase.COMMITTED


def test_a_refusal_is_the_code_s_business() -> None:
    leader = Leader(step(1, attempts=2))
    (call,) = leader.propose(leader.hear("s1", NO))
    assert answer_of(leader.record, 1) == Answer(StepState.PENDING)
    assert call.branch == "s1:2"
    (given_up,) = leader.hear("s1:2", NO)
    assert given_up == Propose(Progress("t", "s1", 2, Heard.GIVEN_UP, b"no seat"), Haste.NOW)
    assert leader.propose((given_up,)) == ()
    assert answer_of(leader.record, 1) == Answer(StepState.REFUSED, reason="no seat")
    assert leader.record.phase is Phase.PREPARING


def test_a_step_that_nobody_understands_aborts() -> None:
    """It may have run, when an earlier request of it was understood; so it is no refusal."""
    leader = Leader(step(1))
    (effect,) = leader.hear("s1", Said(BranchState.UNKNOWN, "no action do"))
    assert effect.command == Decide("t", Decision.ABORT, BY_VOTES, 0, "no action do", "s1")


def test_a_step_comes_after_what_is_done_by_then() -> None:
    leader = Leader()
    leader.do(step(1))
    leader.ask(step(2))
    leader.ask(step(3, Mode.FORWARD))
    leader.ask(step(4))
    after = {branch.branch: branch.step.after for branch in leader.record.branches if branch.step is not None}
    assert after == {"s1": (), "s2": ("s1",), "s3": (), "s4": ("s1",)}


def test_an_exception_undoes_the_last_first_and_leaves_out_what_was_refused() -> None:
    leader = Leader()
    leader.do(step(1))
    leader.ask(step(2))
    leader.propose(leader.hear("s2", NO))
    leader.do(step(3, Mode.TCC))
    leader.ask(step(4, Mode.FORWARD))
    leader.facts.expiry = Expiry(BY_WORKFLOW, "bob is ill")
    (effect,) = leader.effects()
    assert (effect.command.by, effect.command.reason, effect.command.done) == (BY_WORKFLOW, "bob is ill", ("s4",))
    (undo,) = leader.propose((effect,))
    assert undo.branch == "s3:undo"
    calls = leader.hear("s3:undo", DONE)
    assert [effect.branch for effect in calls if isinstance(effect, Call)] == ["s1:undo"]


def test_the_deadline_aborts_a_workflow_that_has_asked_for_nothing() -> None:
    leader = Leader()
    assert leader.effects() == ()
    leader.now = 10.0
    (effect,) = leader.effects()
    why = "not done within 10000 ms: its code has not returned"
    assert effect.command == Decide("t", Decision.ABORT, BY_DEADLINE, 0, why)


def test_the_deadline_aborts_a_workflow_whose_steps_are_all_done() -> None:
    """Seen red with an engine that commits what is done when it is late."""
    leader = Leader()
    leader.do(step(1))
    leader.now = 10.0
    (effect,) = leader.effects()
    assert (effect.command.decision, effect.command.by) == (Decision.ABORT, BY_DEADLINE)


def test_a_pivot_that_has_succeeded_commits_when_the_code_is_late_or_fails() -> None:
    for expiry, now in ((None, 10.0), (Expiry(BY_WORKFLOW, "no"), 1.0)):
        leader = Leader()
        leader.do(step(1))
        leader.do(step(2, Mode.PIVOT))
        assert leader.effects() == ()
        leader.facts.expiry, leader.now = expiry, now
        (effect,) = leader.effects()
        assert effect.command == Decide("t", Decision.COMMIT, BY_VOTES, 0, done=("s1", "s2"))


def test_a_pivot_that_may_have_been_called_is_prevented_before_an_abort() -> None:
    leader = Leader(step(1, Mode.PIVOT))
    leader.facts.expiry = Expiry(BY_WORKFLOW, "no")
    (effect,) = leader.hear("s1", None)
    assert (effect.branch, effect.verb) == ("s1", Verb.PREVENT)


def test_a_branch_that_was_recorded_behind_the_abort_s_back_is_ended() -> None:
    """It came between the decision's proposal and the decision, and was never called. Seen red: it never ended."""
    leader = Leader()
    leader.ask(step(1, Mode.FORWARD))
    leader.apply(Decide("t", Decision.ABORT, BY_WORKFLOW, 5, "no"))
    assert leader.effects() == (Propose(End("t", ("s1",)), Haste.LATER),)


def test_what_is_decided_is_over_for_the_code() -> None:
    leader = Leader()
    leader.do(step(1))
    leader.apply(Decide("t", Decision.ABORT, BY_WORKFLOW, 5, "no"))
    assert answer_of(leader.record, 1) == answer_of(leader.record, 2) == Answer(StepState.OVER)


@pytest.mark.parametrize(
    ("branch", "field", "why"),
    [
        (step(1, Mode.SOURCE)._replace(action=None), "step.mode", "a source decides alone"),
        (step(1)._replace(action=None), "action", "a saga branch needs an action"),
        (step(1, Mode.TWO_PHASE, attempts=2), "step.retry.attempts_max", "asked for one vote"),
    ],
)
def test_what_may_not_be_asked_for(branch: BranchRecord, field: str, why: str) -> None:
    with pytest.raises(Misdeclared, match=why) as caught:
        check_next(Leader().record, branch)
    assert caught.value.field == field


def test_a_result_is_taken_of_the_step_itself_only() -> None:
    """The code has all others."""
    own = step(2)
    assert own.step is not None
    check_next(Leader().record, own._replace(step=own.step._replace(takes=(("seat", "s2"),))))
    with pytest.raises(Misdeclared, match="'s1' is not listed before"):
        check_next(Leader().record, own._replace(step=own.step._replace(takes=(("seat", "s1"),))))


def test_nothing_comes_after_the_pivot_unless_that_was_refused() -> None:
    leader = Leader(step(1, Mode.PIVOT))
    for mode in (Mode.SAGA, Mode.FORWARD, Mode.PIVOT):
        with pytest.raises(Misdeclared, match="s1 is the pivot"):
            check_next(leader.record, step(2, mode))
    leader.propose(leader.hear("s1", NO))
    check_next(leader.record, step(2, Mode.PIVOT))


def test_the_return_names_those_to_which_nothing_is_owed() -> None:
    leader = Leader()
    for number, mode in enumerate((Mode.TWO_PHASE, Mode.TCC, Mode.SAGA), 1):
        leader.do(step(number, mode))
    leader.ask(step(4, Mode.FORWARD))
    assert return_of(leader.record, 4, b"").done == ("s3",)
    leader.apply(return_of(leader.record, 4, b""))
    calls = {effect.branch for effect in leader.effects()}
    assert calls == {"s1"}  # what is prepared is told first
