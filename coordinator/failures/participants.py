"""The participants: an account each, on the memory resource manager, and how long their branches hold rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from participant.errors import Reject
from participant.ids import BranchKey
from participant.resource import Action, Call
from participant.rm.memory import Memory, Transaction
from participant.wire import Answer, BranchState

__all__ = ["ACTIONS", "AMOUNT", "GIVER", "OTHER_TAKER", "TAKER", "Books", "WatchedMemory", "books_of"]

GIVER = "bank-a"
TAKER = "bank-b"
OTHER_TAKER = "bank-c"
AMOUNT = 10

Books = tuple[int, int]
"""What has changed for good, and what is on hold."""

_ACCOUNT, _ON_HOLD = "account", "on hold"


async def _add(tx: Transaction, row: str, amount: int) -> None:
    await tx.put(row, int(await tx.get(row) or 0) + amount)


async def _change(tx: Transaction, body: Any) -> None:
    if body.get("refuses"):
        raise Reject("it refuses")
    await _add(tx, _ACCOUNT, body["amount"])


async def _change_back(tx: Transaction, body: Any) -> None:
    await _add(tx, _ACCOUNT, -body["amount"])


async def _hold(tx: Transaction, body: Any) -> None:
    if body.get("refuses"):
        raise Reject("it refuses")
    await _add(tx, _ON_HOLD, body["amount"])


async def _settle(tx: Transaction, body: Any) -> None:
    await _add(tx, _ON_HOLD, -body["amount"])
    await _add(tx, _ACCOUNT, body["amount"])


async def _release(tx: Transaction, body: Any) -> None:
    await _add(tx, _ON_HOLD, -body["amount"])


ACTIONS: dict[str, Action] = {
    "change": _change,
    "change_back": _change_back,
    "hold": _hold,
    "settle": _settle,
    "release": _release,
}


async def _books(tx: Transaction, _body: Any) -> list[int]:
    return [int(await tx.get(row) or 0) for row in (_ACCOUNT, _ON_HOLD)]


async def books_of(memory: Memory) -> Books:
    """What is committed there now."""
    account, on_hold = await memory.read(Call.of("books", _books, None))
    return account, on_hold


class WatchedMemory(Memory):
    """The memory resource manager; tells what each branch has come to, whoever ended it."""

    def watch(self, told: Callable[[BranchKey, BranchState], None]) -> None:
        """To be called once, before it is opened."""
        self._told = told

    async def open(self) -> None:
        await super().open()
        for key in await self.in_doubt():
            self._told(key, BranchState.PREPARED)

    def prepare(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._telling(key, super().prepare(key, call, works))

    def commit(self, key: BranchKey) -> asyncio.Future[Answer]:
        return self._telling(key, super().commit(key))

    def commit_one_phase(self, key: BranchKey, call: Call | None, works: int | None = None) -> asyncio.Future[Answer]:
        return self._telling(key, super().commit_one_phase(key, call, works))

    def abort(self, key: BranchKey) -> asyncio.Future[Answer]:
        return self._telling(key, super().abort(key))

    def prevent(self, key: BranchKey, reason: str) -> asyncio.Future[Answer]:
        return self._telling(key, super().prevent(key, reason))

    def _telling(self, key: BranchKey, answer: asyncio.Future[Answer]) -> asyncio.Future[Answer]:
        def done(future: asyncio.Future[Answer]) -> None:
            if not future.cancelled() and future.exception() is None:
                self._told(key, future.result().state)

        answer.add_done_callback(done)
        return answer
