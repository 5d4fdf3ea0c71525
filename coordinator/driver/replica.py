"""One replica of the coordinator, assembled over the ports: any log, any participants, any clock, any chance.

Owns: the order of starting and stopping, and the two background tasks. Production, tests and the simulator all
build this same object; they differ in what they pass in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import structlog

from coordinator.driver.admission import Admission
from coordinator.driver.gate import GateLimits
from coordinator.driver.notices import SILENT
from coordinator.driver.performer import Performer
from coordinator.driver.scribe import Scribe
from coordinator.driver.service import Transactions
from coordinator.driver.supervisor import Supervisor
from coordinator.driver.sweeper import Sweeper
from coordinator.driver.terms import Notary
from coordinator.driver.waiters import Waiters
from coordinator.driver.watch import Watch
from coordinator.driver.workflows import Workflows
from coordinator.ledger.table import Ledger
from coordinator.ports import Notifier, Participants
from coordinator.protocols.stuck import Thresholds
from participant.proof import Seal
from raftlog.port import ReplicatedLog

__all__ = ["Replica", "Tunables"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tunables:
    """How long things may take; the meanings stand at the keys of `coordinator.config.Timing`, `Limits` and
    `Alarms`."""

    call_timeout_s: float = 5.0
    propose_timeout_s: float = 10.0
    ride_along_s: float = 0.05
    retention_s: float = 3_600.0
    sweep_every_s: float = 5.0
    gates: GateLimits = field(default_factory=GateLimits)
    alarms: Thresholds = field(default_factory=Thresholds)


class Replica:
    """`ledger` is the state machine that `log` was built with. `wall_ms` gives wall-clock milliseconds.

    `seal` signs decisions, and is needed for transactions in three phases.

    `start` starts the log too, `stop` stops it.
    """

    def __init__(
        self,
        log: ReplicatedLog,
        ledger: Ledger,
        participants: Participants,
        *,
        wall_ms: Callable[[], int],
        chance: Random,
        admission: Admission,
        tunables: Tunables,
        notifier: Notifier = SILENT,
        seal: Seal | None = None,
    ) -> None:
        self.log = log
        self.ledger = ledger
        self.participants = participants
        self.waiters = Waiters(ledger, admission)
        performer = Performer(
            log,
            participants,
            wall_ms=wall_ms,
            call_timeout_s=tunables.call_timeout_s,
            propose_timeout_s=tunables.propose_timeout_s,
            ride_along_s=tunables.ride_along_s,
            gates=tunables.gates,
            notifier=notifier,
        )
        notary = Notary(log, participants, seal)
        self.supervisor = Supervisor(log, ledger, performer, self.waiters, admission, chance, notary)
        self.sweeper = Sweeper(
            log,
            ledger,
            self.supervisor,
            wall_ms=wall_ms,
            retention_s=tunables.retention_s,
            every_s=tunables.sweep_every_s,
        )
        self.watch = Watch(ledger, self.supervisor, wall_ms=wall_ms, thresholds=tunables.alarms)
        scribe = Scribe(log, self.supervisor, wall_ms=wall_ms, propose_timeout_s=tunables.propose_timeout_s)
        parts = (scribe, ledger, self.supervisor, self.waiters, participants)
        key_id = seal.key_id if seal is not None else ""
        self.transactions = Transactions(*parts, wall_ms=wall_ms, chance=chance, notifier=notifier, key_id=key_id)
        self.workflows = Workflows(*parts, log, admission, wall_ms=wall_ms, chance=chance, notifier=notifier)
        self._background: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Recover the log, and take up what is there. Raises what `ReplicatedLog.start` raises."""
        await self.log.start()
        self.supervisor.start()
        loop = asyncio.get_running_loop()
        self._background = [loop.create_task(work) for work in (self.sweeper.run(), self.watch.run())]

    async def stop(self) -> None:
        """Stop driving, then leave the log."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.supervisor.stop()
        self.waiters.close()
        self.workflows.close()
        await self.log.stop()
