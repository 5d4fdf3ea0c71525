"""What a PostgreSQL server must be like for a yes to be a promise, and our table in it.

Refused is what would break one: no slots for prepared transactions, `fsync = off`, a standby, branches that another
role has prepared and this one cannot finish. Each refusal says what to change, and where.
"""

from __future__ import annotations

import asyncpg

from participant.errors import ConfigError, SchemaError
from participant.rm.postgres.connections import LOST, Connection
from participant.rm.postgres.names import Names
from participant.rm.server.columns import check_columns, lines_of
from participant.rm.server.schema import SCHEMA_LOCK_WAIT_S

__all__ = ["check_owners", "check_server", "find_table", "make_schema", "make_table", "synchronous_level"]

VERSION_MIN = 15

# Processes that open at once make our table one after the other, and then their schemas. (1 is the barrier's.)
_TABLE_LOCK = 0x636F6D6D69746400  # "commitd"
_SCHEMA_LOCK = _TABLE_LOCK + 2

_WAITED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.QueryCanceledError)

_COLUMNS = {
    "gid": 'text COLLATE "C" NOT NULL',
    "branch": 'text COLLATE "C" NOT NULL',
    "state": "text NOT NULL",
    "digest": "bytea NOT NULL",
    "reason": "text NOT NULL",
    "changed_at_ms": "bigint NOT NULL",
    "result": "bytea NOT NULL",
}
_TABLE = f"""
CREATE TABLE IF NOT EXISTS commitd_branch (
{lines_of(_COLUMNS)}
    PRIMARY KEY (gid, branch)
);
CREATE INDEX IF NOT EXISTS commitd_branch_changed ON commitd_branch (changed_at_ms);
"""
_FOUND = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid = 'commitd_branch'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_ADD = "ALTER TABLE commitd_branch ADD COLUMN {name} {definition} DEFAULT '';"
_CHANGE = "ALTER TABLE commitd_branch ALTER COLUMN {name} TYPE {type};"

_NAME = """
SELECT pg_database.oid || '.' || pg_class.oid, format('%I.%I', nspname, relname)
  FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid JOIN pg_database ON datname = current_database()
 WHERE pg_class.oid = 'commitd_branch'::regclass
"""


async def check_server(connection: Connection) -> int:
    """How many transactions the server can keep prepared. Raises ConfigError."""
    version = connection.get_server_version()
    if version.major < VERSION_MIN:
        raise ConfigError(f"PostgreSQL {version.major} is too old: {VERSION_MIN} or newer is needed")
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise ConfigError("the server is a standby, which cannot prepare; connect to the primary")
    slots = int(await connection.fetchval("SHOW max_prepared_transactions"))
    if slots == 0:
        raise ConfigError(
            "the server cannot prepare transactions: set `max_prepared_transactions = 100` (or as many branches as may "
            "be in doubt at once) in postgresql.conf, and restart it"
        )
    if await connection.fetchval("SHOW fsync") != "on":
        raise ConfigError(
            "a power cut would lose what the server has prepared: set `fsync = on` in postgresql.conf, and reload it"
        )
    return slots


async def synchronous_level(connection: Connection) -> str:
    """How far a plain commit must have come when it is answered: on the disk at least. (What is prepared always is.)"""
    level = str(await connection.fetchval("SHOW synchronous_commit"))
    return "on" if level == "off" else level


async def make_table(connection: Connection) -> tuple[str, str]:
    """Make our table if it is not there; its oids and full name. Raises SchemaError."""
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_TABLE_LOCK})")
            if await connection.fetchval("SELECT to_regclass('commitd_branch')") is None:
                await connection.execute(_TABLE)
            await _check_columns(connection)
            oids, table = await connection.fetchrow(_NAME)
            return str(oids), str(table)
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaError(f"the role may not make a table ({error}); let its owner run, once:\n{_TABLE}") from error
    except LOST:
        raise
    except asyncpg.PostgresError as error:
        raise SchemaError(f"the table cannot be made: {error}") from error


async def make_schema(connection: Connection, schema: str) -> str:
    """Run the user's `schema`, all of it or nothing; what it had to wait for, or "". Raises SchemaError.

    Whatever happens, the connection is of no more use: who gives this up must not have to wait for a ROLLBACK.
    """
    try:
        await connection.execute(f"BEGIN; SET LOCAL lock_timeout = '{SCHEMA_LOCK_WAIT_S}s'")
        if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({_SCHEMA_LOCK})"):
            return "another process makes the schema"
        await connection.execute(schema)
        await connection.execute("COMMIT")
    except LOST:
        raise
    except _WAITED as error:
        return str(error)
    except asyncpg.PostgresError as error:
        raise SchemaError(f"the schema cannot be made: {error}") from error
    return ""


async def find_table(connection: Connection) -> tuple[str, str]:
    """The oids and the full name of our table, where a participant has made it. Raises ConfigError, SchemaError."""
    if await connection.fetchval("SELECT to_regclass('commitd_branch')") is None:
        raise ConfigError(
            "no participant has used this database: it has no table commitd_branch, or this role another search_path"
        )
    await _check_columns(connection)
    oids, table = await connection.fetchrow(_NAME)
    return str(oids), str(table)


async def _check_columns(connection: Connection) -> None:
    """Raises SchemaError."""
    found = [(str(name), str(type_)) for name, type_ in await connection.fetch(_FOUND)]
    check_columns(_COLUMNS, found, add=_ADD, change=_CHANGE)


async def check_owners(connection: Connection, names: Names) -> None:
    """Only the role that has prepared a branch may finish it, or a superuser. Raises ConfigError."""
    owners = await connection.fetch(
        "SELECT DISTINCT owner FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, $1)"
        " AND owner <> current_user AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
        names.prefix,
    )
    if owners:
        raise ConfigError(
            f"branches that role {owners[0]['owner']!r} has prepared can be finished by that role or a superuser "
            "only: connect as one of them, until pg_prepared_xacts lists none of them"
        )
