"""The thread that waits for the disk: one job at a time, in order, and its word comes back in the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from raftlog.worker import ThreadWorker


class Heard:
    """What was done, as the loop heard of it."""

    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []
        self.threads: set[int] = set()
        self._changed = asyncio.Event()

    def done(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self.threads.add(threading.get_ident())
        self._changed.set()

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


async def test_jobs_run_in_order_off_the_loop_and_end_in_it() -> None:
    worker, heard = ThreadWorker("disk"), Heard()
    ran: list[tuple[int, str]] = []
    for number in range(50):
        worker.submit(lambda n=number: ran.append((n, threading.current_thread().name)), heard.done)  # type: ignore[misc]
    await heard.until(lambda: len(heard.errors) == 50)
    worker.stop()
    assert ran == [(number, "disk") for number in range(50)]
    assert heard.threads == {threading.get_ident()}
    assert heard.errors == [None] * 50


@pytest.mark.parametrize("error", [OSError("broken"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
async def test_whatever_a_job_raises_is_heard_and_the_next_one_runs(error: BaseException) -> None:
    """Red when `_run` catches Exception only: the thread dies, and the node waits for ever."""
    worker, heard = ThreadWorker("disk"), Heard()

    def fail() -> None:
        raise error

    worker.submit(fail, heard.done)
    worker.submit(lambda: None, heard.done)
    await heard.until(lambda: len(heard.errors) == 2)
    worker.stop()
    assert heard.errors == [error, None]


async def test_stopping_finishes_what_was_submitted() -> None:
    worker, heard = ThreadWorker("disk"), Heard()
    ran: list[int] = []
    for number in range(10):
        worker.submit(lambda n=number: ran.append(n), heard.done)  # type: ignore[misc]
    await asyncio.get_running_loop().run_in_executor(None, worker.stop)
    assert ran == list(range(10))
    await heard.until(lambda: len(heard.errors) == 10)
