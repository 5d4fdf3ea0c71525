"""Short questions and ends, on connections that never wait for a row: what is prepared, what is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from asyncmy import errors
from structlog import get_logger

from participant.branch import Branch
from participant.errors import ResourceBusy, ResourceUnreachable
from participant.ids import BranchKey
from participant.rm.mariadb.connections import CONNECT_TIMEOUT_S, Connection, error_code
from participant.rm.mariadb.names import Names, xid_of
from participant.rm.server.backend import Prepared, beside
from participant.rm.server.pool import Pool
from participant.rm.sweep import Foreign
from participant.wire import BranchState

__all__ = ["FINISH_ATTEMPTS", "FINISH_PAUSE_S", "Office", "mislaid"]

_LOG = get_logger(__name__)

FINISH_ATTEMPTS = 40  # while another process is at the branch, or has its connection
FINISH_PAUSE_S = 0.05
KILL_LOOKS_MAX = 400  # whether a session has ended, with a pause in between
KILL_PAUSE_S = 0.005
_KEYS_MAX = 500  # in one IN (…)

_DUPLICATE, _LOCK_WAIT, _DEADLOCK, _XAER_NOTA, _NO_SUCH_THREAD = 1062, 1205, 1213, 1397, 1094

_LOAD = """
SELECT branch, state, digest, reason, changed_at_ms, result FROM commitd_branch
 WHERE gid = %s AND branch IN (%s, %s) AND (branch = %s OR state = 'aborted') ORDER BY branch LIMIT 1
"""
_COMMITTED = "SELECT 1 FROM commitd_branch WHERE gid = %s AND branch = %s AND state = 'committed'"
_ROWS = """
SELECT gid, branch, digest, greatest(0, round(unix_timestamp(now(3)) * 1000) - changed_at_ms) / 1000
  FROM commitd_branch WHERE (gid, branch) IN ({}) ORDER BY changed_at_ms, gid, branch
