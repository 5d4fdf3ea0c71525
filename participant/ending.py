"""The end of tasks that go on by themselves: they are told until they have heard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["CANCEL_AGAIN_S", "ended"]

CANCEL_AGAIN_S = 5.0  # so long may take whatever a task does when it has heard


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel them, more than once if need be, and wait until all have ended, however they did.

    Until Python 3.12 `asyncio.wait_for`, with which drivers of brokers and databases bound what they ask, forgets a
    cancellation that comes when what it waits for is just done.
    """
    tasks = tuple(tasks)
    running = [task for task in tasks if not task.done()]
    while running:
        for task in running:
            task.cancel()
        _, pending = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
        running = [*pending]
    await asyncio.gather(*tasks, return_exceptions=True)
