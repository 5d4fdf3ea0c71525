"""The barrier on Redis where it meets the world: rights, settings, a killed server, a cluster, Lua that fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis as Client
from redis.asyncio import RedisCluster
from structlog.testing import capture_logs

from participant.barrier import Contradiction, Done
from participant.barriers.limits import BarrierLimits
from participant.barriers.lua import KEY_BYTES_MAX
from participant.barriers.redis import RedisBarrier
from participant.errors import ConfigError, ResourceUnreachable, StepError
from participant.testing.servers import Redis
from tests.support.barriers import RedisShop, Shop, step_of
from tests.support.step_for_ever import audit, work

TRY = step_of("g", "try")


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
