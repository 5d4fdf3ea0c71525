"""Who waits for a decision on this replica, leader or not, and who hears every change of a record.

A decision is heard from the ledger, or from a driver that has it by implication (`protocols.two_phase`): such a
decision is true already, and its record only follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.driver.admission import Admission
from coordinator.ledger.commands import Decide
from coordinator.ledger.records import Decision, TransactionRecord
from coordinator.ledger.table import Ledger

__all__ = ["Heard", "Known", "Waiters"]

Heard: TypeAlias = Callable[[TransactionRecord | None], None]
"""Hears a record after each of its changes; None, once no more can be said here."""


@dataclass(frozen=True, slots=True)
class Known:
    """What may be told of a transaction now. `decision` is None while nothing is decided, as far as is known here."""

    gid: str
    decision: Decision | None = None
    by: str = ""
    reason: str = ""
    culprit: str | None = None

    @classmethod
    def of(cls, record: TransactionRecord) -> Known:
        """What its record says."""
        return cls(record.gid, record.decision, record.decided_by, record.reason, record.culprit)


class Waiters:
    """Requests that wait for transactions to be decided, and those that listen to them. `close` ends the subscription.

    `listening` counts the latter.
    """

    def __init__(self, ledger: Ledger, admission: Admission) -> None:
        self._ledger = ledger
        self._admission = admission
        self._waiting: dict[str, list[Callable[[], None]]] = {}  # by gid, in the order of arrival
        self._implied: dict[str, Decide] = {}  # until the record holds it
        self._count = 0
        self._listening: dict[str, list[Heard]] = {}  # by gid
        self.listening = 0
        self.close = ledger.subscribe(self._changed)

    def __len__(self) -> int:
        return self._count

    def known(self, gid: str) -> Known:
        """What may be told of `gid` without waiting."""
        record = self._ledger.get(gid)
        implied = self._implied.get(gid)
        if implied is not None:
            return Known(gid, implied.decision, implied.by, implied.reason, implied.culprit)
        return Known(gid) if record is None else Known.of(record)

    async def decided(self, gid: str, timeout_s: float) -> Known:
        """What is known of `gid` once it is decided, or after `timeout_s` or `release_all`.

        Raises: Overloaded if too many requests wait already.
        """
        known = self.known(gid)
        if timeout_s > 0 and known.decision is None:
            await self._wait(gid, timeout_s)
            known = self.known(gid)
        return known

    async def recorded(self, gid: str, timeout_s: float) -> TransactionRecord | None:
        """The record of `gid` once it holds a decision, or as it is after `timeout_s`. Raises: Overloaded."""
        record = self._ledger.get(gid)
        end = asyncio.get_running_loop().time() + timeout_s
        while record is not None and record.decision is None:
            left_s = end - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            await self._wait(gid, left_s)
            record = self._ledger.get(gid)
        return record

    def implied(self, decide: Decide) -> None:
        """A driver has this decision by implication."""
        if decide.gid not in self._implied:
            self._implied[decide.gid] = decide
            self._release(decide.gid)

    def release_all(self) -> None:
        """Wake everybody: this replica cannot say any more when the decision comes. Who listens is to listen anew."""
        self._implied.clear()
        for gid in list(self._waiting):
            self._release(gid)
        for hear in [hear for some in self._listening.values() for hear in some]:
            hear(None)

    def when_changed(self, gid: str, hear: Heard) -> Callable[[], None]:
        """Call `hear` with the record of `gid` after each of its changes; the returned function ends that, once.

        Unlike `when_decided`, it hears what the record holds, and nothing that is implied. Raises: Overloaded.
        """
        self._admission.admit_listener(self.listening)
        self._listening.setdefault(gid, []).append(hear)
        self.listening += 1

        def leave() -> None:
            self._listening[gid].remove(hear)
            self.listening -= 1
            if not self._listening[gid]:
                del self._listening[gid]

        return leave

    def when_decided(self, gid: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` once, when `known(gid)` may say more; the returned function ends that. It need not be called
        twice. Raises: Overloaded."""
        self._admission.admit_waiter(self._count)
        self._waiting.setdefault(gid, []).append(wake)
        self._count += 1

        def leave() -> None:
            waiting = self._waiting.get(gid, [])
            if wake in waiting:
                waiting.remove(wake)
                self._count -= 1
                if not waiting:
                    del self._waiting[gid]

        return leave

    async def _wait(self, gid: str, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        leave = self.when_decided(gid, wake)
        timer = loop.call_later(timeout_s, wake)
        try:
            await woken
        finally:
            timer.cancel()
            leave()

    def _changed(self, record: TransactionRecord) -> None:
        if record.decision is not None:
            self._implied.pop(record.gid, None)
            self._release(record.gid)
        for hear in self._listening.get(record.gid, ()):
            hear(record)

    def _release(self, gid: str) -> None:
        waiting = self._waiting.pop(gid, [])
        self._count -= len(waiting)
        for wake in waiting:
            wake()
