"""Row locks: first come, first served; all or nothing; waiting is bounded by data, not by a clock."""

from __future__ import annotations

from participant.ids import BranchKey
from participant.locks import Expired, LockTable, Row

A, B, C, D = (BranchKey(name, "b") for name in "abcd")
X, Y, Z = (Row("t", (name,)) for name in "xyz")


def test_a_free_row_is_taken_and_a_held_one_is_waited_for() -> None:
    locks = LockTable()
    assert locks.acquire(A, [X], 10)
    assert not locks.acquire(B, [X], 10)
    assert locks.held(A) == {X}
    locks.release(A)
    assert locks.take_granted() == [B]
    assert locks.held(B) == {X}


def test_an_owner_may_take_its_own_rows_again_and_add_to_them() -> None:
    locks = LockTable()
    assert locks.acquire(A, [X], 10)
    assert locks.acquire(A, [X, Y], 10)
    assert locks.held(A) == {X, Y}


def test_those_who_wait_are_served_in_the_order_of_arrival() -> None:
    """Red when the newcomer may overtake: with the look at the queue in `acquire` taken out."""
    locks = LockTable()
    locks.acquire(A, [X], 10)
    locks.acquire(B, [X], 10)
    locks.acquire(C, [X], 10)
    locks.release(A)
    assert locks.take_granted() == [B]
    assert not locks.acquire(D, [X], 10)
    locks.release(B)
    assert locks.take_granted() == [C]


def test_a_request_gets_all_its_rows_or_none() -> None:
    """While B waits for Y it does not hold X; nor may a later one snatch X from under it."""
    locks = LockTable()
    locks.acquire(A, [Y], 10)
    assert not locks.acquire(B, [X, Y], 10)
    assert not locks.held(B)
    assert not locks.acquire(C, [X], 10)
    locks.release(A)
    assert locks.take_granted() == [B]
    locks.release(B)
    assert locks.take_granted() == [C]


def test_nobody_overtakes_by_way_of_another_row() -> None:
    """C is the first for Z, but B came before it for X. Red when a request need not be the first everywhere."""
    locks = LockTable()
    locks.acquire(A, [Y], 10)
    locks.acquire(D, [Z], 10)
    locks.acquire(B, [X, Y], 10)
    locks.acquire(C, [Z, X], 10)
    locks.release(D)
    assert locks.take_granted() == []
    locks.release(A)
    assert locks.take_granted() == [B]


def test_requests_that_hold_nothing_cannot_wait_for_each_other() -> None:
    """Crossed orders, the textbook deadlock: B wants X then Y, C wants Y then X."""
    locks = LockTable()
    locks.acquire(A, [X, Y], 10)
    locks.acquire(B, [X, Y], 10)
    locks.acquire(C, [Y, X], 10)
    locks.release(A)
    assert locks.take_granted() == [B]
    locks.release(B)
    assert locks.take_granted() == [C]


def test_a_late_request_is_sent_away_and_told_for_what_it_waited() -> None:
    locks = LockTable()
    locks.acquire(A, [X], 10)
    locks.acquire(B, [Y, X], 5)
    locks.acquire(C, [Y], 7)
    assert locks.next_deadline == 5
    assert locks.expire(4.9) == []
    assert locks.expire(5) == [Expired(B, X, A)]
    assert locks.take_granted() == [C], "who stood behind it is served"
    assert locks.next_deadline is None


def test_of_two_that_are_late_neither_is_served() -> None:
    """A stands behind B, and B leaves in the same moment. Red when each is sent away before the next is looked at."""
    locks = LockTable()
    locks.acquire(A, [X], 10)
    locks.acquire(B, [X, Y], 5)
    locks.acquire(A, [X, Y], 5)
    assert [late.owner for late in locks.expire(5)] == [B, A]
    assert locks.take_granted() == []
    assert locks.held(A) == {X}


def test_releasing_may_keep_some_rows() -> None:
    locks = LockTable()
    locks.acquire(A, [X, Y], 10)
    locks.acquire(B, [Y], 10)
    locks.release(A, keep=[X])
    assert locks.take_granted() == [B]
    assert locks.held(A) == {X}


def test_whoever_leaves_a_queue_lets_the_next_one_in() -> None:
    """Red with the `_serve` in `_leave` taken out: C would wait for ever for a free row."""
    locks = LockTable()
    locks.acquire(A, [X], 10)
    locks.acquire(B, [X, Y], 10)
    locks.acquire(C, [Y], 10)
    locks.release(B)
    assert locks.take_granted() == [C]
    locks.release(A)
    assert locks.take_granted() == []
    assert locks.acquire(D, [X], 10)


def test_asking_again_replaces_the_earlier_request() -> None:
    locks = LockTable()
    locks.acquire(A, [X], 10)
    assert not locks.acquire(B, [X], 10)
    assert locks.acquire(B, [Z], 10)
    locks.release(A)
    assert locks.take_granted() == []
    assert locks.held(B) == {Z}


def test_a_row_is_named_for_people() -> None:
    assert str(Row("accounts", ("bob", 7))) == "accounts('bob', 7)"
    assert str(Row("accounts")) == "accounts"
