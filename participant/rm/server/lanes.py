"""One at a time for each branch: what ends a branch must not meet another end of it half way."""

from __future__ import annotations

import asyncio
from types import TracebackType

from participant.ids import BranchKey

__all__ = ["Lane", "Lanes"]


class Lanes:
    """Which branches somebody is about to end."""

    def __init__(self) -> None:
        self.taken: dict[BranchKey, asyncio.Future[None] | None] = {}  # with who waits for it

    def of(self, key: BranchKey) -> Lane:
        """`async with lanes.of(key)`: alone with this branch."""
        return Lane(self, key)


class Lane:
    """The lane of one branch, for one user."""

    __slots__ = ("_key", "_lanes")

    def __init__(self, lanes: Lanes, key: BranchKey) -> None:
        self._lanes = lanes
        self._key = key

    async def __aenter__(self) -> None:
        taken = self._lanes.taken
        while self._key in taken:
            free = taken[self._key] or asyncio.get_running_loop().create_future()
            taken[self._key] = free
            await asyncio.shield(free)  # others wait for it, too
        taken[self._key] = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        free = self._lanes.taken.pop(self._key)
        if free is not None:
            free.set_result(None)
