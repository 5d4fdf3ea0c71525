"""An array at a participant: answers in the order in which they become true, one forced write, no task for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from participant.errors import WireError
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.engine import Engine
from participant.rm.memory import Memory, Transaction
from participant.rm.sqlite import SQLite
from participant.service import ParticipantService, ServiceLimits
from participant.wire import Answer, BranchState, Operation, Verb

MANY = 100


async def put(tx: Transaction, body: Any) -> None:
    await tx.put(body, 1)


def prepare(gid: str, key: str | None = None) -> Operation:
    return Operation(Verb.PREPARE, BranchKey(gid, "b"), "put", key or gid)


def commit(gid: str) -> Operation:
    return Operation(Verb.COMMIT, BranchKey(gid, "b"))


class Shop:
    """A participant in memory; `disk` counts its forced writes."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.resource = Memory(self.disk, limits=ResourceLimits(lock_wait_s=30))
        self.service = ParticipantService("shop", self.resource, {"put": put}, ServiceLimits(in_flight_max=MANY))

    async def states(self, *operations: Operation | WireError) -> list[list[tuple[int, str]]]:
        """The lists of answers, one after the other, each in the order of the operations."""
        lists = [list_ async for list_ in self.service.perform_all(operations)]
        return [sorted((index, answer.state.value) for index, answer in list_) for list_ in lists]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    made = Shop()
    await made.resource.open()
    yield made
    await made.resource.close()


async def test_what_an_array_prepares_or_commits_shares_one_forced_write(shop: Shop) -> None:
    """Seen red with a pause of the event loop between two operations: several writes."""
    for make, state in ((prepare, "prepared"), (commit, "committed")):
        syncs = shop.disk.syncs
        lists = await shop.states(*(make(f"g{i}") for i in range(MANY)))
        assert lists == [[(i, state) for i in range(MANY)]], "and one list of answers"
        assert shop.disk.syncs == syncs + 1


async def test_what_an_array_prepares_or_commits_is_one_transaction_of_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where the engine commits."""

    async def insert(tx: Any, body: Any) -> None:
        await tx.execute("INSERT INTO t VALUES (?)", (body,))

    resource = SQLite(tmp_path / "a.db", schema="CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY)")
    await resource.open()
    service = ParticipantService("shop", resource, {"put": insert})
    steps: list[int] = []
    step = Engine.step

    def counted(engine: Engine, requests: Any, now: float, wall_ms: int) -> Any:
        steps.append(len(requests))
        return step(engine, requests, now, wall_ms)

    monkeypatch.setattr(Engine, "step", counted)
    for make, state in ((prepare, BranchState.PREPARED), (commit, BranchState.COMMITTED)):
        answers = [pair async for list_ in service.perform_all([make(f"g{i}") for i in range(MANY)]) for pair in list_]
        assert {answer.state for _, answer in answers} == {state}
    assert steps == [MANY + 1, MANY], "the prepares, and the question whether all have been tried; the commits"
    await resource.close()


async def test_an_array_costs_no_task_for_each_operation(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red with `asyncio.gather` over coroutines: a hundred tasks."""
    made: list[object] = []
    loop = asyncio.get_running_loop()
    create_task = loop.create_task
    monkeypatch.setattr(loop, "create_task", lambda *a, **k: made.append(a) or create_task(*a, **k), raising=False)
    await shop.states(*(prepare(f"g{i}") for i in range(MANY)))
    assert made == []


async def test_answers_come_in_the_order_in_which_they_become_true(shop: Shop) -> None:
    """The first waits for a row: the others, also malformed ones, do not wait for it."""
    await shop.states(prepare("holder", "x"))
    operations = [prepare("waits", "x"), WireError("operations[1]", "no"), prepare("c"), prepare("d")]
    async with aclosing(shop.service.perform_all(operations)) as lists:
        seen: dict[int, BranchState] = {}
        while len(seen) < 3:
            seen |= {index: answer.state for index, answer in await anext(lists)}
        assert seen == {1: BranchState.UNKNOWN, 2: BranchState.PREPARED, 3: BranchState.PREPARED}
        await shop.states(commit("holder"))
        (last,) = await anext(lists)
        assert (last[0], last[1].state) == (0, BranchState.READ_ONLY)
        assert [list_ async for list_ in lists] == []


async def test_an_array_of_which_everything_waits_says_so(shop: Shop) -> None:
    """Goal: whoever asks learns that it must not wait with what it has to say next: it may be what frees the rows.
    Red without the question behind the array: nothing comes at all."""
    await shop.states(prepare("holder", "x"))
    async with aclosing(shop.service.perform_all([prepare("a", "x"), prepare("b", "x")])) as lists:
        assert await anext(lists) == []
        await shop.states(commit("holder"))
        assert sorted([index for index, _ in [*await anext(lists), *await anext(lists, [])]]) == [0, 1]


async def test_whoever_leaves_makes_room_and_the_branch_goes_on(shop: Shop) -> None:
    await shop.states(prepare("holder", "x"))
    async with aclosing(shop.service.perform_all([prepare(f"w{i}", "x") for i in range(MANY)])) as lists:
        assert await anext(lists) == []
        full = await shop.service.perform(prepare("one-more"))
        assert full.retry
        assert await shop.states(prepare("another")) == [[(0, "unknown")]]
    await asyncio.sleep(0)
    assert (await shop.service.perform(prepare("one-more"))).state is BranchState.PREPARED
    await shop.states(commit("holder"))
    assert (await shop.service.perform(prepare("w0", "x"))).state is BranchState.READ_ONLY, "its vote was made"


async def test_a_failure_of_the_database_is_unknown_for_each(shop: Shop) -> None:
    shop.disk.fail_next_sync()
    answers = [pair async for list_ in shop.service.perform_all([prepare("a"), prepare("b")]) for pair in list_]
    assert all(answer.retry and answer.state is BranchState.UNKNOWN for _, answer in answers)
    assert len(answers) == 2


async def test_a_resource_manager_may_be_plain_coroutines() -> None:
    """Goal: somebody else's is as easy to write as ever. One of its operations has a bug, and none of the others.

    It is not asked for an outcome: that it answers would not say that everything else has been tried. Seen red with the
    question (it cannot answer it).
    """

    class Simple:
        is_in_order = False

        async def prepare(self, key: BranchKey, call: Call | None, works: int | None = None) -> Answer:
            if key.gid == "bug":
                raise ZeroDivisionError
            if key.gid == "gone":
                raise asyncio.CancelledError
            return Answer(BranchState.PREPARED)

    service = ParticipantService("shop", Simple(), {"put": put})  # type: ignore[arg-type]
    operations = [prepare("a"), prepare("bug"), prepare("gone"), prepare("b")]
    answers = dict([pair async for list_ in service.perform_all(operations) for pair in list_])
    assert [answers[i].state.value for i in range(4)] == ["prepared", "unknown", "unknown", "prepared"]
    assert answers[1].retry
    assert answers[2].retry


async def test_an_empty_array_has_no_answers(shop: Shop) -> None:
    assert await shop.states() == []
