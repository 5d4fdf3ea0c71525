"""Connections to one database: at most so many in use, and those that are idle kept for the next user.

Ours, because of what prepared branches do with connections: some keep theirs for a while and give it up when another
branch wants one, and a connection whose statement was cancelled must not come back. The drivers' own pools reset each
connection between two users, with a round trip, and would undo what is prepared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from participant.errors import ResourceBusy

__all__ = ["PING_AFTER_S", "Pool", "Pooled"]

PING_AFTER_S = 5.0  # a connection that was idle for longer is tried before it is used


class Pooled(Protocol):
    """What a pool must be able to do with a connection."""

    is_soiled: bool
    """Whether something was done on it that may outlive its transaction."""

    @property
    def is_lost(self) -> bool:
        """Whether it can be used no more."""

    async def is_alive(self) -> bool:
        """Ask the server: it may have ended the connection."""

    def abandon(self) -> None:
        """Close it without a word."""

    async def close(self) -> None:
        """Take leave of the server."""


_C = TypeVar("_C", bound=Pooled)


class Pool(Generic[_C]):
    """`connect` opens a connection, or raises ResourceUnreachable. `on_want` is called when somebody has to wait."""

    def __init__(
        self, connect: Callable[[], Awaitable[_C]], size: int, *, on_want: Callable[[], None] = lambda: None
    ) -> None:
        self._connect = connect
        self._places = asyncio.Semaphore(size)
        self._on_want = on_want
        self._idle: list[tuple[_C, float]] = []  # with when it was given back; the last one is the next to be used
        self._wanted = 0
        self._is_closed = False

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a connection."""
        return self._wanted > 0

    async def acquire(self, timeout_s: float) -> _C:
        """A connection, to be given back by `release`.

        Raises ResourceBusy if none comes free in time, ResourceUnreachable.
        """
        if self._places.locked():
            await self._wait(timeout_s)
        else:
            await self._places.acquire()
        try:
            return await self._idle_one() or await self._connect()
        except BaseException:
            self._places.release()
            raise

    async def acquire_idle(self) -> _C | None:
        """One that nobody uses or waits for, to be given back by `release`; None if there is none.

        At once, where a driver hears by itself that its server has gone.
        """
        if self._places.locked() or not self._idle:
            return None
        await self._places.acquire()
        try:
            connection = await self._idle_one()
        except BaseException:
            self._places.release()
            raise
        if connection is None:
            self._places.release()
        return connection

    async def _wait(self, timeout_s: float) -> None:
        self._on_want()
        self._wanted += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._places.acquire()
        except TimeoutError:
            raise ResourceBusy("every connection to the database is at work; come again") from None
        finally:
            self._wanted -= 1

    async def _idle_one(self) -> _C | None:
        while self._idle:
            connection, since = self._idle.pop()
            if connection.is_lost:
                continue
            if asyncio.get_running_loop().time() < since + PING_AFTER_S or await connection.is_alive():
                return connection
            connection.abandon()
        return None

    def release(self, connection: _C) -> None:
        """Give one back that is fit for the next user, or lost."""
        self._places.release()
        if connection.is_lost:
            return
        if self._is_closed or connection.is_soiled:
            connection.abandon()
        else:
            self._idle.append((connection, asyncio.get_running_loop().time()))

    def drop_idle(self) -> None:
        """Abandon those that nobody uses: they may be lost, and not know it."""
        while self._idle:
            self._idle.pop()[0].abandon()

    async def close(self) -> None:
        """Close those that nobody uses now, and the others as they are given back."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop()[0].close()
