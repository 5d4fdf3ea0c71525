"""What an action on PostgreSQL receives as `tx`: the calls of an asyncpg connection, without those that end it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from participant.errors import ActionError
from participant.resource import OpenBranch
from participant.rm.postgres.connections import Connection
from participant.rm.server.statements import not_for_an_action, words_of

__all__ = ["Transaction", "check_statement"]

_ENDING = frozenset(
    {"abort", "begin", "close", "commit", "deallocate", "discard", "end", "listen", "load", "prepare", "release"}
    | {"reset", "rollback", "savepoint"}
)
_WRITING = frozenset({"delete", "insert", "merge", "update"})
_LEAVING = re.compile(r"set_config|advisory|\btemp|^\s*(?:call|do)\b", re.IGNORECASE)  # may outlive its transaction
_INSTEAD = "raise Reject to undo, use tx.savepoint() for a part, and SET LOCAL for a setting"


def check_statement(sql: str) -> bool:
    """Whether a statement is one that writes. Raises ActionError if it would end the transaction, or outlive it.

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
    return first in _WRITING


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
        connection = self._usable(sql)
        if values:
            return str(await connection.execute(sql, *values))
        statement = await connection.prepare(sql)  # `execute` would take several statements
        await statement.fetch()
        return str(statement.get_statusmsg())

    async def executemany(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run one statement with each of many sets of values."""
        await self._usable(sql).executemany(sql, values)

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """The rows that a statement gives. Values go into `values`, as $1, $2 …, never into the SQL."""
        rows: list[asyncpg.Record] = await self._usable(sql).fetch(sql, *values)
        return rows

    async def fetchrow(self, sql: str, *values: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        return await self._usable(sql).fetchrow(sql, *values)

    async def fetchval(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        return await self._usable(sql).fetchval(sql, *values)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What happens in the block is undone alone if it raises."""
        connection = self._usable("SELECT")
        self._savepoints += 1
        name = f"commitd_{self._savepoints}"
        await connection.execute(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            if not connection.is_closed():
                await connection.execute(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")
            raise
        await connection.execute(f"RELEASE SAVEPOINT {name}")

    def end(self) -> None:
        """The action is over."""
        self._connection = None

    def _usable(self, sql: str) -> Connection:
        is_writing = check_statement(sql)
        self.has_written = self.has_written or is_writing
        self.is_soiled = self.is_soiled or _LEAVING.search(sql) is not None
        if self._connection is None:
            raise ActionError("its tx was used after the action had ended")
        return self._connection
