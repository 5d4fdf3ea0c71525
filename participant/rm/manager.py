"""The resource-manager port over an `Engine`: an event loop in front of one thread that owns the database.

Owns the queue, the thread and the timers. Requests that arrive while a batch is being written form the next
batch, so the number of forced writes adapts to the load by itself. Must never do: touch the engine from the
event loop while a batch is under way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from structlog import get_logger

from participant.branch import Ask
from participant.errors import ResourceBusy, ResourceClosed, ResourceFailed
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits, ResourceStatus
from participant.rm.engine import Engine
from participant.rm.refusal import refused
from participant.rm.requests import (
    BranchRequest,
    Forget,
    ListInDoubt,
    Measure,
    Read,
    ReadNote,
    Request,
    SwapNote,
)
from participant.rm.retention import FORGET_BRANCHES_MAX, FORGET_INTERVAL_S, wall_clock_ms
from participant.rm.store import Store
from participant.wire import Answer
from raftlog.worker import ThreadWorker, Worker

__all__ = ["BATCH_MAX", "EngineManager"]

BATCH_MAX = 128  # requests in one local transaction

_LOG = get_logger(__name__)

_T = TypeVar("_T")


class EngineManager:
    """`participant.resource.ResourceManager`, see there, over a `Store`. `worker` makes the thread that owns it."""

    is_in_order = True

    def __init__(
        self,
        store: Store,
        limits: ResourceLimits,
        wall_ms: Callable[[], int] = wall_clock_ms,
        worker: Callable[[str], Worker] = ThreadWorker,
    ) -> None:
        self._engine = Engine(store, limits, is_awaited=_is_awaited)
        self._limits = limits
        self._wall_ms = wall_ms
        self._make_worker = worker
        self._queue: deque[tuple[asyncio.Future[Any], Request]] = deque()
        self._waiting: dict[asyncio.Future[Any], None] = {}  # a set in the order of arrival
        self._tasks: list[asyncio.Task[None]] = []
        self._is_open = False

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = self._make_worker("commitd-store")
        self._arrived = asyncio.Event()
        self._failure: asyncio.Future[BaseException] = self._loop.create_future()
        opening = self._off_the_loop(partial(self._engine.open, self._loop.time()))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:  # whoever asked has gone, and the thread may be opening still
            with suppress(Exception):
                await opening
                await self._off_the_loop(self._engine.close)
            await self._end_thread()
            raise
        except BaseException:
            await self._end_thread()
            raise
        self._is_open = True
        self._tasks = [self._loop.create_task(self._pump()), self._loop.create_task(self._forget())]

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._arrived.set()
        pump, forget = self._tasks
        forget.cancel()
        await asyncio.wait([pump, forget])
        self._end_all(ResourceClosed("the resource manager was closed"))
        try:
            await self._off_the_loop(self._engine.close)
        finally:
            await self._end_thread()

    async def failed(self) -> BaseException:
        return await asyncio.shield(self._failure)

    def work(self, key: BranchKey, call: Call, seq: int) -> asyncio.Future[Answer]:
        return self._ask(BranchRequest(Ask.WORK, key, call, seq))

    def prepare(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._ask(BranchRequest(Ask.PREPARE, key, call, works=works))

    def commit(self, key: BranchKey) -> asyncio.Future[Answer]:
        return self._ask(BranchRequest(Ask.COMMIT, key))

    def commit_one_phase(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._ask(BranchRequest(Ask.COMMIT_ONE_PHASE, key, call, works=works))

    def abort(self, key: BranchKey) -> asyncio.Future[Answer]:
        return self._ask(BranchRequest(Ask.ABORT, key))

    def prevent(self, key: BranchKey, reason: str) -> asyncio.Future[Answer]:
        return self._ask(BranchRequest(Ask.PREVENT, key, reason=reason))

    def outcome(self, key: BranchKey) -> asyncio.Future[Answer]:
        return self._ask(BranchRequest(Ask.OUTCOME, key))

    def note(self, key: BranchKey) -> asyncio.Future[bytes | None]:
        return self._ask(ReadNote(key))

    def swap_note(
        self, key: BranchKey, expected: bytes | None, note: bytes, *, is_finished: bool = False
    ) -> asyncio.Future[bool]:
        return self._ask(SwapNote(key, expected, note, is_finished))

    async def in_doubt(self) -> list[BranchKey]:
        branches: list[BranchKey] = await self._ask(ListInDoubt())
        return branches

    async def status(self) -> ResourceStatus:
        measured: ResourceStatus = await self._ask(Measure())
        return measured

    async def read(self, call: Call) -> Any:
        return await self._ask(Read(call))

    def _ask(self, request: Request) -> asyncio.Future[Any]:
        """Line up. What lines up in one turn of the event loop is served in one step, up to BATCH_MAX."""
        if not self._is_open:
            return refused(ResourceClosed("the resource manager is not open"))
        if self._failure.done():
            failure = self._failure.result()
            return refused(ResourceFailed(f"the resource manager has failed and must be restarted: {failure}"))
        future = self._loop.create_future()
        self._queue.append((future, request))
        self._waiting[future] = None
        self._arrived.set()
        return future

    async def _pump(self) -> None:
        """Serve the queue, batch by batch, until the end or the first failure."""
        while self._is_open or self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
            now = self._loop.time()
            if not batch and not self._is_due(now):
                await self._wait()
                continue
            try:
                step = partial(self._engine.step, batch, now, self._wall_ms())
                self._deliver(await self._off_the_loop(step))
            except ResourceBusy as busy:
                self._deliver([(future, busy) for future, _ in batch])
            except Exception as failure:  # noqa: BLE001 - the border: whatever it is, nobody may wait for ever
                _LOG.exception("resource.failed")
                self._fail(failure)
                return
            except BaseException as failure:
                self._fail(failure)
                raise

    def _off_the_loop(self, job: Callable[[], _T]) -> asyncio.Future[_T]:
        """Do `job` in the thread, after those before it."""
        future: asyncio.Future[_T] = self._loop.create_future()
        results: list[_T] = []

        def done(error: BaseException | None) -> None:
            if future.done():
                return  # whoever waited was cancelled
            if error is None:
                future.set_result(results[0])
            else:
                future.set_exception(error)

        self._worker.submit(lambda: results.append(job()), done)
        return future

    async def _end_thread(self) -> None:
        """Once it has done what it was given."""
        await self._loop.run_in_executor(None, self._worker.stop)

    def _fail(self, failure: BaseException) -> None:
        self._failure.set_result(failure)
        self._end_all(ResourceFailed(f"the resource manager has failed and must be restarted: {failure}"))

    def _is_due(self, now: float) -> bool:
        wake_at = self._engine.wake_at
        return wake_at is not None and wake_at <= now

    async def _wait(self) -> None:
        """Until a request arrives, the engine wants to be woken, or the end."""
        self._arrived.clear()
        if self._queue or not self._is_open:
            return
        wake_at = self._engine.wake_at
        try:
            async with asyncio.timeout_at(wake_at):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def _forget(self) -> None:
        """Keep the table of finished branches bounded."""
        while not self._failure.done():
            await asyncio.sleep(FORGET_INTERVAL_S)
            before_ms = self._wall_ms() - int(self._limits.retention_s * 1_000)
            try:
                while await self._ask(Forget(before_ms, FORGET_BRANCHES_MAX)) == FORGET_BRANCHES_MAX:
                    pass  # in steps, so that others are served in between
            except ResourceBusy as busy:
                _LOG.warning("resource.busy", why=str(busy))
            except ResourceFailed:
                return

    def _deliver(self, results: Sequence[tuple[Any, Any]]) -> None:
        for future, result in results:
            self._waiting.pop(future, None)
            if future.done():
                continue  # whoever asked has gone
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _end_all(self, error: BaseException) -> None:
        self._queue.clear()
        self._deliver([(future, error) for future in tuple(self._waiting)])


def _is_awaited(ticket: Any) -> bool:
    """Whether the caller has not gone. In the engine's thread: a look at the future changes nothing."""
    return not ticket.done()
