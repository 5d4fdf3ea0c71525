"""Sessions of MariaDB, and what it looks like when one is lost.

One that has prepared a branch belongs to it until the branch ends, or until it is closed. One whose statement was
cancelled is closed by the driver, while its thread in the server goes on waiting until somebody kills it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import asyncmy
from asyncmy import errors
from yarl import URL

from participant.errors import ActionError, ConfigError
from participant.rm.server.reach import Reaching

__all__ = [
    "CHARSET",
    "CONNECT_TIMEOUT_S",
    "Connection",
    "Dsn",
    "Result",
    "Values",
    "connect",
    "error_code",
    "is_loss",
    "unreachable",
]

CONNECT_TIMEOUT_S = 10
CHARSET = "utf8mb4"
_PORT = 3_306

Values: TypeAlias = Sequence[Any] | Mapping[str, Any]

_LOST_CODES = frozenset({1040, 1053, 1077, 1152, 1184, 1927, 2002, 2003, 2006, 2013, 2014, 2055})


def error_code(error: BaseException) -> int:
    """The server's number of an error; 0 if it has none."""
    code = error.args[0] if isinstance(error, errors.MySQLError) and error.args else 0
    return code if isinstance(code, int) else 0


def is_loss(error: BaseException) -> bool:
    """Whether an error says that the server is not there."""
    return isinstance(error, (OSError, EOFError, errors.InterfaceError)) or error_code(error) in _LOST_CODES


class Result(NamedTuple):
    """What a statement has come to: how many rows it changed; its rows, and what the driver says of their columns, if
    it is one that gives some; the last key that the server has made.
    """

    affected: int
    rows: list[tuple[Any, ...]] | None
    columns: Sequence[Any] | None
    last_key: int


class unreachable(Reaching):  # noqa: N801 - it stands where a function of contextlib would
    __slots__ = ()

    is_loss = staticmethod(is_loss)


class Dsn:
    """`mariadb://user:password@host:port/database`, as the parameters of the driver. Raises ConfigError."""

    def __init__(self, text: str) -> None:
        url = URL(text)
        if (
            url.scheme not in ("mariadb", "mysql")
            or not url.host
            or not url.user
            or len(url.path) < 2
            or url.query_string
        ):
            raise ConfigError("dsn: must be mariadb://user:password@host:port/database")
        self.database = url.path.removeprefix("/")
        self.parameters: dict[str, Any] = {
            "host": url.host,
            "port": url.port or _PORT,
            "user": url.user,
            "password": url.password or "",
            "db": self.database,
            "autocommit": True,
            "charset": CHARSET,
            "connect_timeout": CONNECT_TIMEOUT_S,
        }


async def connect(dsn: Dsn, settings: str, on_loss: Callable[[], None], answer_s: int | None) -> Connection:
    """A new one, on which `settings` has been run. An answer that takes longer than `answer_s` counts as none.

    Raises ResourceUnreachable, and `asyncmy.errors.MySQLError` if the server is there, and refuses.
    """
    with unreachable("connect to"):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):  # the driver's own limit does not count the greeting
                raw = await asyncmy.connect(**dsn.parameters, init_command=settings, read_timeout=answer_s)
        except TimeoutError:
            raise TimeoutError(f"no answer within {CONNECT_TIMEOUT_S:g} s") from None
        return Connection(raw, on_loss)


class Connection:
    """One session."""

    is_soiled = False

    def __init__(self, raw: Any, on_loss: Callable[[], None]) -> None:
        """`on_loss` is called when it is lost: others that are idle may be lost as well, and not know it."""
        self._raw = raw
        self._on_loss = on_loss
        self.thread_id: int = raw.thread_id()
        self._is_busy = False
        self.may_be_at_work = False  # the server, on a statement that nobody waits for any more

    @property
    def is_lost(self) -> bool:
        """Whether it can be used no more."""
        return not self._raw.connected

    async def execute(self, sql: str, values: Values = ()) -> int:
        """Run a statement; how many rows it changed. Of several in one text, the first one that fails is the last."""
        return (await self.run(sql, values)).affected

    async def fetch(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run a statement; its rows."""
        return (await self.run(sql, values)).rows or []

    async def run(self, sql: str, values: Values = ()) -> Result:
        """Run a statement; all that the server says."""
        return await self._run("execute", sql, values or None)

    async def run_many(self, sql: str, values: Sequence[Values]) -> Result:
        """Run a statement with each of many sets of values."""
        return await self._run("executemany", sql, values)

    async def _run(self, method: str, sql: str, values: Any) -> Result:
        """By a method of the driver's cursor.

        The driver would give the answer to one statement for that to another if two were under way at once.
        """
        if self._is_busy:
            self.give_up()
            raise ActionError("a statement was begun while another one was under way on the same tx: await each")
        self._is_busy = True
        cursor = self._raw.cursor()
        try:
            await getattr(cursor, method)(sql, values)
            rows = list(await cursor.fetchall()) if cursor.description is not None else None
            result = Result(max(0, cursor.rowcount), rows, cursor.description, cursor.lastrowid)
            while await cursor.nextset():  # of several statements, the first that fails raises its error here
                pass
            return result
        except asyncio.CancelledError:
            self.may_be_at_work = True
            raise
        except Exception as error:
            if is_loss(error):
                self.abandon()  # the driver does not say so by itself
                self._on_loss()
            raise
        finally:
            self._is_busy = False
            if not self.is_lost:
                await cursor.close()

    @property
    def is_busy(self) -> bool:
        """Whether a statement is under way."""
        return self._is_busy

    def give_up(self) -> None:
        """Close it while a statement is under way."""
        self.may_be_at_work = True
        self.abandon()

    async def is_alive(self) -> bool:
        """The driver does not hear of an end by itself, and a server ends what was idle for long."""
        try:
            await self.execute("DO 0")
        except Exception as error:
            if not is_loss(error):
                raise
            return False
        return True

    def abandon(self) -> None:
        """Close it without a word. The server undoes what is not prepared, and lets others finish what is."""
        self._raw.close()

    async def close(self) -> None:
        """Take leave of the server."""
        if not self.is_lost:
            await self._raw.ensure_closed()
