"""The barrier on MariaDB and MySQL, over a connection of the user's, of asyncmy or aiomysql.

The row is inserted before the function runs, by a statement that takes the whole lock of a row that is there already,
so that a second step of the branch waits for the first. To look first would lock the gap where the row is missing, and
two steps would wait for each other to insert into it. No snapshot is taken before the lock is had: what the function
reads is as new as what it waited for, under READ COMMITTED and REPEATABLE READ alike.

A deadlock undoes the whole transaction, and a function that goes on would write without one. So autocommit is off while
it runs, and a savepoint from before must still be there behind it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from participant.barrier import FINAL, Outcome, Row, State, Step, Verdict
from participant.barriers.limits import ATTEMPTS_MAX, FORGET_ROWS_MAX, BarrierLimits, told
from participant.errors import ConfigError, Reject, ResourceBusy, ResourceUnreachable, SchemaError, StepError
from participant.rm.retention import wall_clock_ms

__all__ = ["Connection", "MariaDBBarrier"]

Connection: TypeAlias = Any  # of a driver without types; two drivers give what is used here

_TABLE = """
CREATE TABLE IF NOT EXISTS commitd_barrier (
    gid           VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    branch        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state         VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    digest        VARBINARY(16) NOT NULL,
    result        BLOB NOT NULL,
    end_digest    VARBINARY(16) NOT NULL,
    end_result    BLOB NOT NULL,
    reason        VARCHAR(500) CHARACTER SET utf8mb4 NOT NULL,
    changed_at_ms BIGINT NOT NULL,
    PRIMARY KEY (gid, branch),
    KEY commitd_barrier_changed (changed_at_ms)
) ENGINE=InnoDB
"""
_SETTINGS = """
SET @commitd_autocommit = @@SESSION.autocommit, @commitd_wait = @@SESSION.innodb_lock_wait_timeout,
    SESSION innodb_lock_wait_timeout = %s, SESSION autocommit = 0
"""
_SETTINGS_BACK = """
SET SESSION innodb_lock_wait_timeout = @commitd_wait, SESSION autocommit = @commitd_autocommit
"""
# It says 2 rows if one was there and has changed, 1 if it was made, whatever flags the connection has.
_CLAIM = """
INSERT INTO commitd_barrier VALUES (%s, %s, 'running', '', '', '', '', '', 0)
    ON DUPLICATE KEY UPDATE changed_at_ms = changed_at_ms + 1
"""
_READ = """
SELECT state, digest, result, end_digest, end_result, reason, changed_at_ms FROM commitd_barrier
 WHERE gid = %s AND branch = %s FOR UPDATE
"""
_MARK = "UPDATE commitd_barrier SET state = 'running' WHERE gid = %s AND branch = %s"
# Bytes go as hex: aiomysql 0.3 cannot write them otherwise.
_WRITE = """
UPDATE commitd_barrier
   SET state = %s, digest = UNHEX(%s), result = UNHEX(%s), end_digest = UNHEX(%s), end_result = UNHEX(%s), reason = %s,
       changed_at_ms = %s
 WHERE gid = %s AND branch = %s AND state = 'running'
"""
_ENDED = """
SELECT gid, branch FROM commitd_barrier WHERE changed_at_ms < %s AND state IN ({states})
 ORDER BY changed_at_ms LIMIT %s
"""
_READ_COMMITTED = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"  # for the next statement: it locks no gaps
_FORGET = """
DELETE ended FROM commitd_barrier AS ended FORCE INDEX (PRIMARY)
 WHERE (gid, branch) IN ({keys}) AND changed_at_ms < %s AND state IN ({states})
