"""Two-phase commit, step by step: what `decide` asks for in each situation, on the classic path and in general.

`test_staged.py` and `test_one_phase.py` tell what is different on the other paths.
"""

from __future__ import annotations

import pytest

from coordinator.effects import Call, Propose, Step
from coordinator.ledger.commands import BY_INQUIRY, Begin, Decide
from coordinator.ledger.records import Decision, Path
from coordinator.protocols.two_phase import BACKOFF, REASON_CHARS_MAX, choose_path
from participant.wire import Answer, BranchState, Capabilities, Verb
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
    started,
    taken_over,
)

on_both_paths = pytest.mark.parametrize("path", [Path.CLASSIC, Path.STAGED])


# Phase one


@on_both_paths
def test_the_record_and_all_votes_are_asked_for_at_once(path: Path) -> None:
    step = Driver(plan(path=path)).step()
    assert step == Step(
        (Propose(begin_of(plan(path=path))), Call("a", Verb.PREPARE), Call("b", Verb.PREPARE)), wake_at=DEADLINE_S
    )


@on_both_paths
def test_asking_again_before_anything_came_back_asks_for_nothing(path: Path) -> None:
    assert started(path=path).effects() == ()


def test_all_yes_commits_once_the_record_is_there() -> None:
    driver = started()
    assert driver.called("a", Verb.PREPARE, YES) == ()
    assert driver.called("b", Verb.PREPARE, YES) == (), "the votes alone decide nothing"
    assert driver.proposed(begin_of(plan())) == (Propose(commit()),)


def test_a_no_aborts_at_once_with_its_reason() -> None:
    driver = begun("abc")
    assert driver.called("c", Verb.PREPARE, READ_ONLY) == ()
    assert driver.called("a", Verb.PREPARE, no()) == (Propose(abort("no money", "a", ("a", "c"))),)


def test_after_a_no_nobody_is_asked_again_while_the_record_is_on_its_way() -> None:
    driver = started()
    driver.called("a", Verb.PREPARE, None)
    driver.now = 5.0
    assert driver.called("b", Verb.PREPARE, no()) == ()
    assert driver.proposed(begin_of(plan())) == (Propose(abort("no money", "b", ("b",))),)


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ("", "voted no"),
        ("x" * 2 * REASON_CHARS_MAX, "x" * REASON_CHARS_MAX),
        ("broken \ud800 text", "broken ? text"),
    ],
)
def test_a_reason_is_made_fit_for_the_record(said: str, recorded: str) -> None:
    assert begun().called("a", Verb.PREPARE, no(said)) == (Propose(abort(recorded, "a", ("a",))),)


@on_both_paths
def test_a_vote_that_did_not_come_aborts_at_the_deadline(path: Path) -> None:
    driver = begun("abc", path)
    driver.called("b", Verb.PREPARE, YES)
    driver.now = DEADLINE_S
    assert driver.step() == Step((Propose(overdue("no vote within 10000 ms from a at bank-a, c at bank-c")),))


@on_both_paths
def test_an_abort_by_deadline_says_why_the_vote_did_not_come(path: Path) -> None:
    driver = begun("ab", path)
    driver.called("b", Verb.PREPARE, YES)
    driver.called("a", Verb.PREPARE, None, "connection refused")
    driver.now = DEADLINE_S
    reason = "no vote within 10000 ms from a at bank-a (connection refused)"
    assert driver.effects() == (Propose(overdue(reason)),)


def test_votes_that_are_in_commit_even_when_the_deadline_has_passed() -> None:
    driver = started()
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, YES)
    driver.now = DEADLINE_S + 1
    assert driver.proposed(begin_of(plan())) == (Propose(commit()),)


@on_both_paths
def test_past_the_deadline_without_a_record_only_the_record_is_waited_for(path: Path) -> None:
    driver = started(path=path)
    driver.called("a", Verb.PREPARE, None)
    driver.now = DEADLINE_S
    assert driver.step() == Step()


@on_both_paths
def test_an_unknown_vote_is_asked_for_again_after_a_while(path: Path) -> None:
    driver = begun(path=path)
    driver.now = 1.0
    assert driver.called("a", Verb.PREPARE, None) == ()
    assert driver.step().wake_at == 1.0 + BACKOFF.base_s / 2
    driver.now = 1.0 + BACKOFF.base_s / 2
    assert driver.effects() == (Call("a", Verb.PREPARE),)


