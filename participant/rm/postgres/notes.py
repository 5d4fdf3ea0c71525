"""The table of notes (`participant.notes`) in PostgreSQL. Each statement is a transaction of its own."""

from __future__ import annotations

import asyncpg

from participant.errors import SchemaError
from participant.ids import BranchKey
from participant.rm.postgres.connections import LOST, Connection

__all__ = ["forget_notes", "load_note", "make_notes", "swap_note"]

_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
    gid text COLLATE "C" NOT NULL,
    branch text COLLATE "C" NOT NULL,
    note bytea NOT NULL,
    changed_at_ms bigint NOT NULL,
    is_finished boolean NOT NULL,
    PRIMARY KEY (gid, branch)
);
CREATE INDEX IF NOT EXISTS commitd_note_finished ON {table} (changed_at_ms) WHERE is_finished
"""
_LOAD = "SELECT note FROM {table} WHERE gid = $1 AND branch = $2"
_INSERT = "INSERT INTO {table} VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING 1"
_UPDATE = """
UPDATE {table} SET note = $3, changed_at_ms = $4, is_finished = $5 WHERE gid = $1 AND branch = $2 AND note = $6
RETURNING 1
"""
_FORGET = """
DELETE FROM {table} WHERE (gid, branch) IN (
    SELECT gid, branch FROM {table} WHERE is_finished AND changed_at_ms < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
"""


async def make_notes(connection: Connection, table: str) -> None:
    """Make the `table`, by its full name, if it is not there. Raises SchemaError."""
    try:
        if await connection.fetchval("SELECT to_regclass($1)", table) is None:
            await connection.execute(_TABLE.format(table=table))
    except asyncpg.InsufficientPrivilegeError as error:
        why = f"the role may not make a table ({error}); let its owner run, once:\n{_TABLE.format(table=table)}"
        raise SchemaError(why) from error
    except (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError):
        return  # another process has just made it
    except LOST:
        raise
    except asyncpg.PostgresError as error:
        raise SchemaError(f"the table of notes cannot be made: {error}") from error


async def load_note(connection: Connection, table: str, key: BranchKey) -> bytes | None:
    """The note of a branch."""
    found = await connection.fetchval(_LOAD.format(table=table), *key)
    return None if found is None else bytes(found)


async def swap_note(
    connection: Connection,
    table: str,
    key: BranchKey,
    expected: bytes | None,
    values: tuple[bytes, int, bool],
) -> bool:
    """Put (note, changed_at_ms, is_finished) in the place of `expected`; whether that was there."""
    if expected is None:
        return await connection.fetchval(_INSERT.format(table=table), *key, *values) is not None
    return await connection.fetchval(_UPDATE.format(table=table), *key, *values, expected) is not None


async def forget_notes(connection: Connection, table: str, before_ms: int, notes_max: int) -> None:
    """Drop finished notes last changed before `before_ms`, at most so many."""
    await connection.execute(_FORGET.format(table=table), before_ms, notes_max)
