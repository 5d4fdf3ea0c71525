"""What every world has: a loop, links, machines, faults, checkers, and rounds of trouble and rest.

In each round faults reign for some minutes while clients work (safety); then everything is healed, and what the world
promises must come to rest within `PROGRESS_S` (liveness). Everything is drawn from the seed.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest import mock

import structlog

from coordinator.simulation.links import Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.machines import Machine, Main
from coordinator.simulation.network import Network
from coordinator.simulation.trace import Trace
from raftlog import transfers, wal
from raftlog.config import Timing
from raftlog.port import Member
from tests.simulation.checkers.findings import Findings
from tests.simulation.faults import FaultPlan, Faults

__all__ = ["PROGRESS_S", "RAFT_PORT", "SECRET", "THINK_MAX_S", "TIMING", "World", "members_of"]

PROGRESS_S = 90.0
"""After the last fault, so long at most until everything is decided and equal everywhere (virtual seconds)."""

THINK_MAX_S = 30.0  # a client never pauses for longer, so that it notices the end of a round in time
RAFT_PORT = 7_000
SECRET = b"only for the simulation"
TIMING = Timing(heartbeat_s=0.5, election_min_s=2.0, election_max_s=4.0, lease_s=4.0, silence_s=6.0, redial_s=0.5)

_ALARMS = {
    "action.failed": "an action raised what it should not",
    "branch.conflict": "a branch belongs to another request",
    "branch.contradiction": "a participant was asked what contradicts its state",
    "driver.failed": "a driver failed",
    "request.failed": "a request failed",
    "transaction.contradiction": "a participant contradicts the record",
    "view.failed": "a view failed",
}
"""Log lines of the code under test that must never be written."""


def members_of(names: list[str]) -> tuple[Member, ...]:
    """The replicas, as the log is configured with them."""
    return tuple(Member(name, f"{name}:{RAFT_PORT}") for name in names)


class World(ABC):
    """One run of one seed, of the kind `kind`."""

    def __init__(self, kind: str, seed: int) -> None:
        self.seed = seed
        self.rng = Random(f"{seed}/{kind}")
        self.loop = SimLoop(f"{seed}/{kind}")
        self.links = Links(seed)
        self.network = Network(self.loop, self.links)
        self.trace = Trace(self.loop.time)
        self.findings = Findings(self.trace)
        self.working = False  # clients begin new work
        self.machines: dict[str, Machine] = {}
        self.faults: Faults

    def add_machine(self, name: str, main: Main, *, kept_up: bool = True) -> Machine:
        machine = Machine(name, self.loop, self.links, self.trace, main, kept_up=kept_up)
        machine.on_exit = self._exited
        self.machines[name] = machine
        return machine

    def run(self, hours: float) -> str:
        """Run for so many virtual hours; returns the digest of the trace. Raises Violation."""
        with _tuned(self._alarm):
            try:
                self.loop.run_until_complete(self._run(hours * 3_600))
            finally:
                self.loop.close()
        for failure in self.loop.failures:
            self.findings.report("nothing raises unseen", f"{failure['message']}: {failure.get('exception')!r}")
        self.findings.raise_first()
        return self.trace.digest()

    @abstractmethod
    def summary(self) -> str:
        """What happened, in numbers."""

    # For the kinds of worlds ---------------------------------------------------------------------------------

    @abstractmethod
    def begin_round(self, group: asyncio.TaskGroup) -> None:
        """`working` is true from now on, and trouble begins."""

    @abstractmethod
    async def settle(self) -> None:
        """Everything is healed and `working` is false: wait for the rest, and check what holds then."""

    @abstractmethod
    def excused(self, machine: Machine, error: BaseException | None) -> bool:
        """Whether the process of `machine` may end so."""

    @abstractmethod
    def favourite(self) -> str | None:
        """A machine worth hitting: the one that leads."""

    def plan_faults(self, plan: FaultPlan, moments: tuple[str, ...] = ()) -> None:
        """To be called once, when all machines are there. `moments`: see `Faults`."""
        machines = self.machines.values()
        self.faults = Faults(self.rng, plan, self.links, machines, self.trace, self.favourite, moments)

    async def wait_until(self, what: str, holds: Callable[[], bool], deadline: float) -> bool:
        """Liveness: whether `holds` came true before the deadline; reports it if not."""
        while not holds():
            if self.loop.time() > deadline:
                self.findings.report("progress", f"{PROGRESS_S:g} s after the last fault: not {what}")
                return False
            for machine in self.machines.values():
                if machine.kept_up:
                    machine.start()
            await asyncio.sleep(0.5)
        return True

    # Inside ------------------------------------------------------------------------------------------------------

    async def _run(self, seconds: float) -> None:
        stop: asyncio.Future[None] = self.loop.create_future()
        self.findings.when_first(lambda: None if stop.done() else stop.set_result(None))
        script = self.loop.create_task(self._rounds(seconds))
        await asyncio.wait((script, stop), return_when=asyncio.FIRST_COMPLETED)
        script.cancel()
        await asyncio.wait((script,))
        if not script.cancelled() and (error := script.exception()) is not None:
            raise error

    async def _rounds(self, seconds: float) -> None:
        while self.loop.time() < seconds:
            self.working = True
            for machine in self.machines.values():
                machine.start()
            async with asyncio.TaskGroup() as group:
                self.begin_round(group)
                await self.faults.reign(self.rng.uniform(60, 600))
                self.working = False
                self.faults.heal()
                await self.settle()

    def _exited(self, machine: Machine, error: BaseException | None) -> None:
        if not self.excused(machine, error):
            self.findings.report("a process does not end by itself", f"{machine.name}: {error!r}")

    def _alarm(self, event: Mapping[str, Any]) -> None:
        promise = _ALARMS.get(event["event"])
        if promise is not None:
            details = {key: value for key, value in event.items() if key not in ("event", "exc_info")}
            self.findings.report(promise, f"{event['event']} {details}")


@contextmanager
def _tuned(alarm: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Small pieces of snapshots and room in files, so that their borders are met often; errors reach `alarm`."""

    def listen(_logger: Any, _method: str, event: Any) -> Any:
        alarm(event)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), processors=[listen])
    try:
        with (
            mock.patch.multiple(transfers, PIECE_BYTES=2_048, WINDOW_BYTES=8_192),
            mock.patch.object(wal, "RESERVE_BYTES", 4_096),
        ):
            yield
    finally:
        structlog.configure(**before)
