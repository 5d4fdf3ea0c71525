"""The event loop of the simulator: virtual time, seeded order, simulated processes, and no way out.

Production code runs on it unchanged. Time advances only when nothing is ready, straight to the next timer; a loop
with nothing ready and nothing scheduled raises `Idle` instead of hanging. Timers that are due at the same instant
run in an order drawn from the seed, and so do processes that are ready at the same instant; within one process
`call_soon` stays first-in first-out, as asyncio documents. Real threads and sockets raise `Escape`.

It replaces `_run_once` of `asyncio.BaseEventLoop`, a private method that has kept its meaning from CPython 3.4 to
3.13; `test_loop.py` guards that on every interpreter the tests run on.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import socket
import threading
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Any

from coordinator.simulation.process import PROCESS, DiskSpeed, Process, State

if TYPE_CHECKING:
    from coordinator.simulation.network import Network

__all__ = ["Escape", "Idle", "SimLoop", "Stuck"]

_TURNS_AT_ONE_INSTANT_MAX = 200_000
_CANCELLED_TIMERS_MIN = 1_000


class Idle(Exception):
    """Nothing is ready and nothing is scheduled: whatever is awaited will never happen."""


class Stuck(Exception):
    """The code runs and runs while no virtual time passes."""


class Escape(BaseException):
    """Simulated code reached for the real world. Not an Exception, so that no handler hides it."""


class _Future(asyncio.Future[Any]):
    """A future that knows whose it is: what a dead process never retrieved is nobody's concern."""

    __slots__ = ("process",)

    def __init__(self, loop: SimLoop) -> None:
        super().__init__(loop=loop)
        self.process = PROCESS.get()


class _Task(asyncio.Task[Any]):
    """The same for tasks."""

    __slots__ = ("process",)


