"""The barriers where they meet the world: functions that hold them wrong, lost answers, servers that may forget."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis as Client
from redis.asyncio import RedisCluster
from structlog.testing import capture_logs

from participant.barrier import Contradiction, Done, Refused
from participant.barriers.limits import BarrierLimits
from participant.barriers.lua import KEY_BYTES_MAX
from participant.barriers.mariadb import MariaDBBarrier
from participant.barriers.postgres import PostgresBarrier
from participant.barriers.redis import RedisBarrier
from participant.barriers.sqlite import SQLiteBarrier
from participant.errors import ConfigError, Reject, ResourceBusy, ResourceUnreachable, SchemaError, StepError
from participant.testing.servers import Postgres, Redis
from tests.support.barriers import FREE, SHOPS, Books, MariaDBShop, PostgresShop, RedisShop, Shop, SQLiteShop, step_of
from tests.support.eavesdropper import Eavesdropper
from tests.support.step_for_ever import audit, work

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


# ── Redis ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncIterator[Client]:
    async with Client.from_url(url) as client:
        await client.flushall()
        yield client


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"appendfsync": "everysec"}, "appendfsync always"),
        ({"no-appendfsync-on-rewrite": "yes"}, "no-appendfsync-on-rewrite no"),
        ({"appendonly": "no"}, "appendonly yes"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "noeviction"),
    ],
    ids=lambda value: str(value).replace(" ", "-"),
)
async def test_redis_refuses_a_server_that_may_forget_unless_that_is_wanted(settings: dict[str, str], why: str) -> None:
    """Then it says so in the log. Seen red with the check left out."""
    async with _redis(settings) as server, Client.from_url(server.url) as client:
        with pytest.raises(ConfigError, match=why):
            await RedisBarrier.open(client)
        with capture_logs() as logs:
            barrier = await RedisBarrier.open(client, allow_loss=True)
        assert [(line["event"], line["log_level"]) for line in logs] == [("barrier.redis_may_lose", "warning")]
        assert await barrier.run(TRY, "return 1") == Done(1)


async def test_redis_refuses_a_server_that_does_not_show_its_settings_unless_that_is_wanted() -> None:
    """As providers do. What it shows still counts."""
    async with _redis({}) as server, Client.from_url(server.url) as admin:
        await admin.execute_command("ACL SETUSER", "app", "on", "nopass", "~*", "+@all", "-config")
        async with Client.from_url(server.url, username="app", password="") as client:
            with pytest.raises(ConfigError, match="does not show its settings"):
                await RedisBarrier.open(client)
            await admin.config_set("appendonly", "no")
            with pytest.raises(ConfigError, match="appendonly yes"):
                await RedisBarrier.open(client)
            assert await (await RedisBarrier.open(client, allow_loss=True)).run(TRY, "return 1") == Done(1)


@contextlib.asynccontextmanager
async def _redis(settings: dict[str, str]) -> AsyncIterator[Redis]:
    async with Redis.running(settings=settings) as server:
        yield server


async def test_redis_keeps_its_answers_when_the_server_is_killed() -> None:
    """SIGKILL in the middle of the work of four; what was answered is there again, and nothing is half done."""
    async with _redis({}) as server:
        said: list[str] = []
        async with RedisShop(server.url).opened() as shop:
            for _ in range(2):
                enough = asyncio.Event()

                def say(line: str, enough: asyncio.Event = enough) -> None:
                    said.append(line)
                    if len(said) % 100 == 0:
                        enough.set()

                working = asyncio.ensure_future(work(shop, len(said) + 1, say))
                await enough.wait()
                await server.kill()
                await working
                await server.start()
            await _is_back(shop)
            await audit(shop, said)


async def _is_back(shop: Shop) -> None:
    for _ in range(100):
        try:
            await shop.books()
            return
        except (OSError, ResourceUnreachable):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("lua", "why"),
    [
        ("redis.call('SET', KEYS[1], 1) redis.call('HSET', KEYS[2], 'x', 1) redis.call('INCR', KEYS[2])", "WRONGTYPE"),
        ("redis.call('DEL', KEYS[3]) error('on purpose')", "on purpose"),
        ("redis.call('SET', KEYS[3], 'y') redis.call('SET', 'other', 1)", "not among the keys"),
        ("redis.call('XGROUP', 'CREATE', KEYS[1], 'g', '$', 'MKSTREAM') error('on purpose')", "on purpose"),
        ("redis.call('EXPIRE', KEYS[3], 1) redis.call('PUBLISH', 'x', 1)", "neither reads nor writes"),
        ("redis.call('SET', KEYS[1], 1) forgotten = 1", "readonly table"),
        ("redis.call('APPEND', KEYS[4], 'x')", str(KEY_BYTES_MAX)),
    ],
)
async def test_redis_takes_back_what_a_failing_script_has_written(redis: Redis, lua: str, why: str) -> None:
    """Redis alone would keep it. The time to live of a key is put back, too. Seen red without `undo`."""
    async with _client(redis.url) as client:
        await client.set("had", "x", ex=1_000)
        # Redis compresses what repeats, so this does not.
        await client.set("large", bytes(sum(divmod(i * 7919 ^ i >> 3, 251)) % 256 for i in range(2 * KEY_BYTES_MAX)))
        barrier = await RedisBarrier.open(client)
        with pytest.raises(StepError, match=why):
            await barrier.run(TRY, lua, ["one", "two", "had", "large"])
        assert sorted(await client.keys()) == [b"had", b"large"]
        assert await client.get("had") == b"x"
        assert 900 < await client.ttl("had") <= 1_000


@pytest.mark.parametrize("command", ["restore", "dump", "command", "pexpire", "eval"])
async def test_redis_refuses_a_user_who_may_not_put_back_what_a_step_has_written(redis: Redis, command: str) -> None:
    """Seen red without the probe. It leaves nothing."""
    async with _client(redis.url) as admin, _user(redis.url, admin) as client:
        await admin.execute_command("ACL SETUSER", "app", f"-{command}")
        for is_loss_allowed in (False, True):
            with pytest.raises(ConfigError, match="could not take back"):
                await RedisBarrier.open(client, allow_loss=is_loss_allowed)
        assert await admin.keys() == []


async def test_redis_says_so_for_ever_when_it_could_not_put_back_what_a_step_has_written(redis: Redis) -> None:
    """The right was taken away since `open`. Seen red with an error in `undo` let through: every repeat wrote again."""
    lua = "redis.call('INCR', KEYS[1]) redis.call('SET', KEYS[2], 1) error('on purpose')"
    async with _client(redis.url) as admin, _user(redis.url, admin) as client:
        await admin.set("had", 10)
        barrier = await RedisBarrier.open(client)
        await admin.execute_command("ACL SETUSER", "app", "-restore")
        for step in (TRY, step_of("g", "compensate")):
            with capture_logs() as logs, pytest.raises(StepError, match="may be half done"):
                await barrier.run(step, lua, ["had", "new"])
            assert [(line["event"], line["log_level"]) for line in logs] == [("barrier.undo_failed", "error")]
            assert isinstance(await barrier.run(step, lua, ["had", "new"]), Contradiction)
            await admin.delete("commitd:g/b")
            await barrier.run(step_of("g", "action"), "return 1")
        assert await admin.get("had") == b"12"
        assert await admin.get("new") is None


async def test_redis_does_not_tell_a_user_to_come_again_who_may_not(redis: Redis) -> None:
    async with _client(redis.url) as admin, _user(redis.url, admin) as client:
        barrier = await RedisBarrier.open(client)
        for right in ("-hget", "-evalsha", "resetkeys"):
            await admin.execute_command("ACL SETUSER", "app", right)
            with pytest.raises(StepError, match="cannot be done"):
                await barrier.run(TRY, "return 1")
            await admin.execute_command("ACL SETUSER", "app", "~*", "+@all")


@contextlib.asynccontextmanager
async def _user(url: str, admin: Client) -> AsyncIterator[Client]:
    await admin.execute_command("ACL SETUSER", "app", "reset", "on", "nopass", "~*", "+@all")
    try:
        async with Client.from_url(url, username="app", password="") as client:
            yield client
    finally:
        await admin.execute_command("ACL DELUSER", "app")


@pytest.mark.parametrize(
    "lua",
    [
        "redis.call('COPY', KEYS[1], KEYS[2], 'DB', 1, 'REPLACE') reject('no')",
        "redis.call('copy', KEYS[1], KEYS[2], 'replace', 'db', 1) reject('no')",
        "redis.pcall('MOVE', KEYS[1], 1) reject('no')",
        "redis.call('MIGRATE', '127.0.0.1', 1, KEYS[1], 1, 10) reject('no')",
    ],
)
async def test_redis_lets_no_step_write_where_it_could_not_put_back(redis: Redis, lua: str) -> None:
    """Seen red without the check: what it had copied or moved to another database stayed there."""
    async with _client(redis.url) as client, Client.from_url(redis.url.replace("/0", "/1")) as other:
        await client.set("mine", 1)
        await other.set("theirs", 2)
        barrier = await RedisBarrier.open(client)
        with pytest.raises(StepError, match="writes elsewhere"):
            await barrier.run(TRY, lua, ["mine", "theirs"])
        assert (await client.keys(), await client.get("mine")) == ([b"mine"], b"1")
        assert (await other.keys(), await other.get("theirs")) == ([b"theirs"], b"2")
        assert await barrier.run(TRY, "return redis.call('COPY', KEYS[1], KEYS[2])", ["mine", "new"]) == Done(1)


async def test_redis_says_what_does_not_compile_and_hides_its_own_names(redis: Redis) -> None:
    async with _client(redis.url) as client:
        barrier = await RedisBarrier.open(client)
        with pytest.raises(StepError, match="compiling script"):
            await barrier.run(TRY, "end")
        with pytest.raises(StepError, match="nonexistent global variable 'undo'"):
            await barrier.run(TRY, "return undo")
        assert await barrier.run(TRY, "return {#KEYS, ARGV[1]}", [], ["a"]) == Done([0, "a"])


async def test_redis_forgets_what_has_ended_after_the_retention_and_what_was_tried_never(redis: Redis) -> None:
    """Seen red without PERSIST, and without PEXPIRE."""
    async with _client(redis.url) as client:
        barrier = await RedisBarrier.open(client, BarrierLimits(retention_s=1_000))
        await barrier.run(step_of("g", "try"), "return 1")
        assert await client.ttl("commitd:g/b") == -1
        await barrier.run(step_of("g", "confirm"), "return 1")
        assert 900 < await client.ttl("commitd:g/b") <= 1_000


async def test_redis_keeps_row_and_keys_together_in_a_cluster() -> None:
    """A cluster of one, which refuses scripts across slots as any other does."""
    async with _cluster([(0, 16_383)]) as [server], RedisCluster.from_url(server.url) as cluster:
        barrier = await RedisBarrier.open(cluster)
        lua = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])"
        assert await barrier.run(TRY, lua, ["{mug}:stock"], [7], tag="mug") == Done("7")
        assert await barrier.run(TRY, lua, ["{mug}:stock"], [7], tag="mug") == Done("7")
        with pytest.raises(StepError, match="has not the tag"):
            await barrier.run(TRY, lua, ["stock"], [7], tag="mug")
        with pytest.raises(StepError, match="needs the `tag`"):
            await barrier.run(TRY, lua, ["{mug}:stock"], [7])


async def test_redis_looks_at_each_primary_of_a_cluster() -> None:
    """Seen red with one of them asked, and without a probe on each."""
    async with (
        _cluster([(0, 8_191), (8_192, 16_383)]) as servers,
        RedisCluster.from_url(servers[0].url) as cluster,
    ):
        await RedisBarrier.open(cluster)
        for server in servers:
            async with Client.from_url(server.url) as client:
                await client.config_set("no-appendfsync-on-rewrite", "yes")
                with pytest.raises(ConfigError, match=f"{server.port}: .* no-appendfsync-on-rewrite is yes"):
                    await RedisBarrier.open(cluster)
                await client.config_set("no-appendfsync-on-rewrite", "no")
                await client.execute_command("ACL SETUSER", "default", "-restore")
                with pytest.raises(ConfigError, match="could not take back"):
                    await RedisBarrier.open(cluster)
                await client.execute_command("ACL SETUSER", "default", "+restore")
        await RedisBarrier.open(cluster)


@contextlib.asynccontextmanager
async def _cluster(slots: Sequence[tuple[int, int]]) -> AsyncIterator[list[Redis]]:
    """One primary for each range of slots, when all of them know each other."""
    async with contextlib.AsyncExitStack() as stack:
        servers, clients, buses = [], [], [_free_port() for _ in slots]
        for bus in buses:
            server = await stack.enter_async_context(_redis({"cluster-enabled": "yes", "cluster-port": str(bus)}))
            servers.append(server)
            clients.append(await stack.enter_async_context(Client.from_url(server.url)))
        for client, (first, last) in zip(clients, slots, strict=True):
            await client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for server, bus in zip(servers[1:], buses[1:], strict=True):
            await clients[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
        for _ in range(400):
            infos = [await client.execute_command("CLUSTER INFO") for client in clients]
            if all(info["cluster_state"] == "ok" and info["cluster_slots_ok"] == "16384" for info in infos):
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError(f"the cluster did not come together: {infos}")
        yield servers


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
