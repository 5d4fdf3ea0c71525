"""MariaDB's transaction of a branch, in the shape of an asyncmy connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from sqlalchemy.exc import DBAPIError

from participant.rm.mariadb.connections import CHARSET, Result, Values
from participant.rm.mariadb.manager import MariaDB
from participant.rm.mariadb.transaction import Transaction
from participant.rm.sqlalchemy.line import Line

__all__ = ["MariaDriver"]


class MariaDriver:
    """See `participant.rm.sqlalchemy.line.Driver`."""

    dialect = "mysql"

    def __init__(self, resource: MariaDB) -> None:
        """A unit of work compares how many rows an UPDATE has found with how many objects it is about."""
        resource.count_found_rows()

    def line(self, tx: Transaction) -> MariaLine:
        return MariaLine(tx)

    def cause(self, error: DBAPIError) -> Exception:
        return error.orig if isinstance(error.orig, Exception) else error

    def said(self, error: DBAPIError) -> str:
        return str(self.cause(error).args[-1])


class MariaLine(Line):
    """The calls of an asyncmy connection that SQLAlchemy makes."""

    def __init__(self, tx: Transaction) -> None:
        super().__init__(tx)
        self._sql = tx

    def cursor(self, _kind: object = None) -> _Cursor:
        return _Cursor(self)

    def character_set_name(self) -> str:
        return CHARSET

    async def run(self, sql: str, values: Values) -> Result:
        with self.statement():
            return await self._sql.run(sql, values)

    async def run_many(self, sql: str, values: Sequence[Values]) -> Result:
        with self.statement():
            return await self._sql.run_many(sql, values)


class _Cursor:
    """One that has fetched everything when it has executed, also where SQLAlchemy would stream."""

    arraysize = 1

    def __init__(self, line: MariaLine) -> None:
        self._line = line
        self._rows: list[tuple[Any, ...]] = []
        self.description: Sequence[Any] | None = None
        self.rowcount = -1
        self.lastrowid = 0

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, sql: str, values: Values | None = None) -> int:
        """SQLAlchemy doubles each `%` of its SQL, also where no values follow."""
        return self._take(
            await self._line.run(sql, values) if values else await self._line.run(_single(sql, values), ())
        )

    async def executemany(self, sql: str, values: Sequence[Values]) -> int:
        return self._take(await self._line.run_many(sql, values))

    def _take(self, result: Result) -> int:
        self._rows = list(reversed(result.rows or []))
        self.description = result.columns
        self.rowcount = result.affected
        self.lastrowid = result.last_key
        return result.affected

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop() if self._rows else None

    async def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        return [self._rows.pop() for _ in range(min(size or self.arraysize, len(self._rows)))]

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return await self.fetchmany(len(self._rows)) if self._rows else []

    def __aiter__(self) -> _Cursor:
        return self

    async def __anext__(self) -> tuple[Any, ...]:
        if not self._rows:
            raise StopAsyncIteration
        return self._rows.pop()

    async def close(self) -> None:
        self._rows = []


def _single(sql: str, values: Values | None) -> str:
    """The text as the server is to see it. `values` are empty, or None: then it is that already."""
    return sql if values is None else sql % ()
