"""The resource managers that are ours, as subjects of `participant.testing`.

A place is where the data is: a directory, or the DSN of a database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, TypeAlias

from participant.errors import Reject
from participant.resource import ResourceLimits
from participant.rm import mariadb, memory, postgres, sqlite
from participant.rm.mariadb import MariaDB
from participant.rm.memory import Memory
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlite import SQLite
from participant.testing import Subject

__all__ = ["MARIADB_SCHEMA", "SCHEMA", "SUBJECTS"]

Isolation: TypeAlias = Literal["repeatable read", "serializable"]

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL)"
MARIADB_SCHEMA = SCHEMA.replace("name TEXT", "name VARCHAR(64)") + " ENGINE=InnoDB"


def _sqlite_subject(place: str) -> Subject:
    """SQLite on a file in a directory."""

    async def put(tx: sqlite.Transaction, body: Any) -> None:
        await tx.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (body["key"], body["value"]))

    async def add(tx: sqlite.Transaction, body: Any) -> None:
        value = await tx.fetch_value("SELECT value FROM numbers WHERE name = ?", (body["key"],))
        if value is None or value + body["amount"] < 0:
            raise Reject("too little")
        await tx.execute("UPDATE numbers SET value = value + ? WHERE name = ?", (body["amount"], body["key"]))

    async def get(tx: sqlite.Transaction, body: Any) -> Any:
        return await tx.fetch_value("SELECT value FROM numbers WHERE name = ?", (body["key"],))

    def make(limits: ResourceLimits) -> SQLite:
        return SQLite(Path(place, "data.db"), schema=SCHEMA, limits=limits)

    return Subject(make, put, add, get)


def _memory_subject(place: str) -> Subject:
    """The memory store with its journal in a directory."""

    async def put(tx: memory.Transaction, body: Any) -> None:
        await tx.put(body["key"], body["value"])

    async def add(tx: memory.Transaction, body: Any) -> None:
        value = await tx.get(body["key"])
        if value is None or value + body["amount"] < 0:
            raise Reject("too little")
        await tx.put(body["key"], value + body["amount"])

    async def get(tx: memory.Transaction, body: Any) -> Any:
        return await tx.get(body["key"])

    def make(limits: ResourceLimits) -> Memory:
        return Memory(Path(place, "data"), limits=limits)

    return Subject(make, put, add, get)


def _postgres(place: str, limits: ResourceLimits, isolation: Isolation = "repeatable read") -> PostgreSQL:
    return PostgreSQL(place, schema=SCHEMA, limits=limits, isolation=isolation)


def _postgres_subject(place: str, isolation: Isolation = "repeatable read") -> Subject:
    """PostgreSQL on a database of its own."""

    async def put(tx: postgres.Transaction, body: Any) -> None:
        await tx.execute(
            "INSERT INTO numbers VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            *(body["key"], body["value"]),
        )

    async def add(tx: postgres.Transaction, body: Any) -> None:
        value = await tx.fetchval("SELECT value FROM numbers WHERE name = $1", body["key"])
        if value is None or value + body["amount"] < 0:
            raise Reject("too little")
        await tx.execute("UPDATE numbers SET value = $2 WHERE name = $1", body["key"], value + body["amount"])

    async def get(tx: postgres.Transaction, body: Any) -> Any:
        return await tx.fetchval("SELECT value FROM numbers WHERE name = $1", body["key"])

    return Subject(partial(_postgres, place, isolation=isolation), put, add, get, only_tx_awaited=False)


def _mariadb(place: str, limits: ResourceLimits, isolation: Isolation = "repeatable read") -> MariaDB:
    return MariaDB(place, schema=[MARIADB_SCHEMA], limits=limits, isolation=isolation)


def _mariadb_subject(place: str, isolation: Isolation = "repeatable read") -> Subject:
    """MariaDB on a database of its own."""

    async def put(tx: mariadb.Transaction, body: Any) -> None:
        await tx.execute("REPLACE INTO numbers VALUES (%s, %s)", (body["key"], body["value"]))

    async def add(tx: mariadb.Transaction, body: Any) -> None:
        value = await tx.fetch_value("SELECT value FROM numbers WHERE name = %s", (body["key"],))
        if value is None or value + body["amount"] < 0:
            raise Reject("too little")
        await tx.execute("UPDATE numbers SET value = %s WHERE name = %s", (value + body["amount"], body["key"]))

    async def get(tx: mariadb.Transaction, body: Any) -> Any:
        return await tx.fetch_value("SELECT value FROM numbers WHERE name = %s", (body["key"],))

    return Subject(partial(_mariadb, place, isolation=isolation), put, add, get, only_tx_awaited=False)


def _orm_subject(below: Callable[[str, ResourceLimits], PostgreSQL | MariaDB], place: str) -> Subject:
    """A server and its tables, by an ORM, which takes a third of a second to import: every process that a test starts
    for another subject would wait for it."""
    subject: Subject = resolve_name("tests.support.subject_with_orm:orm_subject")(partial(below, place))
    return subject


SUBJECTS: Mapping[str, Callable[[str], Subject]] = {
    "memory": _memory_subject,
    "sqlite": _sqlite_subject,
    "postgres": _postgres_subject,
    "postgres-16": _postgres_subject,
    "postgres-18": _postgres_subject,
    "postgres-serializable": partial(_postgres_subject, isolation="serializable"),
    "mariadb": _mariadb_subject,
    "mariadb-serializable": partial(_mariadb_subject, isolation="serializable"),
    "postgres-sqlalchemy": partial(_orm_subject, _postgres),
    "mariadb-sqlalchemy": partial(_orm_subject, _mariadb),
}
