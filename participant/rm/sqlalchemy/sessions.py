"""Sessions, each for one run of one action: made before it, flushed after it, closed before the vote.

One engine for a resource manager keeps what SQLAlchemy learns once: the server's version, and the compiled statements.
Its pool holds nothing; what it takes for a new connection is the transaction of the branch.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NoReturn

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool

from participant.errors import ActionError, Reject
from participant.resource import Action
from participant.rm.server.statements import not_for_an_action
from participant.rm.sqlalchemy.dialects import INSTEAD
from participant.rm.sqlalchemy.line import Driver, Line

__all__ = ["Sessions"]

_LINE: ContextVar[Line] = ContextVar("line")  # what the engine is about to connect to


class BranchSession(Session):
    """A session that does not end its transaction, and says so before it does anything."""

    def begin(self, nested: bool = False) -> SessionTransaction:
        if not nested:
            raise not_for_an_action("begin", "it has begun already; use session.begin_nested() for a part")
        return super().begin(nested=True)

    def commit(self) -> NoReturn:
        raise not_for_an_action("commit", f"what the session was given is flushed after the action; {INSTEAD}")

    def rollback(self) -> NoReturn:
        raise not_for_an_action("rollback", INSTEAD)


class AsyncBranchSession(AsyncSession):
    """What an action receives. Others may write SQL of their own in its branch, e.g. `participant.messages.outbox`."""

    sync_session_class = BranchSession

    def __init__(self, connection: AsyncConnection, tx: Any) -> None:
        super().__init__(connection)
        self._tx = tx

    async def branch_tx(self) -> Any:
        """The branch's `tx`, inside of the savepoint that the session is in.

        SQLAlchemy begins a savepoint only when the connection is next asked for.
        """
        await self.connection()
        return self._tx


class Sessions:
    """`bound(function)` is what a resource manager can run in the place of a function that wants a session."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._engine: AsyncEngine = create_async_engine(
            f"{driver.dialect}+commitd://", poolclass=NullPool, pool_reset_on_return=None, async_creator=_connected
        )

    async def look(self, tx: Any, _body: Any) -> None:
        """Let SQLAlchemy learn what it must know of the server."""
        connection = await self._connect(self._driver.line(tx))
        await connection.close()

    async def _connect(self, line: Line) -> AsyncConnection:
        token = _LINE.set(line)
        try:
            return await self._engine.connect()
        finally:
            _LINE.reset(token)

    def bound(self, function: Action) -> Action:
        async def run(tx: Any, body: Any) -> Any:
            try:
                return await self._run(function, tx, body)
            except StaleDataError as error:
                raise Reject(f"a row is not what the caller has seen, or is gone: {error}") from error
            except IntegrityError as error:
                raise Reject(f"the database refused it: {self._driver.said(error)}") from error
            except DBAPIError as error:
                cause = self._driver.cause(error)
                cause.add_note(f"in {error.statement}")
                raise cause from None  # it is the cause of `error`, and must not be made its effect as well

        return run

    async def _run(self, function: Action, tx: Any, body: Any) -> Any:
        line = self._driver.line(tx)
        connection = await self._connect(line)
        session = AsyncBranchSession(connection, tx)
        try:
            result = await function(session, body)
            if not line.is_undone:
                await session.flush()
            _check_whole(line)
            return result
        finally:
            line.end()
            try:
                await session.close()  # it says so if somebody is at it still
            finally:
                await connection.close()


def _check_whole(line: Line) -> None:
    """Raise Reject unless all that the session has sent was done."""
    if line.is_busy:
        raise Reject("its action has ended before one of its statements did: await each")
    if line.is_undone:
        why = "a flush failed or it was closed or invalidated"
        raise Reject(f"its session was rolled back, because {why}, and the action went on")


async def _connected() -> Line:
    line = _LINE.get(None)
    if line is None:
        raise ActionError("there is one connection for a session, and that is its branch's")
    return line
