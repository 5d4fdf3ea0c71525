"""The one-phase path, step by step: a single branch, whose participant decides."""

from __future__ import annotations

import pytest

from coordinator.effects import Call, Propose, Step
from coordinator.ledger.commands import BY_INQUIRY, Decide
from coordinator.ledger.records import Decision, Path
from participant.wire import Answer, Verb
from tests.unit.coordinator.protocols.steps import (
    COMMITTED,
    DEADLINE_MS,
    DEADLINE_S,
    READ_ONLY,
    YES,
    Driver,
    abort,
    begin_of,
    begun,
    commit,
    no,
    overdue,
    plan,
    soon,
    started,
    taken_over,
)


def test_a_single_branch_decides_by_itself() -> None:
    driver = Driver(plan("a", Path.ONE_PHASE))
    one = Call("a", Verb.COMMIT, one_phase=True)
    assert driver.effects() == (Propose(begin_of(plan("a", Path.ONE_PHASE))), one)
    driver.proposed(begin_of(plan("a", Path.ONE_PHASE)))
    step = driver.hear("a", Verb.COMMIT, COMMITTED)
    assert (step.effects, step.implied) == ((soon(commit(done=("a",))),), commit(done=("a",)))
    driver.proposed(commit(done=("a",)))
    assert driver.step() == Step(done=True)


@pytest.mark.parametrize("answer", [COMMITTED, READ_ONLY, YES, no()])
def test_what_the_participant_said_is_told_only_once_the_branch_is_in_the_record(answer: Answer) -> None:
    """Goal: a successor that finds no record answers *aborted*, so until then nothing is implied. Seen red without
    the test for the record in `_collect`."""
    driver = started("a", Path.ONE_PHASE)
    step = driver.hear("a", Verb.COMMIT, answer)
    assert (step.effects, step.implied) == ((), None)
    driver.proposed(begin_of(plan("a", Path.ONE_PHASE)))
    assert driver.step().implied is not None


def test_a_single_branch_that_refuses_aborts() -> None:
    step = begun("a", Path.ONE_PHASE).hear("a", Verb.COMMIT, no())
    refused = abort("no money", "a", ("a",))
    assert (step.effects, step.implied) == ((soon(refused),), refused)


def test_a_new_leader_repeats_the_one_phase_call() -> None:
    assert taken_over(names="a", path=Path.ONE_PHASE).effects() == (Call("a", Verb.COMMIT, one_phase=True),)


def late() -> Driver:
    driver = begun("a", Path.ONE_PHASE)
    driver.now = DEADLINE_S
    assert driver.step() == Step((Call("a", Verb.PREVENT),)), "lateness alone decides nothing, whoever began it"
    return driver


def test_past_the_deadline_the_single_branch_is_prevented() -> None:
    step = late().hear("a", Verb.PREVENT, no("prevented"))
    aborted = overdue(f"no outcome within {DEADLINE_MS} ms from a", done=("a",))
    assert (step.effects, step.implied) == ((Propose(aborted),), None)


def test_what_had_committed_before_it_was_prevented_is_committed() -> None:
    step = late().hear("a", Verb.PREVENT, COMMITTED)
    assert (step.effects, step.implied) == ((soon(commit(done=("a",))),), commit(done=("a",)))


def test_what_had_prepared_before_it_was_prevented_is_committed() -> None:
    """An abort could be overtaken by the one-phase commit that is still on its way."""
    driver = late()
    assert driver.called("a", Verb.PREVENT, YES) == (soon(commit()),)
    assert driver.proposed(commit()) == (Call("a", Verb.COMMIT),)


def test_a_single_branch_that_committed_before_the_tombstone_is_loud() -> None:
    driver = started("a", Path.ONE_PHASE)
    driver.called("a", Verb.COMMIT, COMMITTED)
    driver.apply(Decide("t", Decision.ABORT, BY_INQUIRY, 1))
    driver.step()
    driver.called("a", Verb.ABORT, COMMITTED)
    step = driver.step()
    assert (step.done, step.implied) == (True, None)
    assert step.contradiction == "branch a at bank-a says committed, but the transaction is aborted"
