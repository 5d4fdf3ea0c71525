"""What an action on PostgreSQL receives as `tx`: the calls of an asyncpg connection, without those that end it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import asyncpg

from participant.errors import ActionError
from participant.resource import OpenBranch
from participant.rm.postgres.connections import Connection
from participant.rm.server.statements import Statement, not_for_an_action, remembered, words_of

__all__ = ["Savepoint", "Transaction", "check_statement"]

_ENDING = frozenset(
    {"abort", "begin", "close", "commit", "deallocate", "discard", "end", "listen", "load", "prepare", "release"}
    | {"reset", "rollback", "savepoint"}
)
_WRITING = frozenset({"delete", "insert", "merge", "update"})
_LEAVING = re.compile(r"set_config|advisory|\btemp|^\s*(?:call|do)\b", re.IGNORECASE)  # may outlive its transaction
_INSTEAD = "raise Reject to undo, use tx.savepoint() for a part, and SET LOCAL for a setting"


@remembered
def check_statement(sql: str) -> Statement:
    """What an action is about to run; only what surely writes is taken to write.

    Raises ActionError for what would end the transaction, or outlive it.

    Each call sends one statement only (the extended protocol takes no more), so its first words tell. Others than those
    that are known to write may write as well, by a function.
    """
    words = words_of(sql)
    first, second, third, *_ = [*words.split(), "", "", ""]
    if words and words != "(" and not first.isalpha():
        raise ActionError(f"its SQL begins with {words!r}")  # e.g. with what is left of a comment in a comment
    is_lasting = first == "set" and second not in ("local", "constraints")
    # Who has prepared a branch must be who ends it; and neither isolation nor durability is the action's to choose.
    is_ours = first == "set" and third in ("", "role", "session", "synchronous", "transaction")
    if first in _ENDING or (first, second) == ("start", "transaction") or is_lasting or is_ours:
        raise not_for_an_action(words, _INSTEAD)
    return Statement(first in _WRITING, _LEAVING.search(sql) is not None)


class Transaction:
    """The transaction of one branch. Usable only while its action runs.

    Isolation is REPEATABLE READ at least: an action that has read what others change meanwhile runs again, so that what
    it writes follows from what is true.
    """

    dialect = "postgresql"

    def __init__(self, connection: Connection, branch: OpenBranch | None = None) -> None:
        self.branch = branch
        self._connection: Connection | None = connection
        self._savepoints = 0
        self.has_written = False  # as far as its statements tell
        self.is_soiled = False  # whether its session may have been changed

    async def execute(self, sql: str, *values: Any) -> str:
        """Run one statement; its command tag, such as `UPDATE 1`. Raises `asyncpg.PostgresError`."""
        connection = self.connection_for(sql)
        if values:
            return str(await connection.execute(sql, *values))
        statement = await connection.prepare(sql)  # `execute` would take several statements
        await statement.fetch()
        return str(statement.get_statusmsg())

    async def executemany(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run one statement with each of many sets of values."""
        await self.connection_for(sql).executemany(sql, values)

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """The rows that a statement gives. Values go into `values`, as $1, $2 …, never into the SQL."""
        rows: list[asyncpg.Record] = await self.connection_for(sql).fetch(sql, *values)
        return rows

    async def fetchrow(self, sql: str, *values: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        return await self.connection_for(sql).fetchrow(sql, *values)

    async def fetchval(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        return await self.connection_for(sql).fetchval(sql, *values)

    def savepoint(self) -> Savepoint:
        """`async with tx.savepoint():` what happens in the block is undone alone if it raises."""
        self._savepoints += 1
        return Savepoint(self, f"commitd_{self._savepoints}")

    def end(self) -> None:
        """The action is over."""
        self._connection = None

    def connection_for(self, sql: str) -> Connection:
        """The driver's connection, to run this statement and nothing else. For adapters; raises ActionError."""
        statement = check_statement(sql)
        self.has_written = self.has_written or statement.writes
        self.is_soiled = self.is_soiled or statement.soils
        if self._connection is None:
            raise ActionError("its tx was used after the action had ended")
        return self._connection


class Savepoint:
    """A part of a transaction that can be undone alone."""

    def __init__(self, tx: Transaction, name: str) -> None:
        self._tx = tx
        self._name = name

    async def begin(self) -> None:
        """Raises ActionError if the action is over."""
        self._connection = self._tx.connection_for("SELECT")
        await self._connection.execute(f"SAVEPOINT {self._name}")

    async def undo(self) -> None:
        """Undo what was done since it began."""
        if not self._connection.is_closed():
            await self._connection.execute(f"ROLLBACK TO SAVEPOINT {self._name}; RELEASE SAVEPOINT {self._name}")

    async def keep(self) -> None:
        """Let what was done since it began share the fate of the rest."""
        await self._connection.execute(f"RELEASE SAVEPOINT {self._name}")

    async def __aenter__(self) -> None:
        await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self.keep() if kind is None else self.undo())
