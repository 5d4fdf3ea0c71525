"""Commands that work for a while: the loop that they run in, and how they are stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["run_stoppable", "stoppable"]

_T = TypeVar("_T")
_STOPS = (signal.SIGTERM, signal.SIGHUP)


def run_stoppable(work: Coroutine[Any, Any, _T]) -> _T:
    """Run it to its end. SIGTERM and SIGHUP end it as Ctrl-C does: it is cancelled, so that it leaves nothing behind.

    Raises: KeyboardInterrupt.
    """
    return asyncio.run(_heeding_signals(work))


async def _heeding_signals(work: Coroutine[Any, Any, _T]) -> _T:
    running = asyncio.ensure_future(work)
    for number in _STOPS:
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def stoppable() -> Iterator[None]:
    """The same for work without an event loop: inside, SIGTERM and SIGHUP raise KeyboardInterrupt."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
