"""Forgetting: the leader drops finished transactions once they are past their retention.

Until then the same gid gets the same answer; afterwards it is unknown. A gid of steps must not be used again then: its
participants remember longer, and would repeat what they answered the first time, though it was undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from coordinator.driver.supervisor import Supervisor
from coordinator.ledger.commands import Forget, encode
from coordinator.ledger.table import Ledger
from raftlog.port import Applied, ReplicatedLog

__all__ = ["FORGET_MAX", "Sweeper"]

FORGET_MAX = 512  # transactions in one command

_log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps every `every_s`; what was decided more than `retention_s` ago goes. `wall_ms`: wall-clock ms."""

    def __init__(
        self,
        log: ReplicatedLog,
        ledger: Ledger,
        supervisor: Supervisor,
        *,
        wall_ms: Callable[[], int],
        retention_s: float = 3_600.0,
        every_s: float = 5.0,
    ) -> None:
        self._replicated = log
        self._ledger = ledger
        self._supervisor = supervisor
        self._wall_ms = wall_ms
        self._retention_ms = int(retention_s * 1_000)
        self._every_s = every_s

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.sweep()
            except Exception:  # noqa: BLE001 (what failed once is tried again, and is loud each time)
                _log.exception("sweeper.failed")

    async def sweep(self) -> int:
        """Forget what is due. Returns how many transactions were named; 0 on a replica that does not lead."""
        named = 0
        while self._supervisor.leading:
            gids = self._ledger.finished_before(self._wall_ms() - self._retention_ms, FORGET_MAX)
            if not gids or not isinstance(await self._propose(Forget(gids)), Applied):
                break
            named += len(gids)
        if named:
            _log.debug("ledger.swept", transactions=named)
        return named

    async def _propose(self, command: Forget) -> object:
        try:
            async with asyncio.timeout(self._every_s):
                return await self._replicated.propose(encode(command))
        except TimeoutError:
            return None
