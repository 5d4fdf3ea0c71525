"""A simulated computer: one disk, one process at a time, and the ways in which it goes down and comes back."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeAlias

from coordinator.simulation.disk import SimDisk
from coordinator.simulation.links import Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.process import DiskSpeed, Process, State
from coordinator.simulation.trace import Trace

__all__ = ["Machine", "Main"]

_EXIT_MEAN_S = 0.2

Main: TypeAlias = "Callable[[Machine], Coroutine[Any, Any, None]]"


class Machine:
    """`main` is what the process runs; when it ends or raises, the process ends, and `on_exit` is told.

    `kept_up`: a supervisor starts it again also when no faults reign.
    """

    def __init__(
        self, name: str, loop: SimLoop, links: Links, trace: Trace, main: Main, *, kept_up: bool = True
    ) -> None:
        self.name = name
        self.kept_up = kept_up
        self.disk_speed = DiskSpeed()
        self.on_exit: Callable[[Machine, BaseException | None], None] = lambda _machine, _error: None
        self._loop = loop
        self._links = links
        self._trace = trace
        self._main = main
        self._rng = Random(f"{loop.seed}/machine/{name}")
        self.disk = SimDisk(self._rng, reserves=True)
        self.process: Process | None = None

    @property
    def up(self) -> bool:
        """Whether a process runs here, or is paused."""
        return self.process is not None and self.process.state is not State.DEAD

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.state is State.RUNNING

    def start(self) -> None:
        """Power on and start the process, unless it runs."""
        if self.up:
            return
        self._links.power_on(self.name)
        self.process = self._loop.process(self.name, self.disk_speed)
        self._trace.note("start", self.name, self.process.incarnation)
        self.process.spawn(self._run(self.process))

    async def _run(self, process: Process) -> None:
        error: BaseException | None = None
        try:
            await self._main(self)
        except Exception as raised:  # noqa: BLE001  # the process ends with it, as a real one would
            error = raised
        if process.state is State.DEAD:
            return  # it is being buried
        self._trace.note("exit", self.name, type(error).__name__)
        self.on_exit(self, error)
        self._loop.call_later(self._rng.expovariate(1.0) * _EXIT_MEAN_S, self._gone, process)

    def _gone(self, process: Process) -> None:
        if process is self.process:
            self.kill()

    def chance(self) -> Random:
        """The dice of the process that runs now: others after each restart."""
        incarnation = self.process.incarnation if self.process is not None else 0
        return Random(f"{self._loop.seed}/dice/{self.name}/{incarnation}")

    # Going down ----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.up:
            self._trace.note("kill", self.name)
            self.process.kill()
            self.disk = self.disk.kill()

    def cut_power(self) -> None:
        """The machine stops; what was not synced may be gone."""
        self._trace.note("power cut", self.name)
        self._links.power_off(self.name)
        if self.process is not None:
            self.process.kill()
        self.disk = self.disk.crash(self._rng)

    def die_at_operation(self, ahead: int, go_down: Callable[[], None]) -> None:
        """Go down in the middle of its work, by `go_down`: just before the disk operation `ahead` of the next one."""
        self.disk.crash_at(self.disk.operations + ahead, go_down)

    def fail_sync(self) -> None:
        """Let the next sync fail."""
        self.disk.fail_next_sync()

    def pause(self) -> None:
        if self.process is not None:
            self._trace.note("pause", self.name)
            self.process.pause()

    def resume(self) -> None:
        if self.process is not None and self.process.state is State.PAUSED:
            self._trace.note("resume", self.name)
            self.process.resume()
