"""PostgreSQL's transaction of a branch, in the shape of an asyncpg connection.

A statement is prepared once in each of the resource manager's sessions, not in each branch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy.exc import DBAPIError

from participant.rm.postgres.connections import Connection
from participant.rm.postgres.transaction import Transaction
from participant.rm.server.backend import Stale
from participant.rm.sqlalchemy.line import Line

__all__ = ["PREPARED_STATEMENTS_MAX", "PostgresDriver"]

PREPARED_STATEMENTS_MAX = 100  # in each session, as many as asyncpg keeps for itself

_OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.exceptions.OutdatedSchemaCacheError)


class PostgresDriver:
    """See `participant.rm.sqlalchemy.line.Driver`."""

    dialect = "postgresql"

    def __init__(self) -> None:
        self._sessions: WeakKeyDictionary[Connection, _Session] = WeakKeyDictionary()

    def line(self, tx: Transaction) -> PostgresLine:
        session = self._sessions.setdefault(tx.connection_for("SELECT"), _Session())
        return PostgresLine(tx, session)

    def cause(self, error: DBAPIError) -> Exception:
        cause = error.orig and error.orig.__cause__
        if isinstance(cause, _OUTDATED):
            return Stale()
        return cause if isinstance(cause, Exception) else error

    def said(self, error: DBAPIError) -> str:
        cause = self.cause(error)
        return str(cause.args[0]) if cause.args else str(cause)


class _Session:
    """What was set up in a session of the server, for all its branches."""

    def __init__(self) -> None:
        self.codecs: set[str] = set()
        self.statements: OrderedDict[str, Any] = OrderedDict()

    async def prepared(self, connection: Connection, sql: str) -> Any:
        """A statement; the one that was used longest ago makes room for it."""
        statement = self.statements.get(sql)
        if statement is None:
            if len(self.statements) >= PREPARED_STATEMENTS_MAX:
                self.statements.popitem(last=False)
            statement = self.statements[sql] = await connection.prepare(sql)
        self.statements.move_to_end(sql)
        return statement


class PostgresLine(Line):
    """The calls of an asyncpg connection that SQLAlchemy makes."""

    def __init__(self, tx: Transaction, session: _Session) -> None:
        super().__init__(tx)
        self._sql = tx
        self._session = session

    def transaction(self, **_options: Any) -> PostgresLine:
        """It has begun; see `start`."""
        return self

    async def start(self) -> None:
        """Nothing is left to be done."""

    def is_closed(self) -> bool:
        """Whoever runs the action sees to what is lost."""
        return False

    async def prepare(self, sql: str, **_name: Any) -> _Statement:
        with self.statement():
            return _Statement(self, sql, await self._session.prepared(self.connection_for(sql), sql))

    def connection_for(self, sql: str) -> Connection:
        """The driver's connection, for this statement."""
        return self._sql.connection_for(sql)

    def forget(self) -> None:
        """Tables have changed: prepare anew."""
        self._session.statements.clear()

    async def executemany(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        with self.statement():
            await self._sql.executemany(sql, values)

    async def reload_schema_state(self) -> None:
        await self.connection_for("SELECT").reload_schema_state()

    async def set_type_codec(self, typename: str, **codec: Any) -> None:
        """Once in a session: each time, the driver would drop what it has prepared."""
        if typename not in self._session.codecs:
            await self.connection_for("SELECT").set_type_codec(typename, **codec)
            self._session.codecs.add(typename)


class _Statement:
    """A prepared statement, for one run."""

    def __init__(self, line: PostgresLine, sql: str, prepared: Any) -> None:
        self._line = line
        self._text = sql
        self._prepared = prepared
        self.get_attributes = prepared.get_attributes
        self.get_statusmsg = prepared.get_statusmsg

    async def fetch(self, *values: Any) -> list[asyncpg.Record]:
        with self._line.statement():
            self._line.connection_for(self._text)
            try:
                rows: list[asyncpg.Record] = await self._prepared.fetch(*values)
            except _OUTDATED:
                self._line.forget()
                raise
        return rows

    def cursor(self, *values: Any) -> Any:
        self._line.connection_for(self._text)
        return self._prepared.cursor(*values)
