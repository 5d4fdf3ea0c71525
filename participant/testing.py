"""The contract of resource managers, as checks that anybody can run. Public; needs no test framework.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_contract(check, tmp_path):
        await check(Subject(make=lambda limits: MyManager(tmp_path / "data", limits), put=put, add=add, get=get))

Each check wants data of its own. It raises AssertionError with the promise that was broken. What the checks cannot
do for you is to kill the process: see to it that what a manager answers is on the disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from participant.errors import BranchConflict
from participant.ids import BranchKey
from participant.resource import Action, Call, ResourceLimits, ResourceManager
from participant.wire import Answer, BranchState

__all__ = ["CHECKS", "Check", "Subject"]

PATIENT = ResourceLimits(lock_wait_s=30.0)
HASTY = ResourceLimits(lock_wait_s=0.05)
STEP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A resource manager under test.

    `make(limits)` gives a new, unopened object over the same data each time. Three actions over named integers, to be
    written for its kind of `tx`: `put {key, value}` sets one; `add {key, amount}` adds to one and raises
    `Reject("too little")` if it is absent or would become negative; `get {key}` returns it, or None.
    """

    make: Callable[[ResourceLimits], ResourceManager]
    put: Action
    add: Action
    get: Action

    @asynccontextmanager
    async def open(self, limits: ResourceLimits = PATIENT) -> AsyncIterator[_Bench]:
        """An open resource manager, closed without any grace at the end of the block."""
        manager = self.make(limits)
        await manager.open()
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                yield _Bench(self, manager)
        finally:
            await manager.close()


class _Bench:
    """Shorthand for the checks."""

    def __init__(self, subject: Subject, manager: ResourceManager) -> None:
        self._subject = subject
        self.manager = manager

    def add(self, key: str, amount: int) -> Call:
        return Call.of("add", self._subject.add, {"key": key, "amount": amount})

    def get(self, key: str) -> Call:
        return Call.of("get", self._subject.get, {"key": key})

    async def set(self, key: str, value: int) -> None:
        call = Call.of("put", self._subject.put, {"key": key, "value": value})
        answer = await self.manager.commit_one_phase(BranchKey(f"set-{key}-{value}", "b"), call)
        _is(answer, BranchState.COMMITTED, "a branch may be committed in one phase")

    async def value(self, key: str) -> Any:
        return await self.manager.read(self.get(key))


Check = Callable[[Subject], Awaitable[None]]

_ONE, _TWO = BranchKey("gid-1", "b"), BranchKey("gid-2", "b")


def _expect(holds: bool, promise: str) -> None:
    if not holds:
        raise AssertionError(promise)


def _is(answer: Answer, state: BranchState, promise: str) -> None:
    _expect(answer.state is state and not answer.retry, f"{promise}; the answer was {answer}")


