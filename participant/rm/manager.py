"""The resource-manager port over an `Engine`: an event loop in front of one thread that owns the database.

Owns the queue, the thread and the timers. Requests that arrive while a batch is being written form the next
batch, so the number of forced writes adapts to the load by itself. Must never do: touch the engine from the
event loop while a batch is under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from structlog import get_logger

from participant.branch import Ask
from participant.errors import ResourceBusy, ResourceClosed, ResourceFailed
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.engine import Engine
from participant.rm.requests import BranchRequest, Forget, ListInDoubt, Read, Request
from participant.rm.store import Store
from participant.wire import Answer

__all__ = ["BATCH_MAX", "EngineManager", "wall_clock_ms"]

BATCH_MAX = 128  # requests in one local transaction
FORGET_INTERVAL_S = 10.0
FORGET_BRANCHES_MAX = 5_000  # in one local transaction

_LOG = get_logger(__name__)


def wall_clock_ms() -> int:
    """Milliseconds since 1970, for the retention: it must survive a restart, as no other clock does."""
    return time.time_ns() // 1_000_000


class EngineManager:
    """`participant.resource.ResourceManager`, see there, over a `Store`."""

    def __init__(self, store: Store, limits: ResourceLimits, wall_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._engine = Engine(store, limits)
        self._limits = limits
        self._wall_ms = wall_ms
        self._queue: deque[tuple[asyncio.Future[Any], Request]] = deque()
        self._waiting: dict[asyncio.Future[Any], None] = {}  # a set in the order of arrival
        self._tasks: list[asyncio.Task[None]] = []
        self._is_open = False

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commitd-store")
        self._arrived = asyncio.Event()
        self._failure: asyncio.Future[BaseException] = loop.create_future()
        try:
            await loop.run_in_executor(self._executor, self._engine.open)
        except BaseException:
            self._executor.shutdown(wait=False)
            raise
        self._is_open = True
        self._tasks = [loop.create_task(self._pump()), loop.create_task(self._forget())]

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._arrived.set()
        pump, forget = self._tasks
        forget.cancel()
        await asyncio.wait([pump, forget])
        self._end_all(ResourceClosed("the resource manager was closed"))
        await asyncio.get_running_loop().run_in_executor(self._executor, self._engine.close)
        self._executor.shutdown(wait=False)

    async def failed(self) -> BaseException:
        return await asyncio.shield(self._failure)

    async def work(self, key: BranchKey, call: Call, seq: int) -> Answer:
        return await self._answer(BranchRequest(Ask.WORK, key, call, seq))

    async def prepare(self, key: BranchKey, call: Call | None, works: int | None = None) -> Answer:
        return await self._answer(BranchRequest(Ask.PREPARE, key, call, works=works))

    async def commit(self, key: BranchKey) -> Answer:
        return await self._answer(BranchRequest(Ask.COMMIT, key))

    async def commit_one_phase(self, key: BranchKey, call: Call | None, works: int | None = None) -> Answer:
        return await self._answer(BranchRequest(Ask.COMMIT_ONE_PHASE, key, call, works=works))

    async def abort(self, key: BranchKey) -> Answer:
        return await self._answer(BranchRequest(Ask.ABORT, key))

    async def prevent(self, key: BranchKey, reason: str) -> Answer:
        return await self._answer(BranchRequest(Ask.PREVENT, key, reason=reason))

    async def outcome(self, key: BranchKey) -> Answer:
        return await self._answer(BranchRequest(Ask.OUTCOME, key))

    async def in_doubt(self) -> list[BranchKey]:
        branches: list[BranchKey] = await self._ask(ListInDoubt())
        return branches

    async def read(self, call: Call) -> Any:
        return await self._ask(Read(call))

    async def _answer(self, request: BranchRequest) -> Answer:
        answer: Answer = await self._ask(request)
        return answer

    async def _ask(self, request: Request) -> Any:
        if not self._is_open:
            raise ResourceClosed("the resource manager is not open")
        if self._failure.done():
            raise ResourceFailed(f"the resource manager has failed and must be restarted: {self._failure.result()}")
        future = asyncio.get_running_loop().create_future()
        self._queue.append((future, request))
        self._waiting[future] = None
        self._arrived.set()
        return await future

    async def _pump(self) -> None:
        """Serve the queue, batch by batch, until the end or the first failure."""
        loop = asyncio.get_running_loop()
        while self._is_open or self._queue:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
            if not batch and not self._is_due(loop.time()):
                await self._wait()
                continue
            try:
                step = loop.run_in_executor(self._executor, self._engine.step, batch, loop.time(), self._wall_ms())
                self._deliver(await step)
            except ResourceBusy as busy:
                self._deliver([(future, busy) for future, _ in batch])
            except Exception as failure:  # noqa: BLE001 - the border: whatever it is, nobody may wait for ever
                _LOG.exception("resource.failed")
                self._fail(failure)
                return
            except BaseException as failure:
                self._fail(failure)
                raise

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
