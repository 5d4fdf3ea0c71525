"""A schema that wants what a prepared branch keeps: the branch can end only through the participant that opens.

Found where a page killed a bank whose schema was `INSERT IGNORE` of its first rows, at the moment of its yes: it never
came back.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeAlias

import asyncmy
import asyncpg
import pytest

from participant.errors import ConfigError, ResourceBusy, ResourceFailed, SchemaError
from participant.ids import BranchKey
from participant.messages import outbox, tables
from participant.resource import Call
from participant.rm.mariadb import MariaDB
from participant.rm.postgres import PostgreSQL
from participant.testing import servers
from participant.wire import Answer, BranchState
from tests.support.subjects import MARIADB_SCHEMA, SCHEMA

ONE, TWO, PLAIN = BranchKey("gid-1", "b"), BranchKey("gid-2", "b"), BranchKey("gid-3", "b")
FIRST = f"{SCHEMA}; INSERT INTO numbers VALUES ('a', 0)"
RELEASE = "ALTER TABLE numbers ADD COLUMN IF NOT EXISTS note VARCHAR(20)"
FIRST_ROWS = "INSERT IGNORE INTO numbers (name, value) VALUES ('a', 0)"
AGAIN, AGAIN_PAUSE_S = 300, 0.1
SOON_S = 30.0

Manager: TypeAlias = PostgreSQL | MariaDB


async def _change(tx: Any, amount: int) -> None:
    await tx.execute(f"UPDATE numbers SET value = value + {amount} WHERE name = 'a'")


def _changing(amount: int) -> Call:
    return Call.of("change", _change, amount)


async def _see(tx: Any, _body: None) -> list[int]:
    fetch = tx.fetch if hasattr(tx, "fetch") else tx.fetch_all
    return [row[0] for row in await fetch("SELECT value FROM numbers")]


async def _in_time(manager: Manager, key: BranchKey, amount: int = 10) -> Answer:
    """The vote, as soon as there is one."""
    for _ in range(AGAIN):
        try:
            return await manager.prepare(key, _changing(amount))
        except ResourceBusy:
            await asyncio.sleep(AGAIN_PAUSE_S)
    raise TimeoutError


@asynccontextmanager
async def _open(manager: Manager) -> AsyncIterator[Manager]:
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


async def _opens_beside_a_prepared_branch(make: Callable[[str], Manager], first: str, then: str) -> None:
    async with _open(make(first)) as before:
        assert (await before.commit_one_phase(PLAIN, _changing(100))).state is BranchState.COMMITTED
        assert (await before.prepare(ONE, _changing(1))).state is BranchState.PREPARED
    async with _open(make(then)) as after, _open(make(then)) as another:
        with pytest.raises(ResourceBusy, match="schema waits"):
            await after.prepare(TWO, _changing(10))
        with pytest.raises(ResourceBusy, match="schema waits"):
            await after.read(Call.of("see", _see, None))
        assert (await after.commit_one_phase(PLAIN, _changing(100))).state is BranchState.COMMITTED, "a repeat"
        assert (await after.commit(ONE)).state is BranchState.COMMITTED
        assert (await _in_time(after, TWO)).state is BranchState.PREPARED
        assert (await another.commit(TWO)).state is BranchState.COMMITTED
        assert (await _in_time(another, BranchKey("gid-4", "b"), 1_000)).state is BranchState.PREPARED
        assert await after.read(Call.of("see", _see, None)) == [111]
        assert (await after.abort(BranchKey("gid-4", "b"))).state is BranchState.ABORTED


async def test_postgres_ends_the_branches_that_its_schema_waits_for(postgres_dsn: str) -> None:
    """Seen red (SchemaError: canceling statement due to lock timeout) with the schema before the branches."""
    await _opens_beside_a_prepared_branch(lambda schema: PostgreSQL(postgres_dsn, schema=schema), FIRST, RELEASE)


@pytest.mark.parametrize("then", [RELEASE, FIRST_ROWS])
async def test_mariadb_ends_the_branches_that_its_schema_waits_for(mariadb_dsn: str, then: str) -> None:
    """Seen red (no answer within 30 s) with the schema before the branches."""
    first = f"{MARIADB_SCHEMA};{FIRST_ROWS}"
    await _opens_beside_a_prepared_branch(
        lambda schema: MariaDB(mariadb_dsn, schema=schema.split(";")), first, f"{MARIADB_SCHEMA};{then}"
    )


async def test_a_schema_that_cannot_be_made_later_is_a_failure(postgres_dsn: str) -> None:
    """Whoever waits for `failed` is told, and so is whoever asks for an action."""
    async with _open(PostgreSQL(postgres_dsn, schema=FIRST)) as before:
        await before.prepare(ONE, _changing(1))
    async with _open(PostgreSQL(postgres_dsn, schema=f"{RELEASE}; SELECT * FROM nothing")) as after:
        await after.commit(ONE)
        failure = await asyncio.wait_for(after.failed(), SOON_S)
        assert isinstance(failure, SchemaError)
        with pytest.raises(ResourceFailed, match='relation "nothing" does not exist'):
            await after.prepare(TWO, _changing(1))


async def test_a_schema_waits_for_those_outside_as_well(postgres_dsn: str) -> None:
    async with _open(PostgreSQL(postgres_dsn, schema=FIRST)):
        pass
    outside = await asyncpg.connect(postgres_dsn)
    await outside.execute("BEGIN; LOCK TABLE numbers")
    async with _open(PostgreSQL(postgres_dsn, schema=RELEASE)) as after:
        await outside.close()
        assert (await _in_time(after, ONE)).state is BranchState.PREPARED
        await after.abort(ONE)


async def test_tables_that_the_schema_has_yet_to_make_are_not_missing(postgres_dsn: str) -> None:
    """A participant with a broker starts. Seen red (it said that the tables were missing, and ended)."""
    async with _open(PostgreSQL(postgres_dsn, schema=FIRST)) as before:
        await before.prepare(ONE, _changing(1))
        with pytest.raises(ConfigError, match="no tables of messages"):
            await tables.check(before)
    async with _open(PostgreSQL(postgres_dsn, schema=f"{RELEASE}; {outbox.POSTGRESQL}")) as after:
        await tables.check(after)
        await after.commit(ONE)
        await _in_time(after, TWO)
        await tables.check(after)
        await after.abort(TWO)


async def test_a_session_that_is_lost_while_it_makes_the_schema_is_no_failure(
    mariadb: servers.MariaDB, mariadb_dsn: str
) -> None:
    """Seen red (SchemaError: Lost connection) with the loss taken for what the server says of the schema."""
    async with _open(MariaDB(mariadb_dsn, schema=[MARIADB_SCHEMA, FIRST_ROWS])) as before:
        await before.prepare(ONE, _changing(1))
    root = await asyncmy.connect(host="127.0.0.1", port=mariadb.port, user="root", password="", autocommit=True)
    with closing(root):
        manager = MariaDB(mariadb_dsn, schema=[RELEASE])
        opening = asyncio.ensure_future(manager.open())
        async with root.cursor() as cursor:
            found: Any = ()
            while not found:
                await asyncio.sleep(0.01)
                await cursor.execute(
                    "SELECT id FROM information_schema.processlist WHERE info LIKE 'ALTER TABLE numb%'"
                )
                found = await cursor.fetchall()
            await cursor.execute(f"KILL {found[0][0]}")
        await opening
    try:
        await manager.commit(ONE)
        assert (await _in_time(manager, TWO)).state is BranchState.PREPARED
        await manager.abort(TWO)
    finally:
        await manager.close()


async def test_a_silent_server_does_not_keep_a_participant_that_waits_from_ending() -> None:
    """Seen red with the schema in the driver's transaction: its ROLLBACK was waited for."""
    async with servers.Postgres.running(settings={"max_prepared_transactions": "10"}) as server:
        async with _open(PostgreSQL(server.dsn, schema=FIRST)):
            pass
        outside = await asyncpg.connect(server.dsn)
        await outside.execute("BEGIN; LOCK TABLE numbers")
        manager = PostgreSQL(server.dsn, schema=RELEASE)
        await manager.open()
        await asyncio.sleep(1.2)  # into the next attempt
        family = [server.pid, *_children(server.pid)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.wait_for(manager.close(), SOON_S)
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)
        await outside.close()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
