"""The checks of what a resource manager measures of itself. Of times they know only what holds on any machine."""

from __future__ import annotations

import asyncio

from participant.ids import BranchKey
from participant.resource import PREPARED_BOUNDS_MS, ResourceManager, ResourceStatus
from participant.testing.subject import HASTY, ONE, TWO, Check, Subject, expect, expect_state
from participant.wire import CONFLICT, BranchState

__all__ = ["MEASURES"]

_PAUSE_S = 0.02
_LOOKS = 100


async def the_time_that_branches_stay_prepared_is_measured(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.commit_one_phase(TWO, bench.add("x", 1))
        status = await bench.manager.status()
        _expect_counts(status, prepared=0, decided=0, why="a commit in one phase never waits for a decision")
        expect(status.oldest_prepared_s == 0, "without a prepared branch, none is old")
        for _ in range(2):
            await bench.manager.prepare(ONE, bench.add("x", -1))
        await bench.manager.prepare(BranchKey("gid-3", "b"), bench.get("x"))
        status = await bench.manager.status()
        _expect_counts(
            status, prepared=1, decided=0, why="a repeat is not another branch, and a reader needs no decision"
        )
        await asyncio.sleep(_PAUSE_S)
        status = await bench.manager.status()
        expect(status.oldest_prepared_s >= _PAUSE_S / 2, f"the oldest grows older: {status}")
        for _ in range(2):
            await bench.manager.commit(ONE)
        status = await bench.manager.status()
        _expect_counts(status, prepared=0, decided=1, why="a decision is counted once")
        expect(status.prepared_sum_s >= _PAUSE_S / 2, f"with the time until then: {status}")
        expect(status.prepared_by_ms[:2] == (0, 0), f"and in its place: {status}")


async def a_recovered_branch_counts_as_prepared_since_the_start(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(ONE, bench.add("x", -1))
        await asyncio.sleep(_PAUSE_S)
    clock = asyncio.get_running_loop().time
    began = clock()
    async with subject.open() as bench:
        status = await bench.manager.status()
        _expect_counts(status, prepared=1, decided=0, why="it is still prepared")
        expect(status.oldest_prepared_s <= clock() - began, f"since the start, and no longer: {status}")
        await bench.manager.abort(ONE)
        status = await bench.manager.status()
        _expect_counts(status, prepared=0, decided=1, why="an abort decides, too")
        expect(status.prepared_sum_s <= clock() - began, f"after the time since the start: {status}")


async def who_waits_and_who_works_is_measured(subject: Subject) -> None:
    async with subject.open() as bench:
        for row in ("x", "y"):
            await bench.set(row, 10)
        await bench.manager.prepare(ONE, bench.add("x", -1))
        waiting = asyncio.ensure_future(bench.manager.prepare(TWO, bench.add("x", -1)))
        await bench.manager.work(BranchKey("gid-3", "b"), bench.add("y", -1), 0)
        await _expect_now(bench.manager, prepared=1, waiting=1, working=1)
        await bench.manager.commit(ONE)
        expect_state(await waiting, BranchState.PREPARED, "the row is free")
        await _expect_now(bench.manager, prepared=1, waiting=0, working=1)
        await bench.manager.prepare(BranchKey("gid-3", "b"), None)
        await _expect_now(bench.manager, prepared=2, waiting=0, working=0)


async def a_no_for_the_rows_of_others_is_counted(subject: Subject) -> None:
    async with subject.open(HASTY) as bench:
        await bench.set("x", 10)
        expect_state(await bench.manager.prepare(TWO, bench.add("x", -11)), BranchState.ABORTED, "too little")
        await bench.manager.prepare(ONE, bench.add("x", -1))
        expect((await bench.manager.status()).conflicts == 0, "a branch's own no is no conflict")
        answer = await bench.manager.prepare(BranchKey("gid-3", "b"), bench.add("x", -1))
        expect(answer.reason.startswith(CONFLICT), f"the wait for a row is bounded; the answer was {answer}")
        expect((await bench.manager.status()).conflicts == 1, "a no for a row that another one kept is a conflict")


def _expect_counts(status: ResourceStatus, *, prepared: int, decided: int, why: str) -> None:
    expect((status.prepared, status.decided) == (prepared, decided), f"{why}: {status}")
    expect(len(status.prepared_by_ms) == len(PREPARED_BOUNDS_MS) + 1, f"there is a place for each bound: {status}")
    expect(sum(status.prepared_by_ms) == decided, f"each that was decided has one place: {status}")


async def _expect_now(manager: ResourceManager, *, prepared: int, waiting: int, working: int) -> None:
    """Soon, at least: a database may say who waits a moment later."""
    for _ in range(_LOOKS):
        status = await manager.status()
        found = (status.prepared, status.waiting, status.working)
        if found == (prepared, waiting, working):
            return
        await asyncio.sleep(_PAUSE_S)
    expect(False, f"prepared, waiting and working are what they are now: {status}")


MEASURES: tuple[Check, ...] = (
    the_time_that_branches_stay_prepared_is_measured,
    a_recovered_branch_counts_as_prepared_since_the_start,
    who_waits_and_who_works_is_measured,
    a_no_for_the_rows_of_others_is_counted,
)