"""
_DOOM = "INSERT INTO commitd_branch VALUES (%s, %s, 'aborted', %s, %s, %s, '') ON DUPLICATE KEY UPDATE state = state"
_SETTLE = "INSERT INTO commitd_branch VALUES (%s, %s, %s, %s, %s, %s, '')"
_SETTLE_READ_ONLY = (
    "UPDATE commitd_branch SET state = 'aborted', reason = %s WHERE gid = %s AND branch = %s AND state = 'read-only'"
)
# By its key, so that it meets no other row; and by its age again, for it may have been renewed.
_FORGET = """
DELETE old FROM commitd_branch AS old FORCE INDEX (PRIMARY) WHERE (gid, branch) IN ({}) AND changed_at_ms < %s
"""
_UNCOMMITTED = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"  # for the next statement


class Office:
    """See `participant.rm.server.backend.Backend` for those methods that are the same there."""

    def __init__(self, connections: Pool[Connection], names: Names) -> None:
        self._connections = connections
        self._names = names

    async def prepared(self) -> list[Prepared]:
        async with self.connection() as connection:
            keys = await self._listed(connection)
            found = []
            for begin in range(0, len(keys), _KEYS_MAX):
                some = keys[begin : begin + _KEYS_MAX]
                await connection.execute(_UNCOMMITTED)
                found += await connection.fetch(
                    _ROWS.format(", ".join(["(%s, %s)"] * len(some))),
                    [part.encode() for key in some for part in key],
                )
        rows = [
            Prepared(BranchKey(gid.decode(), branch.decode()), bytes(digest), float(age_s))
            for gid, branch, digest, age_s in found
        ]
        return sorted(rows, key=lambda row: -row.age_s) if len(keys) > _KEYS_MAX else rows

    async def foreign(self) -> list[Foreign]:
        """Of the whole server: it does not say whose database one is of, nor since when it is prepared."""
        async with self.connection() as connection:
            rows = await connection.fetch("XA RECOVER")
        return [Foreign(xid_of(*row), None) for row in rows if self._names.is_foreign(*row)]

    async def load(self, key: BranchKey) -> Branch:
        found = None
        for _ in range(FINISH_ATTEMPTS):
            found = await self._load(key)
            if found is not None:
                branch, is_whole = found
                if is_whole or await self.settle(branch, is_read_only=False):
                    return branch
            await asyncio.sleep(FINISH_PAUSE_S)
        if found is None:
            raise mislaid(key, f"the database has branch {key}, and neither lists nor shows it")
        raise ResourceBusy(f"another connection is about to end branch {key}")

    async def _load(self, key: BranchKey) -> tuple[Branch, bool] | None:
        """And whether its row is in its own place. None if a row is there, and nobody says of what: a vote under way,
        or a branch that the server has mislaid.

        The list first: what leaves it between the questions has its row by then.
        """
        gid, name = _bytes_of(key)
        values = (gid, name, beside(key).branch.encode(), name)
        async with self.connection() as connection:
            is_listed = key in await self._listed(connection)
            await connection.execute(_UNCOMMITTED)
            rows = await connection.fetch(_LOAD, values)
            if not rows:
                return Branch(key), True
            if not is_listed:
                rows = await connection.fetch(_LOAD, values)
        if not rows:
            return None
        place, state, digest, reason, changed_at_ms, result = rows[0]
        if is_listed:
            return Branch(key, BranchState.PREPARED, bytes(digest)), True
        found = Branch(key, BranchState(_text(state)), bytes(digest), _text(reason), changed_at_ms, bytes(result))
        return found, bytes(place) == name

    async def is_listed(self, key: BranchKey) -> bool:
        """Whether the server has the branch prepared."""
        async with self.connection() as connection:
            return key in await self._listed(connection)

    async def finish(self, statement: str) -> bool:
        """Run XA COMMIT or XA ROLLBACK; False if the branch is unknown to this connection."""
        async with self.connection() as connection:
            try:
                await connection.execute(statement)
            except errors.MySQLError as error:
                if error_code(error) != _XAER_NOTA:
                    raise
                return False
        return True

    async def doom(self, aborted: Branch) -> None:
        async with self.connection() as connection:
            await connection.execute(
                _DOOM, (*_bytes_of(beside(aborted.key)), aborted.digest, aborted.reason, aborted.changed_at_ms)
            )

    async def settle(self, branch: Branch, *, is_read_only: bool) -> bool:
        key = _bytes_of(branch.key)
        async with self.connection() as connection:
            if is_read_only:
                return await connection.execute(_SETTLE_READ_ONLY, (branch.reason, *key)) > 0
            try:
                await connection.execute(
                    _SETTLE, (*key, branch.state.value, branch.digest, branch.reason, branch.changed_at_ms)
                )
            except errors.MySQLError as error:
                if error_code(error) in (_DUPLICATE, _LOCK_WAIT):
                    return False
                raise
        return True

    async def touch(self, key: BranchKey, at_ms: int) -> None:
        async with self.connection() as connection:
            await connection.execute(
                "UPDATE commitd_branch SET changed_at_ms = %s WHERE gid = %s AND branch = %s", (at_ms, *_bytes_of(key))
            )

    async def forget(self, before_ms: int, branches_max: int) -> int:
        """By key: a search that deletes would stumble over the rows of prepared branches. Some at a time: those of
        which others keep one stay for the next time, and do not count.
        """
        forgotten = 0
        async with self.connection() as connection:
            keys = await connection.fetch(
                "SELECT gid, branch FROM commitd_branch WHERE changed_at_ms < %s ORDER BY changed_at_ms LIMIT %s",
                (before_ms, branches_max),
            )
            for begin in range(0, len(keys), _KEYS_MAX):
                some = keys[begin : begin + _KEYS_MAX]
                sql = _FORGET.format(", ".join(["(%s, %s)"] * len(some)))
                try:
                    forgotten += await connection.execute(sql, [*(part for key in some for part in key), before_ms])
                except errors.MySQLError as error:
                    if error_code(error) not in (_LOCK_WAIT, _DEADLOCK):
                        raise
                    _LOG.info("mariadb.rows_left", rows=len(some), why=str(error))
        return forgotten

    async def kill(self, thread_id: int) -> None:
        """End a session, and wait until the server has undone what was open in it."""
        async with self.connection() as connection:
            with suppress(errors.MySQLError):  # it has ended by itself
                await connection.execute(f"KILL {thread_id}")
            await _wait_for_end_of(thread_id, connection)

    async def wait_for_end_of(self, thread_id: int) -> None:
        """Wait until a session that was closed has ended."""
        async with self.connection() as connection:
            await _wait_for_end_of(thread_id, connection)

    async def is_true(self, key: BranchKey) -> bool | None:
        """Whether the branch's row says *committed* for all to see; None if it does, and not for all."""
        async with self.connection() as connection:
            if await connection.fetch(_COMMITTED, _bytes_of(key)):
                return True
            await connection.execute(_UNCOMMITTED)
            return None if await connection.fetch(_COMMITTED, _bytes_of(key)) else False

    async def _listed(self, connection: Connection) -> list[BranchKey]:
        rows = await connection.fetch("XA RECOVER")
        return [key for row in rows if (key := self._names.read(*row)) is not None]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for a few statements. Raises ResourceUnreachable."""
        try:
            connection = await self._connections.acquire(CONNECT_TIMEOUT_S)
        except ResourceBusy as busy:
            raise ResourceUnreachable("no connection to the database came free") from busy
        try:
            yield connection
        except errors.MySQLError as error:
            connection.abandon()
            raise ResourceUnreachable(f"cannot ask the database: {error}") from error
        except BaseException:
            connection.abandon()  # in whatever state it is
            raise
        finally:
            self._connections.release(connection)


def mislaid(key: BranchKey, what: str) -> ResourceUnreachable:
    """Log it, and what to raise."""
    _LOG.error("mariadb.branch_mislaid", branch=str(key), why="the server has it, and does not list it: restart it")
    return ResourceUnreachable(what)


async def _wait_for_end_of(thread_id: int, connection: Connection) -> None:
    for _ in range(KILL_LOOKS_MAX):
        if not await connection.fetch("SELECT 1 FROM information_schema.processlist WHERE id = %s", (thread_id,)):
            return
        await asyncio.sleep(KILL_PAUSE_S)


def _bytes_of(key: BranchKey) -> tuple[bytes, bytes]:
    return key.gid.encode(), key.branch.encode()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
