"""What the checks of a resource manager work on, and how they say which promise was broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from participant.ids import BranchKey
from participant.resource import Action, Call, ResourceLimits, ResourceManager
from participant.wire import Answer, BranchState

__all__ = ["HASTY", "ONE", "TWO", "Bench", "Check", "Subject", "expect", "expect_state"]

PATIENT = ResourceLimits(lock_wait_s=30.0)
HASTY = ResourceLimits(lock_wait_s=0.05)
STEP_TIMEOUT_S = 20.0
_LOOKS, _LOOK_PAUSE_S = 100, 0.02


@dataclass(frozen=True, slots=True)
class Subject:
    """A resource manager under test.

    `make(limits)` gives a new, unopened object over the same data each time. Three actions over named integers, to be
    written for its kind of `tx`: `put {key, value}` sets one; `add {key, amount}` adds to one and raises
    `Reject("too little")` if it is absent or would become negative; `get {key}` returns it, or None.

    `only_tx_awaited`: whether a branch votes no whose action awaits something other than its `tx`, as it must where the
    database has one writer only.
    """

    make: Callable[[ResourceLimits], ResourceManager]
    put: Action
    add: Action
    get: Action
    only_tx_awaited: bool = True

    @asynccontextmanager
    async def open(self, limits: ResourceLimits = PATIENT) -> AsyncIterator[Bench]:
        """An open resource manager, closed without any grace at the end of the block."""
        manager = self.make(limits)
        await manager.open()
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                yield Bench(self, manager)
        finally:
            await manager.close()


class Bench:
    """Shorthand for the checks."""

    def __init__(self, subject: Subject, manager: ResourceManager) -> None:
        self._subject = subject
        self.manager = manager

    def add(self, key: str, amount: int) -> Call:
        return Call.of("add", self._subject.add, {"key": key, "amount": amount})

    def get(self, key: str) -> Call:
        return Call.of("get", self._subject.get, {"key": key})

    async def set(self, key: str, value: int) -> None:
        call = Call.of("put", self._subject.put, {"key": key, "value": value})
        answer = await self.manager.commit_one_phase(BranchKey(f"set-{key}-{value}", "b"), call)
        expect_state(answer, BranchState.COMMITTED, "a branch may be committed in one phase")

    async def value(self, key: str) -> Any:
        return await self.manager.read(self.get(key))

    async def until_one_waits(self) -> None:
        """Until the manager says that a request waits for a row; it may say so a moment later, or not be able to."""
        for _ in range(_LOOKS):
            if (await self.manager.status()).waiting:
                return
            await asyncio.sleep(_LOOK_PAUSE_S)


Check = Callable[[Subject], Awaitable[None]]

ONE, TWO = BranchKey("gid-1", "b"), BranchKey("gid-2", "b")


def expect(holds: bool, promise: str) -> None:
    """Raises AssertionError with the promise that does not hold."""
    if not holds:
        raise AssertionError(promise)


def expect_state(answer: Answer, state: BranchState, promise: str) -> None:
    """`expect` an answer that says what is true of the branch. It is said with the promise."""
    expect(answer.state is state and not answer.retry, f"{promise}; the answer was {answer}")
