"""Waiting for a decision: the record wakes, time wakes, and a loss of leadership wakes."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.waiters import Waiters
from coordinator.errors import Overloaded
from coordinator.ledger.commands import BY_VOTES, Begin, Decide
from coordinator.ledger.records import BranchRecord, Decision, Path
from coordinator.ledger.table import Ledger


def begun(ledger: Ledger, gid: str = "g") -> None:
    ledger.execute(Begin(gid, b"d", Path.CLASSIC, (BranchRecord("b1", "bank-a", "do", b"\x01"),), 1_000, 1))


def decided(ledger: Ledger, gid: str = "g") -> None:
    ledger.execute(Decide(gid, Decision.COMMIT, BY_VOTES, 2))


async def test_a_decision_wakes_everybody_who_waits_for_it_and_nobody_else() -> None:
    ledger = Ledger()
    waiters = Waiters(ledger, Admission())
    begun(ledger)
    begun(ledger, "other")
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(waiters.decided("g", 5.0)) for _ in range(3)]
        other = group.create_task(waiters.decided("other", 5.0))
        await asyncio.sleep(0)
        assert len(waiters) == 4
        decided(ledger)
        woken = await asyncio.gather(*waiting)
        assert not other.done()
        decided(ledger, "other")
    assert [record.decision for record in woken if record] == [Decision.COMMIT] * 3
    assert len(waiters) == 0


async def test_whoever_comes_after_the_decision_does_not_wait() -> None:
    ledger = Ledger()
    waiters = Waiters(ledger, Admission(waiters_max=0))
    begun(ledger)
    decided(ledger)
    record = await waiters.decided("g", 5.0)
    assert record is not None
    assert record.decision is Decision.COMMIT


async def test_time_ends_the_wait_without_a_decision() -> None:
    ledger = Ledger()
    waiters = Waiters(ledger, Admission())
    begun(ledger)
    record = await waiters.decided("g", 0.01)
    assert record is not None
    assert record.decision is None


async def test_a_replica_that_cannot_say_any_more_releases_everybody() -> None:
    waiters = Waiters(Ledger(), Admission())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(waiters.decided("unheard-of", 5.0))
        await asyncio.sleep(0)
        waiters.release_all()
    assert waiting.result() is None


async def test_one_waiter_too_many_is_refused_and_a_cancelled_one_makes_room() -> None:
    ledger = Ledger()
    waiters = Waiters(ledger, Admission(waiters_max=1))
    begun(ledger)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(waiters.decided("g", 5.0))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="waiters_max"):
            await waiters.decided("g", 5.0)
        waiting.cancel()
    assert len(waiters) == 0
    assert await waiters.decided("g", 0.0) is not None
