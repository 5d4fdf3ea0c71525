"""SQLAlchemy's dialects, without what begins and ends transactions and connections: both are the branch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.util import await_only

from participant.errors import ActionError
from participant.rm.server.statements import not_for_an_action

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from participant.rm.sqlalchemy.line import Line

__all__ = ["INSTEAD", "MySQL", "PostgreSQL"]

INSTEAD = "raise Reject to undo, and use session.begin_nested() for a part"


class _InBranch:
    """What SQLAlchemy asks of a dialect to begin, end and divide a transaction. `Line` is its driver's connection."""

    supports_statement_cache = True

    def do_begin(self, dbapi_connection: Any) -> None:
        """It has begun."""

    def do_commit(self, _: Any) -> NoReturn:
        raise not_for_an_action("commit", INSTEAD)

    def do_rollback(self, dbapi_connection: Any) -> None:
        dbapi_connection.driver_connection.undo()

    def do_close(self, dbapi_connection: Any) -> None:
        """Somebody invalidates it, and counts on what it did being lost. The connection is the resource manager's."""
        dbapi_connection.driver_connection.undo()

    do_terminate = do_close

    def do_savepoint(self, connection: Connection, name: str) -> None:
        await_only(_line(connection).begin_savepoint(name))

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        await_only(_line(connection).undo_savepoint(name))

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        await_only(_line(connection).keep_savepoint(name))

    def do_begin_twophase(self, _: Connection, _xid: Any) -> NoReturn:
        raise not_for_an_action("begin_twophase", "the branch is prepared after its action")

    def set_isolation_level(self, _: Any, level: str) -> NoReturn:
        raise ActionError(
            f"isolation level {level!r} is not an action's to choose: `isolation` of the resource manager"
        )

    def set_readonly(self, _: Any, _value: Any) -> NoReturn:
        raise ActionError("that it only reads is not an action's to choose: write a view")

    def set_deferrable(self, _: Any, _value: Any) -> NoReturn:
        raise ActionError("a transaction that waits until it is safe is not for an action")


def _line(connection: Connection) -> Line:
    return cast("Line", connection.connection.driver_connection)


class PostgreSQL(_InBranch, PGDialect_asyncpg):
    """Over `participant.rm.sqlalchemy.postgres`."""

    supports_statement_cache = True  # SQLAlchemy asks each class


class MySQL(_InBranch, MySQLDialect_asyncmy):
    """Over `participant.rm.sqlalchemy.mariadb`."""

    supports_statement_cache = True

    def on_connect(self) -> None:  # type: ignore[override]
        """It would name the character set, which the connection has done."""


registry.register("postgresql.commitd", __name__, "PostgreSQL")
registry.register("mysql.commitd", __name__, "MySQL")
