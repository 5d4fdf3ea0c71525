"""Who waits for a decision on this replica, leader or not. Woken by the ledger, never by a driver: nobody
hears of a decision before the record holds it."""

from __future__ import annotations

import asyncio

from coordinator.driver.admission import Admission
from coordinator.ledger.records import TransactionRecord
from coordinator.ledger.table import Ledger

__all__ = ["Waiters"]


class Waiters:
    """Requests that wait for transactions to be decided. `close` ends the subscription."""

    def __init__(self, ledger: Ledger, admission: Admission) -> None:
        self._ledger = ledger
        self._admission = admission
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}  # by gid, in the order of arrival
        self._count = 0
        self.close = ledger.subscribe(self._changed)

    def __len__(self) -> int:
        return self._count

    async def decided(self, gid: str, timeout_s: float) -> TransactionRecord | None:
        """The record of `gid` once it is decided, or as it is after `timeout_s` or after `release_all`.

        Raises: Overloaded if too many requests wait already.
        """
        record = self._ledger.get(gid)
        if timeout_s > 0 and (record is None or record.decision is None):
            self._admission.admit_waiter(self._count)
            await self._wait(gid, timeout_s)
            record = self._ledger.get(gid)
        return record

    def release_all(self) -> None:
        """Wake everybody: this replica cannot say any more when the decision comes."""
        for gid in list(self._waiting):
            self._release(gid)

    async def _wait(self, gid: str, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout_s, _wake, woken)
        self._waiting.setdefault(gid, {})[woken] = None
        self._count += 1
        try:
            await woken
        finally:
            timer.cancel()
            self._count -= 1
            others = self._waiting.get(gid)
            if others is not None:
                others.pop(woken, None)
                if not others:
                    del self._waiting[gid]

    def _changed(self, record: TransactionRecord) -> None:
        if record.decision is not None:
            self._release(record.gid)

    def _release(self, gid: str) -> None:
        for woken in self._waiting.pop(gid, ()):
            _wake(woken)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
