"""Telling people of the transactions that wait for them: the leader looks through what is open, again and again.

Owns: what was found last, and what was said of it. Must never do: change anything about a transaction.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

from coordinator.driver.supervisor import Supervisor
from coordinator.ledger.records import TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.protocols.stuck import Kind, Stuck, Thresholds, stuck

__all__ = ["LOOKED_AT_ONCE_MAX", "NAMED_MAX", "Watch"]

LOOKED_AT_ONCE_MAX = 2_000  # records; a few milliseconds
NAMED_MAX = 20  # transactions that one look names in the log; how many more there are, it says

_log = structlog.get_logger(__name__)


class Watch:
    """`counts`: stuck transactions at the last look, by what is wrong; none on a replica that does not lead.

    `wall_ms`: wall-clock ms.
    """

    def __init__(
        self,
        ledger: Ledger,
        supervisor: Supervisor,
        *,
        wall_ms: Callable[[], int],
        thresholds: Thresholds,
        every_s: float = 5.0,
    ) -> None:
        self.counts: Counter[Kind] = Counter()
        self._ledger = ledger
        self._supervisor = supervisor
        self._wall_ms = wall_ms
        self._thresholds = thresholds
        self._every_s = every_s
        self._said: dict[str, Kind] = {}

    def stuck(self, record: TransactionRecord) -> Stuck | None:
        """What is wrong with a transaction now."""
        return stuck(record, self._thresholds, self._wall_ms())

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 (what failed once is tried again, and is loud each time)
                _log.exception("watch.failed")

    async def look(self) -> None:
        """Look through what is open, and log what was not found stuck, or not so, at the look before."""
        found = await self._found() if self._supervisor.leading else {}
        self.counts = Counter(each.kind for each in found.values())
        news = [gid for gid, each in found.items() if self._said.get(gid) is not each.kind]
        for gid in news[:NAMED_MAX]:
            _log.error("transaction.stuck", gid=gid, kind=found[gid].kind.value, detail=found[gid].why)
        if len(news) > NAMED_MAX:
            _log.error("transactions.stuck", more=len(news) - NAMED_MAX)
        self._said = {gid: each.kind for gid, each in found.items()}

    async def _found(self) -> dict[str, Stuck]:
        found: dict[str, Stuck] = {}
        open_ = self._ledger.unfinished()
        for begin in range(0, len(open_), LOOKED_AT_ONCE_MAX):
            for record in open_[begin : begin + LOOKED_AT_ONCE_MAX]:
                each = self.stuck(record)
                if each is not None:
                    found[record.gid] = each
            await asyncio.sleep(0)
        return found
