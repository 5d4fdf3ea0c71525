"""What an action on SQLite receives as `tx`, and what it may do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from participant.errors import ActionError
from participant.locks import Value
from participant.resource import OpenBranch
from participant.rm.sqlite.tables import OWN_PREFIX, says_rollback

__all__ = ["Gate", "Transaction"]

_READING = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE})
_WRITING = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_RECORDING = (apsw.SQLITE_PRAGMA, "table_xinfo")  # what the session itself asks at the first change of a table


class Gate:
    """The authorizer of the connection: while an action runs, it lets through what a changeset can hold.

    SQLite asks it when a statement is compiled, and the connection keeps compiled statements; so a statement of our
    own is marked by a comment, lest an action find it compiled already.
    """

    def __init__(self) -> None:
        self.in_action = False
        self.denied = ""

    def __call__(self, code: int, what: str | None, more: str | None, *_: object) -> int:
        if not self.in_action or code in _READING or (code, what) == _RECORDING:
            return apsw.SQLITE_OK
        if code in _WRITING and what is not None and not what.startswith((OWN_PREFIX, "sqlite_")):
            return apsw.SQLITE_OK
        name = str(apsw.mapping_authorizer_function[code]).removeprefix("SQLITE_").replace("_", " ")
        self.denied = f"{name} {what or more or ''}".strip()
        return apsw.SQLITE_DENY


class Transaction:
    """The local transaction of one action, for `branch`. Usable only while the action runs."""

    dialect = "sqlite"

    def __init__(self, db: apsw.Connection, gate: Gate, branch: OpenBranch | None = None) -> None:
        self.branch = branch
        self._db: apsw.Connection | None = db
        self._gate = gate

    async def execute(self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> list[tuple[Any, ...]]:
        """Run SELECT, INSERT, UPDATE or DELETE; the rows that it gives.

        Values go into `parameters`, never into the SQL. Raises `apsw.Error` (e.g. `apsw.ConstraintError`) as
        SQLite does, and ActionError for any other kind of statement.
        """
        if self._db is None:
            raise ActionError("its tx was used after the action had ended")
        if says_rollback(sql):
            raise ActionError("its SQL says ROLLBACK; raise Reject instead, and pass values as parameters")
        try:
            return self._db.execute(sql, parameters).fetchall()
        except apsw.AuthError as error:
            raise ActionError(
                f"an action may only select, insert, update and delete in its own tables: {self._gate.denied}"
            ) from error

    async def fetch_one(
        self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()
    ) -> tuple[Any, ...] | None:
        """The first row, or None."""
        rows = await self.execute(sql, parameters)
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> Any:
        """The first column of the first row, or None if there is no row."""
        row = await self.fetch_one(sql, parameters)
        return row[0] if row else None

    def end(self) -> None:
        """The action is over."""
        self._db = None
