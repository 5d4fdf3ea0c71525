"""The checks of the interactive style: work comes bit by bit, and is prepared as a whole or not at all."""

from __future__ import annotations

from participant.ids import BranchKey
from participant.resource import ResourceLimits
from participant.testing.subject import ONE, TWO, Check, Subject, expect, expect_state
from participant.wire import BranchState

__all__ = ["INTERACTIVE"]


async def interactive_work_adds_up(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for seq, amount in enumerate((-3, -4)):
            for _ in range(2):
                answer = await bench.manager.work(ONE, bench.add("x", amount), seq)
                expect_state(answer, BranchState.WORKING, "work may be repeated")
        answer = await bench.manager.work(ONE, bench.get("x"), 2)
        expect(answer.result == 3, "work sees the work before it, done once")
        expect(await bench.value("x") == 10, "others do not")
        expect_state(await bench.manager.prepare(ONE, None), BranchState.PREPARED, "work is prepared without an action")
    async with subject.open() as bench:
        expect_state(await bench.manager.prepare(ONE, None), BranchState.PREPARED, "and then it is durable")
        await bench.manager.commit(ONE)
        expect(await bench.value("x") == 3, "all of it is committed")


async def interactive_work_is_never_prepared_in_part(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.work(ONE, bench.add("x", -3), 0)
        await bench.manager.work(TWO, bench.add("y", 0), 0)
    async with subject.open() as bench:
        answer = await bench.manager.work(ONE, bench.add("x", -4), 1)
        expect_state(answer, BranchState.ABORTED, "work after a loss aborts the branch")
        expect_state(await bench.manager.prepare(ONE, None), BranchState.ABORTED, "which then cannot be prepared")
        expect_state(
            await bench.manager.prepare(BranchKey("gid-3", "b"), None), BranchState.ABORTED, "nor what had no work"
        )
        expect(await bench.value("x") == 10, "and nothing of it stays")


async def interactive_work_is_counted_at_the_vote(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for seq, amount in enumerate((-3, 1)):
            await bench.manager.work(ONE, bench.add("x", amount), seq)
    async with subject.open() as bench:
        answer = await bench.manager.work(ONE, bench.add("x", -3), 0)
        expect_state(answer, BranchState.WORKING, "a late repeat of the first work begins anew after a loss")
        answer = await bench.manager.prepare(ONE, None, 2)
        expect_state(answer, BranchState.ABORTED, "but is not prepared for the whole")
        expect(bool(answer.reason), "and there is a reason")
        await bench.manager.work(TWO, bench.add("x", -1), 0)
        answer = await bench.manager.commit_one_phase(TWO, None, 2)
        expect_state(answer, BranchState.ABORTED, "nor is it committed in one phase")
        for number, vote in enumerate((bench.manager.prepare, bench.manager.commit_one_phase)):
            key = BranchKey(f"whole-{number}", "b")
            await bench.manager.work(key, bench.add("x", -1), 0)
            await bench.manager.work(key, bench.add("x", -1), 0)
            expect((await vote(key, None, 1)).state is not BranchState.ABORTED, "repeats are not counted")
            await bench.manager.commit(key)
        expect(await bench.value("x") == 8, "and what is whole is committed")


async def interactive_work_runs_out_of_time(subject: Subject) -> None:
    async with subject.open(ResourceLimits(lock_wait_s=30.0, unprepared_limit_s=0.05)) as bench:
        await bench.set("x", 10)
        await bench.manager.work(ONE, bench.add("x", -3), 0)
        answer = await bench.manager.prepare(TWO, bench.add("x", -10))
        expect_state(
            answer, BranchState.PREPARED, "work that is not prepared in time is rolled back, and its rows are free"
        )
        expect_state(await bench.manager.prepare(ONE, None), BranchState.ABORTED, "it cannot be prepared any more")


INTERACTIVE: tuple[Check, ...] = (
    interactive_work_adds_up,
    interactive_work_is_never_prepared_in_part,
    interactive_work_is_counted_at_the_vote,
    interactive_work_runs_out_of_time,
)
