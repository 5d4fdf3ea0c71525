"""From a proposal to its outcome: what waits, what is in the log, and what may be said of either. Sans-IO but for
the futures of the callers.

While a sync is in flight, proposals wait; the next entry takes as many of them as it can hold.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from pysyncobj import FAIL_REASON

from raftlog.core import RaftCore
from raftlog.machine import is_too_large, pack, take_batch
from raftlog.port import Applied, Member, Outcome, Refusal, Refused, Unknown

__all__ = ["PROPOSALS_WAITING_BYTES_MAX", "PROPOSALS_WAITING_MAX", "Proposals"]

# Proposals that are not yet in the log; past either bound, one more is refused as overloaded.
PROPOSALS_WAITING_MAX = 100_000
PROPOSALS_WAITING_BYTES_MAX = 64 << 20

_Waiting = tuple[bytes | None, bytes, "asyncio.Future[Outcome]"]


class Proposals:
    """The proposals of one node."""

    def __init__(self, loop: asyncio.AbstractEventLoop, core: RaftCore) -> None:
        self._loop = loop
        self._core = core
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._in_log: dict[asyncio.Future[Outcome], None] = {}  # a set in the order of arrival

    def add(self, command: bytes, command_id: bytes | None) -> asyncio.Future[Outcome]:
        """Queue a command for the next entry."""
        if is_too_large(command, command_id):
            return self.turn_away(Refused(Refusal.TOO_LARGE))
        if len(self._waiting) >= PROPOSALS_WAITING_MAX or self._waiting_bytes >= PROPOSALS_WAITING_BYTES_MAX:
            return self.turn_away(Refused(Refusal.OVERLOADED))
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting.append((command_id, command, future))
        self._waiting_bytes += len(command)
        return future

    def turn_away(self, refused: Refused) -> asyncio.Future[Outcome]:
        """A proposal that is refused at once."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        future.set_result(refused)
        return future

    def add_member(self, member: Member, *, add: bool) -> asyncio.Future[Outcome]:
        """Queue a membership change; the core takes one at a time."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._in_log[future] = None
        self._core.propose_member(member, add=add, proposed=self._settler([future]))
        return future

    def submit(self) -> None:
        """Put what waits into entries of the next tick."""
        self._waiting_bytes = 0
        while self._waiting:
            batch = take_batch(self._waiting)
            futures = [future for _, _, future in batch]
            self._in_log.update(dict.fromkeys(futures))
            self._core.propose(pack((command_id, command) for command_id, command, _ in batch), self._settler(futures))

    def give_up(self, why: str, waiting: Refused) -> None:
        """What is in the log may yet be applied; what only waits was never proposed."""
        pending, self._in_log = self._in_log, {}
        for future in pending:
            if not future.done():
                future.set_result(Unknown(why))
        queued, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for _, _, future in queued:
            if not future.done():
                future.set_result(waiting)

    def _settler(self, futures: list[asyncio.Future[Outcome]]) -> Callable[[Any, int], None]:
        def settle(results: list[Any] | None, reason: int) -> None:
            index = self._core.applied_index
            for position, future in enumerate(futures):
                self._in_log.pop(future, None)
                if not future.done():
                    if reason == FAIL_REASON.SUCCESS:
                        future.set_result(Applied(index, None if results is None else results[position]))
                    else:
                        future.set_result(self._refused(reason))

        return settle

    def _refused(self, reason: int) -> Refused:
        """The core turned an entry away before it was appended."""
        refusal = Refusal.DENIED if reason == FAIL_REASON.REQUEST_DENIED else Refusal.NOT_LEADER
        return Refused(refusal, self._core.leader)
