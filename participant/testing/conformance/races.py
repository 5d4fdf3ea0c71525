"""Promises about requests that contradict each other and come at the same time: one of them was first, for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from participant.ids import BranchKey
from participant.testing.conformance.bench import Bench, expect_state
from participant.testing.conformance.exam import Promise
from participant.testing.conformance.talk import Exchange
from participant.wire import BranchState

__all__ = ["RACES"]

ROUNDS = 20


async def a_commit_and_an_abort_at_once_agree(bench: Bench) -> None:
    for number in range(ROUNDS):
        key = await bench.prepared()
        verbs = (bench.commit, bench.abort) if number % 2 else (bench.abort, bench.commit)
        await _expect_agreement(bench, key, verbs, BranchState.COMMITTED)


async def a_prepare_and_an_abort_at_once_end_aborted(bench: Bench) -> None:
    for number in range(ROUNDS):
        key = bench.branch()
        verbs = (bench.prepare, bench.abort) if number % 2 else (bench.abort, bench.prepare)
        for said in await asyncio.gather(*(verb(key) for verb in verbs)):
            if said.url.endswith("/abort"):
                expect_state(said, "an abort is refused by nothing but a commit", BranchState.ABORTED)
            else:
                expect_state(
                    said, "a yes before the abort, or a no after it", BranchState.PREPARED, BranchState.ABORTED
                )
        expect_state(await bench.outcome(key), "it was aborted", BranchState.ABORTED)
        await bench.expect_in_doubt(key, False)


async def a_prepare_and_a_prevent_at_once_agree(bench: Bench) -> None:
    for number in range(ROUNDS):
        key = bench.branch()
        verbs = (bench.prepare, bench.prevent) if number % 2 else (bench.prevent, bench.prepare)
        await _expect_agreement(bench, key, verbs, BranchState.PREPARED)
        await bench.abort(key)


async def _expect_agreement(
    bench: Bench, key: BranchKey, verbs: Sequence[Callable[[BranchKey], Awaitable[Exchange]]], done: BranchState
) -> None:
    """Ask for both at once: either it is `done`, or aborted, and both hear the same."""
    first, second = await asyncio.gather(*(verb(key) for verb in verbs))
    expect_state(first, "whichever came first", done, BranchState.ABORTED)
    if first.state is not None:
        expect_state(second, "the same as was answered to the other of the two", first.state)
        expect_state(await bench.outcome(key), "the same as was answered to both", first.state)


RACES = (
    Promise(a_commit_and_an_abort_at_once_agree),
    Promise(a_prepare_and_an_abort_at_once_end_aborted),
    Promise(a_prepare_and_a_prevent_at_once_agree, needs="prevent"),
)
