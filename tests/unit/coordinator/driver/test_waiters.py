"""Waiting for a decision: the record wakes, what is implied wakes, time wakes, and a loss of leadership wakes."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.waiters import Known, Waiters
from coordinator.errors import Overloaded
from coordinator.ledger.commands import BY_VOTES, Begin, Decide, End, Forget
from coordinator.ledger.records import BranchRecord, Decision, Path
from coordinator.ledger.table import Ledger
from tests.support.cluster import WAIT_S
from tests.support.virtual import virtually


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
    assert [known.decision for known in woken] == [Decision.COMMIT] * 3
    assert len(waiters) == 0


async def test_whoever_comes_after_the_decision_does_not_wait() -> None:
    ledger = Ledger()
    waiters = Waiters(ledger, Admission(waiters_max=0))
    begun(ledger)
    decided(ledger)
    known = await waiters.decided("g", 5.0)
    assert known.decision is Decision.COMMIT


async def test_time_ends_the_wait_without_a_decision() -> None:
    ledger = Ledger()
    waiters = Waiters(ledger, Admission())
    begun(ledger)
    known = await waiters.decided("g", 0.01)
    assert known.decision is None


async def test_a_replica_that_cannot_say_any_more_releases_everybody() -> None:
    waiters = Waiters(Ledger(), Admission())
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(waiters.decided("unheard-of", 5.0))
        await asyncio.sleep(0)
        waiters.release_all()
    assert waiting.result() == Known("unheard-of")


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
    assert await waiters.decided("g", 0.0) == Known("g")


# Implied decisions

IMPLIED = Decide("g", Decision.COMMIT, BY_VOTES, 0)
TOLD = Known("g", Decision.COMMIT, BY_VOTES)


async def test_an_implied_decision_is_heard_at_once_and_the_record_is_not_waited_for() -> None:
    """Red when `implied` wakes nobody."""
    ledger = Ledger()
    waiters = Waiters(ledger, Admission())
    begun(ledger)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(waiters.decided("g", 600.0))
        other = group.create_task(waiters.decided("other", 0.01))
        await asyncio.sleep(0)
        waiters.implied(IMPLIED)
    assert waiting.result() == TOLD
    assert other.result() == Known("other")
    assert waiters.known("g") == await waiters.decided("g", 600.0) == TOLD, "and by whoever comes later"
    record = ledger.get("g")
    assert record is not None
    assert record.decision is None
    assert len(waiters) == 0


async def test_an_implied_abort_says_why_and_which_branch() -> None:
    waiters = Waiters(Ledger(), Admission())
    waiters.implied(Decide("g", Decision.ABORT, BY_VOTES, 0, "no money", "b1"))
    assert waiters.known("g") == Known("g", Decision.ABORT, BY_VOTES, "no money", "b1")


async def test_the_first_implied_decision_stands() -> None:
    """A driver says it again at every step, with whatever it knows by then."""
    waiters = Waiters(Ledger(), Admission())
    waiters.implied(Decide("g", Decision.ABORT, BY_VOTES, 0, "no money", "b1"))
    waiters.implied(Decide("g", Decision.ABORT, BY_VOTES, 0, "no stock", "b2"))
    assert waiters.known("g").culprit == "b1"


async def test_the_record_takes_the_place_of_what_was_implied() -> None:
    """Goal: nothing is kept for ever, and the record has the last word. Red when `_changed` keeps what is implied:
    the forgotten transaction is still told as committed."""
    ledger = Ledger()
    waiters = Waiters(ledger, Admission())
    begun(ledger)
    waiters.implied(IMPLIED)
    decided(ledger)
    ledger.execute(End("g", ("b1",)))
    assert waiters.known("g") == TOLD
    ledger.execute(Forget(("g",)))
    assert waiters.known("g") == Known("g")


async def test_what_was_implied_is_forgotten_when_this_replica_cannot_say_any_more() -> None:
    """Goal: after a loss of leadership only the ledger speaks here. Red when `release_all` keeps it."""
    ledger = Ledger()
    waiters = Waiters(ledger, Admission())
    begun(ledger)
    waiters.implied(IMPLIED)
    waiters.release_all()
    assert waiters.known("g") == Known("g")


def test_who_waits_for_the_record_is_not_content_with_what_is_implied() -> None:
    """Red when `recorded` returns as soon as it is woken."""

    async def main() -> None:
        ledger = Ledger()
        waiters = Waiters(ledger, Admission())
        begun(ledger)
        waiting = asyncio.ensure_future(waiters.recorded("g", 10.0))
        await asyncio.sleep(1.0)
        waiters.implied(IMPLIED)
        await asyncio.sleep(1.0)
        assert not waiting.done()
        decided(ledger)
        assert await waiting == ledger.get("g")
        begun(ledger, "slow")
        late = await waiters.recorded("slow", 10.0)
        assert late is not None
        assert late.decision is None
        assert asyncio.get_running_loop().time() == 12.0, "in the end it is not decided"
        assert await waiters.recorded("unheard-of", 10.0) is None
        assert len(waiters) == 0

    virtually(main())


async def test_who_is_only_to_be_called_is_called_once_and_may_leave() -> None:
    """Goal: a waiter without a task. Red when `leave` or `_release` forgets to count."""
    ledger = Ledger()
    waiters = Waiters(ledger, Admission(waiters_max=2))
    begun(ledger)
    called: list[str] = []
    stay = waiters.when_decided("g", lambda: called.append("stayed"))
    leave = waiters.when_decided("g", lambda: called.append("left"))
    with pytest.raises(Overloaded, match="waiters_max"):
        waiters.when_decided("g", lambda: None)
    leave()
    leave()
    assert len(waiters) == 1
    waiters.implied(IMPLIED)
    decided(ledger)
    stay()
    assert called == ["stayed"]
    assert len(waiters) == 0
