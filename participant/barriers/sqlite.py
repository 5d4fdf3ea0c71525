"""The barrier on SQLite, over a connection of the user's, of the standard library's `sqlite3`.

One writer has the whole file, from BEGIN IMMEDIATE to COMMIT, so a second step waits for the first whatever its branch
is. All of it is synchronous, as the driver is: a service on asyncio calls `run` in a thread (`asyncio.to_thread`).

A commit is on the disk when it is answered: `synchronous` is EXTRA meanwhile. Python's default, FULL with a rollback
journal, loses the last commit at a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from participant.barrier import FINAL, Outcome, Row, State, Step, Verdict
from participant.barriers.limits import FORGET_ROWS_MAX, BarrierLimits, told
from participant.errors import Reject, ResourceBusy, SchemaError, StepError
from participant.rm.retention import wall_clock_ms

__all__ = ["SQLiteBarrier"]

_TABLE = """
CREATE TABLE IF NOT EXISTS commitd_barrier (
    gid           TEXT NOT NULL,
    branch        TEXT NOT NULL,
    state         TEXT NOT NULL,
    digest        BLOB NOT NULL,
    result        BLOB NOT NULL,
    end_digest    BLOB NOT NULL,
    end_result    BLOB NOT NULL,
    reason        TEXT NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    PRIMARY KEY (gid, branch)
) WITHOUT ROWID
"""
_INDEX = "CREATE INDEX IF NOT EXISTS commitd_barrier_changed ON commitd_barrier (changed_at_ms)"
_READ = """
SELECT state, digest, result, end_digest, end_result, reason, changed_at_ms FROM commitd_barrier
 WHERE gid = ? AND branch = ?
"""
_WRITE = "REPLACE INTO commitd_barrier VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FORGET = """
DELETE FROM commitd_barrier WHERE (gid, branch) IN (
    SELECT gid, branch FROM commitd_barrier WHERE changed_at_ms < ? AND state IN ({states})
     ORDER BY changed_at_ms LIMIT ?)
"""
_EXTRA = 3  # of PRAGMA synchronous
_CHANGING = (Verdict.RUN, Verdict.EMPTY)


class SQLiteBarrier:
    """One for a service; it holds no connection of its own."""

    def __init__(self, limits: BarrierLimits | None = None) -> None:
        self._limits = limits or BarrierLimits()

    def open(self, connection: sqlite3.Connection) -> None:
        """Make the table if it is not there. Raises SchemaError, ResourceBusy."""
        self._check_idle(connection)
        with self._settings(connection), _asking("open the barrier"):
            try:
                with _transaction(connection):
                    _ask(connection, _TABLE)
                    _ask(connection, _INDEX)
            except sqlite3.OperationalError as error:
                if _name(error).startswith("SQLITE_READONLY"):
                    raise SchemaError(f"the file cannot be written: {error}") from error
                raise

    def run(self, connection: sqlite3.Connection, step: Step, function: Callable[..., Any], *arguments: Any) -> Outcome:
        """Do the step: `function(connection, *arguments)` inside of a transaction, once and for all.

        What the function returns is the result, and stays. If it raises Reject, its changes are undone, and the no
        stays. If it raises anything else, all is undone and the error goes through, as do those of the barrier: the
        outcome is unknown, or nothing was done; the step may be repeated.

        Raises BranchConflict, StepError, ResourceBusy (come again), SchemaError.
        """
        self._check_idle(connection)
        with self._settings(connection), _asking(str(step)), _transaction(connection):
            row = _read(connection, step)
            rule = row.judge(step)
            if rule.verdict is Verdict.RUN:
                row = _work(connection, row, step, function, arguments)
            elif rule.verdict is Verdict.EMPTY:
                row = row.emptied(step, wall_clock_ms())
            if rule.verdict in _CHANGING:
                _write(connection, row)
        return told(row.outcome(step, rule), step)

    def forget(self, connection: sqlite3.Connection) -> int:
        """Delete rows that are older than the retention; how many. There may be more of them until it is 0."""
        self._check_idle(connection)
        before_ms = wall_clock_ms() - self._limits.retention_ms
        sql = _FORGET.format(states=", ".join("?" * len(FINAL)))
        with self._settings(connection), _asking("forget branches"), _transaction(connection):
            return _ask(connection, sql, before_ms, *sorted(FINAL), FORGET_ROWS_MAX).rowcount

    def _check_idle(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            raise StepError(
                "the connection is in a transaction already, and with autocommit=False always: the barrier begins and "
                "ends one for each step"
            )

    @contextmanager
    def _settings(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Wait for the file as long as the limits say, and write through to the disk; afterwards as it was before."""
        [wait_ms] = _ask(connection, "PRAGMA busy_timeout").fetchone()
        [synchronous] = _ask(connection, "PRAGMA synchronous").fetchone()
        _ask(connection, f"PRAGMA busy_timeout = {self._limits.lock_wait_ms}")
        _ask(connection, f"PRAGMA synchronous = {_EXTRA}")
        try:
            yield
        finally:
            _ask(connection, f"PRAGMA synchronous = {synchronous}")
            _ask(connection, f"PRAGMA busy_timeout = {wait_ms}")


def _work(
    connection: sqlite3.Connection, row: Row, step: Step, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Row:
    """The row after the function, which runs in a savepoint: that is gone if it has ended the transaction."""
    _write(connection, row._replace(state=State.RUNNING))
    _ask(connection, "SAVEPOINT commitd_step")
    try:
        result = function(connection, *arguments)
    except Reject as no:
        _end(connection, step, "ROLLBACK TO commitd_step")
        return row.refused(step, no, wall_clock_ms())
    _end(connection, step, "RELEASE commitd_step")
    return row.done(step, result, wall_clock_ms())


def _end(connection: sqlite3.Connection, step: Step, statement: str) -> None:
    try:
        _ask(connection, statement)
    except sqlite3.OperationalError as error:
        if connection.in_transaction and "no such savepoint" not in str(error):
            raise
        raise StepError(
            f"the function of {step} has ended the transaction, so that its work may be half done: leave commit() and "
            "rollback() to the barrier, and `with connection:` too"
        ) from error


def _read(connection: sqlite3.Connection, step: Step) -> Row:
    found = _ask(connection, _READ, *step.key).fetchone()
    return Row(step.key) if found is None else Row(step.key, State(found[0]), *found[1:])


def _write(connection: sqlite3.Connection, row: Row) -> None:
    _ask(connection, _WRITE, *row.key, row.state.value, *row[2:])


def _ask(connection: sqlite3.Connection, sql: str, *values: Any) -> sqlite3.Cursor:
    """With plain tuples as rows, whatever the connection makes of them for its user."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(sql, values)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """COMMIT in the end; ROLLBACK if that fails, or anything before."""
    _ask(connection, "BEGIN IMMEDIATE")
    try:
        yield
        _ask(connection, "COMMIT")
    except BaseException:
        if connection.in_transaction:
            _ask(connection, "ROLLBACK")
        raise


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """What SQLite's errors mean."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if _name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise ResourceBusy(f"{what}: somebody else has the file; come again") from error
        if "no such table: commitd_barrier" in str(error):
            raise SchemaError("there is no table commitd_barrier: call `open` when the service starts") from error
        raise


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