class SimLoop(asyncio.BaseEventLoop):
    """One world: all of its processes run on one such loop. The same seed gives the same run."""

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self.seed = seed
        self.network: Network | None = None
        self.failures: list[dict[str, Any]] = []  # what reached the exception handler, from any live process
        self._rng = Random(f"{seed}/loop")
        self._now = 0.0
        self._turns = 0
        self._timers: list[tuple[float, float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self._incarnations: dict[str, int] = {}
        self._processes: list[Process] = []
        self._dead: list[Process] = []
        self._escape: Escape | None = None
        self.set_debug(False)
        self.set_exception_handler(self._record_failure)

    # Processes ----------------------------------------------------------------------------------------------

    def process(self, name: str, disk_speed: DiskSpeed | None = None) -> Process:
        """A new incarnation on the machine `name`. The one before it must be dead."""
        self._processes = [old for old in self._processes if old.state is not State.DEAD]
        if any(old.name == name for old in self._processes):
            raise ValueError(f"{name} is still running")
        number = self._incarnations.get(name, 0) + 1
        self._incarnations[name] = number
        rng = Random(f"{self.seed}/process/{name}/{number}")
        process = Process(self, name, number, rng, disk_speed or DiskSpeed())
        self._processes.append(process)
        return process

    def release(self, held: deque[asyncio.Handle]) -> None:
        """Make the callbacks that a pause held back ready, in their order."""
        self._ready.extend(held)
        held.clear()

    def bury_later(self, process: Process) -> None:
        """Free the remains of `process` as soon as no simulated code is on the stack."""
        self._dead.append(process)

    def run_as_thread(self, function: Callable[..., Any], args: tuple[Any, ...], future: asyncio.Future[Any]) -> None:
        """Run `function` as another thread would: without a running loop. A cancelled caller misses the result."""
        process = PROCESS.get()
        events._set_running_loop(None)
        try:
            result = function(*args)
        except (Escape, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever awaits the future
            tell = partial(future.set_exception, error)
        else:
            tell = partial(future.set_result, result)
        finally:
            events._set_running_loop(self)
        if not future.cancelled() and (process is None or process.state is not State.DEAD):
            tell()

    # What asyncio asks for -----------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the world began."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_closed()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._rng.random(), self._timers_made, timer))
        timer._scheduled = True
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle._scheduled:
            self._timer_cancelled_count += 1

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        self._check_closed()
        task = _Task(coro, loop=self, name=name or "task", context=context, **options)
        task.process = process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.adopt(task)
        return task

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(self)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run `func` later, at one virtual instant. See `Process.submit`."""
        process = PROCESS.get()
        if process is not None:
            return process.submit(executor, func, args)
        future: asyncio.Future[Any] = self.create_future()
        self.call_soon(self.run_as_thread, func, args, future)
        return future

    async def create_server(
        self, protocol_factory: Any, host: Any = None, port: Any = None, *, ssl: Any = None, **options: Any
    ) -> Any:
        """Listen on the simulated network."""
        return await self._reach_network(ssl).listen(protocol_factory, host, port)

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, *, ssl: Any = None, **options: Any
    ) -> Any:
        """Connect over the simulated network."""
        return await self._reach_network(ssl).connect(protocol_factory, host, port)

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        raise self.escape("simulated code looks up a real address")

    async def getnameinfo(self, *args: Any, **options: Any) -> Any:
        raise self.escape("simulated code looks up a real address")

    def _reach_network(self, ssl: Any) -> Network:
        if ssl:
            raise self.escape("there is no TLS in the simulation")
        if self.network is None:
            raise self.escape("this loop has no network")
        return self.network

    def escape(self, what: str) -> Escape:
        """Note an escape, so that the loop stops with it whatever the simulated code does with the exception."""
        self._escape = Escape(what)
        return self._escape

    # Turning ----------------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        with _no_way_out(self):
            super().run_forever()

    def _run_once(self) -> None:
        if self._dead:
            self._bury()
        if not self._ready and not self._stopping:
            self._advance()
        self._turns += 1
        if self._turns > _TURNS_AT_ONE_INSTANT_MAX:
            raise Stuck(f"{self._turns} turns at {self._now:.6f} s")
        batch = self._ready
        self._ready = deque()
        for handle in batch if len(batch) == 1 else self._interleaved(batch):
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is None or process.state is State.RUNNING:
                handle._run()
            elif process.state is State.PAUSED:
                process.held.append(handle)
        if self._escape is not None:
            raise self._escape

    def _advance(self) -> None:
        """Let time pass until the next timer, and make ready what is due then."""
        timers = self._timers
        if self._timer_cancelled_count > max(_CANCELLED_TIMERS_MIN, len(timers) // 2):
            timers[:] = [timer for timer in timers if not timer[3]._cancelled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0][3]._cancelled:
            heapq.heappop(timers)
            self._timer_cancelled_count -= 1
        if not timers:
            raise Idle(f"nothing is ready or scheduled at {self._now:.6f} s")
        if timers[0][0] > self._now:
            self._now = timers[0][0]
            self._turns = 0
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[3]
            timer._scheduled = False
            if not timer._cancelled:
                self._ready.append(timer)

    def _interleaved(self, batch: deque[asyncio.Handle]) -> Iterator[asyncio.Handle]:
        """The batch, process by process in a drawn order; the order within a process is kept."""
        groups: dict[Process | None, list[asyncio.Handle]] = {}
        for handle in batch:
            groups.setdefault(handle._context.get(PROCESS), []).append(handle)
        order = list(groups.values())
        if len(order) > 1:
            self._rng.shuffle(order)
        return chain.from_iterable(order)

    def _bury(self) -> None:
        dead, self._dead = self._dead, []
        for process in dead:
            process.bury()

    def close(self) -> None:
        """Kill what still runs, quietly, and close."""
        for process in self._processes:
            process.kill()
        while self._dead:
            self._bury()
        self._timers.clear()
        super().close()

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        process = PROCESS.get()
        if process is None or process.state is not State.DEAD:
            super()._asyncgen_finalizer_hook(agen)

    def _record_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        owner = context.get("future") or context.get("task")
        process = PROCESS.get() if owner is None else getattr(owner, "process", None)
        if process is None or process.state is not State.DEAD:
            self.failures.append(context)


@contextmanager
def _no_way_out(loop: SimLoop) -> Iterator[None]:
    """While simulated code runs, a thread or a socket made on this thread is an error."""
    mine = threading.get_ident()
    start, connect = threading.Thread.start, socket.socket.__init__

    def no_thread(thread: threading.Thread) -> None:
        if threading.get_ident() == mine:
            raise loop.escape(f"simulated code starts a real thread: {thread!r}")
        start(thread)

    def no_socket(self: socket.socket, *args: Any, **options: Any) -> None:
        if threading.get_ident() == mine:
            raise loop.escape("simulated code opens a real socket")
        connect(self, *args, **options)

    threading.Thread.start, socket.socket.__init__ = no_thread, no_socket
    try:
        yield
    finally:
        threading.Thread.start, socket.socket.__init__ = start, connect
