"""The barrier on PostgreSQL, over an asyncpg connection of the user's. Needs asyncpg: `pip install commitd[postgres]`.

The row is inserted before the function runs, so that a second step of the branch waits for the first: at the unique key
if the row is new, at the row if it is not. Under REPEATABLE READ and above, whoever has waited finds that its snapshot
is too old for what it waited for; nothing has been done then, and it begins anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

try:
    import asyncpg
except ImportError as error:
    raise ImportError("the barrier on PostgreSQL needs asyncpg: pip install 'commitd[postgres]'") from error

from participant.barrier import FINAL, Outcome, Row, State, Step, Verdict
from participant.barriers.limits import ATTEMPTS_MAX, FORGET_ROWS_MAX, BarrierLimits, told
from participant.errors import ConfigError, Reject, ResourceBusy, ResourceUnreachable, SchemaError, StepError
from participant.rm.postgres.connections import LOST, unreachable
from participant.rm.retention import wall_clock_ms

__all__ = ["Connection", "PostgresBarrier"]

Connection: TypeAlias = "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy"

_TABLE = """
CREATE TABLE IF NOT EXISTS commitd_barrier (
    gid           text COLLATE "C" NOT NULL,
    branch        text COLLATE "C" NOT NULL,
    state         text NOT NULL,
    digest        bytea NOT NULL,
    result        bytea NOT NULL,
    end_digest    bytea NOT NULL,
    end_result    bytea NOT NULL,
    reason        text NOT NULL,
    changed_at_ms bigint NOT NULL,
    PRIMARY KEY (gid, branch)
);
CREATE INDEX IF NOT EXISTS commitd_barrier_changed ON commitd_barrier (changed_at_ms);
"""
_OPENING_LOCK = 0x636F6D6D69746401  # processes that open at once make the table one after the other

# A commit must be on the disk when it is answered, whatever the session says, and whatever the function has set.
_DURABLE = """
set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
"""
_SETTINGS = f"SELECT set_config('lock_timeout', $1, true), {_DURABLE}"
_CLAIM = """
INSERT INTO commitd_barrier VALUES ($1, $2, 'running', '', '', '', '', '', 0) ON CONFLICT DO NOTHING RETURNING true
"""
_LOCK = """
SELECT state, digest, result, end_digest, end_result, reason, changed_at_ms FROM commitd_barrier
 WHERE gid = $1 AND branch = $2 FOR UPDATE
"""
_MARK = "UPDATE commitd_barrier SET state = 'running' WHERE gid = $1 AND branch = $2"
_WRITE = f"""
UPDATE commitd_barrier SET state = $3, digest = $4, result = $5, end_digest = $6, end_result = $7, reason = $8,
       changed_at_ms = $9 WHERE gid = $1 AND branch = $2 RETURNING {_DURABLE}
"""  # noqa: S608 - of constants
_FORGET = """
DELETE FROM commitd_barrier WHERE (gid, branch) IN (
    SELECT gid, branch FROM commitd_barrier WHERE changed_at_ms < $1 AND state = ANY($2)
     ORDER BY changed_at_ms LIMIT $3 FOR UPDATE SKIP LOCKED)
