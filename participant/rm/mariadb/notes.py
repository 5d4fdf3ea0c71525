"""The table of notes (`participant.notes`) in MariaDB and MySQL. Each statement is a transaction of its own."""

from __future__ import annotations

from asyncmy import errors

from participant.errors import SchemaError
from participant.ids import BranchKey
from participant.rm.mariadb.connections import Connection, error_code

__all__ = ["forget_notes", "load_note", "make_notes", "swap_note"]

_TABLE = """
CREATE TABLE IF NOT EXISTS commitd_note (
    gid VARBINARY(64) NOT NULL,
    branch VARBINARY(64) NOT NULL,
    note MEDIUMBLOB NOT NULL,
    changed_at_ms BIGINT NOT NULL,
    is_finished BOOLEAN NOT NULL,
    PRIMARY KEY (gid, branch),
    KEY commitd_note_finished (is_finished, changed_at_ms)
) ENGINE=InnoDB
"""
_LOAD = "SELECT note FROM commitd_note WHERE gid = %s AND branch = %s"
_INSERT = "INSERT INTO commitd_note VALUES (%s, %s, %s, %s, %s)"
_UPDATE = """
UPDATE commitd_note SET note = %s, changed_at_ms = %s, is_finished = %s
 WHERE gid = %s AND branch = %s AND note = %s
"""
_FORGET = "DELETE FROM commitd_note WHERE is_finished = TRUE AND changed_at_ms < %s LIMIT %s"

_DUPLICATE, _LOCK_WAIT, _DEADLOCK = 1062, 1205, 1213


async def make_notes(connection: Connection) -> None:
    """Make the table if it is not there. Raises SchemaError."""
    try:
        if not await connection.fetch("SHOW TABLES LIKE 'commitd_note'"):
            await connection.execute(_TABLE)
    except errors.MySQLError as error:
        why = f"the table of notes cannot be made ({error}); let its owner run, once:\n{_TABLE}"
        raise SchemaError(why) from error


async def load_note(connection: Connection, key: BranchKey) -> bytes | None:
    """The note of a branch."""
    found = await connection.fetch(_LOAD, _bytes_of(key))
    return bytes(found[0][0]) if found else None


async def swap_note(
    connection: Connection, key: BranchKey, expected: bytes | None, values: tuple[bytes, int, bool]
) -> bool:
    """Put (note, changed_at_ms, is_finished) in the place of `expected`; whether that was there, and free."""
    try:
        if expected is None:
            return await connection.execute(_INSERT, (*_bytes_of(key), *values)) > 0
        return await connection.execute(_UPDATE, (*values, *_bytes_of(key), expected)) > 0
    except errors.MySQLError as error:
        if error_code(error) in (_DUPLICATE, _LOCK_WAIT, _DEADLOCK):
            return False
        raise


async def forget_notes(connection: Connection, before_ms: int, notes_max: int) -> None:
    """Drop finished notes last changed before `before_ms`, at most so many; none while others have locked one."""
    try:
        await connection.execute(_FORGET, (before_ms, notes_max))
    except errors.MySQLError as error:
        if error_code(error) not in (_LOCK_WAIT, _DEADLOCK):
            raise


def _bytes_of(key: BranchKey) -> tuple[bytes, bytes]:
    return key.gid.encode(), key.branch.encode()
