"""Row locks of one resource manager: who holds which row, who waits for it, until when. Sans-IO.

Exclusive locks with first-come queues. Deadlines are data: whoever owns the clock calls `expire(now)`, and may
let a request wait on in its place.

A request names *all* rows that it needs, is granted all of them or none, and enters the queues of all of them at
once. So every queue has the same order (that of arrival), and two requests that hold nothing cannot wait for each
other. An owner may ask for more rows while it holds some (an interactive branch does); such owners can wait for each
other, here or across participants, and the deadline is what ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from participant.errors import InvariantError
from participant.ids import BranchKey

__all__ = ["Expired", "LockTable", "Row", "Value"]

Value = None | int | float | str | bytes


class Row(NamedTuple):
    """One row: a table (or unique index) and the values of its key. `key=()` is all of it."""

    table: str
    key: tuple[Value, ...] = ()

    def __str__(self) -> str:
        return f"{self.table}({', '.join(map(repr, self.key))})" if self.key else self.table


@dataclass(frozen=True, slots=True)
class Expired:
    """A request that waited past its deadline: for which row, and who held it then."""

    owner: BranchKey
    row: Row
    holder: BranchKey | None


@dataclass(eq=False, slots=True)
class _Waiter:
    owner: BranchKey
    rows: tuple[Row, ...]  # those it does not hold yet
    deadline: float


def _in_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    """One order for all: who is served first must not depend on how strings hash in this process."""
    taken = tuple(rows)
    return taken if len(taken) < 2 else tuple(sorted(taken, key=str))


class LockTable:
    """All locks of one resource manager."""

    def __init__(self) -> None:
        self._holder: dict[Row, BranchKey] = {}
        self._held: dict[BranchKey, set[Row]] = {}
        self._queues: dict[Row, dict[_Waiter, None]] = {}  # insertion order is the queue's
        self._waiters: dict[BranchKey, _Waiter] = {}
        self._granted: list[BranchKey] = []

    def acquire(self, owner: BranchKey, rows: Iterable[Row], deadline: float) -> bool:
        """Take all of `rows` now (True), or wait for them in line until `deadline` (False).

        Rows that `owner` holds already are its own. Asking again while waiting replaces the earlier request.
        """
        self._leave(owner)
        held = self._held.get(owner)
        missing = _in_order([row for row in rows if row not in held] if held else rows)
        if self._holder.keys().isdisjoint(missing) and self._queues.keys().isdisjoint(missing):
            self._take(owner, missing)
            return True
        waiter = _Waiter(owner, missing, deadline)
        self._waiters[owner] = waiter
        for row in missing:
            self._queues.setdefault(row, {})[waiter] = None
        return False

    def release(self, owner: BranchKey, *, keep: Iterable[Row] = ()) -> None:
        """Give back what `owner` holds, all but `keep`, and its place in every queue."""
        self._leave(owner)
        held = self._held.get(owner)
        if held is None:
            return
        freed = held.difference(keep)
        for row in freed:
            del self._holder[row]
        held -= freed
        if not held:
            del self._held[owner]
        if self._queues:
            self._serve(_in_order(freed))

    def expire(self, now: float, again: Callable[[Expired], float] = lambda _: 0.0) -> list[Expired]:
        """Send away every request whose deadline has come, in the order of arrival.

        `again` gives it another deadline; one that has come, too, sends it away.
        """
        late, expired = [], []
        for waiter in self._waiters.values():
            if waiter.deadline <= now:
                end = self._expired(waiter)
                waiter.deadline = again(end)
                if waiter.deadline <= now:
                    late.append(waiter)
                    expired.append(end)
        for waiter in late:
            del self._waiters[waiter.owner]
            self._dequeue(waiter)
        for waiter in late:  # only now: the place of one late request must not go to another
            self._serve(waiter.rows)
        return expired

    def hasten(self, holder: BranchKey, deadline: float) -> None:
        """Who waits for a row of `holder`, and has a greater key, does so no longer than until `deadline`."""
        for row in self._held.get(holder, ()):
            for waiter in self._queues.get(row, ()):
                if holder < waiter.owner:
                    waiter.deadline = min(waiter.deadline, deadline)

    def take_granted(self) -> list[BranchKey]:
        """Owners whose waiting ended well since the last call; each now holds all that it asked for."""
        granted, self._granted = self._granted, []
        return granted

    @property
    def next_deadline(self) -> float | None:
        """When `expire` will next have something to do."""
        return min((waiter.deadline for waiter in self._waiters.values()), default=None)

    def blockers(self, owner: BranchKey, rows: Iterable[Row]) -> list[tuple[Row, BranchKey]]:
        """Which of `rows` others hold, and who they are."""
        holder_of = self._holder.get
        return [(row, holder) for row in rows if (holder := holder_of(row)) is not None and holder != owner]

    def held(self, owner: BranchKey) -> frozenset[Row]:
        """The rows that `owner` holds."""
        return frozenset(self._held.get(owner, ()))

    def _take(self, owner: BranchKey, rows: Iterable[Row]) -> None:
        held = self._held.setdefault(owner, set())
        for row in rows:
            if row in self._holder:
                raise InvariantError(f"row {row} would have two holders")
            self._holder[row] = owner
            held.add(row)
        if not held:
            del self._held[owner]

    def _leave(self, owner: BranchKey) -> None:
        """Take `owner` out of every queue, and serve those who stood behind it."""
        waiter = self._waiters.pop(owner, None)
        if waiter is None:
            return
        self._dequeue(waiter)
        self._serve(waiter.rows)

    def _dequeue(self, waiter: _Waiter) -> None:
        for row in waiter.rows:
            queue = self._queues[row]
            del queue[waiter]
            if not queue:
                del self._queues[row]

    def _serve(self, rows: Iterable[Row]) -> None:
        """Grant to the first in line of each row, if all that it needs is free and it is first everywhere."""
        for row in rows:
            if row in self._holder or row not in self._queues:
                continue
            first = next(iter(self._queues[row]))
            if all(r not in self._holder and next(iter(self._queues[r])) is first for r in first.rows):
                del self._waiters[first.owner]
                self._dequeue(first)
                self._take(first.owner, first.rows)
                self._granted.append(first.owner)

    def _expired(self, waiter: _Waiter) -> Expired:
        """Of the rows that others hold, the one whose holder has the smallest key: it says how long the wait may be."""
        held = (row for row in waiter.rows if row in self._holder)
        row = min(held, key=self._holder.__getitem__, default=waiter.rows[0])
        return Expired(waiter.owner, row, self._holder.get(row))