@on_both_paths
@pytest.mark.parametrize("answer", [Answer(BranchState.ABORTED, "busy", retry=True), UNKNOWN])
def test_an_answer_that_is_no_vote_is_asked_for_again(answer: Answer, path: Path) -> None:
    driver = begun(path=path)
    assert driver.called("a", Verb.PREPARE, answer) == ()
    driver.now = 1.0
    assert driver.effects() == (Call("a", Verb.PREPARE),)


@on_both_paths
@pytest.mark.parametrize("state", [BranchState.UNKNOWN, BranchState.WORKING])
def test_nothing_but_a_yes_counts_as_one(state: BranchState, path: Path) -> None:
    driver = begun(path=path)
    driver.called("a", Verb.PREPARE, YES)
    assert driver.called("b", Verb.PREPARE, Answer(state)) == ()
    driver.now = DEADLINE_S
    reason = "no vote within 10000 ms from b at bank-b"
    assert driver.effects() == (Propose(overdue(reason)),)


@on_both_paths
def test_a_lost_proposal_is_made_again_after_a_while(path: Path) -> None:
    driver = started(path=path)
    driver.now = 1.0
    assert driver.lost(begin_of(plan(path=path))) == ()
    driver.now = 2.0
    assert driver.effects() == (Propose(begin_of(plan(path=path))),)


def test_read_only_branches_take_no_part_in_phase_two() -> None:
    driver = begun()
    driver.called("a", Verb.PREPARE, READ_ONLY)
    assert driver.called("b", Verb.PREPARE, YES) == (Propose(commit(done=("a",))),)
    assert driver.proposed(commit(done=("a",))) == (Call("b", Verb.COMMIT),)


def test_when_all_are_read_only_the_decision_is_the_end() -> None:
    driver = begun()
    driver.called("a", Verb.PREPARE, READ_ONLY)
    assert driver.called("b", Verb.PREPARE, READ_ONLY) == (Propose(commit(done=("a", "b"))),)
    driver.proposed(commit(done=("a", "b")))
    assert driver.step() == Step(done=True)


# Phase two


@on_both_paths
def test_commit_calls_follow_the_record_and_one_end_names_all(path: Path) -> None:
    driver = begun(path=path)
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, YES)
    assert driver.effects() == (), "the decision is proposed, not recorded"
    assert driver.proposed(commit()) == (Call("a", Verb.COMMIT), Call("b", Verb.COMMIT))
    assert driver.called("b", Verb.COMMIT, COMMITTED) == (), "a is expected any moment"
    assert driver.called("a", Verb.COMMIT, COMMITTED) == (end("a", "b"),)
    driver.proposed(end("a", "b").command)
    assert driver.step() == Step(done=True)


@on_both_paths
def test_a_branch_that_keeps_us_waiting_is_ended_apart(path: Path) -> None:
    driver = taken_over(commit(), path=path)
    assert driver.effects() == (Call("a", Verb.COMMIT), Call("b", Verb.COMMIT))
    driver.called("a", Verb.COMMIT, COMMITTED)
    assert driver.called("b", Verb.COMMIT, None) == (end("a"),)
    driver.proposed(end("a").command)
    driver.now = 1.0
    assert driver.effects() == (Call("b", Verb.COMMIT),), "and asked until it confirms"
    assert driver.called("b", Verb.COMMIT, COMMITTED) == (end("b"),)


@on_both_paths
def test_everybody_who_may_be_prepared_is_told_of_an_abort(path: Path) -> None:
    driver = begun("abc", path)
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, no())
    effects = driver.proposed(abort("no money", "b", ("b",)))
    assert effects == (Call("a", Verb.ABORT), Call("c", Verb.ABORT)), "c has not answered: it may be prepared"
    driver.called("a", Verb.ABORT, no())
    assert driver.called("c", Verb.PREPARE, YES) == (), "a late vote changes nothing"
    assert driver.called("c", Verb.ABORT, no()) == (end("a", "c"),)


@on_both_paths
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (no(), "branch a at bank-a says aborted, but"),
        (UNKNOWN, "bank-a knows nothing of a branch that it had prepared"),
    ],
)
def test_a_committed_branch_that_is_denied_is_loud_and_never_ended(answer: Answer, says: str, path: Path) -> None:
    driver = taken_over(commit(done=("b",)), path=path)
    driver.step()
    assert driver.called("a", Verb.COMMIT, answer) == ()
    step = driver.step()
    assert says in step.contradiction
    assert (step.done, step.wake_at) == (False, BACKOFF.base_s / 2)
    driver.now = 1.0
    assert driver.effects() == (Call("a", Verb.COMMIT),)
    repaired = driver.called("a", Verb.COMMIT, COMMITTED)
    assert repaired == (end("a"),)
    assert driver.step().contradiction == ""


