"""PostgreSQL as a `rm.server.backend`: PREPARE TRANSACTION over asyncpg.

PostgreSQL answers PREPARE TRANSACTION without an error even if the transaction had failed: it rolls back, and only the
command tag says so. So the tag is compared before anybody hears a yes.

Whoever writes a branch's row takes an advisory lock of the branch first, without waiting, and gives way if another has
it: otherwise it would wait for a prepared row of the same key, which only the decision frees. A prepared transaction
keeps that lock.

Two pools: what ends branches never waits behind what waits for the rows that it would free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from participant.branch import Branch
from participant.errors import ActionError, InvariantError, Reject, ResourceBusy, ResourceUnreachable
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.postgres.names import Names
from participant.rm.postgres.server import check_owners, check_server, is_synchronous, make_table
from participant.rm.postgres.transaction import Connection, Transaction, is_lost, terminate
from participant.rm.postgres.waits import Waits
from participant.rm.server.backend import Blocked, Conflict, Prepared, Stale, Unit
from participant.wire import BranchState

__all__ = ["PostgresBackend"]

CONNECT_TIMEOUT_S = 10.0
LOCK_TIMEOUT_MARGIN_S = 1.0  # the server's own limit is a backstop: normally the wait is ended before, with its reason
FINISH_ATTEMPTS = 20  # while another connection is at the same prepared transaction
FINISH_PAUSE_S = 0.05

# The row is COMMITTED although it is not: it is seen when it is.
_VOTE = """
INSERT INTO commitd_branch (gid, branch, state, digest, reason, changed_at_ms)
SELECT $1, $2, CASE WHEN $3 AND pg_current_xact_id_if_assigned() IS NULL THEN 'read-only' ELSE 'committed' END,
       $4, '', $5
  FROM pg_try_advisory_xact_lock($6) AS is_free WHERE is_free
ON CONFLICT DO NOTHING RETURNING state
"""
# The same for work that is known to have written, prepared in each session, so that it is planned once. It runs in a
# text of several statements, and an error ends all of them: it raises one if the branch is taken.
_VOTE_WRITTEN = """
PREPARE commitd_vote (text, text, bytea, bigint, bigint) AS
INSERT INTO commitd_branch (gid, branch, state, digest, reason, changed_at_ms)
SELECT $1, $2, 'committed', $3, '', $4 / pg_try_advisory_xact_lock($5)::int
"""
_SETTLE = """
INSERT INTO commitd_branch (gid, branch, state, digest, reason, changed_at_ms)
SELECT $1, $2, $3, $4, $5, $6 FROM pg_try_advisory_xact_lock($7) AS is_free WHERE is_free
ON CONFLICT (gid, branch) DO UPDATE SET state = excluded.state, reason = excluded.reason
  WHERE commitd_branch.state = 'read-only' AND excluded.state = 'aborted'
RETURNING state
"""
_PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 AS age_s FROM pg_prepared_xacts
 WHERE database = current_database() AND starts_with(gid, $1) ORDER BY prepared, transaction::text::bigint
"""
_LOAD = "SELECT state, digest, reason, changed_at_ms FROM commitd_branch WHERE gid = $1 AND branch = $2"
_FORGET = """
DELETE FROM commitd_branch WHERE (gid, branch) IN (
    SELECT gid, branch FROM commitd_branch WHERE changed_at_ms < $1 ORDER BY changed_at_ms LIMIT $2)
"""
_BEGIN = "BEGIN ISOLATION LEVEL {isolation} READ WRITE"

_STALE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asked while the server's last words were coming in
    OSError,
    TimeoutError,
)