"""
_CHANGING = (Verdict.RUN, Verdict.EMPTY)
_STALE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class PostgresBarrier:
    """One for a service; it holds no connection of its own."""

    def __init__(self, limits: BarrierLimits | None = None) -> None:
        self._limits = limits or BarrierLimits()

    async def open(self, connection: Connection) -> None:
        """Look at the server, and make the table if it is not there. Raises ConfigError, SchemaError."""
        with unreachable("open the barrier in"):
            if await connection.fetchval("SHOW fsync") != "on":
                raise ConfigError(
                    "a power cut would lose what was answered: set `fsync = on` in postgresql.conf, and reload it"
                )
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                raise ConfigError("the server is a standby, which cannot write; connect to the primary")
            try:
                async with connection.transaction():
                    await connection.execute(f"SELECT pg_advisory_xact_lock({_OPENING_LOCK})")
                    if await connection.fetchval("SELECT to_regclass('commitd_barrier')") is None:
                        await connection.execute(_TABLE)
            except asyncpg.InsufficientPrivilegeError as error:
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
        repeated.

        Raises BranchConflict, StepError, ResourceBusy (come again), ResourceUnreachable, SchemaError.
        """
        with unreachable("do a step in"):
            is_in_transaction = connection.is_in_transaction()
        if is_in_transaction:
            raise StepError("the connection is in a transaction already: the barrier begins and ends one for each step")
        for _ in range(ATTEMPTS_MAX):
            outcome = await self._attempt(connection, step, function, arguments)
            if outcome is not None:
                return told(outcome, step)
        raise ResourceBusy(f"{step}: other steps of the branch came in between {ATTEMPTS_MAX} times; come again")

    async def _attempt(
        self, connection: Connection, step: Step, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
    ) -> Outcome | None:
        """None: nothing was done, because the snapshot was too old."""
        with _asking(step):
            transaction = connection.transaction()
            await transaction.start()
        try:
            row = await self._claim(connection, step)
            rule = row.judge(step) if row is not None else None
            if row is None or rule is None or rule.verdict not in _CHANGING:
                await _roll_back(connection, transaction)
                return None if row is None or rule is None else row.outcome(step, rule)
            if rule.verdict is Verdict.RUN:
                row = await _work(connection, row, step, function, arguments)
            else:
                row = row.emptied(step, wall_clock_ms())
            await _write(connection, row, step)
        except BaseException:
            await _roll_back(connection, transaction)
            raise
        await _commit(connection, transaction, step)
        return row.outcome(step, rule)

    async def _claim(self, connection: Connection, step: Step) -> Row | None:
        """Lock the row, which is made if it is not there. None: it has changed since this transaction began."""
        with _asking(step):
            try:
                await connection.execute(_SETTINGS, f"{self._limits.lock_wait_ms}ms")
                if await connection.fetchval(_CLAIM, *step.key):
                    return Row(step.key)
                found = await connection.fetchrow(_LOCK, *step.key)
            except _STALE:
                return None
        if found is None:  # forgotten in between
            return None
        return Row(step.key, State(found["state"]), *tuple(found)[1:])

    async def forget(self, connection: Connection) -> int:
        """Delete rows that are older than the retention; how many. There may be more of them until it is 0."""
        before_ms = wall_clock_ms() - self._limits.retention_ms
        with unreachable("forget branches in"):
            tag = await connection.execute(_FORGET, before_ms, sorted(FINAL), FORGET_ROWS_MAX)
        return int(tag.split()[-1])


async def _work(
    connection: Connection, row: Row, step: Step, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
) -> Row:
    """The row after the function, which runs in a savepoint: that is gone if it has ended the transaction."""
    savepoint = connection.transaction()
    with _asking(step):
        if row.state is not State.NEW:
            await connection.execute(_MARK, *row.key)
        await savepoint.start()
    try:
        result = await function(connection, *arguments)
    except Reject as no:
        with _asking(step):
            await savepoint.rollback()
        return row.refused(step, no, wall_clock_ms())
    except (*_STALE, asyncpg.LockNotAvailableError) as error:
        raise ResourceBusy(f"{step}: another transaction is in the way of its function; come again") from error
    except Exception as error:
        if _is_gone(connection):
            raise ResourceUnreachable(f"the connection to the database was lost: {error}") from error
        raise
    with _asking(step):
        await savepoint.commit()
    return row.done(step, result, wall_clock_ms())


async def _write(connection: Connection, row: Row, step: Step) -> None:
    values = (row.state, row.digest, row.result, row.end_digest, row.end_result, row.reason, row.changed_at_ms)
    with _asking(step):
        if not await connection.fetchval(_WRITE, *row.key, *values):
            raise StepError(f"the function of {step} has deleted the barrier's row")


async def _commit(connection: Connection, transaction: Any, step: Step) -> None:
    try:
        with _asking(step):
            await transaction.commit()
    except BaseException:
        if not _is_gone(connection) and connection.is_in_transaction():  # it was cancelled before it was begun
            connection.terminate()
        raise


async def _roll_back(connection: Connection, transaction: Any) -> None:
    """Leave the connection as it was found. What was raised before counts."""
    try:
        if not _is_gone(connection):
            await transaction.rollback()
    except (asyncpg.PostgresError, *LOST):
        if not _is_gone(connection):
            connection.terminate()


def _is_gone(connection: Connection) -> bool:
    """A pool takes a connection that is lost back by itself, and then its user may not even ask."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


@contextmanager
def _asking(step: Step) -> Iterator[None]:
    """What the errors of the barrier's own statements mean."""
    with unreachable("do a step in"):
        try:
            yield
        except asyncpg.LockNotAvailableError as error:
            raise ResourceBusy(f"{step}: another step of the branch is at work; come again") from error
        except _STALE as error:
            raise ResourceBusy(f"{step}: a transaction of the same time is in its way; come again") from error
        except asyncpg.UndefinedTableError as error:
            raise SchemaError("no table commitd_barrier is in sight: call `open` when the service starts") from error
        except asyncpg.InFailedSQLTransactionError as error:
            raise StepError(
                f"a statement of {step} has failed, and its function went on: put what may fail into `async with "
                "connection.transaction()`"
            ) from error
        except (asyncpg.InvalidSavepointSpecificationError, asyncpg.NoActiveSQLTransactionError) as error:
            raise StepError(
                f"the function of {step} has ended the transaction; its work may be half done. Leave COMMIT and "
                "ROLLBACK to the barrier"
            ) from error
