"""A process, a broker or a database is killed in between: no message is lost, and none counts twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from participant.errors import ResourceUnreachable
from participant.messages.message import Message
from participant.testing.servers import MariaDB, Nats, Postgres, Redis
from participant.wire import BranchState
from tests.support.brokers import BROKERS, Line, line_on
from tests.support.dying import HASTE, die_as
from tests.support.shops import commit, has_heard, heard, is_empty, make_reader, make_shop, order, until

SERVERS: dict[str, type[Redis | Nats]] = {"redis": Redis, "nats": Nats}
KILLED = -signal.SIGKILL


PAIRS = (("sqlite", "redis"), ("postgres", "redis"), ("mariadb", "redis"), ("sqlite", "nats"))


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A database and a broker."""
    database, broker = request.param
    return database, broker


@pytest.fixture
def kind(pair: tuple[str, str]) -> str:
    return pair[0]


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return str(tmp_path) if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_dsn"))


@pytest.fixture
def line(pair: tuple[str, str], request: pytest.FixtureRequest) -> Line:
    return line_on(request.getfixturevalue(pair[1]))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the dead have left is taken up soon."""
    for module, name, value in HASTE:
        monkeypatch.setattr(module, name, value)


async def test_a_relay_that_is_killed_between_sending_and_saying_so_loses_and_doubles_nothing(
    kind: str, place: str, line: Line
) -> None:
    """Two die, with 1 and 7 messages sent that are still in the outbox; a third does the rest.

    Seen red with rows that were deleted before they were sent, and without ids at the broker.
    """
    async with make_shop(kind, place, None).serving() as serving:
        for number in range(20):
            await commit(serving.service, f"gid-{number}", order(line, f"order-{number % 4}", 2))
    for after in (1, 7):
        assert await die_as("relay", kind, place, line, after) == KILLED
    shop = make_shop(kind, place, line.broker())
    async with shop.serving():
        await until(lambda: is_empty(shop))
    messages = await _all_on(line, 40)
    assert sorted(message.id for message in messages) == sorted(f"gid-{n}/b/{i}" for n in range(20) for i in range(2))
    for name in range(4):
        changes = [message.body["change"] for message in messages if message.key == f"order-{name}"]
        assert changes == sorted(changes)


async def test_a_reader_that_is_killed_between_its_commit_and_saying_so_has_one_effect(
    kind: str, place: str, line: Line
) -> None:
    """Two die, and a third gets again what they had handled.

    Seen red with a branch that was named anew for each delivery.
    """
    await _publish(line, 30)
    for after in (1, 7):
        assert await die_as("reader", kind, place, line, after) == KILLED
    reader = make_reader(kind, place, line.subscription())

    async def nothing_is_owed() -> bool:
        return await line.owed() == 0

    async with reader.serving():
        await until(lambda: has_heard(reader, 30))
        await until(nothing_is_owed)
        assert await heard(reader) == {f"message-{number}": 1 for number in range(30)}


@pytest.mark.parametrize("broker_kind", BROKERS)
async def test_a_broker_that_is_killed_loses_nothing(broker_kind: str, tmp_path: Any) -> None:
    """Three times, while a shop goes on committing and a reader goes on handling."""
    async with SERVERS[broker_kind].running() as server:
        line = line_on(server)
        async with _shop_and_reader("sqlite", str(tmp_path), line, tmp_path) as (shop, service, reader):
            for kills in range(3):
                await _commit_many(service, line, kills)
                await server.kill()
                await _commit_many(service, line, kills + 10)
                await server.start()
            await until(lambda: has_heard(reader, 120))
            assert set((await heard(reader)).values()) == {1}
            await until(lambda: is_empty(shop))


@pytest.mark.parametrize("database", ["postgres", "mariadb"])
async def test_a_database_that_is_killed_loses_nothing(database: str, redis: Redis, tmp_path: Any) -> None:
    """Three times, while its rows are forwarded."""
    line = line_on(redis)
    async with (
        _database(database) as (server, place),
        _shop_and_reader(database, place, line, tmp_path) as (shop, service, reader),
    ):
        for kills in range(3):
            await _commit_many(service, line, kills)
            await server.kill()
            await server.start()
        await until(lambda: has_heard(reader, 60))
        assert set((await heard(reader)).values()) == {1}
        await until(lambda: is_empty(shop))


@asynccontextmanager
async def _database(kind: str) -> AsyncIterator[tuple[Any, str]]:
    if kind == "postgres":
        async with Postgres.running() as postgres:
            yield postgres, postgres.dsn
    else:
        async with MariaDB.running() as mariadb:
            yield mariadb, mariadb.dsn_of("mysql")


@asynccontextmanager
async def _shop_and_reader(kind: str, place: str, line: Line, folder: Any) -> AsyncIterator[tuple[Any, Any, Any]]:
    shop = make_shop(kind, place, line.broker())
    reader = make_reader("sqlite", str(folder / "reader"), line.subscription())
    async with shop.serving() as serving, reader.serving():
        yield shop, serving.service, reader


async def _commit_many(service: Any, line: Line, number: int) -> None:
    """As a coordinator does: what gets no answer is asked for again."""
    for each in range(20):
        answer = None
        while answer is None or answer.retry:
            with suppress(ResourceUnreachable):
                answer = await commit(service, f"{number}-{each}", order(line, f"{number}-{each}"))
        assert answer.state is BranchState.COMMITTED


async def _publish(line: Line, count: int) -> None:
    broker = line.broker()
    await broker.open()
    for number in range(count):
        await broker.publish(line.message(f"message-{number}", f"key-{number % 3}"))
    await broker.close()


async def _all_on(line: Line, count: int) -> list[Message]:
    """All messages of a stream, in its order; there must be so many."""
    found: list[Message] = []
    others = line.subscription("others")
    await others.open()
    async with asyncio.timeout(30.0):
        while len(found) < count:
            for delivery in await others.fetch():
                found.append(delivery.message)
                await others.acknowledge(delivery)
    more = await others.fetch()
    await others.close()
    assert more == []
    return found
