"""One open branch on MariaDB: from XA START to XA PREPARE, or back."""

from __future__ import annotations

from typing import Any, Protocol

from asyncmy import errors

from participant.branch import Branch
from participant.errors import ActionError, Reject, ResourceUnreachable
from participant.ids import BranchKey
from participant.resource import Call, OpenBranch
from participant.rm.mariadb.connections import Connection, error_code, is_loss, unreachable
from participant.rm.mariadb.transaction import Transaction
from participant.rm.server.backend import Conflict, Stale, beside
from participant.wire import BranchState

__all__ = ["MariaUnit", "run_function"]

_DUPLICATE, _LOCK_WAIT, _NOT_OUR_XA = 1062, 1205, frozenset({1397, 1399, 1402})
_STALE = frozenset({1020, 1213, 1613, 1614})  # changed since it was read; deadlock, in both ways to say so; timed out

_FUNCTIONS = """
SELECT count(*) FROM information_schema.routines
 WHERE routine_type = 'FUNCTION' AND routine_schema NOT IN ('mysql', 'sys')
"""
_INSERT = "INSERT INTO commitd_branch VALUES (%s, %s, %s, %s, '', %s, %s)"
_INSERT_BOTH = _INSERT + ", (%s, %s, %s, %s, '', %s, '')"


class Home(Protocol):
    """Where a unit's connection goes."""

    def attach(self, key: BranchKey, connection: Connection) -> None: ...
    def release(self, connection: Connection) -> None: ...
    async def kill(self, connection: Connection) -> None: ...


class MariaUnit:
    """See `participant.rm.server.backend.Unit`."""

    def __init__(self, home: Home, connection: Connection, xid: str, key: BranchKey) -> None:
        self._home = home
        self._connection: Connection | None = connection
        self._xid = xid
        self._branch = OpenBranch(key)
        self._has_written = False
        self._failure = ""
        self.thread_id = connection.thread_id

    async def run(self, call: Call) -> Any:
        try:
            result, tx = await run_function(self._connected, call, self._branch)
        except errors.MySQLError as error:
            if error_code(error) in _STALE:
                raise Stale from error
            if error_code(error) == _LOCK_WAIT:
                raise Conflict("a row stayed locked by another transaction") from error
            raise
        self._failure = self._failure or tx.failure
        self._has_written = self._has_written or tx.has_written
        return result

    async def vote(self, branch: Branch) -> Branch | None:
        if self._failure:
            raise Reject(f"a statement of its action failed, and the action went on: {self._failure}")
        if self._connected.is_busy:
            raise Reject("its action has ended before one of its statements did: await each")
        with unreachable("vote in"):
            try:
                if branch.state is BranchState.PREPARED and not await self._may_have_written():
                    branch = branch._replace(state=BranchState.READ_ONLY)
                return await self._vote(branch)
            except errors.MySQLError as error:
                if error_code(error) in _STALE | _NOT_OUR_XA:
                    raise Stale from error
                if is_loss(error):
                    raise
                raise Reject(f"the database refused it: {error}") from error

    async def _may_have_written(self) -> bool:
        """A SELECT may have, by a function that somebody has stored."""
        return self._has_written or bool((await self._connected.fetch(_FUNCTIONS))[0][0])

    async def _vote(self, branch: Branch) -> Branch | None:
        """In one round trip. What keeps the row from being written ends everything: it is there, or locked.

        The row is COMMITTED although it is not: it is seen when it is.
        """
        connection, key = self._connected, branch.key
        is_prepared = branch.state is BranchState.PREPARED
        if branch.state is BranchState.COMMITTED:
            insert, values = _INSERT_BOTH, (*_row(key, branch), *_row(beside(key), branch)[:-1])
        else:
            shown = branch._replace(state=BranchState.COMMITTED) if is_prepared else branch
            insert, values = _INSERT, _row(key, shown)
        end = f"XA PREPARE {self._xid}" if is_prepared else f"XA COMMIT {self._xid} ONE PHASE"
        try:
            await connection.execute(f"{insert}; XA END {self._xid}; {end}", values)
        except errors.MySQLError as error:
            if error_code(error) in (_DUPLICATE, _LOCK_WAIT):
                return None
            raise
        self._connection = None
        if is_prepared:
            self._home.attach(key, connection)
        else:
            self._home.release(connection)
        return branch

    async def rollback(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if connection.is_busy:
                connection.give_up()
            if not connection.is_lost:
                await self._undo(connection)
            if connection.may_be_at_work:
                await self._home.kill(connection)
        except ResourceUnreachable:
            connection.abandon()  # the server rolls back what is not prepared
        except BaseException:
            connection.abandon()
            raise
        finally:
            self._home.release(connection)

    async def _undo(self, connection: Connection) -> None:
        """What the server has marked for rollback does not take XA END, nor does what has ended."""
        with unreachable("roll back in"):
            try:
                await connection.execute(f"XA END {self._xid}")
            except errors.MySQLError:
                if connection.is_lost:
                    raise
            try:
                await connection.execute(f"XA ROLLBACK {self._xid}")
            except errors.MySQLError:
                connection.abandon()

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise ResourceUnreachable("the transaction of this branch has ended")
        return self._connection


def _row(key: BranchKey, branch: Branch) -> tuple[bytes | str | int, ...]:
    names = (key.gid.encode(), key.branch.encode())
    return *names, branch.state.value, branch.digest, branch.changed_at_ms, branch.result


async def run_function(connection: Connection, call: Call, branch: OpenBranch | None = None) -> tuple[Any, Transaction]:
    """Run what a service was written with. Raises ResourceUnreachable if the connection was lost in it."""
    tx = Transaction(connection, branch)
    try:
        return await call.function(tx, call.body), tx
    except ActionError:
        raise
    except Exception as error:
        if connection.is_lost:
            raise ResourceUnreachable(f"the connection to the database was lost: {error}") from error
        raise
    finally:
        tx.end()
