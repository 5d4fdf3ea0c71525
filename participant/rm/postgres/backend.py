"""PostgreSQL as a `rm.server.backend`: PREPARE TRANSACTION over asyncpg.

Whoever writes a branch's row takes an advisory lock of the branch first, without waiting, and gives way if another has
it: otherwise it would wait for a prepared row of the same key, which only the decision frees. A prepared transaction
keeps that lock.

Two pools: what ends branches never waits behind what waits for the rows that it would free. It takes a connection of
the others if one is idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from participant.branch import Branch
from participant.errors import ActionError, ConfigError, InvariantError, ResourceBusy, ResourceUnreachable
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.postgres.connections import Connection, Office, Session, connect, unreachable
from participant.rm.postgres.names import Names
from participant.rm.postgres.notes import forget_notes, load_note, make_notes, swap_note
from participant.rm.postgres.server import (
    check_owners,
    check_server,
    find_table,
    make_schema,
    make_table,
    synchronous_level,
)
from participant.rm.postgres.transaction import Transaction
from participant.rm.postgres.unit import VOTE_WRITTEN, PostgresUnit, run_function
from participant.rm.postgres.waits import Waits
from participant.rm.server.backend import Blocked, Prepared, Unit, beside
from participant.rm.server.pool import Pool
from participant.rm.server.schema import SCHEMA_TIMEOUT_S
from participant.rm.sweep import Foreign
from participant.wire import BranchState

__all__ = ["PostgresBackend"]

LOCK_TIMEOUT_MARGIN_S = 1.0  # the server's own limit is a backstop: normally the wait is ended before, with its reason
ANSWER_TIMEOUT_S = 30.0  # what ends a branch, or asks for one; then the connection counts as lost
FINISH_ATTEMPTS = 20  # while another connection is at the same prepared transaction
FINISH_PAUSE_S = 0.05

_SETTLE = """
INSERT INTO {table} (gid, branch, state, digest, reason, changed_at_ms, result)
SELECT $1, $2, 'aborted', $3, $4, $5, '' FROM pg_try_advisory_xact_lock($6) AS is_free WHERE is_free
ON CONFLICT DO NOTHING RETURNING state
"""
_SETTLE_READ_ONLY = """
UPDATE {table} SET state = 'aborted', reason = $3 WHERE gid = $1 AND branch = $2 AND state = 'read-only' RETURNING state
"""
_PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 AS age_s FROM pg_prepared_xacts
 WHERE database = current_database() AND starts_with(gid, $1) ORDER BY prepared, transaction::text::bigint
"""
_PREPARED_BY_ANYBODY = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 AS age_s FROM pg_prepared_xacts
 WHERE database = current_database() ORDER BY prepared, transaction::text::bigint
"""
_LOAD = """
SELECT branch, state, digest, reason, changed_at_ms, result FROM {table}
 WHERE gid = $1 AND (branch = $2 OR branch = $3 AND state = 'aborted') ORDER BY branch LIMIT 1
"""
_DOOM = "INSERT INTO {table} VALUES ($1, $2, 'aborted', $3, $4, $5, '') ON CONFLICT DO NOTHING"
_TOUCH = "UPDATE {table} SET changed_at_ms = $3 WHERE gid = $1 AND branch = $2"
_FORGET = """
DELETE FROM {table} WHERE (gid, branch) IN (
    SELECT gid, branch FROM {table} WHERE changed_at_ms < $1 ORDER BY changed_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED)
