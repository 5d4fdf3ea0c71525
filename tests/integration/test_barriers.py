"""The barriers where they meet the world: functions that hold them wrong, lost answers. Redis has a file of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from participant.barrier import Contradiction, Done, Refused
from participant.barriers.limits import BarrierLimits
from participant.barriers.mariadb import MariaDBBarrier
from participant.barriers.postgres import PostgresBarrier
from participant.barriers.sqlite import SQLiteBarrier
from participant.errors import ConfigError, Reject, ResourceBusy, ResourceUnreachable, SchemaError, StepError
from participant.testing.servers import Postgres
from tests.support.barriers import FREE, SHOPS, Books, MariaDBShop, PostgresShop, SQLiteShop, step_of
from tests.support.eavesdropper import Eavesdropper

TRY = step_of("g", "try")
WRITE = "UPDATE shop SET free = free - 1"


async def _nothing(*_: Any) -> None:
    return None


# ── A lost answer ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["postgres", "mariadb", "redis"])
def kind_and_place(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind = str(request.param)
    return kind, request.getfixturevalue("redis").url if kind == "redis" else request.getfixturevalue(f"{kind}_dsn")


async def test_the_repeat_of_a_step_whose_answer_was_lost_finds_the_truth(kind_and_place: tuple[str, str]) -> None:
    """The server commits, and its client does not hear of it: unknown, neither done nor refused."""
    kind, place = kind_and_place
    words = b"EVALSHA" if kind == "redis" else b"COMMIT"
    async with Eavesdropper.at(place) as wire, SHOPS[kind](wire.dsn).opened() as shop:
        await shop.run("other", "try")  # so that its script is known to Redis
        wire.cut_after(words)
        with pytest.raises(ResourceUnreachable):
            await shop.run("g", "try")
        assert await shop.run("g", "try") == Done({"free": FREE - 2})
        assert await shop.books() == Books(FREE - 2, 2, 2)


# ── PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def pg(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with PostgresShop(postgres_dsn).opened() as shop:
        connection = await shop.connect()
        yield connection
        await connection.close()


async def test_postgres_refuses_a_connection_that_is_in_a_transaction(pg: asyncpg.Connection) -> None:
    """Otherwise its answer would not be durable. Seen red without the question."""
    async with pg.transaction():
        with pytest.raises(StepError, match="in a transaction already"):
            await PostgresBarrier().run(pg, TRY, _nothing)


async def test_postgres_says_so_for_ever_when_a_function_has_committed_half_of_its_work(pg: asyncpg.Connection) -> None:
    """Nobody can take that back, so nobody does it again either. Seen red with no RUNNING row."""

    async def commits(connection: asyncpg.Connection) -> None:
        await connection.execute(WRITE)
        await connection.execute("COMMIT")

    with pytest.raises(StepError, match="has ended the transaction"):
        await PostgresBarrier().run(pg, TRY, commits)
    outcome = await PostgresBarrier().run(pg, TRY, commits)
    assert isinstance(outcome, Contradiction)
    assert "half done" in outcome.why
    assert await pg.fetchval("SELECT free FROM shop") == FREE - 1
    assert await PostgresBarrier().run(pg, step_of("h", "try"), _nothing) == Done()


async def test_postgres_gives_savepoints_to_a_function_and_notices_a_failed_statement(pg: asyncpg.Connection) -> None:
    async def fails(connection: asyncpg.Connection, *, in_savepoint: bool) -> None:
        with contextlib.suppress(asyncpg.PostgresError):
            if in_savepoint:
                async with connection.transaction():
                    await connection.execute("SELECT 1 / 0")
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(StepError, match="has failed, and its function went on"):
        await PostgresBarrier().run(pg, TRY, lambda connection: fails(connection, in_savepoint=False))

    async def tries(connection: asyncpg.Connection) -> None:
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.execute("SELECT 1 / 0")
        await connection.execute(WRITE)

    assert await PostgresBarrier().run(pg, TRY, tries) == Done()


async def test_postgres_makes_a_no_of_a_failed_statement(pg: asyncpg.Connection) -> None:
    """The usual way to find out that a name is taken."""

    async def rejects(connection: asyncpg.Connection) -> None:
        await connection.execute(WRITE)
        try:
            await connection.execute("SELECT 1 / 0")
        except asyncpg.DivisionByZeroError:
            raise Reject("taken") from None

    assert await PostgresBarrier().run(pg, TRY, rejects) == Refused("taken")
    assert await pg.fetchval("SELECT free FROM shop") == FREE


async def test_postgres_leaves_a_connection_as_it_was(pg: asyncpg.Connection) -> None:
    """A commit waits for the disk even where the session says no. Seen red without that setting."""
    await pg.execute("SET synchronous_commit = off; SET lock_timeout = '7s'")
    seen = []

    async def look(connection: asyncpg.Connection) -> None:
        seen.append(await connection.fetchval("SHOW synchronous_commit"))

    await PostgresBarrier().run(pg, TRY, look)
    await PostgresBarrier().run(pg, TRY, look)
    assert seen == ["on"]
    assert [await pg.fetchval(f"SHOW {name}") for name in ("synchronous_commit", "lock_timeout")] == ["off", "7s"]
    assert not pg.is_in_transaction()


@pytest.mark.parametrize("scope", ["LOCAL", "SESSION"])
async def test_postgres_waits_for_the_disk_whatever_a_function_has_set(pg: asyncpg.Connection, scope: str) -> None:
    """A trigger at the commit says what is true then. Seen red with the setting made before the function only."""
    await pg.execute("""
        CREATE TABLE seen (level text);
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER look AFTER UPDATE ON shop INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION look();
    """)

    async def works(connection: asyncpg.Connection) -> None:
        await connection.execute(WRITE)
        await connection.execute(f"SET {scope} synchronous_commit = off")

    assert await PostgresBarrier().run(pg, TRY, works) == Done()
    assert await pg.fetchval("SELECT level FROM seen") == "on"


async def test_postgres_says_what_is_missing(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    with pytest.raises(SchemaError, match="call `open`"):
        await PostgresBarrier().run(connection, TRY, _nothing)
    await connection.close()
    with pytest.raises(ResourceUnreachable):
        await PostgresBarrier().run(connection, TRY, _nothing)


async def test_postgres_refuses_a_server_that_may_forget() -> None:
    async with Postgres.running(settings={"fsync": "off"}) as server:
        connection = await asyncpg.connect(server.dsn)
        with pytest.raises(ConfigError, match="fsync = on"):
            await PostgresBarrier().open(connection)
        await connection.close()


# ── MariaDB ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["mariadb", "mariadb-aiomysql"])
async def maria(request: pytest.FixtureRequest, mariadb_dsn: str) -> AsyncIterator[Any]:
    shop = SHOPS[request.param](mariadb_dsn)
    assert isinstance(shop, MariaDBShop)
    async with shop.opened(), shop.connection() as connection:
        yield connection


async def _say(connection: Any, sql: str) -> Any:
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
        return await cursor.fetchall() if cursor.description is not None else ()


async def test_mariadb_refuses_a_connection_that_is_in_a_transaction(maria: Any) -> None:
    await _say(maria, "START TRANSACTION")
    with pytest.raises(StepError, match="in a transaction already"):
        await MariaDBBarrier().run(maria, TRY, _nothing)
    await _say(maria, "ROLLBACK")


@pytest.mark.parametrize("ends", ["COMMIT", "CREATE TABLE one (x INT)"])
async def test_mariadb_says_so_for_ever_when_a_function_has_committed_half_of_its_work(maria: Any, ends: str) -> None:
    """DDL commits, too."""

    async def commits(connection: Any) -> None:
        await _say(connection, WRITE)
        await _say(connection, ends)
        await _say(connection, WRITE)

    with pytest.raises(StepError, match="half done"):
        await MariaDBBarrier().run(maria, TRY, commits)
    assert isinstance(await MariaDBBarrier().run(maria, TRY, commits), Contradiction)
    assert await _say(maria, "SELECT free FROM shop") in ([(FREE - 1,)], ((FREE - 1,),))
    assert await MariaDBBarrier().run(maria, step_of("h", "try"), _nothing) == Done()


async def test_mariadb_lets_no_function_go_on_after_its_transaction_was_undone(maria: Any) -> None:
    """As a deadlock does. Seen red with autocommit left on: what was written after it stayed."""

    async def goes_on(connection: Any) -> None:
        await _say(connection, "ROLLBACK")
        await _say(connection, WRITE)

    with pytest.raises(StepError, match="deadlock"):
        await MariaDBBarrier().run(maria, TRY, goes_on)
    assert await _say(maria, "SELECT free FROM shop") in ([(FREE,)], ((FREE,),))
    assert await MariaDBBarrier().run(maria, TRY, _nothing) == Done()


async def test_mariadb_leaves_a_connection_as_it_was(maria: Any) -> None:
    """After an answer, and after an error."""
    await _say(maria, "SET SESSION innodb_lock_wait_timeout = 17")

    async def fails(_: Any) -> None:
        raise ZeroDivisionError

    await MariaDBBarrier().run(maria, TRY, _nothing)
    with pytest.raises(ZeroDivisionError):
        await MariaDBBarrier().run(maria, step_of("h", "try"), fails)
    [settings] = await _say(maria, "SELECT @@autocommit, @@innodb_lock_wait_timeout, @@in_transaction")
    assert tuple(settings) == (1, 17, 0)


@pytest.mark.parametrize("kind", ["mariadb", "mariadb-serializable", "mariadb-aiomysql"])
async def test_mariadb_forgets_while_a_function_runs_and_new_branches_come(kind: str, mariadb_dsn: str) -> None:
    """Nobody waits for anybody. Seen red with one DELETE that searches, and without the index that it is told."""
    brief = BarrierLimits(lock_wait_s=1, retention_s=0.001)
    async with _open_shop(kind, mariadb_dsn) as shop, shop.connection() as mine, shop.connection() as theirs:
        await _say(mine, "SET SESSION innodb_lock_wait_timeout = 1")
        for number in range(3):
            await MariaDBBarrier().run(mine, step_of(f"old{number}", "action"), _nothing)
        await asyncio.sleep(0.02)
        entered, may_end = asyncio.Event(), asyncio.Event()

        async def works(_: Any) -> None:
            entered.set()
            await may_end.wait()

        slow = asyncio.ensure_future(MariaDBBarrier().run(theirs, step_of("old1-and-a-half", "action"), works))
        await entered.wait()
        try:
            assert await MariaDBBarrier(brief).forget(mine) == 3
            assert await MariaDBBarrier(brief).run(mine, step_of("old2", "action"), _nothing) == Done()
        finally:
            may_end.set()
        assert await slow == Done()


@contextlib.asynccontextmanager
async def _open_shop(kind: str, dsn: str) -> AsyncIterator[MariaDBShop]:
    shop = SHOPS[kind](dsn)
    assert isinstance(shop, MariaDBShop)
    async with shop.opened():
        yield shop


async def test_mariadb_does_not_forget_a_branch_that_goes_on(mariadb_dsn: str) -> None:
    """Its compensation is at work, and will have changed its row by then. Whoever forgets is told to come again."""
    brief = BarrierLimits(retention_s=0.001)
    async with _open_shop("mariadb", mariadb_dsn) as shop, shop.connection() as mine, shop.connection() as theirs:
        await _say(mine, "SET SESSION innodb_lock_wait_timeout = 1")
        await MariaDBBarrier().run(mine, step_of("g", "action"), _nothing)
        await asyncio.sleep(0.02)

        async def forgets(_: Any) -> None:
            with pytest.raises(ResourceBusy, match="come again"):
                await MariaDBBarrier(brief).forget(mine)

        assert await MariaDBBarrier().run(theirs, step_of("g", "compensate"), forgets) == Done()
        await _say(mine, "START TRANSACTION")
        with pytest.raises(StepError, match="outside of a transaction"):
            await MariaDBBarrier(brief).forget(mine)


# ── SQLite ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    shop = SQLiteShop(str(tmp_path))
    async with shop.opened():
        with shop.connection() as connection:
            yield connection


async def test_sqlite_refuses_a_connection_that_is_in_a_transaction(lite: sqlite3.Connection) -> None:
    lite.execute(WRITE)
    with pytest.raises(StepError, match="in a transaction already"):
        SQLiteBarrier().run(lite, TRY, lambda _: None)


async def test_sqlite_says_so_for_ever_when_a_function_has_committed_half_of_its_work(lite: sqlite3.Connection) -> None:
    """`with connection:` commits."""

    def commits(connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute(WRITE)

    with pytest.raises(StepError, match="has ended the transaction"):
        SQLiteBarrier().run(lite, TRY, commits)
    assert isinstance(SQLiteBarrier().run(lite, TRY, commits), Contradiction)
    assert lite.execute("SELECT free FROM shop").fetchone() == (FREE - 1,)
    assert SQLiteBarrier().run(lite, step_of("h", "try"), lambda _: None) == Done()


async def test_sqlite_leaves_a_connection_as_it_was(lite: sqlite3.Connection) -> None:
    """It writes through to the disk meanwhile. Seen red without that setting."""
    lite.execute("PRAGMA synchronous = NORMAL")
    lite.execute("PRAGMA busy_timeout = 17")
    lite.row_factory = sqlite3.Row
    seen = []

    def look(connection: sqlite3.Connection) -> None:
        seen.append(connection.execute("PRAGMA synchronous").fetchone()[0])

    SQLiteBarrier().run(lite, TRY, look)
    assert seen == [3]
    assert [lite.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "busy_timeout")] == [1, 17]
