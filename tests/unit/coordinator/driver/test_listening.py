"""Listening to one record: every change, from a revision on, within bounds, until the end or until nobody can say."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.driver.admission import Admission
from coordinator.driver.listening import BEHIND_MAX, Listener
from coordinator.driver.waiters import Waiters
from coordinator.errors import Overloaded
from coordinator.ledger.commands import BY_VOTES, Begin, Decide, End
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase, TransactionRecord
from coordinator.ledger.table import Ledger
from tests.support.virtual import virtually

BEGUN = TransactionRecord("g", b"d", Path.CLASSIC, Phase.PREPARING, (), 1_000, 1, revision=5)
DECIDED = BEGUN._replace(phase=Phase.COMMITTING, revision=6)
ENDED = BEGUN._replace(phase=Phase.COMMITTED, revision=7)


async def test_a_listener_hears_what_is_newer_than_it_knows_in_order_until_the_end() -> None:
    listener = Listener(5)
    listener.begin(BEGUN)
    assert await listener.some(0) == []
    listener.hear(DECIDED)
    assert not listener.is_over
    listener.hear(ENDED)
    assert await listener.some(10) == [DECIDED, ENDED]
    assert listener.is_over
    assert await listener.some(10) == []
    assert not listener.has_ended, "it did not know before"


async def test_what_was_heard_before_the_beginning_is_older_and_left_out() -> None:
    """Seen red without the `clear` in `begin`: a listener would be told *preparing* of what somebody has heard
    committed."""
    listener = Listener(0)
    listener.hear(BEGUN)
    listener.begin(DECIDED)
    assert await listener.some(10) == [DECIDED]


async def test_who_knows_the_end_is_told_so() -> None:
    listener = Listener(7)
    listener.begin(ENDED)
    assert (listener.has_ended, await listener.some(10)) == (True, [])


async def test_the_end_does_not_wait_for_an_application_that_is_to_be_notified() -> None:
    """Seen red when a listener looked whether anything is owed to anybody."""
    listener = Listener(0)
    listener.begin(ENDED._replace(notify="http://shop/"))
    assert (len(await listener.some(10)), listener.is_over) == (1, True)


async def test_a_listener_that_is_too_slow_goes_on_with_the_newest() -> None:
    listener = Listener(0)
    listener.begin(BEGUN)
    for revision in range(6, 6 + 2 * BEHIND_MAX):
        listener.hear(BEGUN._replace(revision=revision))
    new = await listener.some(10)
    assert (len(new), new[-1].revision) == (BEHIND_MAX, 5 + 2 * BEHIND_MAX)


def test_a_change_wakes_and_time_does_too() -> None:
    async def story() -> None:
        listener = Listener(0)
        listener.begin(BEGUN)
        await listener.some(0)
        assert await listener.some(600) == []
        waiting = asyncio.ensure_future(listener.some(600))
        await asyncio.sleep(1)
        listener.hear(DECIDED)
        assert await waiting == [DECIDED]
        waiting = asyncio.ensure_future(listener.some(600))
        await asyncio.sleep(1)
        listener.hear(None)
        assert await waiting == []
        assert listener.is_over

    virtually(story())


def test_the_waiters_tell_of_every_change_of_one_record_and_of_the_end_of_their_knowledge() -> None:
    """Also of two changes in one turn, which nobody who only looked at the record would see."""
    ledger = Ledger()
    waiters = Waiters(ledger, Admission())
    heard: list[Phase | None] = []
    leave = waiters.when_changed("g", lambda record: heard.append(None if record is None else record.phase))
    for gid in ("g", "other"):
        ledger.execute(Begin(gid, b"d", Path.CLASSIC, (BranchRecord("b1", "bank-a", "do", b""),), 1_000, 1))
    ledger.execute(Decide("g", Decision.COMMIT, BY_VOTES, 2))
    waiters.release_all()
    ledger.execute(End("g", ("b1",)))
    assert heard == [Phase.PREPARING, Phase.COMMITTING, None, Phase.COMMITTED]
    leave()
    waiters.release_all()
    assert (len(heard), waiters.listening) == (4, 0)


def test_one_listener_too_many_is_refused_by_name_and_waiters_do_not_count() -> None:
    waiters = Waiters(Ledger(), Admission(waiters_max=1, listeners_max=1))
    waiters.when_decided("g", lambda: None)
    leave = waiters.when_changed("g", lambda _: None)
    with pytest.raises(Overloaded, match="listeners_max"):
        waiters.when_changed("other", lambda _: None)
    leave()
    waiters.when_changed("other", lambda _: None)
    assert (len(waiters), waiters.listening) == (1, 1)
