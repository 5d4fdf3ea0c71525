"""The staged path, step by step: when a decision is implied, when it is not, and what a successor may do.

*Implied* is what may be told before the log holds it: whoever leads next must come to the same decision, from the
record of the branches and from their durable votes alone.
"""

from __future__ import annotations

import pytest

from coordinator.effects import Call, Haste, Propose, Step
from coordinator.ledger.commands import BY_INQUIRY, Decide
from coordinator.ledger.records import Decision, Path
from participant.wire import Answer, BranchState, Verb
from tests.unit.coordinator.protocols.steps import (
    COMMITTED,
    DEADLINE_MS,
    DEADLINE_S,
    READ_ONLY,
    UNKNOWN,
    YES,
    Driver,
    abort,
    begin_of,
    begun,
    commit,
    end,
    no,
    overdue,
    plan,
    soon,
    started,
    taken_over,
)

STAGED = Path.STAGED
BEGIN = begin_of(plan(path=STAGED))
RETRY = Answer(BranchState.ABORTED, "busy", retry=True)


def voted(driver: Driver) -> Driver:
    """Both say yes."""
    driver.hear("a", Verb.PREPARE, YES)
    driver.hear("b", Verb.PREPARE, YES)
    return driver


# Implied


def test_the_record_and_the_last_vote_imply_the_commit_and_its_proposal_may_wait_a_little() -> None:
    driver = begun(path=STAGED)
    assert driver.hear("a", Verb.PREPARE, YES) == Step(wake_at=DEADLINE_S)
    assert driver.hear("b", Verb.PREPARE, YES) == Step((soon(commit()),), implied=commit())


def test_the_votes_and_then_the_record_imply_the_commit() -> None:
    """Goal: without the record a successor knows of nothing, and aborts. Seen red with votes that imply a commit
    before the record is there."""
    driver = started(path=STAGED)
    assert driver.hear("a", Verb.PREPARE, YES).implied is None
    assert driver.hear("b", Verb.PREPARE, YES) == Step(), "the votes alone imply nothing"
    assert driver.proposed(BEGIN) == (soon(commit()),)
    assert driver.step().implied == commit()


def test_a_durable_no_implies_the_abort_once_the_record_is_there() -> None:
    """Goal: *aborted* is told when it cannot turn any more. Before the record, the same gid may still be begun again
    and commit. Seen red with a no that implies an abort before the record is there."""
    driver = started(path=STAGED)
    assert driver.hear("a", Verb.PREPARE, no()) == Step()
    refused = abort("no money", "a", ("a",))
    assert driver.proposed(BEGIN) == (soon(refused),)
    assert driver.step() == Step(implied=refused), "whatever b says"


@pytest.mark.parametrize("last", [None, RETRY, UNKNOWN, Answer(BranchState.WORKING)])
def test_nothing_less_than_every_vote_implies_anything(last: Answer | None) -> None:
    """Goal: seen red with a record that implies the commit while one vote is out."""
    driver = begun(path=STAGED)
    driver.hear("a", Verb.PREPARE, YES)
    step = driver.hear("b", Verb.PREPARE, last)
    assert (step.effects, step.implied) == ((), None)


def test_on_the_classic_path_nothing_is_implied_and_nothing_waits() -> None:
    """Goal: whoever cannot be prevented may yet vote otherwise, so only the log decides. Seen red without the test
    for the path in `_collect`."""
    assert voted(begun()).step().implied is None
    driver = begun()
    assert driver.hear("a", Verb.PREPARE, YES).implied is None
    assert driver.hear("b", Verb.PREPARE, YES) == Step((Propose(commit(), Haste.NOW),))
    assert begun().hear("a", Verb.PREPARE, no()) == Step((Propose(abort("no money", "a", ("a",)), Haste.NOW),))


def test_a_read_only_vote_counts_and_takes_no_part_in_phase_two() -> None:
    driver = begun(path=STAGED)
    driver.hear("a", Verb.PREPARE, READ_ONLY)
    decision = commit(done=("a",))
    assert driver.hear("b", Verb.PREPARE, YES) == Step((soon(decision),), implied=decision)
    assert driver.proposed(decision) == (Call("b", Verb.COMMIT),)


def test_when_all_are_read_only_the_implied_decision_is_the_end() -> None:
    driver = begun(path=STAGED)
    driver.hear("a", Verb.PREPARE, READ_ONLY)
    decision = commit(done=("a", "b"))
    assert driver.hear("b", Verb.PREPARE, READ_ONLY) == Step((soon(decision),), implied=decision)
    driver.proposed(decision)
    assert driver.step() == Step(done=True)


def test_phase_two_waits_until_the_log_holds_what_is_implied() -> None:
    """Goal: a branch that is committed and forgotten again would look to a successor as if it had never voted. Seen red
    with commit calls that go out with `implied`."""
    driver = voted(begun(path=STAGED))
    step = driver.step()
    assert (step.effects, step.implied) == ((), commit())
    assert driver.lost(commit()) == (), "nor when the proposal was lost"
    driver.now = 1.0
    assert driver.effects() == (soon(commit()),), "it is only proposed again"
    assert driver.proposed(commit()) == (Call("a", Verb.COMMIT), Call("b", Verb.COMMIT))
    driver.hear("a", Verb.COMMIT, COMMITTED)
    assert driver.hear("b", Verb.COMMIT, COMMITTED) == Step((end("a", "b"),))


