"""Listening to one transaction: its record now, and after each change, until its end.

Owns: what one listener has not taken yet. Must never do: keep a history. Each event is the whole record, so whoever is
slow, or comes back, goes on with what is true then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from coordinator.ledger.records import TransactionRecord

__all__ = ["BEHIND_MAX", "Listener"]

BEHIND_MAX = 64  # changes that one listener has not taken; with more, the oldest are left out


class Listener:
    """The changes of one record, newer than `revision`, from `begin` on.

    `is_over`: no more can be heard here. `has_ended`: nor anywhere else, because the transaction has ended, as the
    listener knew before.
    """

    def __init__(self, revision: int) -> None:
        self.is_over = False
        self.has_ended = False
        self._revision = revision
        self._new: deque[TransactionRecord] = deque(maxlen=BEHIND_MAX)
        self._woken = asyncio.Event()

    def begin(self, record: TransactionRecord) -> None:
        """What was heard before is older than this."""
        self._new.clear()
        self.hear(record)
        self.has_ended = record.ended and record.revision <= self._revision

    def hear(self, record: TransactionRecord | None) -> None:
        """The record has changed; None: this replica cannot say any more (`Waiters.when_changed`)."""
        if record is not None and record.revision > self._revision:
            self._new.append(record)
        self.is_over |= record is None or record.ended
        self._woken.set()

    async def some(self, timeout_s: float) -> list[TransactionRecord]:
        """What is new, in the order of the changes; nothing after `timeout_s`, or if it is over."""
        if not self._new and not self.is_over:
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
        new = list(self._new)
        self._new.clear()
        return new
