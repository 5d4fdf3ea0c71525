"""What a MariaDB (or MySQL) server must be like for a yes to be a promise, and our table in it.

Refused is what would break one: a log that is not forced at each commit, a server that is read-only, a role that may
not see which branches are prepared. Each refusal says what to change, and where.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from asyncmy import errors
from structlog import get_logger

from participant.errors import ConfigError, SchemaError
from participant.resource import ResourceLimits
from participant.rm.mariadb.connections import Connection, error_code, is_loss
from participant.rm.mariadb.waits import WAITS
from participant.rm.server.columns import check_columns, lines_of

__all__ = ["ServerFacts", "check_server", "find_table", "make_schema", "make_table"]

_LOG = get_logger(__name__)

_COLUMNS = {
    "gid": "VARBINARY(64) NOT NULL",
    "branch": "VARBINARY(65) NOT NULL",
    "state": "VARBINARY(16) NOT NULL",
    "digest": "VARBINARY(16) NOT NULL",
    "reason": "VARCHAR(500) CHARACTER SET utf8mb4 NOT NULL",
    "changed_at_ms": "BIGINT NOT NULL",
    "result": "MEDIUMBLOB NOT NULL",
}
_TABLE = f"""
CREATE TABLE IF NOT EXISTS commitd_branch (
{lines_of(_COLUMNS)}
    PRIMARY KEY (gid, branch),
    KEY commitd_branch_changed (changed_at_ms)
) ENGINE=InnoDB
"""
_FOUND = """
SELECT column_name, IF(data_type = 'bigint', data_type, column_type) FROM information_schema.columns
 WHERE table_schema = database() AND table_name = 'commitd_branch' ORDER BY ordinal_position
"""
_ADD = "ALTER TABLE commitd_branch ADD COLUMN {name} {definition};"
_CHANGE = "ALTER TABLE commitd_branch MODIFY {name} {definition};"
_OTHER_ENGINES = """
SELECT table_name, engine FROM information_schema.tables
 WHERE table_schema = database() AND table_type = 'BASE TABLE' AND engine <> 'InnoDB' LIMIT 1
"""

_ALONE = "SELECT GET_LOCK(CONCAT('commitd.', SHA1(database())), 0)"  # until the session ends
_WAITED = frozenset({1205, 1213, 1317})  # for too long; the victim of a deadlock; ended by somebody


class ServerFacts(NamedTuple):
    """What a backend must know of its server.

    `sees_waits`: this role may ask who
    waits for whom. `snapshots`: the server itself refuses to overwrite what a transaction has not seen.
    """

    is_mariadb: bool
    sees_waits: bool
    snapshots: bool

    def working(self, limits: ResourceLimits, isolation: str) -> str:
        """The settings of a session that runs actions.

        Without snapshots that are checked, only SERIALIZABLE keeps what an action has read from being overwritten
        unseen. The server counts whole seconds of a wait; ours are finer, where we may see who waits.
        """
        level = isolation if self.snapshots else "serializable"
        settings = [
            f"innodb_lock_wait_timeout={math.ceil(limits.lock_wait_s)}",
            f"{self._isolation}='{level.upper().replace(' ', '-')}'",
        ]
        if self.snapshots:
            settings.append("innodb_snapshot_isolation=ON")
        return "SET SESSION " + ", ".join(settings)

    def ending(self) -> str:
        """The settings of a session that ends branches: it waits for nothing."""
        return f"SET SESSION innodb_lock_wait_timeout={int(not self.is_mariadb)}, {self._isolation}='READ-COMMITTED'"

    @property
    def _isolation(self) -> str:
        return "tx_isolation" if self.is_mariadb else "transaction_isolation"


async def check_server(connection: Connection) -> ServerFacts:
    """Raises ConfigError."""
    ((version, flushed, is_read_only, binary_log),) = await connection.fetch(
        "SELECT version(), @@innodb_flush_log_at_trx_commit, @@read_only, @@log_bin"
    )
    if flushed != 1:
        raise ConfigError(
            f"a power cut would lose what is prepared, because innodb_flush_log_at_trx_commit is {flushed}: set "
            "`innodb_flush_log_at_trx_commit = 1` in my.cnf, and SET GLOBAL it"
        )
    if is_read_only:
        raise ConfigError("the server is read-only: connect to the primary")
    if binary_log:
        _LOG.warning("mariadb.binary_log", why="prepared branches and replication do not go together well: MDEV-32020")
    try:
        await connection.fetch("XA RECOVER")
    except errors.MySQLError as error:
        raise ConfigError(f"this role cannot see what is prepared ({error}): GRANT XA_RECOVER_ADMIN to it") from error
    return ServerFacts(
        is_mariadb="mariadb" in str(version).lower(),
        sees_waits=await _may_see_waits(connection),
        snapshots=bool(await connection.fetch("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")),
    )


async def _may_see_waits(connection: Connection) -> bool:
    try:
        await connection.fetch(WAITS)
    except errors.MySQLError:
        _LOG.warning("mariadb.waits_unseen", why="without GRANT PROCESS, a no for a lock cannot say which row it was")
        return False
    return True


async def find_table(connection: Connection) -> None:
    """Raises ConfigError where no participant has made our table; SchemaError if another release has."""
    if not await connection.fetch("SHOW TABLES LIKE 'commitd_branch'"):
        raise ConfigError("no participant has used this database: it has no table commitd_branch")
    await _check_columns(connection)


async def _check_columns(connection: Connection) -> None:
    """Raises SchemaError."""
    found = [(_text(name), _text(type_)) for name, type_ in await connection.fetch(_FOUND)]
    check_columns(_COLUMNS, found, add=_ADD, change=_CHANGE)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


async def make_table(connection: Connection) -> None:
    """Make our table if it is not there. Raises SchemaError."""
    try:
        if not await connection.fetch("SHOW TABLES LIKE 'commitd_branch'"):
            await connection.execute(_TABLE)
    except errors.MySQLError as error:
        if is_loss(error):
            raise
        raise SchemaError(f"the table cannot be made ({error}); let its owner run, once:\n{_TABLE}") from error
    await _check_columns(connection)


async def make_schema(connection: Connection, schema: Sequence[str]) -> str:
    """Run the statements of the user's `schema`, one by one; what one had to wait for, or "". Raises SchemaError."""
    try:
        if await connection.fetch(_ALONE) != [(1,)]:
            return "another process makes the schema"
        for statement in schema:
            await connection.execute(statement)
        others = await connection.fetch(_OTHER_ENGINES)
    except errors.MySQLError as error:
        if is_loss(error):
            raise
        if error_code(error) in _WAITED:
            return str(error)
        raise SchemaError(f"the schema cannot be made: {error}") from error
    if others:
        _LOG.warning("mariadb.engine", why="its changes cannot be undone", table=others[0][0], engine=others[0][1])
    return ""
