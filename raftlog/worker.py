"""The thread that waits for the disk, so that the event loop does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeAlias

__all__ = ["Done", "Job", "ThreadWorker", "Worker"]

Job: TypeAlias = Callable[[], None]
Done: TypeAlias = Callable[[BaseException | None], None]


class Worker(Protocol):
    """Runs blocking jobs one at a time, in order, off the event loop."""

    def submit(self, job: Job, done: Done) -> None:
        """Run `job` after those submitted before; `done` is called in the loop, with the exception it raised."""

    def stop(self) -> None:
        """Finish what was submitted. Blocks; nothing may be submitted any more."""


class ThreadWorker:
    """One thread. An executor would do, at twice the cost of a sync's hand-over; this is on the path of each."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        self._jobs.put((job, done))

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:  # noqa: BLE001  # whatever it is, the loop must hear of it
                error = raised
            if self._loop.is_closed():
                return
            self._loop.call_soon_threadsafe(done, error)
