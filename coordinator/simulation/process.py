"""Simulated processes: who runs, who is stopped, who is dead. The loop asks here before it runs anything.

A `Process` is one *incarnation*: a restart is a new one, and nothing of the old one ever runs again. Which process
code belongs to is carried by the context variable `PROCESS`: asyncio gives every callback and task the context in
which it was made, so whatever a process schedules stays its own, through any depth of library code. Code outside
every process (`PROCESS` unset) is the world: it starts, kills and checks.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from coordinator.simulation.loop import SimLoop

__all__ = ["PROCESS", "DiskSpeed", "Process", "ProcessGone", "State", "in_dead_process"]

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("PROCESS", default=None)

_TASKS_PRUNED_AT = 64
_CLOSES_MAX = 100

T = TypeVar("T")


class State(Enum):
    RUNNING = auto()
    PAUSED = auto()  # SIGSTOP: what is due waits
    DEAD = auto()  # kill -9, power cut, or exit


class ProcessGone(Exception):
    """The process died before it finished what it was asked."""


def in_dead_process() -> bool:
    """Whether what runs now is a dead process being buried: nobody may hear what it says."""
    process = PROCESS.get()
    return process is not None and process.state is State.DEAD


@dataclass(slots=True)
class DiskSpeed:
    """How long a job on another thread takes (virtual seconds): `least_s` and some `mean_s` more, at most `most_s`."""

    least_s: float = 0.000_1
    mean_s: float = 0.001
    most_s: float = 30.0

    def draw(self, rng: Random) -> float:
        return min(self.least_s + rng.expovariate(1.0) * self.mean_s, self.most_s)


@dataclass(slots=True)
class _Job:
    """One function given to an executor."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    future: asyncio.Future[Any]


@dataclass(eq=False)
class Process:
    """One incarnation of a process on the machine `name`."""

    loop: SimLoop
    name: str
    incarnation: int
    rng: Random
    disk_speed: DiskSpeed = field(default_factory=DiskSpeed)
    state: State = State.RUNNING

    def __post_init__(self) -> None:
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)
        self.held: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = _TASKS_PRUNED_AT
        self._executors: dict[int, deque[_Job]] = {}
        self._on_death: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<{self.name}#{self.incarnation} {self.state.name.lower()}>"

    # Running -------------------------------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Start a task that belongs to this process."""
        return self.loop.create_task(coroutine, name=name, context=self.context.copy())

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """From the world: run `coroutine` in the process and wait for it. Raises ProcessGone if it dies first."""
        task = self.spawn(coroutine)
        gone = self.gone()
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ProcessGone(repr(self))
        return task.result()

    def gone(self) -> asyncio.Future[None]:
        """A future that is done when the process is dead."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.when_dead(lambda: None if future.done() else future.set_result(None))
        return future

    def when_dead(self, callback: Callable[[], None]) -> None:
        """Call `callback`, in the world, at the moment of death; at once if that has passed."""
        if self.state is State.DEAD:
            callback()
        else:
            self._on_death.append(callback)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Remember a task, so that it can be buried with the process."""
        self._tasks.append(task)
        if len(self._tasks) >= self._prune_at:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._prune_at = max(_TASKS_PRUNED_AT, 2 * len(self._tasks))

    # Faults --------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """SIGSTOP: nothing of the process runs until `resume`; what becomes due is kept in order."""
        if self.state is State.RUNNING:
            self.state = State.PAUSED

    def resume(self) -> None:
        """SIGCONT."""
        if self.state is State.PAUSED:
            self.state = State.RUNNING
            self.loop.release(self.held)

    def kill(self) -> None:
        """kill -9: from this instant on nothing of the process runs, not even a `finally`."""
        if self.state is State.DEAD:
            return
        self.state = State.DEAD
        self.held.clear()
        self._executors.clear()
        callbacks, self._on_death = self._on_death, []
        for callback in callbacks:
            contextvars.Context().run(callback)
        self.loop.bury_later(self)

    def bury(self) -> None:
        """Free what the dead process left behind.

        The interpreter closes an abandoned coroutine by raising GeneratorExit in it, so its `finally` blocks do
        run at some point. They run here, while the process is dead and everything it could touch ignores it.
        """
        while self._tasks:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                if not task.done():
                    task._log_destroy_pending = False
                    self.context.copy().run(_close, task.get_coro())

    # Threads -------------------------------------------------------------------------------------------------

    def submit(self, executor: object, function: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Run `function` after a time drawn from the disk's speed, at one instant, first come first served."""
        job = _Job(function, args, self.loop.create_future())
        queue = self._executors.setdefault(id(executor), deque())
        queue.append(job)
        if len(queue) == 1:
            self._start(queue)
        return job.future

    def _start(self, queue: deque[_Job]) -> None:
        delay = self.disk_speed.draw(self.rng)
        self.loop.call_later(delay, self._finish, queue, context=self.context.copy())

    def _finish(self, queue: deque[_Job]) -> None:
        job = queue[0]
        self.loop.run_as_thread(job.function, job.args, job.future)
        queue.popleft()
        while queue and queue[0].future.cancelled():
            queue.popleft()
        if queue:
            self._start(queue)


def _close(coroutine: Any) -> None:
    for _ in range(_CLOSES_MAX):
        try:
            coroutine.close()
        except RuntimeError:  # it awaited something in a `finally`: close it there, too
            continue
        except BaseException:  # noqa: BLE001  # whatever a dead process says, nobody hears it
            return
        return
