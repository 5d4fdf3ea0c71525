"""A served cluster in a thread of its own, for tests whose client side is synchronous (the command line, a fuzzer)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.support.cluster import WAIT_S, Cluster, cluster

__all__ = ["Background", "served"]

_T = TypeVar("_T")


class Background:
    """The cluster, and a way to do something on its event loop."""

    def __init__(self, made: Cluster, loop: asyncio.AbstractEventLoop) -> None:
        self.cluster = made
        self._loop = loop

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` on the cluster's loop, and give its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)


@contextmanager
def served() -> Iterator[Background]:
    """A cluster of three replicas that listen on loopback."""
    started: list[Background] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with cluster(serve=True) as made:
            started.append(Background(made, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="served cluster")
    thread.start()
    try:
        assert ready.wait(WAIT_S), "the cluster did not start"
        yield started[0]
    finally:
        if started:
            started[0]._loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
    assert not thread.is_alive(), "the cluster did not stop"