"""
_BEGIN = "BEGIN ISOLATION LEVEL {isolation} READ WRITE"


class PostgresBackend:
    """See `participant.rm.server.backend.Backend`. A guest makes no table; a participant must have made it before."""

    def __init__(
        self,
        dsn: str,
        *,
        schema: str,
        isolation: str,
        connections_max: int,
        limits: ResourceLimits,
        is_guest: bool = False,
    ) -> None:
        self._dsn = dsn
        self._is_guest = is_guest
        self._schema = schema
        self._begin = _BEGIN.format(isolation=isolation)
        self._connections_max = connections_max
        self._limits = limits
        self.branches_max = 0

    async def open(self) -> None:
        settings = self._settings()
        try:
            connection = await connect(self._dsn, settings, ANSWER_TIMEOUT_S)
        except asyncpg.PostgresError as error:
            raise ConfigError(f"dsn: the server refuses it: {error}") from error
        with unreachable("open"):
            try:
                self.branches_max = await check_server(connection)
                if self._is_guest:
                    self._names = Names(*await find_table(connection))
                else:
                    self._names = Names(*await make_table(connection))
                    await make_notes(connection, self._names.notes)
                    await check_owners(connection, self._names)
                self._names.synchronous = settings["synchronous_commit"] = await synchronous_level(connection)
            finally:
                connection.terminate()  # a close would wait for a server that has fallen silent
        self._waits = Waits(self._names)
        self._working = self._pool(settings, self._connections_max, self._sql(VOTE_WRITTEN))
        self._ending = self._pool(settings, max(2, self._connections_max // 2), answer_s=ANSWER_TIMEOUT_S)

    async def make_schema(self) -> str:
        if not self._schema:
            return ""
        connection = await self._connect(self._settings(), SCHEMA_TIMEOUT_S)
        try:
            with unreachable("make the schema in"):
                return await make_schema(connection, self._schema)
        finally:
            connection.terminate()

    def _settings(self) -> dict[str, str]:
        lock_timeout_s = self._limits.lock_wait_s + LOCK_TIMEOUT_MARGIN_S
        idle_s = self._limits.unprepared_limit_s + LOCK_TIMEOUT_MARGIN_S
        return {
            "application_name": "commitd",
            "lock_timeout": f"{lock_timeout_s * 1_000:.0f}ms",
            "idle_in_transaction_session_timeout": f"{idle_s * 1_000:.0f}ms",
        }

    def _pool(
        self, settings: dict[str, str], size: int, first: str = "", answer_s: float | None = None
    ) -> Pool[Session]:
        """`first` is run in each new session."""

        async def reconnect() -> Session:
            connection = await self._connect(settings, answer_s)
            with unreachable("connect to"):
                try:
                    if first:
                        await connection.execute(first)
                except BaseException:
                    connection.terminate()
                    raise
            return Session(connection)

        return Pool(reconnect, size)

    async def _connect(self, settings: dict[str, str], answer_s: float | None) -> Connection:
        try:
            return await connect(self._dsn, settings, answer_s)
        except asyncpg.PostgresError as error:  # a role that was changed: it may be mended while this runs
            raise ResourceUnreachable(f"cannot connect to the database: {error}") from error

    def _sql(self, text: str) -> str:
        return text.format(table=self._names.table)

    async def close(self) -> None:
        await self._working.close()
        await self._ending.close()

    async def prepared(self) -> list[Prepared]:
        async with Office(self._ending) as connection:
            rows = await connection.fetch(_PREPARED, self._names.prefix)
        read = ((self._names.read(row["gid"]), row["age_s"]) for row in rows)
        return [Prepared(*named, age_s) for named, age_s in read if named is not None]

    async def foreign(self) -> list[Foreign]:
        async with Office(self._ending) as connection:
            rows = await connection.fetch(_PREPARED_BY_ANYBODY)
        return [Foreign(row["gid"], max(0.0, row["age_s"])) for row in rows if self._names.read(row["gid"]) is None]

    async def load(self, key: BranchKey) -> Branch:
        for _ in range(FINISH_ATTEMPTS):
            branch, is_whole = await self._load(key)
            if is_whole or await self.settle(branch, is_read_only=False):
                return branch
            await asyncio.sleep(FINISH_PAUSE_S)
        raise ResourceBusy(f"another connection is about to end branch {key}")

    async def _load(self, key: BranchKey) -> tuple[Branch, bool]:
        """And whether its row is in its own place.

        The list first: what leaves it between the two questions has its row by then.
        """
        async with Office(self._ending) as connection:
            listed = await connection.fetch(_PREPARED, self._names.of_key(key))
            if listed and (named := self._names.read(listed[0]["gid"])) is not None:
                return Branch(key, BranchState.PREPARED, named[1]), True
            row = await connection.fetchrow(self._sql(_LOAD), *key, beside(key).branch)
        if row is None:
            return Branch(key), True
        place, state, *rest = row
        return Branch(key, BranchState(state), *rest), place == key.branch

    async def begin(self, key: BranchKey) -> Unit:
        session = await self._working.acquire(self._limits.lock_wait_s)
        try:
            with unreachable("begin a transaction on"):
                await session.connection.execute(self._begin)
        except BaseException:
            session.abandon()
            self._working.release(session)
            raise
        return PostgresUnit(self._working, session, self._names, key)

    async def settle(self, branch: Branch, *, is_read_only: bool) -> bool:
        key, reason = branch.key, branch.reason
        async with Office(self._ending) as connection:
            if is_read_only:
                return await connection.fetchval(self._sql(_SETTLE_READ_ONLY), *key, reason) is not None
            lock = self._names.lock_of(key)
            values = (*key, branch.digest, reason, branch.changed_at_ms, lock)
            return await connection.fetchval(self._sql(_SETTLE), *values) is not None

    async def doom(self, aborted: Branch) -> None:
        async with Office(self._ending) as connection:
            values = (*beside(aborted.key), aborted.digest, aborted.reason, aborted.changed_at_ms)
            await connection.execute(self._sql(_DOOM), *values)

    async def finish(self, prepared: Branch, to: BranchState) -> bool:
        verb = "COMMIT" if to is BranchState.COMMITTED else "ROLLBACK"
        for _ in range(FINISH_ATTEMPTS):
            async with Office(self._ending, self._working) as connection:
                try:
                    sql = f"{verb} PREPARED '{self._names.of(prepared)}'"
                    await connection.execute(sql, timeout=ANSWER_TIMEOUT_S)
                    return True
                except asyncpg.UndefinedObjectError:
                    return False
                except asyncpg.ObjectNotInPrerequisiteStateError:
                    pass  # another connection is at it
            await asyncio.sleep(FINISH_PAUSE_S)
        raise ResourceBusy(f"another connection is about to end branch {prepared.key}")

    async def touch(self, key: BranchKey, at_ms: int) -> None:
        async with Office(self._ending) as connection:
            await connection.execute(self._sql(_TOUCH), *key, at_ms)

    async def blocked_by(self, unit: Unit) -> Blocked | None:
        async with Office(self._ending) as connection:
            return await self._waits.of(connection, _own(unit))

    async def waiting(self, units: Sequence[Unit]) -> int:
        async with Office(self._ending) as connection:
            return await self._waits.count(connection, [_own(unit) for unit in units])

    async def note(self, key: BranchKey) -> bytes | None:
        async with Office(self._ending) as connection:
            return await load_note(connection, self._names.notes, key)

    async def swap_note(
        self, key: BranchKey, expected: bytes | None, note: bytes, *, changed_at_ms: int, is_finished: bool
    ) -> bool:
        async with Office(self._ending) as connection:
            values = (note, changed_at_ms, is_finished)
            return await swap_note(connection, self._names.notes, key, expected, values)

    async def forget(self, before_ms: int, branches_max: int) -> int:
        async with Office(self._ending) as connection:
            tag = await connection.execute(self._sql(_FORGET), before_ms, branches_max)
            await forget_notes(connection, self._names.notes, before_ms, branches_max)
        return int(tag.split()[-1])

    async def read(self, call: Call) -> Any:
        session = await self._working.acquire(self._limits.lock_wait_s)
        try:
            with unreachable("read"):
                await session.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            tx = Transaction(session.connection)
            result = await run_function(call, tx, session.connection)
            session.is_soiled = session.is_soiled or tx.is_soiled
            with unreachable("read"):
                await session.connection.execute("ROLLBACK")
            return result
        except asyncpg.ReadOnlySQLTransactionError as error:
            session.abandon()
            raise ActionError(f"{call.name!r} may only read, but it wrote") from error
        except BaseException:
            session.abandon()
            raise
        finally:
            self._working.release(session)


def _own(unit: Unit) -> int:
    if not isinstance(unit, PostgresUnit):
        raise InvariantError("a unit of another backend")
    return unit.pid
