"""A schema that wants what a prepared branch keeps: the branch can end only through the participant that opens.

Found where a page killed a bank whose schema was `INSERT IGNORE` of its first rows, at the moment of its yes: it never
came back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import asyncpg
import pytest

from participant.errors import SchemaError
from participant.ids import BranchKey
from participant.resource import Call
from participant.rm.mariadb import MariaDB
from participant.rm.postgres import PostgreSQL
from participant.wire import BranchState
from tests.support.subjects import MARIADB_SCHEMA, SCHEMA

ONE, TWO = BranchKey("gid-1", "b"), BranchKey("gid-2", "b")
RELEASE = "ALTER TABLE numbers ADD COLUMN IF NOT EXISTS note VARCHAR(20)"
FIRST_ROWS = "INSERT IGNORE INTO numbers (name, value) VALUES ('a', 0)"
AGAIN, AGAIN_PAUSE_S = 300, 0.1

Manager: TypeAlias = PostgreSQL | MariaDB


async def _change(tx: Any, amount: int) -> None:
    await tx.execute(f"UPDATE numbers SET value = value + {amount} WHERE name = 'a'")


async def _see(tx: Any, _body: None) -> list[int]:
    fetch = tx.fetch if hasattr(tx, "fetch") else tx.fetch_all
    return [row[0] for row in await fetch("SELECT value FROM numbers")]


async def _prepared_in_time(manager: Manager, key: BranchKey) -> BranchState:
    """The vote, as soon as there is one."""
    for _ in range(AGAIN):
        answer = await manager.prepare(key, Call.of("change", _change, 10))
        if not answer.retry:
            return answer.state
        await asyncio.sleep(AGAIN_PAUSE_S)
    return BranchState.UNKNOWN


async def _opens_beside_a_prepared_branch(make: Callable[[str], Manager], first: str, then: str) -> None:
    before = make(first)
    await before.open()
    assert (await before.prepare(ONE, Call.of("change", _change, 1))).state is BranchState.PREPARED
    await before.close()
    after = make(then)
    await after.open()
    try:
        early = await after.prepare(TWO, Call.of("change", _change, 10))
        assert (early.state, early.retry) == (BranchState.UNKNOWN, True)
        assert "schema" in early.reason
        assert (await after.commit(ONE)).state is BranchState.COMMITTED
        assert await _prepared_in_time(after, TWO) is BranchState.PREPARED
        assert (await after.commit(TWO)).state is BranchState.COMMITTED
        assert await after.read(Call.of("see", _see, None)) == [11]
    finally:
        await after.close()


async def test_postgres_ends_the_branches_that_its_schema_waits_for(postgres_dsn: str) -> None:
    """Seen red (SchemaError: canceling statement due to lock timeout) with the schema before the branches."""
    first = f"{SCHEMA}; INSERT INTO numbers VALUES ('a', 0)"
    await _opens_beside_a_prepared_branch(lambda schema: PostgreSQL(postgres_dsn, schema=schema), first, RELEASE)


@pytest.mark.parametrize("then", [RELEASE, FIRST_ROWS])
async def test_mariadb_ends_the_branches_that_its_schema_waits_for(mariadb_dsn: str, then: str) -> None:
    """Seen red (no answer within 30 s) with the schema before the branches."""
    first = f"{MARIADB_SCHEMA};{FIRST_ROWS}"
    await _opens_beside_a_prepared_branch(
        lambda schema: MariaDB(mariadb_dsn, schema=schema.split(";")), first, f"{MARIADB_SCHEMA};{then}"
    )


async def test_a_schema_that_cannot_be_made_later_ends_the_participant(postgres_dsn: str) -> None:
    """Whoever waits for `failed` is told: a restart says it at the opening."""
    before = PostgreSQL(postgres_dsn, schema=f"{SCHEMA}; INSERT INTO numbers VALUES ('a', 0)")
    await before.open()
    await before.prepare(ONE, Call.of("change", _change, 1))
    await before.close()
    after = PostgreSQL(postgres_dsn, schema=f"{RELEASE}; SELECT * FROM nothing")
    await after.open()
    try:
        await after.commit(ONE)
        async with asyncio.timeout(20):
            failure = await after.failed()
        assert isinstance(failure, SchemaError)
        assert 'relation "nothing" does not exist' in str(failure)
    finally:
        await after.close()


async def test_a_schema_waits_for_those_outside_as_well(postgres_dsn: str) -> None:
    before = PostgreSQL(postgres_dsn, schema=SCHEMA)
    await before.open()
    await before.close()
    outside = await asyncpg.connect(postgres_dsn)
    await outside.execute("BEGIN; LOCK TABLE numbers")
    after = PostgreSQL(postgres_dsn, schema=f"{RELEASE}; INSERT INTO numbers VALUES ('a', 0)")
    await after.open()
    try:
        await outside.close()
        assert await _prepared_in_time(after, ONE) is BranchState.PREPARED
        await after.abort(ONE)
    finally:
        await after.close()