"""
_KEYS_MAX = 500  # in one IN (…)
_CHANGING = (Verdict.RUN, Verdict.EMPTY)
_LOST_CODES = frozenset({1040, 1053, 1077, 1152, 1184, 1927})  # and all of 2000 to 2999, which are the client's own
_DENIED = 1142
_DEADLOCKS = frozenset({1213, 1020})  # the second: the row has changed since the snapshot (innodb_snapshot_isolation)
_CONFLICTS = _DEADLOCKS | {1205}  # the second: it has waited too long for a row
_MEANINGS: Mapping[int, tuple[type[Exception], str]] = {
    1205: (ResourceBusy, "another step of the branch is at work; come again"),
    **dict.fromkeys(_DEADLOCKS, (ResourceBusy, "a transaction of the same time is in its way; come again")),
    1146: (SchemaError, "there is no table commitd_barrier: call `open` when the service starts"),
    1305: (
        StepError,
        "the transaction ended while its function ran: by COMMIT or DDL, then the work is half done, or by a deadlock",
    ),
}


class MariaDBBarrier:
    """One for a service; it holds no connection of its own."""

    def __init__(self, limits: BarrierLimits | None = None) -> None:
        self._limits = limits or BarrierLimits()

    async def open(self, connection: Connection) -> None:
        """Look at the server, and make the table if it is not there. Raises ConfigError, SchemaError."""
        with _reaching("open the barrier in"):
            _, rows = await _ask(connection, "SELECT @@innodb_flush_log_at_trx_commit, @@read_only")
            ((flushed, is_read_only),) = rows
            if flushed != 1:
                raise ConfigError(
                    f"a power cut would lose what was answered, because innodb_flush_log_at_trx_commit is {flushed}: "
                    "set `innodb_flush_log_at_trx_commit = 1` in my.cnf, and SET GLOBAL it"
                )
            if is_read_only:
                raise ConfigError("the server is read-only: connect to the primary")
            try:
                _, found = await _ask(connection, "SHOW TABLES LIKE 'commitd_barrier'")
                if not found:
                    await _ask(connection, _TABLE)
            except Exception as error:
                if _code(error) != _DENIED:
                    raise
                raise SchemaError(
                    f"the role may not make a table ({error}); let its owner run, once:\n{_TABLE}"
                ) from error

    async def run(
        self, connection: Connection, step: Step, function: Callable[..., Awaitable[Any]], *arguments: Any
    ) -> Outcome:
        """Do the step: `await function(connection, *arguments)` inside of a transaction, once and for all.

        What the function returns is the result, and stays. If it raises Reject, its changes are undone, and the no
        stays. If it raises anything else, all is undone and the error goes through (a conflict with another transaction
        as ResourceBusy). So do those of the barrier: the outcome is unknown, or nothing was done, and the step may be
        repeated. Who is cancelled finds the connection closed.

        Raises BranchConflict, StepError, ResourceBusy (come again), ResourceUnreachable, SchemaError.
        """
        if connection.get_transaction_status():
            raise StepError("the connection is in a transaction already: the barrier begins and ends one for each step")
        try:
            with _asking(step):
                await _ask(connection, _SETTINGS, (math.ceil(self._limits.lock_wait_s),))
            for _ in range(ATTEMPTS_MAX):
                outcome = await self._attempt(connection, step, function, arguments)
                if outcome is not None:
                    with _reaching("give the session back in"):
                        await _ask(connection, _SETTINGS_BACK)
                    return told(outcome, step)
            raise ResourceBusy(f"{step}: other steps of the branch came in between {ATTEMPTS_MAX} times; come again")
        except BaseException as error:
            await _leave(connection, error)
            raise

    async def _attempt(
        self, connection: Connection, step: Step, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
    ) -> Outcome | None:
        """None: nothing was done, because the server has resolved a deadlock between those who claimed the row."""
        row = await self._claim(connection, step)
        if row is None:
            return None
        rule = row.judge(step)
        if rule.verdict not in _CHANGING:
            with _asking(step):
                await _ask(connection, "ROLLBACK")
            return row.outcome(step, rule)
        if rule.verdict is Verdict.RUN:
            row = await _work(connection, row, step, function, arguments)
        else:
            with _asking(step):
                await _ask(connection, _MARK, row.key)
            row = row.emptied(step, wall_clock_ms())
        answers = (data.hex() for data in (row.digest, row.result, row.end_digest, row.end_result))
        values = (row.state.value, *answers, row.reason, row.changed_at_ms)
        with _asking(step):
            affected, _ = await _ask(connection, _WRITE, (*values, *row.key))
            if affected != 1:
                raise StepError(f"the function of {step} has deleted the barrier's row")
            await _ask(connection, "COMMIT")
        return row.outcome(step, rule)

    async def _claim(self, connection: Connection, step: Step) -> Row | None:
        """Lock the row, which is made if it is not there. None: the transaction was undone for a deadlock."""
        with _asking(step):
            try:
                affected, _ = await _ask(connection, _CLAIM, step.key)
                if affected == 1:
                    return Row(step.key)
                _, rows = await _ask(connection, _READ, step.key)
            except Exception as error:
                if _code(error) not in _DEADLOCKS:
                    raise
                await _ask(connection, "ROLLBACK")
                return None
        ((state, *rest),) = rows
        return Row(step.key, State(state), *rest)

    async def forget(self, connection: Connection) -> int:
        """Delete rows that are older than the retention; how many. There may be more of them until it is 0.

        By key: a search that deletes would wait for each function that runs, and new branches for it.
        Raises StepError, ResourceBusy (come again), ResourceUnreachable, SchemaError.
        """
        if not connection.get_autocommit() or connection.get_transaction_status():
            raise StepError("rows are forgotten on a connection with autocommit, outside of a transaction")
        before_ms, states = wall_clock_ms() - self._limits.retention_ms, sorted(FINAL)
        marks = ", ".join(["%s"] * len(states))
        count = 0
        with _asking("forget branches"):
            _, keys = await _ask(connection, _ENDED.format(states=marks), (before_ms, *states, FORGET_ROWS_MAX))
            for begin in range(0, len(keys), _KEYS_MAX):
                some = keys[begin : begin + _KEYS_MAX]
                sql = _FORGET.format(keys=", ".join(["(%s, %s)"] * len(some)), states=marks)
                await _ask(connection, _READ_COMMITTED)
                values = (*(part for key in some for part in key), before_ms, *states)
                count += (await _ask(connection, sql, values))[0]
        return count


async def _work(
    connection: Connection, row: Row, step: Step, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
) -> Row:
    """The row after the function, which runs in a savepoint: that is gone if the transaction has ended."""
    with _asking(step):
        if row.state is not State.NEW:
            await _ask(connection, _MARK, row.key)
        await _ask(connection, "SAVEPOINT commitd_step")
    try:
        result = await function(connection, *arguments)
    except Reject as no:
        with _asking(step):
            await _ask(connection, "ROLLBACK TO SAVEPOINT commitd_step")
        return row.refused(step, no, wall_clock_ms())
    except Exception as error:
        if _code(error) in _CONFLICTS:
            raise ResourceBusy(f"{step}: another transaction is in the way of its function; come again") from error
        if _is_driver(error) and _is_loss(error):  # not what else it talks to
            raise ResourceUnreachable(f"the connection to the database was lost: {error}") from error
        raise
    with _asking(step):
        await _ask(connection, "RELEASE SAVEPOINT commitd_step")
    return row.done(step, result, wall_clock_ms())


async def _leave(connection: Connection, error: BaseException) -> None:
    """Undo, and leave the connection as it was found; or close it, if it may be at work or gone. `error` counts."""
    if not isinstance(error, Exception) or isinstance(error, ResourceUnreachable):
        connection.close()
        return
    try:
        await _ask(connection, "ROLLBACK")
        await _ask(connection, _SETTINGS_BACK)
    except Exception:  # noqa: BLE001 - of either driver: the session is not fit for anybody else
        connection.close()


async def _ask(connection: Connection, sql: str, values: Any = None) -> tuple[int, list[Any]]:
    """How many rows a statement has affected, and its rows."""
    async with connection.cursor() as cursor:
        await cursor.execute(sql, values)
        rows = list(await cursor.fetchall()) if cursor.description is not None else []
        return max(0, cursor.rowcount), rows


def _is_driver(error: BaseException, kind: str = "MySQLError") -> bool:
    """Whether an error is one of a driver's. Both name theirs alike."""
    return any(each.__name__ == kind for each in type(error).__mro__)


def _code(error: BaseException) -> int:
    """The number of a driver's error; 0 if it has none."""
    code = error.args[0] if _is_driver(error) and error.args else 0
    return code if isinstance(code, int) else 0


def _is_loss(error: BaseException) -> bool:
    """Whether an error says that the server is not there."""
    code = _code(error)
    is_interface = _is_driver(error, "InterfaceError")
    return isinstance(error, (OSError, EOFError)) or is_interface or 2_000 <= code < 3_000 or code in _LOST_CODES


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _is_loss(error):
            raise
        raise ResourceUnreachable(f"cannot {what} the database: {error or type(error).__name__}") from error


@contextmanager
def _asking(what: Step | str) -> Iterator[None]:
    """What the errors of the barrier's own statements mean."""
    with _reaching("do a step in" if isinstance(what, Step) else f"{what} in"):
        try:
            yield
        except Exception as error:
            kind, why = _MEANINGS.get(_code(error), (None, ""))
            if kind is None:
                raise
            raise kind(f"{what}: {why}") from error
