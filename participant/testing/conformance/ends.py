"""Promises about how a branch ends: commit, abort and prevent, in every order, early, late and again."""

from __future__ import annotations

from participant.testing.conformance.bench import Bench, expect_result, expect_state
from participant.testing.conformance.exam import Promise
from participant.wire import BranchState

__all__ = ["ENDS"]


async def a_commit_may_be_repeated(bench: Bench) -> None:
    key = await bench.prepared()
    for _ in range(2):
        expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)
    expect_state(await bench.outcome(key), "it was committed", BranchState.COMMITTED)


async def a_prepare_after_the_commit_hears_of_it(bench: Bench) -> None:
    key = await bench.prepared()
    expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)
    expect_state(await bench.prepare(key), "a late repeat hears how the branch ended", BranchState.COMMITTED)
    await bench.expect_in_doubt(key, False)


async def an_abort_undoes_and_may_be_repeated(bench: Bench) -> None:
    key = await bench.prepared()
    for _ in range(2):
        expect_state(await bench.abort(key), "it was prepared", BranchState.ABORTED)
    expect_state(await bench.outcome(key), "it was aborted", BranchState.ABORTED)
    expect_state(await bench.prepare(key), "a late prepare is refused", BranchState.ABORTED)
    again = bench.branch()
    expect_state(await bench.prepare(again), "the abort has freed what the branch held", BranchState.PREPARED)


async def an_abort_before_the_prepare_keeps_the_prepare_out(bench: Bench) -> None:
    key = bench.branch()
    expect_state(await bench.abort(key), "an unknown branch can be aborted", BranchState.ABORTED)
    expect_state(await bench.outcome(key), "the abort is remembered", BranchState.ABORTED)
    expect_state(await bench.prepare(key), "the abort came first", BranchState.ABORTED)
    expect_state(await bench.commit(key), "what is aborted cannot be committed", BranchState.ABORTED)
    await bench.expect_in_doubt(key, False)


async def a_commit_of_an_aborted_branch_is_refused(bench: Bench) -> None:
    key = await bench.prepared()
    expect_state(await bench.abort(key), "it was prepared", BranchState.ABORTED)
    expect_state(await bench.commit(key), "it was aborted", BranchState.ABORTED)
    expect_state(await bench.outcome(key), "it was aborted", BranchState.ABORTED)


async def an_abort_of_a_committed_branch_is_refused(bench: Bench) -> None:
    key = await bench.prepared()
    expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)
    expect_state(await bench.abort(key), "it was committed", BranchState.COMMITTED)
    expect_state(await bench.outcome(key), "it was committed", BranchState.COMMITTED)


async def a_commit_of_an_unknown_branch_leaves_no_trace(bench: Bench) -> None:
    key = bench.branch()
    expect_state(await bench.commit(key), "it was never prepared here", BranchState.UNKNOWN)
    expect_state(await bench.outcome(key), "the commit did nothing", BranchState.UNKNOWN)
    await bench.expect_in_doubt(key, False)
    bench.expect_yes(await bench.prepare(key))


async def a_prevented_branch_keeps_the_prepare_out(bench: Bench) -> None:
    key = bench.branch()
    for _ in range(2):
        expect_state(await bench.prevent(key), "it has not voted", BranchState.ABORTED)
    expect_state(await bench.outcome(key), "it was prevented", BranchState.ABORTED)
    expect_state(await bench.prepare(key), "it was prevented first", BranchState.ABORTED)
    expect_state(await bench.commit(key), "what is aborted cannot be committed", BranchState.ABORTED)
    await bench.expect_in_doubt(key, False)


async def prevent_leaves_a_yes_alone(bench: Bench) -> None:
    key = await bench.prepared()
    expect_state(await bench.prevent(key), "a yes cannot be prevented", BranchState.PREPARED)
    expect_state(await bench.outcome(key), "a yes cannot be prevented", BranchState.PREPARED)
    expect_state(await bench.commit(key), "it is still prepared", BranchState.COMMITTED)
    expect_state(await bench.prevent(key), "nor can a commit", BranchState.COMMITTED)


async def one_phase_is_vote_and_commit_in_one(bench: Bench) -> None:
    key = bench.branch()
    for _ in range(2):
        said = await bench.one_phase(key)
        expect_state(said, "it says yes to this body, and one phase may be repeated", BranchState.COMMITTED)
    expect_state(await bench.outcome(key), "it was committed", BranchState.COMMITTED)
    expect_state(await bench.prepare(key), "a late prepare hears of it", BranchState.COMMITTED)


async def one_phase_gives_its_result_again(bench: Bench) -> None:
    key = bench.branch()
    first = await bench.one_phase(key)
    expect_state(first, "it says yes to this body", BranchState.COMMITTED)
    # What the action gives by now may be something else.
    expect_state(await bench.one_phase(bench.branch()), "it says yes to this body again", BranchState.COMMITTED)
    again = await bench.one_phase(key)
    expect_state(again, "one phase may be repeated", BranchState.COMMITTED)
    expect_result(again, first)


async def one_phase_leaves_a_prepared_branch_alone(bench: Bench) -> None:
    key = await bench.prepared()
    said = await bench.one_phase(key)
    expect_state(said, "it waits for the decision already", BranchState.PREPARED)
    expect_state(await bench.outcome(key), "it still waits", BranchState.PREPARED)


async def one_phase_comes_too_late_for_an_aborted_branch(bench: Bench) -> None:
    key = bench.branch()
    expect_state(await bench.abort(key), "an unknown branch can be aborted", BranchState.ABORTED)
    expect_state(await bench.one_phase(key), "the abort came first", BranchState.ABORTED)


ENDS = (
    Promise(a_commit_may_be_repeated),
    Promise(a_prepare_after_the_commit_hears_of_it),
    Promise(an_abort_undoes_and_may_be_repeated),
    Promise(an_abort_before_the_prepare_keeps_the_prepare_out),
    Promise(a_commit_of_an_aborted_branch_is_refused),
    Promise(an_abort_of_a_committed_branch_is_refused),
    Promise(a_commit_of_an_unknown_branch_leaves_no_trace),
    Promise(a_prevented_branch_keeps_the_prepare_out, needs="prevent"),
    Promise(prevent_leaves_a_yes_alone, needs="prevent"),
    Promise(one_phase_is_vote_and_commit_in_one, needs="one_phase"),
    Promise(one_phase_gives_its_result_again, needs="one_phase"),
    Promise(one_phase_leaves_a_prepared_branch_alone, needs="one_phase"),
    Promise(one_phase_comes_too_late_for_an_aborted_branch, needs="one_phase"),
)