class PostgresBackend:
    """See `participant.rm.server.backend.Backend`."""

    def __init__(self, dsn: str, *, schema: str, isolation: str, connections_max: int, limits: ResourceLimits) -> None:
        self._dsn = dsn
        self._schema = schema
        self._begin = _BEGIN.format(isolation=isolation)
        self._connections_max = connections_max
        self._limits = limits
        self.branches_max = 0

    async def open(self) -> None:
        settings = self._settings()
        with unreachable("open"):
            connection = await asyncpg.connect(self._dsn, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
            try:
                self.branches_max = await check_server(connection)
                self._names = Names(await make_table(connection, self._schema))
                await check_owners(connection, self._names)
                if not await is_synchronous(connection):
                    settings["synchronous_commit"] = "on"
            finally:
                await connection.close()
        self._waits = Waits(self._names)
        self._working = await self._pool(settings, self._connections_max, _prepare_vote)
        try:
            self._ending = await self._pool(settings, max(2, self._connections_max // 2))
        except BaseException:
            self._working.terminate()
            raise

    def _settings(self) -> dict[str, str]:
        lock_timeout_s = self._limits.lock_wait_s + LOCK_TIMEOUT_MARGIN_S
        idle_s = self._limits.unprepared_limit_s + LOCK_TIMEOUT_MARGIN_S
        return {
            "application_name": "commitd",
            "lock_timeout": f"{lock_timeout_s * 1_000:.0f}ms",
            "idle_in_transaction_session_timeout": f"{idle_s * 1_000:.0f}ms",
        }

    async def _pool(self, settings: dict[str, str], size: int, init: Any = None) -> Any:
        with unreachable("connect to"):
            return await asyncpg.create_pool(
                self._dsn,
                min_size=1,
                max_size=size,
                timeout=CONNECT_TIMEOUT_S,
                server_settings=settings,
                init=init,
                reset=_keep,
            )

    async def close(self) -> None:
        for pool in (self._working, self._ending):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await pool.close()
            except (TimeoutError, *_LOST):
                pool.terminate()

    async def prepared(self) -> list[Prepared]:
        async with self._office() as connection:
            rows = await connection.fetch(_PREPARED, self._names.prefix)
        read = ((self._names.read(row["gid"]), row["age_s"]) for row in rows)
        return [Prepared(*named, age_s) for named, age_s in read if named is not None]

    async def load(self, key: BranchKey) -> Branch:
        """The list first: what leaves it between the two questions has its row by then."""
        async with self._office() as connection:
            listed = await connection.fetch(_PREPARED, self._names.of_key(key))
            if listed and (named := self._names.read(listed[0]["gid"])) is not None:
                return Branch(key, BranchState.PREPARED, named[1])
            row = await connection.fetchrow(_LOAD, key.gid, key.branch)
        if row is None:
            return Branch(key)
        return Branch(key, BranchState(row["state"]), row["digest"], row["reason"], row["changed_at_ms"])

    async def begin(self, _: BranchKey) -> Unit:
        with unreachable("begin a transaction on"):
            try:
                connection = await self._working.acquire(timeout=self._limits.lock_wait_s)
            except TimeoutError:
                raise ResourceBusy("every connection to the database is at work; come again") from None
            try:
                await connection.execute(self._begin)
            except BaseException:
                terminate(connection)
                await self._working.release(connection)
                raise
        return PostgresUnit(self._working, connection, self._names)

    async def settle(self, branch: Branch) -> bool:
        key = branch.key
        async with self._office() as connection:
            row = await connection.fetchrow(
                _SETTLE,
                *(key.gid, key.branch, branch.state.value, branch.digest, branch.reason, branch.changed_at_ms),
                self._names.lock_of(key),
            )
        return row is not None

    async def finish(self, prepared: Branch, to: BranchState) -> bool:
        verb = "COMMIT" if to is BranchState.COMMITTED else "ROLLBACK"
        for _ in range(FINISH_ATTEMPTS):
            async with self._office() as connection:
                try:
                    await connection.execute(f"{verb} PREPARED '{self._names.of(prepared)}'")
                    return True
                except asyncpg.UndefinedObjectError:
                    return False
                except asyncpg.ObjectNotInPrerequisiteStateError:
                    pass  # another connection is at it
            await asyncio.sleep(FINISH_PAUSE_S)
        raise ResourceBusy(f"another connection is about to end branch {prepared.key}")

    async def touch(self, key: BranchKey, at_ms: int) -> None:
        async with self._office() as connection:
            await connection.execute(
                "UPDATE commitd_branch SET changed_at_ms = $3 WHERE gid = $1 AND branch = $2", *key, at_ms
            )

    async def blocked_by(self, unit: Unit) -> Blocked | None:
        async with self._office() as connection:
            return await self._waits.of(connection, _own(unit))

    async def waiting(self, units: Sequence[Unit]) -> int:
        async with self._office() as connection:
            return await self._waits.count(connection, [_own(unit) for unit in units])

    async def forget(self, before_ms: int, branches_max: int) -> int:
        async with self._office() as connection:
            tag = await connection.execute(_FORGET, before_ms, branches_max)
        return int(tag.split()[-1])

    async def read(self, call: Call) -> Any:
        async with self._office() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                return (await _run(connection, call))[0]
            except asyncpg.ReadOnlySQLTransactionError as error:
                raise ActionError(f"{call.name!r} may only read, but it wrote") from error
            finally:
                if not is_lost(connection):
                    await connection.execute("ROLLBACK")

    @asynccontextmanager
    async def _office(self) -> AsyncIterator[Connection]:
        """A connection for one thing, without a transaction."""
        with unreachable("ask"):
            try:
                connection = await self._ending.acquire(timeout=CONNECT_TIMEOUT_S)
            except TimeoutError:
                raise ResourceUnreachable("no connection to the database came free") from None
            try:
                yield connection
            except _LOST:
                terminate(connection)
                raise
            finally:
                await self._ending.release(connection)


class PostgresUnit:
    """See `participant.rm.server.backend.Unit`."""

    def __init__(self, pool: Any, connection: Connection, names: Names) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._names = names
        self._has_written = False
        self.pid: int = connection.get_server_pid()

    async def run(self, call: Call) -> Any:
        try:
            result, has_written = await _run(self._connected, call)
        except _STALE as error:
            raise Stale from error
        except asyncpg.LockNotAvailableError as error:
            raise Conflict(f"it did not get a lock: {error}") from error
        self._has_written = self._has_written or has_written
        return result

    async def vote(self, branch: Branch) -> Branch | None:
        with unreachable("vote in"):
            try:
                return await self._vote(branch)
            except _STALE as error:
                raise Stale from error
            except asyncpg.InFailedSQLTransactionError as error:
                raise Reject("a statement of its action failed, and the action went on") from error
            except asyncpg.OutOfMemoryError as error:  # all slots for prepared transactions are taken
                raise ResourceBusy(f"the database cannot prepare now: {error}") from error
            except asyncpg.PostgresError as error:
                if isinstance(error, _LOST):
                    raise
                raise Reject(f"the database refused it: {error}") from error

    async def _vote(self, branch: Branch) -> Branch | None:
        voted = await (self._vote_written(branch) if self._has_written else self._vote_unsure(branch))
        if voted is not None:
            await self._release()
        return voted

    async def _vote_written(self, branch: Branch) -> Branch | None:
        """In one round trip. What keeps the row from being written ends everything: it is there, or locked."""
        key, end = branch.key, self._end_of(branch)
        row = f"'{key.gid}', '{key.branch}', '\\x{branch.digest.hex()}', {branch.changed_at_ms}"
        sql = f"EXECUTE commitd_vote ({row}, {self._names.lock_of(key)}); {end}"
        try:
            tag = await self._connected.execute(sql)
        except asyncpg.DivisionByZeroError as error:
            if error.context is not None:  # in a trigger
                raise
            return None
        except asyncpg.UniqueViolationError as error:
            if error.table_name != "commitd_branch":
                raise
            return None
        _check_tag(tag, end)
        return branch

    async def _vote_unsure(self, branch: Branch) -> Branch | None:
        key, is_prepared = branch.key, branch.state is BranchState.PREPARED
        state = await self._connected.fetchval(
            _VOTE,
            *(key.gid, key.branch, is_prepared, branch.digest, branch.changed_at_ms, self._names.lock_of(key)),
        )
        if state is None:
            return None
        voted = branch if state == BranchState.COMMITTED else branch._replace(state=BranchState(state))
        end = self._end_of(voted)
        _check_tag(await self._connected.execute(end), end)
        return voted

    def _end_of(self, branch: Branch) -> str:
        return f"PREPARE TRANSACTION '{self._names.of(branch)}'" if branch.state is BranchState.PREPARED else "COMMIT"

    async def rollback(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        except (asyncpg.PostgresError, *_LOST):
            terminate(connection)  # the server rolls back what is not prepared
        except BaseException:
            terminate(connection)
            raise
        finally:
            await self._release()

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise ResourceUnreachable("the transaction of this branch has ended")
        return self._connection

    async def _release(self) -> None:
        connection, self._connection = self._connection, None
        await self._pool.release(connection)


async def _run(connection: Connection, call: Call) -> tuple[Any, bool]:
    """Run what a service was written with; its result, and whether it has written, as far as can be told.

    Raises ResourceUnreachable if the connection was lost in it.
    """
    tx = Transaction(connection)
    try:
        return await call.function(tx, call.body), tx.has_written
    except Exception as error:
        if is_lost(connection):
            raise ResourceUnreachable(f"the connection to the database was lost: {error}") from error
        raise
    finally:
        tx.end()


def _check_tag(tag: str, statement: str) -> None:
    """Raise Reject unless the server has done what it was told: it rolls back what has failed, without an error."""
    if not statement.startswith(tag):
        raise Reject(f"the database answered {tag} to {statement.partition(' ')[0]}")


@contextmanager
def unreachable(what: str) -> Iterator[None]:
    """Raise ResourceUnreachable for whatever says that the server is not there."""
    try:
        yield
    except _LOST as error:
        raise ResourceUnreachable(f"cannot {what} the database: {error or type(error).__name__}") from error


async def _keep(_: Connection) -> None:
    """Between two uses of a connection nothing need be reset: actions cannot change a session (`check_statement`)."""


async def _prepare_vote(connection: Connection) -> None:
    await connection.execute(_VOTE_WRITTEN)


def _own(unit: Unit) -> int:
    if not isinstance(unit, PostgresUnit):
        raise InvariantError("a unit of another backend")
    return unit.pid
