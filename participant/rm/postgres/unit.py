"""One open branch on PostgreSQL: from BEGIN to PREPARE TRANSACTION, or back.

PostgreSQL answers PREPARE TRANSACTION without an error even if the transaction had failed: it rolls back, and only the
command tag says so. So the tag is compared before anybody hears a yes.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from participant.branch import Branch
from participant.errors import Reject, ResourceBusy, ResourceUnreachable
from participant.ids import BranchKey
from participant.resource import Call, OpenBranch
from participant.rm.postgres.connections import LOST, Connection, Session, unreachable
from participant.rm.postgres.names import Names
from participant.rm.postgres.transaction import Transaction
from participant.rm.server.backend import Conflict, Stale, beside
from participant.rm.server.pool import Pool
from participant.wire import BranchState

__all__ = ["VOTE_WRITTEN", "PostgresUnit", "run_function"]

# The row is COMMITTED although it is not: it is seen when it is.
_VOTE = """
INSERT INTO {table} (gid, branch, state, digest, reason, changed_at_ms, result)
SELECT $1, $2, CASE WHEN $3 AND pg_current_xact_id_if_assigned() IS NULL THEN 'read-only' ELSE 'committed' END,
       $4, '', $5, $7
  FROM pg_try_advisory_xact_lock($6) AS is_free WHERE is_free
ON CONFLICT DO NOTHING RETURNING state
"""
# The same for work that is known to have written, prepared in each session, so that it is planned once. It runs in a
# text of several statements, and an error ends all of them: it raises one if the branch is taken.
VOTE_WRITTEN = """
PREPARE commitd_vote (text, text, bytea, bigint, bigint, bytea) AS
INSERT INTO {table} (gid, branch, state, digest, reason, changed_at_ms, result)
SELECT $1, $2, 'committed', $3, '', $4 / pg_try_advisory_xact_lock($5)::int, $6
"""
# What it has read was changed; or a table was, since a statement on it was planned.
_STALE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.InvalidCachedStatementError)


class PostgresUnit:
    """See `participant.rm.server.backend.Unit`."""

    def __init__(self, pool: Pool[Session], session: Session, names: Names, key: BranchKey) -> None:
        self._pool = pool
        self._session: Session | None = session
        self._names = names
        self._branch = OpenBranch(key)
        self._has_written = False
        self.pid = session.pid

    async def run(self, call: Call) -> Any:
        connection = self._connected
        tx = Transaction(connection, self._branch)
        try:
            return await run_function(call, tx, connection)
        except _STALE as error:
            raise Stale from error
        except asyncpg.LockNotAvailableError as error:
            raise Conflict(f"it did not get a lock: {error}") from error
        finally:
            self._has_written = self._has_written or tx.has_written
            if self._session is not None and tx.is_soiled:
                self._session.is_soiled = True

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
                if isinstance(error, LOST):
                    raise
                raise Reject(f"the database refused it: {error}") from error

    async def _vote(self, branch: Branch) -> Branch | None:
        voted = await (self._vote_written(branch) if self._has_written else self._vote_unsure(branch))
        if voted is not None:
            self._release()
        return voted

    async def _vote_written(self, branch: Branch) -> Branch | None:
        """In one round trip. What keeps the row from being written ends everything: it is there, or locked."""
        key, end = branch.key, self._end_of(branch)
        rest = f"{_literal(branch.digest)}, {branch.changed_at_ms}, {self._names.lock_of(key)}"
        rows = [
            f"EXECUTE commitd_vote ('{gid}', '{name}', {rest}, {_literal(result)})"
            for (gid, name), result in _rows(branch)
        ]
        sql = "; ".join((*rows, end))
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
        is_prepared, lock = branch.state is BranchState.PREPARED, self._names.lock_of(branch.key)
        state = ""
        for place, result in _rows(branch):
            values = (*place, is_prepared, branch.digest, branch.changed_at_ms, lock, result)
            state = await self._connected.fetchval(_VOTE.format(table=self._names.table), *values)
            if state is None:
                return None
        voted = branch if state == BranchState.COMMITTED else branch._replace(state=BranchState(state))
        end = self._end_of(voted)
        _check_tag(await self._connected.execute(end), end)
        return voted

    def _end_of(self, branch: Branch) -> str:
        if branch.state is BranchState.PREPARED:
            return f"PREPARE TRANSACTION '{self._names.of(branch)}'"
        return f"SET LOCAL synchronous_commit = {self._names.synchronous}; COMMIT"  # whatever the action has set it to

    async def rollback(self) -> None:
        session = self._session
        if session is None:
            return
        try:
            if not session.is_lost and session.connection.is_in_transaction():
                await session.connection.execute("ROLLBACK")
        except (asyncpg.PostgresError, *LOST):
            session.abandon()  # the server rolls back what is not prepared
        except BaseException:
            session.abandon()
            raise
        finally:
            self._release()

    @property
    def _connected(self) -> Connection:
        if self._session is None:
            raise ResourceUnreachable("the transaction of this branch has ended")
        return self._session.connection

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._pool.release(session)


async def run_function(call: Call, tx: Transaction, connection: Connection) -> Any:
    """Run what a service was written with, on `tx` of the connection.

    Raises ResourceUnreachable if the connection was lost in it.
    """
    try:
        return await call.function(tx, call.body)
    except Exception as error:
        if connection.is_closed():
            raise ResourceUnreachable(f"the connection to the database was lost: {error}") from error
        raise
    finally:
        tx.end()


def _rows(branch: Branch) -> tuple[tuple[BranchKey, bytes], ...]:
    """Where the rows of a vote go, and which result is in each."""
    own = (branch.key, branch.result)
    return (own,) if branch.state is BranchState.PREPARED else (own, (beside(branch.key), b""))


def _literal(data: bytes) -> str:
    """Bytes as SQL, whatever an action has set of how texts are read."""
    return f"E'\\\\x{data.hex()}'"


def _check_tag(tag: str, statement: str) -> None:
    """Raise Reject unless the server has done what it was told: it rolls back what has failed, without an error."""
    last = statement.rpartition("; ")[2]
    if not last.startswith(tag):
        raise Reject(f"the database answered {tag} to {last.partition(' ')[0]}")
