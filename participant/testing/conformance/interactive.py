"""Promises of the interactive style: work adds up, and is prepared as a whole or not at all.

No capability says whether a participant has it, so the first work tells: who refuses it is not asked further.
"""

from __future__ import annotations

from participant.ids import BranchKey
from participant.testing.conformance.bench import Bench, NotApplicable, expect, expect_state
from participant.testing.conformance.exam import Promise
from participant.testing.conformance.talk import Exchange
from participant.wire import BranchState, Verb

__all__ = ["INTERACTIVE"]


async def work_may_be_repeated_and_is_prepared_as_a_whole(bench: Bench) -> None:
    key = await _worked(bench)
    expect_state(await _work(bench, key, 0), "the same work again is done once", BranchState.WORKING)
    expect_state(await bench.outcome(key), "it is not prepared yet", BranchState.WORKING)
    await bench.expect_in_doubt(key, False)
    said = await bench.ask(key, Verb.PREPARE, {"works": 1})
    expect_state(said, "one work was asked for, and one was done", BranchState.PREPARED)
    expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)


async def lost_work_is_not_prepared(bench: Bench) -> None:
    key = await _worked(bench)
    said = await bench.ask(key, Verb.PREPARE, {"works": 2})
    expect_state(said, "two works were asked for, and one was done", BranchState.ABORTED)
    gap = await _worked(bench)
    said = await _work(bench, gap, 2)
    expect_state(said, "there is a hole: work 1 never came", BranchState.ABORTED)
    expect_state(await bench.ask(gap, Verb.PREPARE, {"works": 3}), "it was aborted", BranchState.ABORTED)


async def work_does_not_get_into_an_ended_branch(bench: Bench) -> None:
    key = await _worked(bench)
    expect_state(await bench.abort(key), "it was not prepared", BranchState.ABORTED)
    expect_state(await _work(bench, key, 1), "it was aborted", BranchState.ABORTED)
    prepared = await bench.prepared()
    said = await _work(bench, prepared, 0)
    expect(
        said.is_refusal or said.state is BranchState.PREPARED,
        "prepared or 4xx: a branch that has voted takes no more work",
        said,
    )
    expect_state(await bench.outcome(prepared), "it was prepared", BranchState.PREPARED)


async def _worked(bench: Bench) -> BranchKey:
    """A branch with one work. Raises NotApplicable."""
    key = bench.branch()
    said = await _work(bench, key, 0)
    if said.is_refusal or said.state is BranchState.ABORTED:
        raise NotApplicable(f"it does not take work: {said.said()}")
    expect_state(said, "the branch is open", BranchState.WORKING)
    return key


async def _work(bench: Bench, key: BranchKey, seq: int) -> Exchange:
    return await bench.ask(key, Verb.WORK, bench.call | {"seq": seq})


INTERACTIVE = (
    Promise(work_may_be_repeated_and_is_prepared_as_a_whole),
    Promise(lost_work_is_not_prepared),
    Promise(work_does_not_get_into_an_ended_branch),
)