def test_what_was_made_aborted_before_it_was_begun_implies_nothing() -> None:
    driver = voted(started(path=STAGED))
    driver.apply(Decide("t", Decision.ABORT, BY_INQUIRY, 1))
    step = driver.step()
    assert (step.effects, step.implied) == ((Call("a", Verb.ABORT), Call("b", Verb.ABORT)), None)


# The deadline, by the leader that began it


def late() -> Driver:
    """b has not voted in time; the abort is proposed, and its fate is not known."""
    driver = begun(path=STAGED)
    driver.hear("a", Verb.PREPARE, YES)
    driver.now = DEADLINE_S
    aborted = overdue(f"no vote within {DEADLINE_MS} ms from b at bank-b")
    assert driver.step() == Step((Propose(aborted, Haste.NOW),)), "it was told nothing yet, so it may; through the log"
    return driver


@pytest.mark.parametrize("vote", [YES, READ_ONLY, no()])
def test_after_an_abort_for_lateness_was_proposed_no_vote_implies_anything(vote: Answer) -> None:
    """Goal: that abort may win in the log. Seen red without `facts.overdue`."""
    driver = late()
    step = driver.hear("b", Verb.PREPARE, vote)
    assert (step.effects, step.implied) == ((), None)


def test_when_the_abort_for_lateness_was_lost_the_votes_decide_through_the_log_alone() -> None:
    """Goal: what is unknown may be applied yet, so its loss gives nothing back. Seen red with an `overdue` that ends
    with its proposal, and with a commit that may wait although callers do."""
    driver = late()
    driver.hear("b", Verb.PREPARE, YES)
    driver.lost(overdue("unknown"))
    driver.now += 1.0
    assert driver.step() == Step((Propose(commit(), Haste.NOW),))


def test_when_the_abort_for_lateness_won_everybody_is_told() -> None:
    driver = late()
    driver.hear("b", Verb.PREPARE, YES)
    effects = driver.proposed(overdue(f"no vote within {DEADLINE_MS} ms from b at bank-b"))
    assert effects == (Call("a", Verb.ABORT), Call("b", Verb.ABORT))


def test_votes_that_are_in_imply_the_commit_even_when_the_deadline_has_passed() -> None:
    driver = voted(started(path=STAGED))
    driver.now = DEADLINE_S + 1
    driver.apply(BEGIN)
    assert driver.step().implied == commit()


# A successor


def taken_over_late() -> Driver:
    driver = taken_over(path=STAGED)
    driver.now = driver.facts.started_at = 50.0
    assert driver.step() == Step((Call("a", Verb.PREPARE), Call("b", Verb.PREPARE)), wake_at=50.0 + DEADLINE_S)
    driver.now = 50.0 + DEADLINE_S
    return driver


def test_the_votes_that_a_successor_hears_again_imply_the_same() -> None:
    driver = taken_over(path=STAGED)
    driver.step()
    driver.hear("a", Verb.PREPARE, YES)
    assert driver.hear("b", Verb.PREPARE, YES) == Step((soon(commit()),), implied=commit())


def test_a_no_that_a_successor_hears_implies_the_abort() -> None:
    driver = taken_over(path=STAGED)
    driver.step()
    refused = abort("no money", "a", ("a",))
    assert driver.hear("a", Verb.PREPARE, no()) == Step((soon(refused),), implied=refused)


def test_a_successor_never_aborts_for_lateness_but_prevents() -> None:
    """Goal: its predecessor may have heard every vote, and told. Seen red with a takeover that may abort like the
    leader that began it. Who has said yes already is not asked again."""
    driver = taken_over_late()
    driver.hear("a", Verb.PREPARE, YES)
    assert driver.effects() == ()
    fresh = taken_over_late()
    assert fresh.step() == Step((Call("a", Verb.PREVENT), Call("b", Verb.PREVENT)))


def test_nothing_that_a_prevented_participant_fails_to_say_decides_anything() -> None:
    """Goal: an unreachable participant blocks, for however long. Seen red with a deadline of its own for PREVENT."""
    driver = taken_over_late()
    driver.step()
    driver.hear("a", Verb.PREVENT, YES)
    for _ in range(20):
        step = driver.hear("b", Verb.PREVENT, None, "connection refused")
        assert (step.effects, step.implied) == ((), None)
        assert step.wake_at is not None
        driver.now = step.wake_at
        assert driver.effects() == (Call("b", Verb.PREVENT),)
        driver.now += 60.0


def test_what_all_had_prepared_before_they_were_prevented_is_committed() -> None:
    driver = taken_over_late()
    driver.step()
    driver.hear("a", Verb.PREVENT, YES)
    assert driver.hear("b", Verb.PREVENT, YES) == Step((soon(commit()),), implied=commit())


def test_one_that_was_prevented_aborts_through_the_log_and_the_others_are_told() -> None:
    """The abort of a prevented branch is durable, but is told like any abort for lateness: once it is recorded."""
    driver = taken_over_late()
    driver.step()
    driver.hear("a", Verb.PREVENT, YES)
    aborted = overdue(f"no outcome within {DEADLINE_MS} ms from b", done=("b",))
    assert driver.hear("b", Verb.PREVENT, no("prevented")) == Step((Propose(aborted, Haste.NOW),))
    assert driver.proposed(aborted) == (Call("a", Verb.ABORT),)


def test_a_vote_that_comes_late_ends_the_preventing() -> None:
    """The prepare is still under way when its branch is prevented, and its answer counts like any other."""
    driver = taken_over_late()
    driver.hear("a", Verb.PREPARE, YES)
    assert driver.hear("b", Verb.PREPARE, YES).implied == commit()
    assert driver.hear("b", Verb.PREVENT, YES).implied == commit()
