"""The checks of the declared style: votes, ends, repeats, restarts, and branches that want the same rows."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from participant.errors import BranchConflict, Reject, ResourceBusy
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.testing.subject import HASTY, ONE, TWO, Bench, Check, Subject, expect, expect_state
from participant.wire import Answer, BranchState

__all__ = ["DECLARED"]


async def a_repeat_gives_the_same_answer_and_no_second_effect(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for _ in range(2):
            expect_state(
                await bench.manager.prepare(ONE, bench.add("x", -3)), BranchState.PREPARED, "prepare may be repeated"
            )
        expect(await bench.value("x") == 10, "nothing is visible before the commit")
        for _ in range(2):
            expect_state(await bench.manager.commit(ONE), BranchState.COMMITTED, "commit may be repeated")
        late = await bench.manager.prepare(ONE, bench.add("x", -3))
        expect_state(late, BranchState.COMMITTED, "a late repeat of the prepare hears how the branch ended")
        expect(await bench.value("x") == 7, "the effect happens once")


async def an_abort_undoes_and_may_be_repeated(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(ONE, bench.add("x", -3))
        for _ in range(2):
            expect_state(await bench.manager.abort(ONE), BranchState.ABORTED, "abort may be repeated")
        expect(await bench.value("x") == 10, "an aborted branch leaves nothing")
        expect_state(await bench.manager.commit(ONE), BranchState.ABORTED, "commit of an aborted branch is refused")
        expect_state(
            await bench.manager.prepare(TWO, bench.add("x", -1)), BranchState.PREPARED, "an abort frees the rows"
        )


async def an_abort_before_the_prepare_keeps_the_prepare_out(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        expect_state(await bench.manager.abort(ONE), BranchState.ABORTED, "an unknown branch can be aborted")
        expect_state(await bench.manager.prevent(TWO, "no"), BranchState.ABORTED, "an unknown branch can be prevented")
    async with subject.open() as bench:
        for key in (ONE, TWO):
            answer = await bench.manager.prepare(key, bench.add("x", -3))
            expect_state(answer, BranchState.ABORTED, "a tombstone outlives a restart and refuses the late prepare")
            answer = await bench.manager.commit_one_phase(key, bench.add("x", -3))
            expect_state(answer, BranchState.ABORTED, "and the late commit in one phase")
        expect(await bench.value("x") == 10 and not await bench.manager.in_doubt(), "and nothing is left behind")


async def prevent_leaves_a_yes_alone(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(ONE, bench.add("x", -3))
        expect_state(await bench.manager.prevent(ONE, "no"), BranchState.PREPARED, "a yes cannot be prevented")
        await bench.manager.commit(ONE)
        expect_state(await bench.manager.prevent(ONE, "no"), BranchState.COMMITTED, "nor a commit")


async def contradictions_are_refused(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        expect_state(
            await bench.manager.commit(ONE), BranchState.UNKNOWN, "what was never prepared cannot be committed"
        )
        expect_state(await bench.manager.outcome(ONE), BranchState.UNKNOWN, "and that leaves no trace")
        await bench.manager.prepare(ONE, bench.add("x", 1))
        await bench.manager.commit(ONE)
        expect_state(await bench.manager.abort(ONE), BranchState.COMMITTED, "a commit cannot be aborted")
        expect(await bench.value("x") == 11, "and stays")


async def another_body_for_the_same_branch_is_refused(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(ONE, bench.add("x", -3))
        for ask in (bench.manager.prepare, bench.manager.commit_one_phase):
            try:
                answer = await ask(ONE, bench.add("x", -4))
            except BranchConflict:
                continue
            raise AssertionError(f"a branch is bound to one action and body; the answer was {answer}")
        await bench.manager.commit(ONE)
        expect(await bench.value("x") == 7, "the first body counts")


async def a_branch_that_writes_nothing_votes_read_only(subject: Subject) -> None:
    async def collect(tx: Any, body: Any) -> None:
        """Write only if there is something to collect."""
        if await subject.get(tx, body) > 10:
            await subject.add(tx, body | {"amount": -10})

    call = Call.of("collect", collect, {"key": "x"})
    async with subject.open() as bench:
        await bench.set("x", 10)
        expect_state(
            await bench.manager.prepare(ONE, call), BranchState.READ_ONLY, "a vote without writes is read-only"
        )
        expect(not await bench.manager.in_doubt(), "it needs no decision")
        answer = await bench.manager.commit_one_phase(TWO, bench.add("x", 1))
        expect_state(answer, BranchState.COMMITTED, "it locks nothing")

    async def refuse(_tx: Any, _body: Any) -> None:
        raise Reject("not any more")

    async with subject.open() as bench:
        answer = await bench.manager.prepare(ONE, call)
        expect_state(answer, BranchState.READ_ONLY, "the vote is remembered, though the action would write now")
        answer = await bench.manager.prepare(ONE, Call.of("collect", refuse, {"key": "x"}))
        expect_state(answer, BranchState.READ_ONLY, "and though it would refuse")
        expect_state(await bench.manager.abort(ONE), BranchState.ABORTED, "until it is aborted")
        expect_state((await bench.manager.outcome(ONE)), BranchState.ABORTED, "which is remembered as well")


async def one_phase_is_vote_and_commit_in_one(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for _ in range(2):
            answer = await bench.manager.commit_one_phase(ONE, bench.add("x", -4))
            expect_state(answer, BranchState.COMMITTED, "one phase may be repeated")
        answer = await bench.manager.commit_one_phase(TWO, bench.add("x", -40))
        expect_state(answer, BranchState.ABORTED, "one phase may be refused by the action")
        expect(await bench.value("x") == 6, "the effect happens once")


async def one_phase_gives_its_result_again(subject: Subject) -> None:
    async def take(tx: Any, body: Any) -> Any:
        await subject.add(tx, body)
        return {"left": await subject.get(tx, body), "of": [body["key"], None, 2.5, b"\x00\xff"]}

    call = Call.of("take", take, {"key": "x", "amount": -4})
    left = {"left": 6, "of": ["x", None, 2.5, b"\x00\xff"]}
    async with subject.open() as bench:
        await bench.set("x", 10)
        answer = await bench.manager.commit_one_phase(ONE, call)
        expect(answer.result == left, f"the result of a commit in one phase is in its answer: {answer}")
        answer = await bench.manager.prepare(TWO, call)
        expect(answer.result is None, f"nobody needs that of a prepare: {answer}")
        await bench.manager.abort(TWO)
    async with subject.open() as bench:
        for ask in (bench.manager.commit_one_phase(ONE, call), bench.manager.prevent(ONE, "no")):
            answer = await ask
            expect(answer.result == left, f"a repeat after a restart gives it again, as prevent does: {answer}")
        expect(await bench.value("x") == 6, "and the effect happens once")


async def a_rejection_is_a_durable_no_with_its_reason(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        answer = await bench.manager.prepare(ONE, bench.add("x", -11))
        expect(answer == Answer(BranchState.ABORTED, "too little"), f"the reason is passed on, not {answer}")
        await bench.set("x", 1_000)
    async with subject.open() as bench:
        answer = await bench.manager.prepare(ONE, bench.add("x", -11))
        expect(answer == Answer(BranchState.ABORTED, "too little"), "a no stays a no, whatever changed meanwhile")


async def an_action_that_breaks_votes_no(subject: Subject) -> None:
    async def broken(tx: Any, body: Any) -> None:
        await subject.add(tx, body)
        raise ZeroDivisionError

    async def impatient(tx: Any, body: Any) -> None:
        await subject.add(tx, body)
        await asyncio.sleep(0)

    async with subject.open() as bench:
        await bench.set("x", 10)
        broken_ones = {"broken": broken} | ({"impatient": impatient} if subject.only_tx_awaited else {})
        for name, action in broken_ones.items():
            call = Call.of(name, action, {"key": "x", "amount": 1})
            answer = await bench.manager.prepare(BranchKey(name, "b"), call)
            expect_state(answer, BranchState.ABORTED, "an action that fails, or awaits what is not its tx, votes no")
            expect(name in answer.reason, "and the reason names it")
        expect(await bench.value("x") == 10, "and nothing of it stays")
        expect_state(await bench.manager.prepare(ONE, bench.add("x", 1)), BranchState.PREPARED, "and the rows are free")


async def prepared_branches_survive_a_restart_with_their_locks(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.set("y", 10)
        await bench.manager.prepare(ONE, bench.add("x", -3))
        await bench.manager.prepare(TWO, bench.add("y", -3))
        expect(await bench.manager.in_doubt() == [ONE, TWO], "in doubt is what is prepared, oldest first")
    async with subject.open(HASTY) as bench:
        expect(set(await bench.manager.in_doubt()) == {ONE, TWO}, "prepared branches survive a restart")
        answer = await bench.manager.prepare(BranchKey("gid-3", "b"), bench.add("x", -1))
        expect_state(answer, BranchState.ABORTED, "their rows are locked again")
        expect_state(await bench.manager.commit(ONE), BranchState.COMMITTED, "they can be committed")
        expect_state(await bench.manager.abort(TWO), BranchState.ABORTED, "they can be aborted")
    async with subject.open() as bench:
        expect((await bench.value("x"), await bench.value("y")) == (7, 10), "and that survives too")
        expect(not await bench.manager.in_doubt(), "nothing is left in doubt")


async def a_branch_waits_for_a_row_and_runs_again_on_what_it_finds(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(ONE, bench.add("x", -8))
        waiting = asyncio.ensure_future(bench.manager.prepare(TWO, bench.add("x", -8)))
        await bench.until_one_waits()
        expect(not waiting.done(), "a locked row is waited for")
        await bench.manager.commit(ONE)
        expect(
            (await waiting) == Answer(BranchState.ABORTED, "too little"), "it votes on the new rows, not on stale ones"
        )
        expect(await bench.value("x") == 2, "nothing is lost or done twice")


async def a_wait_ends_with_a_no_that_names_the_row(subject: Subject) -> None:
    async with subject.open(HASTY) as bench:
        await bench.set("some-row", 10)
        await bench.manager.prepare(ONE, bench.add("some-row", -8))
        answer = await bench.manager.prepare(TWO, bench.add("some-row", -1))
        expect_state(answer, BranchState.ABORTED, "the wait for a row is bounded")
        expect("some-row" in answer.reason and ONE.gid in answer.reason, f"the reason says for what: {answer.reason}")
        expect_state(await bench.manager.commit(ONE), BranchState.COMMITTED, "the holder is not disturbed")


async def an_abort_does_not_wait_for_a_waiting_prepare(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(ONE, bench.add("x", -8))
        waiting = [asyncio.ensure_future(bench.manager.prepare(TWO, bench.add("x", -1))) for _ in range(2)]
        await bench.until_one_waits()
        expect_state(await bench.manager.abort(TWO), BranchState.ABORTED, "a waiting branch can be aborted")
        for answer in await asyncio.gather(*waiting):
            expect_state(answer, BranchState.ABORTED, "and its prepare, however often it was asked, hears of it")
        expect_state(await bench.manager.commit(ONE), BranchState.COMMITTED, "the holder is not disturbed")


async def nothing_is_lost_between_concurrent_branches(subject: Subject) -> None:
    """Transfers between few rows, half of them aborted, with a restart in the middle of it."""
    names = [f"row-{i}" for i in range(4)]
    chance = random.Random(7)  # noqa: S311 - a seed, not a secret

    async def vote(bench: Bench, key: BranchKey, call: Call) -> BranchState:
        try:
            return (await bench.manager.prepare(key, call)).state
        except ResourceBusy:
            return BranchState.UNKNOWN

    async def transfer(bench: Bench, number: int) -> None:
        source, target = chance.sample(names, 2)
        halves = (
            (BranchKey(f"t-{number}", "from"), bench.add(source, -1)),
            (BranchKey(f"t-{number}", "to"), bench.add(target, 1)),
        )
        states = await asyncio.gather(*(vote(bench, key, call) for key, call in halves))
        is_yes = set(states) == {BranchState.PREPARED} and chance.random() < 0.5
        for key, _ in halves:
            await (bench.manager.commit(key) if is_yes else bench.manager.abort(key))

    for start in (0, 100):
        async with subject.open(ResourceLimits(lock_wait_s=0.2)) as bench:
            if start == 0:
                for name in names:
                    await bench.set(name, 100)
            await asyncio.gather(*(transfer(bench, start + i) for i in range(100)))
            total = sum([await bench.value(name) for name in names])
            expect(total == 100 * len(names), f"the total is conserved, not {total}")
            expect(not await bench.manager.in_doubt(), "and nothing is left in doubt")


DECLARED: tuple[Check, ...] = (
    a_repeat_gives_the_same_answer_and_no_second_effect,
    an_abort_undoes_and_may_be_repeated,
    an_abort_before_the_prepare_keeps_the_prepare_out,
    prevent_leaves_a_yes_alone,
    contradictions_are_refused,
    another_body_for_the_same_branch_is_refused,
    a_branch_that_writes_nothing_votes_read_only,
    one_phase_is_vote_and_commit_in_one,
    one_phase_gives_its_result_again,
    a_rejection_is_a_durable_no_with_its_reason,
    an_action_that_breaks_votes_no,
    prepared_branches_survive_a_restart_with_their_locks,
    a_branch_waits_for_a_row_and_runs_again_on_what_it_finds,
    a_wait_ends_with_a_no_that_names_the_row,
    an_abort_does_not_wait_for_a_waiting_prepare,
    nothing_is_lost_between_concurrent_branches,
)
