"""Promises that outlive the process: it is killed right after an answer, and while a request is under way.

A kill shows what was kept in memory only. It does not show what a power cut would: whether writes are forced to the
disk.
"""

from __future__ import annotations

import asyncio

from participant.ids import BranchKey
from participant.testing.conformance.bench import Bench, expect_result, expect_state
from participant.testing.conformance.exam import Promise
from participant.testing.conformance.talk import Exchange
from participant.wire import BranchState, Verb

__all__ = ["CRASHES"]

# From before a request has arrived to after its answer was written, on fast and slow machines.
DELAYS_S = (0.0, 0.002, 0.005, 0.02)


async def a_yes_survives_a_crash_right_after_it(bench: Bench) -> None:
    key = await bench.prepared()
    await bench.restart()
    expect_state(await bench.outcome(key), "it was prepared before the crash", BranchState.PREPARED)
    await bench.expect_in_doubt(key, True)
    expect_state(await bench.prepare(key), "the vote was given before the crash", BranchState.PREPARED)
    expect_state(await bench.commit(key), "it was prepared before the crash", BranchState.COMMITTED)
    other = await bench.prepared()
    await bench.restart()
    expect_state(await bench.abort(other), "it was prepared before the crash", BranchState.ABORTED)


async def an_end_survives_a_crash_right_after_it(bench: Bench) -> None:
    committed, aborted = await bench.prepared(), bench.branch()
    expect_state(await bench.commit(committed), "it was prepared", BranchState.COMMITTED)
    await bench.restart()
    expect_state(await bench.outcome(committed), "it was committed before the crash", BranchState.COMMITTED)
    expect_state(await bench.commit(committed), "it was committed before the crash", BranchState.COMMITTED)
    bench.expect_yes(await bench.prepare(aborted))
    expect_state(await bench.abort(aborted), "it was prepared", BranchState.ABORTED)
    await bench.restart()
    expect_state(await bench.outcome(aborted), "it was aborted before the crash", BranchState.ABORTED)
    expect_state(await bench.prepare(aborted), "it was aborted before the crash", BranchState.ABORTED)


async def a_result_survives_a_crash_right_after_it(bench: Bench) -> None:
    key = bench.branch()
    first = await bench.one_phase(key)
    expect_state(first, "it says yes to this body", BranchState.COMMITTED)
    await bench.restart()
    again = await bench.one_phase(key)
    expect_state(again, "it was committed before the crash", BranchState.COMMITTED)
    expect_result(again, first)


async def a_no_survives_a_crash_right_after_it(bench: Bench) -> None:
    tombstone, refused, prevented = (bench.branch() for _ in range(3))
    nonsense = {"action": "check-no-such-action", "body": None}
    expect_state(await bench.ask(refused, Verb.PREPARE, nonsense), "there is no such action", BranchState.ABORTED)
    can_prevent = bench.capabilities.get("prevent") is True
    if can_prevent:
        expect_state(await bench.prevent(prevented), "it has not voted", BranchState.ABORTED)
    expect_state(await bench.abort(tombstone), "an unknown branch can be aborted", BranchState.ABORTED)
    await bench.restart()
    expect_state(await bench.outcome(refused), "it voted no before the crash", BranchState.ABORTED)
    expect_state(await bench.prepare(tombstone), "it was aborted before the crash", BranchState.ABORTED)
    if can_prevent:
        expect_state(await bench.prepare(prevented), "it was prevented before the crash", BranchState.ABORTED)


async def a_crash_during_a_prepare_leaves_all_or_nothing(bench: Bench) -> None:
    for delay_s in DELAYS_S:
        key = bench.branch()
        said = await _crash_during(bench, key, Verb.PREPARE, delay_s)
        found = await bench.outcome(key)
        if said.state is not None:
            expect_state(found, "what was answered before the crash", said.state)
        expect_state(found, "a yes, or nothing of it", BranchState.UNKNOWN, BranchState.PREPARED, BranchState.ABORTED)
        await bench.expect_in_doubt(key, found.state is BranchState.PREPARED)
        again = await bench.prepare(key)
        if found.state is not BranchState.UNKNOWN and found.state is not None:
            expect_state(again, "what it was found to be after the crash", found.state)
        else:
            bench.expect_yes(again)
        if again.state is BranchState.PREPARED:
            expect_state(await bench.commit(key), "it was prepared", BranchState.COMMITTED)


async def a_crash_during_an_end_leaves_all_or_nothing(bench: Bench) -> None:
    for number, delay_s in enumerate(DELAYS_S):
        verb, end = ((Verb.COMMIT, BranchState.COMMITTED), (Verb.ABORT, BranchState.ABORTED))[number % 2]
        key = await bench.prepared()
        said = await _crash_during(bench, key, verb, delay_s)
        found = await bench.outcome(key)
        if said.state is not None:
            expect_state(found, "what was answered before the crash", said.state)
        expect_state(found, "as before the crash, or ended", BranchState.PREPARED, end)
        await bench.expect_in_doubt(key, found.state is BranchState.PREPARED)
        expect_state(await bench.ask(key, verb), f"the {verb} is repeated", end)


async def _crash_during(bench: Bench, key: BranchKey, verb: Verb, delay_s: float) -> Exchange:
    """Kill the participant that long after a request has left, and start it again."""
    form = bench.call if verb is Verb.PREPARE else None
    asking = asyncio.ensure_future(bench.talk.branch(key, verb, form))
    try:
        await asyncio.sleep(delay_s)
        await bench.crash()
        said = await asking
    finally:
        asking.cancel()
    await bench.start_again()
    return said


CRASHES = (
    Promise(a_yes_survives_a_crash_right_after_it),
    Promise(an_end_survives_a_crash_right_after_it),
    Promise(a_result_survives_a_crash_right_after_it, needs="one_phase"),
    Promise(a_no_survives_a_crash_right_after_it),
    Promise(a_crash_during_a_prepare_leaves_all_or_nothing),
    Promise(a_crash_during_an_end_leaves_all_or_nothing),
)
