"""Sessions of PostgreSQL, and what it looks like when one is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TypeAlias

import asyncpg

from participant.errors import ResourceBusy, ResourceUnreachable
from participant.rm.server.pool import Pool
from participant.rm.server.reach import Reaching

__all__ = ["LOST", "Connection", "Office", "Session", "connect", "unreachable"]

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0

Connection: TypeAlias = asyncpg.Connection

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asked while the server's last words were coming in
    OSError,
    TimeoutError,
)


async def connect(dsn: str, settings: Mapping[str, str], answer_s: float | None = None) -> Connection:
    """A new one. An answer that takes longer than `answer_s` counts as none.

    Raises ResourceUnreachable, and `asyncpg.PostgresError` if the server is there, and refuses.
    """
    with unreachable("connect to"):
        return await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=answer_s, server_settings=dict(settings)
        )


class Session:
    """One connection, as a pool wants it."""

    def __init__(self, connection: Connection) -> None:
        self.is_soiled = False
        self.connection = connection
        self.pid: int = connection.get_server_pid()

    @property
    def is_lost(self) -> bool:
        return bool(self.connection.is_closed())

    async def is_alive(self) -> bool:
        """The driver hears of an end by itself."""
        return not self.is_lost

    def abandon(self) -> None:
        if not self.is_lost:
            self.connection.terminate()

    async def close(self) -> None:
        try:
            await self.connection.close(timeout=CLOSE_TIMEOUT_S)
        except LOST:
            self.abandon()


class unreachable(Reaching):  # noqa: N801 - it stands where a function of contextlib would
    __slots__ = ()

    @staticmethod
    def is_loss(error: BaseException) -> bool:
        return isinstance(error, LOST)


class Office:
    """`async with Office(pool) as connection`: for short questions and ends, without a transaction.

    `other`: a pool whose idle connection is preferred. A session that has just worked costs the server less.
    """

    __slots__ = ("_other", "_pool", "_session")

    def __init__(self, pool: Pool[Session], other: Pool[Session] | None = None) -> None:
        self._pool = pool
        self._other = other

    async def __aenter__(self) -> Connection:
        if self._other is not None and (idle := await self._other.acquire_idle()) is not None:
            self._pool, self._session = self._other, idle
            return idle.connection
        try:
            self._session = await self._pool.acquire(CONNECT_TIMEOUT_S)
        except ResourceBusy as busy:
            raise ResourceUnreachable("no connection to the database came free") from busy
        return self._session.connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (asyncpg.PostgresError, *LOST, asyncio.CancelledError)):
            self._session.abandon()  # also what is refused: an action may have changed who it is
        self._pool.release(self._session)
        if isinstance(error, (asyncpg.PostgresError, *LOST)):
            raise ResourceUnreachable(f"cannot ask the database: {str(error) or type(error).__name__}") from error
