"""MariaDB and MySQL as a `rm.server.backend`: XA over asyncmy.

Whoever has prepared a branch must end it on the same connection, or close that: until then everybody else is told that
the branch is unknown (XAER_NOTA), although XA RECOVER lists it. So a connection stays with its branch for a little
while, because normally the decision is about to come; then it is closed, and any process may end the branch. It is
closed sooner if another branch needs a connection.

While the server ends such a session, there is a moment in which it takes XA COMMIT from others, says yes, does nothing,
and lists the branch no more until it is started again. So nobody ends a branch here before its session has ended, and
a yes is believed only when the branch's row says the same. A branch whose row is there for nobody to see, and which is
not listed, is not *unknown*: what it will be is not known until that start.

A branch's row can be read before the commit by a transaction that reads uncommitted rows; the digest comes from there.
But such a row is no proof of a yes: that is XA RECOVER's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from asyncmy import errors
from asyncmy.constants import CLIENT

from participant.branch import Branch
from participant.errors import ActionError, ConfigError, InvariantError, ResourceBusy, ResourceUnreachable
from participant.ids import BranchKey
from participant.resource import Call, ResourceLimits
from participant.rm.mariadb.connections import Connection, Dsn, connect, error_code, unreachable
from participant.rm.mariadb.names import Names
from participant.rm.mariadb.notes import forget_notes, load_note, make_notes, swap_note
from participant.rm.mariadb.office import FINISH_ATTEMPTS, FINISH_PAUSE_S, Office, mislaid
from participant.rm.mariadb.server import check_server, find_table, make_schema, make_table
from participant.rm.mariadb.unit import MariaUnit, run_function
from participant.rm.mariadb.waits import Waits
from participant.rm.server.backend import Blocked, Prepared, Unit
from participant.rm.server.pool import Pool
from participant.rm.server.schema import SCHEMA_LOCK_WAIT_S, SCHEMA_TIMEOUT_S
from participant.rm.sweep import Foreign
from participant.wire import BranchState

__all__ = ["DETACH_AFTER_S", "MariaBackend"]

DETACH_AFTER_S = 1.0  # how long a prepared branch keeps its connection
ANSWER_TIMEOUT_S = 30  # what ends a branch, or asks for one; then the connection counts as lost
LEAVE_PAUSE_S = 0.1  # between the end of a session, as the list of them says, and that of its last work
LEFT_AFTER_S = 30.0  # a session that was closed so long ago has ended
BRANCHES_MAX = 100_000  # the server has no limit of its own

_XAER_NOTA, _XAER_DUPID, _READ_ONLY = 1397, 1440, 1792


class MariaBackend:
    """See `participant.rm.server.backend.Backend`. A guest makes no table; a participant must have made it before."""

    branches_max = BRANCHES_MAX

    def __init__(
        self,
        dsn: str,
        *,
        schema: Sequence[str],
        isolation: str,
        connections_max: int,
        limits: ResourceLimits,
        is_guest: bool = False,
    ) -> None:
        self._dsn = Dsn(dsn)
        self._is_guest = is_guest
        self._names = Names(self._dsn.database)
        self._schema = schema
        self._isolation = isolation
        self._connections_max = connections_max
        self._limits = limits
        self._attached: dict[BranchKey, tuple[Connection, asyncio.TimerHandle]] = {}  # the oldest first
        self._leaving: dict[BranchKey, tuple[int, float]] = {}  # sessions that were closed, and when; the oldest first

    def count_found_rows(self) -> None:
        """Let UPDATE count the rows that it finds, and not only those that it changes. To be called before `open`."""
        self._dsn.parameters["client_flag"] = CLIENT.FOUND_ROWS

    async def open(self) -> None:
        try:
            connection = await connect(self._dsn, "SELECT 1", lambda: None, ANSWER_TIMEOUT_S)
        except errors.MySQLError as error:
            raise ConfigError(f"dsn: the server refuses it: {error}") from error
        try:
            with unreachable("open"):
                self._facts = await check_server(connection)
                await (find_table(connection) if self._is_guest else make_table(connection))
                if not self._is_guest:
                    await make_notes(connection)
        finally:
            connection.abandon()
        self._working = self._pool(self._facts.working(self._limits, self._isolation), self._connections_max)
        self._ending = self._pool(self._facts.ending(), max(2, self._connections_max // 2), ANSWER_TIMEOUT_S)
        self._office = Office(self._ending, self._names)
        self._waits = Waits(self._office.connection, is_seen=self._facts.sees_waits)

    async def make_schema(self) -> str:
        if not self._schema:
            return ""
        # The driver would log that a table is there already.
        settings = f"SET SESSION sql_notes=0, innodb_lock_wait_timeout={SCHEMA_LOCK_WAIT_S}, "
        settings += f"lock_wait_timeout={SCHEMA_LOCK_WAIT_S}"
        connection = await self._connect(settings, lambda: None, SCHEMA_TIMEOUT_S)
        try:
            with unreachable("make the schema in"):
                return await make_schema(connection, self._schema)
        finally:
            connection.abandon()

    def _pool(self, settings: str, size: int, answer_s: int | None = None) -> Pool[Connection]:
        async def reconnect() -> Connection:
            return await self._connect(settings, self._drop_idle, answer_s)

        return Pool(reconnect, size, on_want=self._detach_oldest)

    async def _connect(self, settings: str, on_loss: Callable[[], None], answer_s: int | None) -> Connection:
        try:
            return await connect(self._dsn, settings, on_loss, answer_s)
        except errors.MySQLError as error:  # a password that was changed: it may be mended while this runs
            raise ResourceUnreachable(f"cannot connect to the database: {error}") from error

    def _drop_idle(self) -> None:
        self._working.drop_idle()
        self._ending.drop_idle()

    async def close(self) -> None:
        for key in tuple(self._attached):
            self._detach(key)
        await self._working.close()
        await self._ending.close()

    async def prepared(self) -> list[Prepared]:
        return await self._office.prepared()

    async def foreign(self) -> list[Foreign]:
        return await self._office.foreign()

    async def load(self, key: BranchKey) -> Branch:
        return await self._office.load(key)

    async def begin(self, key: BranchKey) -> Unit | None:
        connection = await self._working.acquire(self._limits.lock_wait_s)
        try:
            with unreachable("begin a transaction on"):
                await connection.execute(f"XA START {self._names.of(key)}")
        except BaseException as error:
            if error_code(error) != _XAER_DUPID:
                connection.abandon()
            self._working.release(connection)
            if error_code(error) == _XAER_DUPID:
                return None
            raise
        return MariaUnit(self, connection, self._names.of(key), key)

    def attach(self, key: BranchKey, connection: Connection) -> None:
        """The connection has prepared the branch, and stays with it for now."""
        if key in self._attached:  # somebody has ended it behind our back, and it was prepared anew
            self._detach(key)
        timer = asyncio.get_running_loop().call_later(DETACH_AFTER_S, self._detach, key)
        self._attached[key] = connection, timer
        if self._working.is_wanted:
            self._detach_oldest()

    def release(self, connection: Connection) -> None:
        """The connection is fit for another branch, or closed."""
        self._working.release(connection)

    async def kill(self, connection: Connection) -> None:
        """End a session whose statement may still be at work, and wait until it has ended."""
        connection.abandon()
        await self._office.kill(connection.thread_id)

    async def settle(self, branch: Branch, *, is_read_only: bool) -> bool:
        return await self._office.settle(branch, is_read_only=is_read_only)

    async def doom(self, aborted: Branch) -> None:
        await self._office.doom(aborted)

    async def finish(self, prepared: Branch, to: BranchState) -> bool:
        statement = f"XA {'COMMIT' if to is BranchState.COMMITTED else 'ROLLBACK'} {self._names.of(prepared.key)}"
        own = self._attached.pop(prepared.key, None)
        if own is not None:
            return await self._finish_attached(statement, *own)
        await self._let_go(prepared.key)
        for _ in range(FINISH_ATTEMPTS):
            if await self._office.finish(statement):
                await self._check_finished(prepared.key, to)
                return True
            if not await self._office.is_listed(prepared.key):
                return False
            await asyncio.sleep(FINISH_PAUSE_S)  # another process is about to detach it
        raise ResourceBusy(f"branch {prepared.key} is attached to a connection of another process")

    async def _let_go(self, key: BranchKey) -> None:
        """Wait until the session that has prepared the branch has ended, if it was one of ours."""
        left = self._leaving.get(key)
        if left is not None:
            await self._office.wait_for_end_of(left[0])
            await asyncio.sleep(LEAVE_PAUSE_S)
            self._leaving.pop(key, None)

    async def _check_finished(self, key: BranchKey, to: BranchState) -> None:
        """Raises ResourceUnreachable unless the row says what the server said."""
        if await self._office.is_true(key) is not (to is BranchState.COMMITTED):
            raise mislaid(key, f"the database says that branch {key} has ended, and has not ended it")

    async def _finish_attached(self, statement: str, connection: Connection, timer: asyncio.TimerHandle) -> bool:
        timer.cancel()
        try:
            with unreachable("end a branch in"):
                await connection.execute(statement)
        except errors.MySQLError as error:
            connection.abandon()
            if error_code(error) == _XAER_NOTA:  # MySQL lets others end it meanwhile
                return False
            raise ResourceUnreachable(f"cannot end a branch in the database: {error}") from error
        except BaseException:
            connection.abandon()
            raise
        finally:
            self._working.release(connection)
        return True

    def _detach(self, key: BranchKey) -> None:
        connection, timer = self._attached.pop(key)
        timer.cancel()
        connection.abandon()
        now = asyncio.get_running_loop().time()
        self._leaving.pop(key, None)
        self._leaving[key] = connection.thread_id, now
        while (oldest := next(iter(self._leaving.items())))[1][1] < now - LEFT_AFTER_S:
            del self._leaving[oldest[0]]
        self._working.release(connection)

    def _detach_oldest(self) -> None:
        if self._attached:
            self._detach(next(iter(self._attached)))

    async def touch(self, key: BranchKey, at_ms: int) -> None:
        await self._office.touch(key, at_ms)

    async def blocked_by(self, unit: Unit) -> Blocked | None:
        holders = {connection.thread_id: key for key, (connection, _) in self._attached.items()}
        return await self._waits.of(_own(unit).thread_id, holders)

    async def waiting(self, units: Sequence[Unit]) -> int:
        return await self._waits.count([_own(unit).thread_id for unit in units])

    async def note(self, key: BranchKey) -> bytes | None:
        async with self._office.connection() as connection:
            return await load_note(connection, key)

    async def swap_note(
        self, key: BranchKey, expected: bytes | None, note: bytes, *, changed_at_ms: int, is_finished: bool
    ) -> bool:
        async with self._office.connection() as connection:
            return await swap_note(connection, key, expected, (note, changed_at_ms, is_finished))

    async def forget(self, before_ms: int, branches_max: int) -> int:
        forgotten = await self._office.forget(before_ms, branches_max)
        async with self._office.connection() as connection:
            await forget_notes(connection, before_ms, branches_max)
        return forgotten

    async def read(self, call: Call) -> Any:
        connection = await self._working.acquire(self._limits.lock_wait_s)
        try:
            with unreachable("read"):
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # it locks nothing
                await connection.execute("START TRANSACTION READ ONLY")
            return (await run_function(connection, call))[0]
        except errors.MySQLError as error:
            if error_code(error) == _READ_ONLY:
                raise ActionError(f"{call.name!r} may only read, but it wrote") from error
            raise
        finally:
            await self._end_reading(connection)

    async def _end_reading(self, connection: Connection) -> None:
        try:
            if connection.may_be_at_work:
                await self.kill(connection)
            elif not connection.is_lost:
                with unreachable("read"):
                    await connection.execute("ROLLBACK")
        except ResourceUnreachable:
            connection.abandon()
        finally:
            self._working.release(connection)


def _own(unit: Unit) -> MariaUnit:
    if not isinstance(unit, MariaUnit):
        raise InvariantError("a unit of another backend")
    return unit
