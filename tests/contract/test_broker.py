"""Every broker of ours keeps what the port says, on a real server, which is killed where that matters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import nats as nats_py
import pytest
from nats.js import api
from redis.asyncio import Redis as RedisClient

from participant.errors import BrokerUnreachable, ConfigError, WireError
from participant.messages import nats as over_nats
from participant.messages import redis as over_redis
from participant.messages.broker import Broker, Delivery, Done, Refused, Subscription, Unknown
from participant.messages.nats import NatsStreams
from participant.messages.redis import RedisStreams
from participant.testing.servers import Nats, Redis
from tests.support.brokers import BROKERS, Line, line_on

SERVERS: dict[str, type[Redis | Nats]] = {"redis": Redis, "nats": Nats}
ODD = "customer 17/ä€\N{GRINNING FACE}%:"
EMPTY_FETCHES = 5  # in a row: no more will come

_Port = TypeVar("_Port", Broker, Subscription)


@pytest.fixture(params=BROKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def line(kind: str, request: pytest.FixtureRequest) -> Line:
    return line_on(request.getfixturevalue(kind))


@pytest.fixture
async def broker(line: Line) -> AsyncIterator[Broker]:
    async with opened(line.broker()) as broker:
        yield broker


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not acknowledged comes again soon."""
    monkeypatch.setattr(over_redis, "CLAIM_AFTER_S", 0.1)
    monkeypatch.setattr(over_redis, "CLAIM_INTERVAL_S", 0.1)
    monkeypatch.setattr(over_nats, "ACK_WAIT_S", 0.5)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come is soon taken for none."""
    monkeypatch.setattr(over_redis, "ANSWER_TIMEOUT_S", 1.0)
    monkeypatch.setattr(over_nats, "ANSWER_TIMEOUT_S", 1.0)


@asynccontextmanager
async def opened(port: _Port) -> AsyncIterator[_Port]:
    await port.open()
    try:
        yield port
    finally:
        await port.close()


async def fetched(subscription: Subscription, count: int, *, acknowledge: bool = True) -> list[Delivery]:
    """So many messages; fewer if no more come."""
    found: list[Delivery] = []
    empty = 0
    while len(found) < count and empty < EMPTY_FETCHES:
        deliveries = await subscription.fetch()
        empty = 0 if deliveries else empty + 1
        for delivery in deliveries:
            found.append(delivery)
            if acknowledge:
                await subscription.acknowledge(delivery)
    return found


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.message.id for delivery in deliveries]


async def test_a_message_arrives_as_it_was_published(line: Line, broker: Broker) -> None:
    message = line.message("gid/b/0", ODD, '{"text":"ä€\\u0000","n":[1,2.5,null]}')
    assert await broker.publish(message) == Done()
    async with opened(line.subscription()) as subscription:
        (delivery,) = await fetched(subscription, 1)
    assert delivery.message == message
    assert delivery.message.body == {"text": "ä€\0", "n": [1, 2.5, None]}


async def test_what_is_published_again_is_there_once(line: Line, broker: Broker) -> None:
    """Seen red with the id left out of what is published (NATS), and without the look for a known one (Redis)."""
    for name in ("a", "b", "a", "a", "c"):
        assert await broker.publish(line.message(name)) == Done()
    async with opened(line.subscription()) as subscription:
        assert ids(await fetched(subscription, 3)) == ["a", "b", "c"]
        assert await subscription.fetch() == []


async def test_what_is_published_after_another_one_was_done_stands_behind_it(line: Line, broker: Broker) -> None:
    names = [str(number) for number in range(100)]
    for name in names:
        assert await broker.publish(line.message(name)) == Done()
    async with opened(line.subscription()) as subscription:
        assert ids(await fetched(subscription, 100)) == names


async def test_a_message_that_is_too_large_is_refused_with_the_reason_and_is_not_there(kind: str) -> None:
    async with SERVERS[kind].running() as server:
        line = line_on(server)
        if kind == "nats":
            await _make_stream(server.url, api.StreamConfig(line.subject, subjects=[line.subject], max_msg_size=1_000))
        broker = line.broker() if kind == "nats" else RedisStreams(server.url, body_bytes_max=1_000)
        async with opened(broker), opened(line.subscription()) as subscription:
            refused = await broker.publish(line.message("large", text='"' + "x" * 2_000 + '"'))
            assert isinstance(refused, Refused)
            assert "maximum" in refused.why or "at most 1,000" in refused.why
            assert await broker.publish(line.message("small")) == Done()
            assert ids(await fetched(subscription, 1)) == ["small"]


async def test_each_group_gets_all_and_each_reader_of_a_group_a_part(line: Line, broker: Broker) -> None:
    for number in range(10):
        await broker.publish(line.message(str(number)))
    one, other, alone = line.subscription(), line.subscription(), line.subscription("others")
    async with opened(one), opened(other), opened(alone):
        assert len(ids(await fetched(alone, 10))) == 10
        some = await fetched(one, 1, acknowledge=False)
        rest = await other.fetch()
        assert sorted(ids(some) + ids(rest), key=int) == [str(number) for number in range(10)]


async def test_what_a_reader_did_not_acknowledge_comes_to_another_one(line: Line, broker: Broker, hasty: None) -> None:
    """The first reader goes without a word. Seen red (Redis) with `_overdue` left out."""
    await broker.publish(line.message("a"))
    await broker.publish(line.message("b"))
    async with opened(line.subscription()) as first:
        kept, _ = await fetched(first, 2, acknowledge=False)
        await first.acknowledge(kept)
    async with opened(line.subscription()) as second:
        assert ids(await fetched(second, 1)) == ["b"]
        assert await second.fetch() == []


async def test_what_was_acknowledged_never_comes_again(line: Line, broker: Broker, hasty: None) -> None:
    await broker.publish(line.message("a"))
    async with opened(line.subscription()) as first:
        assert ids(await fetched(first, 1)) == ["a"]
    async with opened(line.subscription()) as second:
        assert await second.fetch() == []
        assert await second.fetch() == []


async def test_without_its_server_a_publish_is_unknown_and_an_open_fails(kind: str, impatient: None) -> None:
    async with SERVERS[kind].running() as server:
        line = line_on(server)
        async with opened(line.broker()) as broker, opened(line.subscription()) as subscription:
            await broker.publish(line.message("a"))
            await server.kill()
            assert isinstance(await broker.publish(line.message("b")), Unknown)
            with pytest.raises(BrokerUnreachable):
                await line.broker().open()
            await server.start()
            while await broker.publish(line.message("b")) != Done():
                pass
            assert ids(await fetched(subscription, 2)) == ["a", "b"]


async def test_what_was_done_survives_kill_9_of_the_server(kind: str, impatient: None) -> None:
    """Four lines publish as fast as they can; the server is killed three times in between."""
    done: list[str] = []

    enough = [asyncio.Event() for _ in range(3)]

    async def publish(line: Line, broker: Broker, number: int) -> None:
        for each in range(200):
            message = line.message(f"{number}.{each}")
            while await broker.publish(message) != Done():
                pass
            done.append(message.id)
            if len(done) % 150 == 0 and len(done) <= 450:
                enough[len(done) // 150 - 1].set()

    async with SERVERS[kind].running() as server:
        line = line_on(server)
        async with opened(line.broker()) as broker:
            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(publish(line, broker, number))
                for each in enough:
                    await each.wait()
                    await server.kill()
                    await server.start()
            async with opened(line.subscription()) as subscription:
                found = ids(await fetched(subscription, 800))
        assert sorted(found) == sorted(done)
        for number in range(4):
            assert [name for name in found if name.startswith(f"{number}.")] == [f"{number}.{i}" for i in range(200)]


async def test_a_message_of_somebody_else_has_an_id_that_stays(line: Line, hasty: None) -> None:
    """It has none of its own, and perhaps no JSON in it."""
    async with opened(line.broker()):
        pass
    if line.kind == "redis":
        async with RedisClient.from_url(line.url) as client:
            await client.xadd(f"{{messages:{line.subject}}}", {"body": b"\xff\0no JSON"})
    else:
        client = await nats_py.connect(line.url)
        await client.jetstream().publish(line.subject, b"\xff\0no JSON")
        await client.close()
    async with opened(line.subscription()) as first:
        (once,) = await fetched(first, 1, acknowledge=False)
    async with opened(line.subscription()) as second:
        (again,) = await fetched(second, 1)
    assert once.message == again.message
    assert once.message.id.startswith(f"{line.subject}:")
    with pytest.raises(WireError, match="is not JSON"):
        _ = again.message.body


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"appendonly": "no"}, "appendonly is 'no': set `appendonly yes`"),
        ({"appendfsync": "everysec"}, "appendfsync is 'everysec': set `appendfsync always`"),
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru evicts streams"),
    ],
)
async def test_a_redis_that_may_lose_messages_is_refused(settings: dict[str, str], said: str) -> None:
    async with Redis.running(settings=settings) as server:
        with pytest.raises(ConfigError, match=said):
            await RedisStreams(server.url).open()
        async with opened(RedisStreams(server.url, require_fsync=False)) as broker:
            assert await broker.publish(line_on(server).message("a")) == Done()


async def test_a_redis_that_does_not_say_how_it_keeps_its_data_is_refused(redis: Redis) -> None:
    async with RedisClient.from_url(redis.url) as admin:
        await admin.acl_setuser("narrow", enabled=True, passwords="+secret", keys="*", commands=["+@all", "-config"])
        url = redis.url.replace("redis://", "redis://narrow:secret@")
        with pytest.raises(ConfigError, match=r"let this user run CONFIG GET.*require_fsync=False"):
            await RedisStreams(url).open()
        async with opened(RedisStreams(url, require_fsync=False)):
            pass
        await admin.acl_deluser("narrow")


async def test_a_stream_of_nats_in_memory_is_refused(nats: Nats) -> None:
    line = line_on(nats)
    memory = api.StreamConfig(line.subject, subjects=[line.subject], storage=api.StorageType.MEMORY)
    await _make_stream(nats.url, memory)
    broker = line.broker()
    with pytest.raises(ConfigError, match="is in memory, and would lose"):
        await broker.open()
    await broker.close()


async def test_a_subject_that_no_stream_of_nats_takes_is_waited_for(nats: Nats) -> None:
    """An operator can add it to the stream."""
    line = line_on(nats)
    async with opened(NatsStreams(nats.url, stream=line.subject, subjects=["other.>"])) as broker:
        assert isinstance(await broker.publish(line.message("a")), Unknown)


async def test_a_reader_that_leaves_nothing_leaves_no_name(redis: Redis) -> None:
    """With something that was not acknowledged, the name must stay: it would be lost with it."""
    line = line_on(redis)
    async with opened(line.broker()) as broker, RedisClient.from_url(redis.url) as admin:
        await broker.publish(line.message("a"))
        async with opened(line.subscription()) as subscription:
            await fetched(subscription, 1, acknowledge=False)
        async with opened(line.subscription()) as subscription:
            assert await subscription.fetch() == []
        (kept,) = await admin.xinfo_consumers(f"{{messages:{line.subject}}}", "readers")
        assert kept["pending"] == 1


async def _make_stream(url: str, config: api.StreamConfig) -> None:
    client = await nats_py.connect(url)
    await client.jetstream().add_stream(config)
    await client.close()
