"""Connections to MariaDB, and a pool of them.

The pool is ours because of what XA does with a connection: one that has prepared a branch belongs to it until the
branch ends, or until the connection is closed; and one whose statement was cancelled is closed, while its thread in the
server goes on waiting until somebody kills it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import asyncmy
from asyncmy import errors
from yarl import URL

from participant.errors import ConfigError, ResourceBusy, ResourceUnreachable

__all__ = ["Connection", "Connections", "Dsn", "Values", "error_code", "unreachable"]

CONNECT_TIMEOUT_S = 10
PING_AFTER_S = 5.0  # a connection that was idle for longer is tried before it is used
_PORT = 3_306

Values: TypeAlias = Sequence[Any] | Mapping[str, Any]

_LOST_CODES = frozenset({1040, 1053, 1077, 1152, 1184, 1927, 2002, 2003, 2006, 2013, 2014, 2055})


def error_code(error: BaseException) -> int:
    """The server's number of an error; 0 if it has none."""
    code = error.args[0] if isinstance(error, errors.MySQLError) and error.args else 0
    return code if isinstance(code, int) else 0


def _is_loss(error: BaseException) -> bool:
    return isinstance(error, (OSError, EOFError, errors.InterfaceError)) or error_code(error) in _LOST_CODES


@contextmanager
def unreachable(what: str) -> Iterator[None]:
    """Raise ResourceUnreachable for whatever says that the server is not there."""
    try:
        yield
    except Exception as error:
        if not _is_loss(error):
            raise
        raise ResourceUnreachable(f"cannot {what} the database: {error or type(error).__name__}") from error


class Dsn:
    """`mariadb://user:password@host:port/database`, as the parameters of the driver. Raises ConfigError."""

    def __init__(self, text: str) -> None:
        url = URL(text)
        if url.scheme not in ("mariadb", "mysql") or not url.host or len(url.path) < 2 or url.query_string:
            raise ConfigError("dsn: must be mariadb://user:password@host:port/database")
        self.parameters: dict[str, Any] = {
            "host": url.host,
            "port": url.port or _PORT,
            "user": url.user or "root",
            "password": url.password or "",
            "db": url.path.removeprefix("/"),
            "autocommit": True,
            "charset": "utf8mb4",
            "connect_timeout": CONNECT_TIMEOUT_S,
        }


class Connection:
    """One session."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.thread_id: int = raw.thread_id()
        self.was_lost = False  # by the server, or on the way to it
        self.was_cancelled = False  # then the server may still be at work on its last statement

    @property
    def is_lost(self) -> bool:
        """Whether it can be used no more."""
        return not self._raw.connected

    async def execute(self, sql: str, values: Values = ()) -> int:
        """Run a statement; how many rows it changed."""
        affected, _ = await self.run(sql, values)
        return affected

    async def fetch(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run a statement; its rows."""
        _, rows = await self.run(sql, values)
        return rows or []

    async def run(self, sql: str, values: Values = ()) -> tuple[int, list[tuple[Any, ...]] | None]:
        """How many rows it changed, and its rows, if it is a statement that gives some."""
        cursor = self._raw.cursor()
        try:
            await cursor.execute(sql, values or None)
            rows = list(await cursor.fetchall()) if cursor.description is not None else None
            return max(0, cursor.rowcount), rows
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        except Exception as error:
            self.was_lost = _is_loss(error)
            raise
        finally:
            if not self.is_lost:
                await cursor.close()

    def close(self) -> None:
        """Without a word; the server undoes what is not prepared, and lets others finish what is."""
        self._raw.close()


class Connections:
    """At most `size` of them in use. `settings` is run on each new one.

    `on_want` is called when somebody has to wait for a place; `on_loss` when a connection was lost: others that are
    idle may be lost as well, and not know it.
    """

    def __init__(
        self, dsn: Dsn, settings: str, size: int, *, on_want: Callable[[], None], on_loss: Callable[[], None]
    ) -> None:
        self._dsn = dsn
        self._settings = settings
        self._places = asyncio.Semaphore(size)
        self._on_want = on_want
        self._on_loss = on_loss
        self._idle: list[tuple[Connection, float]] = []  # with when it was given back
        self._wanted = 0

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for a place."""
        return self._wanted > 0

    async def acquire(self, timeout_s: float) -> Connection:
        """Raises ResourceBusy if none comes free in time, ResourceUnreachable."""
        if self._places.locked():
            self._on_want()
        self._wanted += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._places.acquire()
        except TimeoutError:
            raise ResourceBusy("every connection to the database is at work; come again") from None
        finally:
            self._wanted -= 1
        try:
            return await self._idle_one() or await self.connect()
        except BaseException:
            self._places.release()
            raise

    async def connect(self) -> Connection:
        """A new one, that belongs to whoever asks. Raises ResourceUnreachable."""
        with unreachable("connect to"):
            return Connection(await asyncmy.connect(**self._dsn.parameters, init_command=self._settings))

    async def _idle_one(self) -> Connection | None:
        while self._idle:
            connection, since = self._idle.pop()
            if asyncio.get_running_loop().time() < since + PING_AFTER_S:
                return connection
            try:
                await connection.execute("DO 0")  # the server may have ended it for having been idle
                return connection
            except BaseException as error:
                connection.close()
                if not _is_loss(error):
                    raise
        return None

    def release(self, connection: Connection) -> None:
        """Give one back that is fit for the next user, or closed."""
        if connection.was_lost:
            self._on_loss()
        if not connection.is_lost:
            self._idle.append((connection, asyncio.get_running_loop().time()))
        self._places.release()

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop()[0].close()
