"""What a worker and a coordinator must not take a workflow for: one that is lost, one that failed for want of code."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.client import Aborted, Client, Tx, Worker, Workflow
from coordinator.ledger.records import Phase, TransactionRecord
from participant import ending
from tests.support.cluster import WAIT_S, Cluster, cluster, recorded
from tests.support.desk import Desk


async def _sleeps(tx: Tx, started: asyncio.Event) -> None:
    await tx.step("desk", "book", undo="cancel")
    started.set()
    await tx.sleep(1_000)


def _desk_of(made: Cluster) -> Desk:
    desk = made.clerks["desk"] = Desk("desk")  # type: ignore[assignment]
    return desk


def _has_diverged(record: TransactionRecord) -> bool:
    return record.decision is not None or (record.workflow is not None and record.workflow.diverged != "")


async def test_a_worker_that_is_full_of_lost_work_goes_on() -> None:
    """Seen red (it waited for nothing, which is an error, and ended without a word)."""
    started = asyncio.Event()

    async def work(tx: Tx, _: Any) -> str:
        if tx.gid == "long":
            await _sleeps(tx, started)
        return "done"

    async with cluster(serve=True) as made:
        _desk_of(made)
        asking = Client([made.urls["n1"]], timeout_s=WAIT_S)
        async with asking as client, Worker(client, [Workflow("work", work)], at_once_max=1):
            await client.start(Workflow("work", work), None, gid="long")
            await asyncio.wait_for(started.wait(), WAIT_S)
            run = await client.start(Workflow("work", work), None, gid="short")
            assert isinstance(await client.cancel("long", reason="too long"), Aborted)
            assert await asyncio.wait_for(run.result(), WAIT_S) == "done"


async def test_code_that_forgets_that_it_was_lost_ends_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen red (whoever runs it now, and this worker, both had it for ever)."""
    monkeypatch.setattr(ending, "CANCEL_AGAIN_S", 0.01)
    told = asyncio.Semaphore(0)

    async def work(tx: Tx, _: Any) -> None:
        await tx.step("desk", "book", undo="cancel")
        for _again in range(2):
            try:
                told.release()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        told.release()

    async with cluster(serve=True) as made:
        _desk_of(made)
        async with Client([made.urls["n1"]], timeout_s=WAIT_S) as client:
            async with Worker(client, [Workflow("work", work)]), asyncio.timeout(WAIT_S):
                await client.start(Workflow("work", work), None, gid="long")
                await told.acquire()
                await client.cancel("long", reason="too long")
                await told.acquire()
            await asyncio.wait_for(told.acquire(), 1.0)


async def test_code_that_fails_before_it_has_come_as_far_as_another_run_undoes_nothing() -> None:
    """Its release is at fault, or its configuration. Seen red (all that had been done was undone)."""
    started = asyncio.Event()

    async def before(tx: Tx, _: Any) -> None:
        await _sleeps(tx, started)

    async def after(_tx: Tx, _: Any) -> None:
        raise KeyError("a setting that this release needs")

    async with cluster(serve=True) as made:
        desk = _desk_of(made)
        async with Client([made.urls["n1"]], timeout_s=WAIT_S) as client:
            async with Worker(client, [Workflow("work", before)]):
                await client.start(Workflow("work", before), None, gid="t")
                await asyncio.wait_for(started.wait(), WAIT_S)
            async with Worker(client, [Workflow("work", after)]):
                record = await recorded(made.replicas["n1"], "t", _has_diverged)
            assert record.phase is Phase.PREPARING
            assert record.workflow is not None
            assert "it failed after 0 steps, and 1 are recorded" in record.workflow.diverged
    assert desk.done == ["s1 book"]


async def test_a_pivot_beside_a_step_that_is_refused_does_not_decide() -> None:
    """Seen red (it was committed without the step)."""

    async def at_once(tx: Tx, _: Any) -> None:
        await tx.step("desk", "book", undo="cancel")
        await asyncio.gather(tx.step("desk", "reserve", undo="release"), tx.pivot("desk", "pay"))

    async with cluster(serve=True) as made:
        desk = _desk_of(made)
        desk.refuses.add("reserve")
        async with Client([made.urls["n1"]], timeout_s=WAIT_S) as client:
            async with Worker(client, [Workflow("work", at_once)]):
                await client.start(Workflow("work", at_once), None, gid="t")
                assert isinstance(await client.wait("t"), Aborted)
            await client.settled("t")
    assert desk.done == ["s1 book", "s1:undo cancel"]