async def a_repeat_gives_the_same_answer_and_no_second_effect(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for _ in range(2):
            _is(await bench.manager.prepare(_ONE, bench.add("x", -3)), BranchState.PREPARED, "prepare may be repeated")
        _expect(await bench.value("x") == 10, "nothing is visible before the commit")
        for _ in range(2):
            _is(await bench.manager.commit(_ONE), BranchState.COMMITTED, "commit may be repeated")
        late = await bench.manager.prepare(_ONE, bench.add("x", -3))
        _is(late, BranchState.COMMITTED, "a late repeat of the prepare hears how the branch ended")
        _expect(await bench.value("x") == 7, "the effect happens once")


async def an_abort_undoes_and_may_be_repeated(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(_ONE, bench.add("x", -3))
        for _ in range(2):
            _is(await bench.manager.abort(_ONE), BranchState.ABORTED, "abort may be repeated")
        _expect(await bench.value("x") == 10, "an aborted branch leaves nothing")
        _is(await bench.manager.commit(_ONE), BranchState.ABORTED, "commit of an aborted branch is refused")
        _is(await bench.manager.prepare(_TWO, bench.add("x", -1)), BranchState.PREPARED, "an abort frees the rows")


async def an_abort_before_the_prepare_keeps_the_prepare_out(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        _is(await bench.manager.abort(_ONE), BranchState.ABORTED, "an unknown branch can be aborted")
        _is(await bench.manager.prevent(_TWO, "no"), BranchState.ABORTED, "an unknown branch can be prevented")
    async with subject.open() as bench:
        for key in (_ONE, _TWO):
            answer = await bench.manager.prepare(key, bench.add("x", -3))
            _is(answer, BranchState.ABORTED, "a tombstone outlives a restart and refuses the late prepare")
            answer = await bench.manager.commit_one_phase(key, bench.add("x", -3))
            _is(answer, BranchState.ABORTED, "and the late commit in one phase")
        _expect(await bench.value("x") == 10 and not await bench.manager.in_doubt(), "and nothing is left behind")


async def prevent_leaves_a_yes_alone(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(_ONE, bench.add("x", -3))
        _is(await bench.manager.prevent(_ONE, "no"), BranchState.PREPARED, "a yes cannot be prevented")
        await bench.manager.commit(_ONE)
        _is(await bench.manager.prevent(_ONE, "no"), BranchState.COMMITTED, "nor a commit")


async def contradictions_are_refused(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        _is(await bench.manager.commit(_ONE), BranchState.UNKNOWN, "what was never prepared cannot be committed")
        _is(await bench.manager.outcome(_ONE), BranchState.UNKNOWN, "and that leaves no trace")
        await bench.manager.prepare(_ONE, bench.add("x", 1))
        await bench.manager.commit(_ONE)
        _is(await bench.manager.abort(_ONE), BranchState.COMMITTED, "a commit cannot be aborted")
        _expect(await bench.value("x") == 11, "and stays")


async def another_body_for_the_same_branch_is_refused(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(_ONE, bench.add("x", -3))
        for ask in (bench.manager.prepare, bench.manager.commit_one_phase):
            try:
                answer = await ask(_ONE, bench.add("x", -4))
            except BranchConflict:
                continue
            raise AssertionError(f"a branch is bound to one action and body; the answer was {answer}")
        await bench.manager.commit(_ONE)
        _expect(await bench.value("x") == 7, "the first body counts")


async def a_branch_that_writes_nothing_votes_read_only(subject: Subject) -> None:
    async def collect(tx: Any, body: Any) -> None:
        """Write only if there is something to collect."""
        if await subject.get(tx, body) > 10:
            await subject.add(tx, body | {"amount": -10})

    call = Call.of("collect", collect, {"key": "x"})
    async with subject.open() as bench:
        await bench.set("x", 10)
        _is(await bench.manager.prepare(_ONE, call), BranchState.READ_ONLY, "a vote without writes is read-only")
        _expect(not await bench.manager.in_doubt(), "it needs no decision")
        answer = await bench.manager.commit_one_phase(_TWO, bench.add("x", 1))
        _is(answer, BranchState.COMMITTED, "it locks nothing")
    async with subject.open() as bench:
        answer = await bench.manager.prepare(_ONE, call)
        _is(answer, BranchState.READ_ONLY, "the vote is remembered, though the action would write now")


async def one_phase_is_vote_and_commit_in_one(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for _ in range(2):
            answer = await bench.manager.commit_one_phase(_ONE, bench.add("x", -4))
            _is(answer, BranchState.COMMITTED, "one phase may be repeated")
        answer = await bench.manager.commit_one_phase(_TWO, bench.add("x", -40))
        _is(answer, BranchState.ABORTED, "one phase may be refused by the action")
        _expect(await bench.value("x") == 6, "the effect happens once")


async def a_rejection_is_a_durable_no_with_its_reason(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        answer = await bench.manager.prepare(_ONE, bench.add("x", -11))
        _expect(answer == Answer(BranchState.ABORTED, "too little"), f"the reason is passed on, not {answer}")
        await bench.set("x", 1_000)
    async with subject.open() as bench:
        answer = await bench.manager.prepare(_ONE, bench.add("x", -11))
        _expect(answer == Answer(BranchState.ABORTED, "too little"), "a no stays a no, whatever changed meanwhile")


async def an_action_that_breaks_votes_no(subject: Subject) -> None:
    async def broken(tx: Any, body: Any) -> None:
        await subject.add(tx, body)
        raise ZeroDivisionError

    async def impatient(tx: Any, body: Any) -> None:
        await subject.add(tx, body)
        await asyncio.sleep(0)

    async with subject.open() as bench:
        await bench.set("x", 10)
        for name, action in (("broken", broken), ("impatient", impatient)):
            call = Call.of(name, action, {"key": "x", "amount": 1})
            answer = await bench.manager.prepare(BranchKey(name, "b"), call)
            _is(answer, BranchState.ABORTED, "an action that fails, or awaits what is not its tx, votes no")
            _expect(name in answer.reason, "and the reason names it")
        _expect(await bench.value("x") == 10, "and nothing of it stays")
        _is(await bench.manager.prepare(_ONE, bench.add("x", 1)), BranchState.PREPARED, "and the rows are free")


async def prepared_branches_survive_a_restart_with_their_locks(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.set("y", 10)
        await bench.manager.prepare(_ONE, bench.add("x", -3))
        await bench.manager.prepare(_TWO, bench.add("y", -3))
        _expect(await bench.manager.in_doubt() == [_ONE, _TWO], "in doubt is what is prepared, oldest first")
    async with subject.open(HASTY) as bench:
        _expect(set(await bench.manager.in_doubt()) == {_ONE, _TWO}, "prepared branches survive a restart")
        answer = await bench.manager.prepare(BranchKey("gid-3", "b"), bench.add("x", -1))
        _is(answer, BranchState.ABORTED, "their rows are locked again")
        _is(await bench.manager.commit(_ONE), BranchState.COMMITTED, "they can be committed")
        _is(await bench.manager.abort(_TWO), BranchState.ABORTED, "they can be aborted")
    async with subject.open() as bench:
        _expect((await bench.value("x"), await bench.value("y")) == (7, 10), "and that survives too")
        _expect(not await bench.manager.in_doubt(), "nothing is left in doubt")


async def a_branch_waits_for_a_row_and_runs_again_on_what_it_finds(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(_ONE, bench.add("x", -8))
        waiting = asyncio.ensure_future(bench.manager.prepare(_TWO, bench.add("x", -8)))
        await bench.manager.outcome(_TWO)  # behind it in the queue: it has been tried
        _expect(not waiting.done(), "a locked row is waited for")
        await bench.manager.commit(_ONE)
        _expect(
            (await waiting) == Answer(BranchState.ABORTED, "too little"), "it votes on the new rows, not on stale ones"
        )
        _expect(await bench.value("x") == 2, "nothing is lost or done twice")


async def a_wait_ends_with_a_no_that_names_the_row(subject: Subject) -> None:
    async with subject.open(HASTY) as bench:
        await bench.set("some-row", 10)
        await bench.manager.prepare(_ONE, bench.add("some-row", -8))
        answer = await bench.manager.prepare(_TWO, bench.add("some-row", -1))
        _is(answer, BranchState.ABORTED, "the wait for a row is bounded")
        _expect("some-row" in answer.reason and _ONE.gid in answer.reason, f"the reason says for what: {answer.reason}")
        _is(await bench.manager.commit(_ONE), BranchState.COMMITTED, "the holder is not disturbed")


async def an_abort_does_not_wait_for_a_waiting_prepare(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.prepare(_ONE, bench.add("x", -8))
        waiting = [asyncio.ensure_future(bench.manager.prepare(_TWO, bench.add("x", -1))) for _ in range(2)]
        await bench.manager.outcome(_TWO)
        _is(await bench.manager.abort(_TWO), BranchState.ABORTED, "a waiting branch can be aborted")
        for answer in await asyncio.gather(*waiting):
            _is(answer, BranchState.ABORTED, "and its prepare, however often it was asked, hears of it")
        _is(await bench.manager.commit(_ONE), BranchState.COMMITTED, "the holder is not disturbed")


async def interactive_work_adds_up(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for seq, amount in enumerate((-3, -4)):
            for _ in range(2):
                answer = await bench.manager.work(_ONE, bench.add("x", amount), seq)
                _is(answer, BranchState.WORKING, "work may be repeated")
        answer = await bench.manager.work(_ONE, bench.get("x"), 2)
        _expect(answer.result == 3, "work sees the work before it, done once")
        _expect(await bench.value("x") == 10, "others do not")
        _is(await bench.manager.prepare(_ONE, None), BranchState.PREPARED, "work is prepared without an action")
    async with subject.open() as bench:
        _is(await bench.manager.prepare(_ONE, None), BranchState.PREPARED, "and then it is durable")
        await bench.manager.commit(_ONE)
        _expect(await bench.value("x") == 3, "all of it is committed")


async def interactive_work_is_never_prepared_in_part(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        await bench.manager.work(_ONE, bench.add("x", -3), 0)
        await bench.manager.work(_TWO, bench.add("y", 0), 0)
    async with subject.open() as bench:
        answer = await bench.manager.work(_ONE, bench.add("x", -4), 1)
        _is(answer, BranchState.ABORTED, "work after a loss aborts the branch")
        _is(await bench.manager.prepare(_ONE, None), BranchState.ABORTED, "which then cannot be prepared")
        _is(await bench.manager.prepare(BranchKey("gid-3", "b"), None), BranchState.ABORTED, "nor what had no work")
        _expect(await bench.value("x") == 10, "and nothing of it stays")


async def interactive_work_is_counted_at_the_vote(subject: Subject) -> None:
    async with subject.open() as bench:
        await bench.set("x", 10)
        for seq, amount in enumerate((-3, 1)):
            await bench.manager.work(_ONE, bench.add("x", amount), seq)
    async with subject.open() as bench:
        answer = await bench.manager.work(_ONE, bench.add("x", -3), 0)
        _is(answer, BranchState.WORKING, "a late repeat of the first work begins anew after a loss")
        answer = await bench.manager.prepare(_ONE, None, 2)
        _is(answer, BranchState.ABORTED, "but is not prepared for the whole")
        _expect(bool(answer.reason), "and there is a reason")
        await bench.manager.work(_TWO, bench.add("x", -1), 0)
        answer = await bench.manager.commit_one_phase(_TWO, None, 2)
        _is(answer, BranchState.ABORTED, "nor is it committed in one phase")
        for number, vote in enumerate((bench.manager.prepare, bench.manager.commit_one_phase)):
            key = BranchKey(f"whole-{number}", "b")
            await bench.manager.work(key, bench.add("x", -1), 0)
            await bench.manager.work(key, bench.add("x", -1), 0)
            _expect((await vote(key, None, 1)).state is not BranchState.ABORTED, "repeats are not counted")
            await bench.manager.commit(key)
        _expect(await bench.value("x") == 8, "and what is whole is committed")


async def interactive_work_runs_out_of_time(subject: Subject) -> None:
    async with subject.open(ResourceLimits(lock_wait_s=30.0, unprepared_limit_s=0.05)) as bench:
        await bench.set("x", 10)
        await bench.manager.work(_ONE, bench.add("x", -3), 0)
        answer = await bench.manager.prepare(_TWO, bench.add("x", -10))
        _is(answer, BranchState.PREPARED, "work that is not prepared in time is rolled back, and its rows are free")
        _is(await bench.manager.prepare(_ONE, None), BranchState.ABORTED, "it cannot be prepared any more")


async def nothing_is_lost_between_concurrent_branches(subject: Subject) -> None:
    """Transfers between few rows, half of them aborted, with a restart in the middle of it."""
    names = [f"row-{i}" for i in range(4)]
    chance = random.Random(7)  # noqa: S311 - a seed, not a secret

    async def transfer(bench: _Bench, number: int) -> None:
        source, target = chance.sample(names, 2)
        halves = (
            (BranchKey(f"t-{number}", "from"), bench.add(source, -1)),
            (BranchKey(f"t-{number}", "to"), bench.add(target, 1)),
        )
        votes = await asyncio.gather(*(bench.manager.prepare(key, call) for key, call in halves))
        is_yes = all(vote.state is BranchState.PREPARED for vote in votes) and chance.random() < 0.5
        for key, _ in halves:
            await (bench.manager.commit(key) if is_yes else bench.manager.abort(key))

    for start in (0, 100):
        async with subject.open(ResourceLimits(lock_wait_s=0.2)) as bench:
            if start == 0:
                for name in names:
                    await bench.set(name, 100)
            await asyncio.gather(*(transfer(bench, start + i) for i in range(100)))
            total = sum([await bench.value(name) for name in names])
            _expect(total == 100 * len(names), f"the total is conserved, not {total}")
            _expect(not await bench.manager.in_doubt(), "and nothing is left in doubt")


CHECKS: tuple[Check, ...] = (
    a_repeat_gives_the_same_answer_and_no_second_effect,
    an_abort_undoes_and_may_be_repeated,
    an_abort_before_the_prepare_keeps_the_prepare_out,
    prevent_leaves_a_yes_alone,
    contradictions_are_refused,
    another_body_for_the_same_branch_is_refused,
    a_branch_that_writes_nothing_votes_read_only,
    one_phase_is_vote_and_commit_in_one,
    a_rejection_is_a_durable_no_with_its_reason,
    an_action_that_breaks_votes_no,
    prepared_branches_survive_a_restart_with_their_locks,
    a_branch_waits_for_a_row_and_runs_again_on_what_it_finds,
    a_wait_ends_with_a_no_that_names_the_row,
    an_abort_does_not_wait_for_a_waiting_prepare,
    interactive_work_adds_up,
    interactive_work_is_never_prepared_in_part,
    interactive_work_is_counted_at_the_vote,
    interactive_work_runs_out_of_time,
    nothing_is_lost_between_concurrent_branches,
)