@on_both_paths
def test_a_commit_by_somebody_else_of_what_we_abort_is_loud_and_never_ended(path: Path) -> None:
    driver = taken_over(abort("no", "b", ("b",)), path=path)
    driver.step()
    driver.called("a", Verb.ABORT, COMMITTED)
    step = driver.step()
    assert step.contradiction == "branch a at bank-a says committed, but the transaction is aborted"
    assert not step.done


# Takeover


@on_both_paths
def test_a_new_leader_asks_for_the_votes_again(path: Path) -> None:
    driver = taken_over(path=path)
    driver.now = driver.facts.started_at = 50.0
    assert driver.step() == Step((Call("a", Verb.PREPARE), Call("b", Verb.PREPARE)), wake_at=60.0)


@on_both_paths
def test_a_new_leader_tells_the_decision_to_every_open_branch(path: Path) -> None:
    assert taken_over(commit(done=("b",)), path=path).effects() == (Call("a", Verb.COMMIT),)
    assert taken_over(abort("no", "a", ("a",)), path=path).effects() == (Call("b", Verb.ABORT),)


@on_both_paths
def test_a_finished_or_forgotten_transaction_needs_no_driver(path: Path) -> None:
    assert taken_over(commit(done=("a", "b")), path=path).step() == Step(done=True)
    assert Driver(None).step() == Step(done=True)


# A gid that is not ours


def tombstoned(driver: Driver) -> Driver:
    driver.apply(Decide("t", Decision.ABORT, BY_INQUIRY, 1))
    return driver


@on_both_paths
def test_branches_that_nobody_records_are_told_once_of_the_abort(path: Path) -> None:
    driver = started("abc", path)
    driver.called("a", Verb.PREPARE, YES)
    driver.called("b", Verb.PREPARE, no())
    effects = tombstoned(driver).effects()
    assert effects == (Call("a", Verb.ABORT), Call("c", Verb.ABORT))
    assert driver.called("a", Verb.ABORT, None) == ()
    assert not driver.step().done, "c is still being told"
    driver.called("c", Verb.ABORT, no())
    assert driver.step() == Step(done=True)


@on_both_paths
def test_a_plan_that_comes_after_its_tombstone_calls_nobody(path: Path) -> None:
    assert tombstoned(Driver(plan(path=path))).step() == Step(done=True)


@on_both_paths
def test_another_request_of_the_same_gid_is_left_alone(path: Path) -> None:
    driver = started(path=path)
    driver.apply(Begin("t", b"other", Path.CLASSIC, plan(path=path).branches, DEADLINE_MS, 0))
    assert driver.step() == Step(done=True)


# The path

CAN = Capabilities("bank-a")
NO_PREVENT = Capabilities("bank-a", prevent=False)
NO_ONE_PHASE = Capabilities("bank-a", one_phase=False)
NEITHER = Capabilities("bank-a", prevent=False, one_phase=False)


@pytest.mark.parametrize(
    ("able", "path"),
    [
        ([CAN], Path.ONE_PHASE),
        ([NO_ONE_PHASE], Path.STAGED),
        ([NO_PREVENT], Path.CLASSIC),
        ([NEITHER], Path.CLASSIC),
        ([CAN, CAN], Path.STAGED),
        ([NO_ONE_PHASE, NO_ONE_PHASE], Path.STAGED),
        ([CAN, NO_ONE_PHASE, CAN], Path.STAGED),
        ([CAN, NO_PREVENT], Path.CLASSIC),
        ([NO_PREVENT, CAN], Path.CLASSIC),
        ([CAN, CAN, NEITHER], Path.CLASSIC),
    ],
)
def test_the_path_is_the_cheapest_that_every_participant_can_take(able: list[Capabilities], path: Path) -> None:
    """Goal: one that cannot prevent leaves no way to find out what has become of its branch, so the decision goes
    through the log. Seen red with `any` instead of `all`, and with the one-phase path chosen first."""
    names = "abcd"[: len(able)]
    assert choose_path(plan(names).branches, {f"bank-{n}": can for n, can in zip(names, able, strict=True)}) is path


def test_two_branches_at_one_participant_are_not_committed_in_one_phase() -> None:
    two = tuple(branch._replace(participant="bank-a") for branch in plan("ab").branches)
    assert choose_path(two, {"bank-a": CAN}) is Path.STAGED
