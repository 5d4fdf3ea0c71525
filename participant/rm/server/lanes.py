"""One at a time for each branch: what ends a branch must not meet another end of it half way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from participant.ids import BranchKey

__all__ = ["Lanes"]


class Lanes:
    """A lock for each branch, for as long as somebody wants it."""

    def __init__(self) -> None:
        self._locks: dict[BranchKey, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, key: BranchKey) -> AsyncIterator[None]:
        """Alone with this branch."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, users - 1
