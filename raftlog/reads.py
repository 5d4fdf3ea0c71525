"""Linearizable read points (Ongaro's thesis, section 6.4): who waits for one, and what it takes.

At the leader a read point is an entry: once applied, everything acknowledged before it was proposed is applied, and
no other leader can have acknowledged anything since. A follower asks the leader for the index of such an entry, and
waits until it has applied that far itself. Callers that arrive before the entry is proposed share it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pysyncobj import FAIL_REASON

from raftlog.messages import Message
from raftlog.port import Applied, Outcome, Refusal, Refused, Unknown

__all__ = ["Reads"]

_Waiter = Callable[[int | None], object]  # called with the index reached, or None


class Reads:
    """The read points of one node. `patience_s` bounds how long a caller at a follower waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        self._loop = loop
        self._patience_s = patience_s
        self._next: list[_Waiter] = []  # leader: for the next entry
        self._proposed: list[list[_Waiter]] = []  # leader: for entries in the log
        self._asked: dict[int, asyncio.Future[Outcome]] = {}  # follower: the leader's word is awaited
        self._behind: dict[asyncio.Future[Outcome], int] = {}  # follower: our own application up to there is awaited
        self._last_id = 0

    # Leader ----------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for an entry that has not been proposed."""
        return bool(self._next)

    def at_leader(self) -> asyncio.Future[Outcome]:
        """A read point for a caller at the leader."""
        future: asyncio.Future[Outcome] = self._loop.create_future()

        def reached(index: int | None) -> None:
            if not future.done():
                future.set_result(Unknown("leadership was lost") if index is None else Applied(index, None))

        self._next.append(reached)
        return future

    def for_follower(self, answer: _Waiter) -> None:
        """A read point for a follower that asked us, the leader."""
        self._next.append(answer)

    def settler(self, applied_index: Callable[[], int]) -> Callable[[Any, int], None]:
        """All who wait now share the entry that the caller proposes with this."""
        waiters, self._next = self._next, []
        self._proposed.append(waiters)

        def settle(_results: Any, reason: int) -> None:
            if waiters in self._proposed:
                self._proposed.remove(waiters)
                for waiter in waiters:
                    waiter(applied_index() if reason == FAIL_REASON.SUCCESS else None)

        return settle

    # Follower --------------------------------------------------------------------------------------------

    def at_follower(self, ask: Callable[[Message], bool]) -> asyncio.Future[Outcome]:
        """A read point for a caller at a follower; `ask` sends to the leader.

        A request that has left can not be shared: the leader's point may lie before the new caller's question.
        """
        self._last_id += 1
        request, future = self._last_id, self._loop.create_future()
        if not ask({"type": "read_index", "id": request}):
            future.set_result(Refused(Refusal.NOT_LEADER))
            return future
        self._asked[request] = future
        self._loop.call_later(self._patience_s, self._impatient, request, future)
        return future

    def _impatient(self, request: int, future: asyncio.Future[Outcome]) -> None:
        self._asked.pop(request, None)
        self._behind.pop(future, None)
        if not future.done():
            future.set_result(Unknown("the leader's word, or what it speaks of, did not arrive in time"))

    def leader_reached(self, request: int, index: int | None, applied_index: int) -> None:
        """The leader's word on a request of ours."""
        future = self._asked.pop(request, None)
        if future is None or future.done():
            return
        if index is None:
            future.set_result(Refused(Refusal.NOT_LEADER))
        elif index <= applied_index:
            future.set_result(Applied(index, None))
        else:
            self._behind[future] = index

    def applied(self, applied_index: int) -> None:
        """This node has applied so far."""
        for future in [future for future, index in self._behind.items() if index <= applied_index]:
            index = self._behind.pop(future)
            if not future.done():
                future.set_result(Applied(index, None))

    # Both ------------------------------------------------------------------------------------------------

    def end(self, why: str) -> None:
        """Leadership was lost or the node stops: nobody waits for ever."""
        waiters = self._next + [waiter for waiters in self._proposed for waiter in waiters]
        futures = [*self._asked.values(), *self._behind]
        self._next, self._proposed = [], []
        self._asked.clear()
        self._behind.clear()
        for waiter in waiters:
            waiter(None)
        for future in futures:
            if not future.done():
                future.set_result(Unknown(why))
