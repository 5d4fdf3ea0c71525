"""Wake-ups at some time, for very many who mostly need none. Owns one timer of the event loop for all of them.

A timer of the loop for each open transaction would take more memory than anything else that is known of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf

__all__ = ["GRAIN_S", "Alarms"]

GRAIN_S = 0.002  # the loop's timer rings no sooner than after this: of very many alarms, some then share a turn
STALE_MAX = 64  # entries of the queue without an alarm, however few alarms there are


class Alarms:
    """Of each name, at most one: `ring` is called with it once its time has come."""

    def __init__(self, ring: Callable[[str], None]) -> None:
        self._ring = ring
        self._at: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []  # a heap; an entry that `_at` does not confirm is stale
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def set(self, name: str, at: float) -> None:
        """Ring at this time, if not before."""
        if self._at.get(name, inf) <= at:
            return
        self._at[name] = at
        heappush(self._queue, (at, name))
        if len(self._queue) > 2 * len(self._at) + STALE_MAX:
            self._queue = [(at, name) for name, at in self._at.items()]
            heapify(self._queue)
        self._arm(at)

    def at(self, name: str) -> float | None:
        """When it rings; None: it does not."""
        return self._at.get(name)

    def cancel(self, name: str) -> None:
        """Do not ring."""
        self._at.pop(name, None)

    def clear(self) -> None:
        """Never ring again, for anybody, unless it is set anew."""
        self._at.clear()
        self._queue.clear()
        self._stop_timer()

    def _arm(self, at: float) -> None:
        if self._timer is not None and self._rings_at <= at:
            return
        loop = asyncio.get_running_loop()
        at = max(at, loop.time() + GRAIN_S)
        if self._timer is None or at < self._rings_at:
            self._stop_timer()
            self._rings_at = at
            self._timer = loop.call_at(at, self._rang)

    def _rang(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._queue and self._queue[0][0] <= now:
            at, name = heappop(self._queue)
            if self._at.get(name) == at:
                del self._at[name]
                self._ring(name)
        if self._queue:
            self._arm(self._queue[0][0])

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
