"""Futures under way that may all take equally long. Owns one timer for all of them, so that each costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Overdue"]

_T = TypeVar("_T")


class Overdue:
    """Cancels each future that is not done `timeout_s` after `watch`."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        # In the order of arrival, so in that of their times, too.
        self._due: dict[asyncio.Future[Any], tuple[float, Callable[[asyncio.Future[Any]], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[_T], ended: Callable[[asyncio.Future[_T]], None]) -> None:
        """Call `ended` when `future` is done, or cancelled for being late; never after `forget_all`."""
        loop = asyncio.get_running_loop()
        self._due[future] = (loop.time() + self.timeout_s, ended)
        future.add_done_callback(self._done)
        if self._timer is None:
            self._timer = loop.call_later(self.timeout_s, self._ring)

    def _done(self, future: asyncio.Future[Any]) -> None:
        awaited = self._due.pop(future, None)
        if awaited is not None:
            awaited[1](future)
        elif not future.cancelled():
            future.exception()  # nobody asks any more

    def forget_all(self) -> list[asyncio.Future[Any]]:
        """Cancel everything, and say nothing about it; what was under way."""
        futures = list(self._due)
        self._due.clear()
        for future in futures:
            future.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return futures

    def _ring(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for future, (due_at, _) in self._due.items():
            if due_at > now:
                self._timer = loop.call_at(due_at, self._ring)
                return
            future.cancel()
