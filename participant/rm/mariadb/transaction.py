"""What an action on MariaDB receives as `tx`, and what it may do with it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

from participant.errors import ActionError
from participant.resource import OpenBranch
from participant.rm.mariadb.connections import Connection, Result, Values
from participant.rm.server.statements import Statement, not_for_an_action, remembered, without_literals, words_of

__all__ = ["Savepoint", "Transaction", "check_statement"]

_ENDING = frozenset(
    {"analyze", "alter", "begin", "change", "commit", "create", "deallocate", "drop", "execute", "flush", "grant"}
    | {"handler", "install", "kill", "load", "lock", "optimize", "prepare", "rename", "repair", "reset", "revoke"}
    | {"release", "rollback", "savepoint", "set", "shutdown", "start", "stop", "truncate", "unlock", "use", "xa"}
)
_READING = frozenset({"desc", "describe", "explain", "select", "show", "values"})
_LEAVING = re.compile(r"\b(get_lock|call)\b|:=", re.IGNORECASE)  # what may outlive its transaction
_INSTEAD = "raise Reject to undo, and use tx.savepoint() for a part"


@remembered
def check_statement(sql: str) -> Statement:
    """What an action is about to run; all but what surely reads is taken to write.

    Raises ActionError for what would end the transaction, or outlive it.
    The driver lets the server take several statements in one text, so there must be one only, and none that hides in a
    comment that the server executes.
    """
    words = words_of(sql)
    first = words.partition(" ")[0]
    if first in _ENDING:
        raise not_for_an_action(words, _INSTEAD)
    bare = without_literals(sql)
    if ";" in bare.rstrip().rstrip(";"):
        raise ActionError("one statement at a time, and values as parameters: its SQL has a semicolon in it")
    if "/*" in bare:
        raise ActionError("its SQL has a comment that the server would execute")
    return Statement(first not in _READING, _LEAVING.search(sql) is not None)


class Transaction:
    """The transaction of one branch. Usable only while its action runs.

    A statement that fails leaves the work of the others in MariaDB. So a branch in which one has failed votes no,
    unless it failed in a `savepoint`, which undoes all that was done in it.
    """

    dialect = "mariadb"

    def __init__(self, connection: Connection, branch: OpenBranch | None = None) -> None:
        self.branch = branch
        self._connection = connection
        self._is_usable = True
        self._savepoints = 0
        self.failure = ""
        self.has_written = False

    async def execute(self, sql: str, values: Values = ()) -> int:
        """Run one statement; how many rows it changed. Values go into `values`, as %s, never into the SQL.

        Raises `asyncmy.errors.MySQLError` as the database does, and ActionError for what is not for an action.
        """
        return (await self.run(sql, values)).affected

    async def fetch_all(self, sql: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """The rows that a statement gives."""
        return (await self.run(sql, values)).rows or []

    async def fetch_one(self, sql: str, values: Values = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        rows = await self.fetch_all(sql, values)
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, values: Values = ()) -> Any:
        """The first column of the first row, or None."""
        row = await self.fetch_one(sql, values)
        return row[0] if row else None

    def savepoint(self) -> Savepoint:
        """`async with tx.savepoint():` what happens in the block is undone alone if it raises."""
        self._savepoints += 1
        return Savepoint(self, self._connection, f"commitd_{self._savepoints}")

    def end(self) -> None:
        """The action is over."""
        self._is_usable = False

    async def run(self, sql: str, values: Values = ()) -> Result:
        """Run one statement; all that the server says. For adapters, see `execute`."""
        return await self._run(self._connection.run, sql, values)

    async def run_many(self, sql: str, values: Sequence[Values]) -> Result:
        """Run one statement with each of many sets of values."""
        return await self._run(self._connection.run_many, sql, values)

    async def _run(self, run: Callable[[str, Any], Awaitable[Result]], sql: str, values: Any) -> Result:
        if not self._is_usable:
            raise ActionError("its tx was used after the action had ended")
        statement = check_statement(sql)
        self._connection.is_soiled = self._connection.is_soiled or statement.soils
        try:
            result = await run(sql, values)
        except BaseException as error:
            self.failure = f"{type(error).__name__} in {words_of(sql).upper()}"
            raise
        self.has_written = self.has_written or statement.writes
        return result


class Savepoint:
    """A part of a transaction that can be undone alone, with what failed in it."""

    def __init__(self, tx: Transaction, connection: Connection, name: str) -> None:
        self._tx = tx
        self._connection = connection
        self._name = name

    async def begin(self) -> None:
        self._failure = self._tx.failure
        await self._connection.execute(f"SAVEPOINT {self._name}")

    async def undo(self) -> None:
        """Undo what was done since it began."""
        if not self._connection.is_lost:
            await self._connection.execute(f"ROLLBACK TO SAVEPOINT {self._name}")
            self._tx.failure = self._failure

    async def keep(self) -> None:
        """Let what was done since it began share the fate of the rest."""
        await self._connection.execute(f"RELEASE SAVEPOINT {self._name}")

    async def __aenter__(self) -> None:
        await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self.keep() if kind is None else self.undo())
