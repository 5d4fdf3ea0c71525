"""Messages of services with an ORM, on both servers: published with the session, and handled with one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import String, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from participant import Participant, Reject, ResourceLimits
from participant.errors import ActionError
from participant.ids import BranchKey
from participant.messages import Message, outbox, patience
from participant.messages.broker import Broker, Delivery, Subscription
from participant.resource import Call
from participant.rm.mariadb import MariaDB
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlalchemy import SQLAlchemy
from participant.testing.servers import Redis
from participant.wire import BranchState, Operation, Verb
from tests.support.brokers import Line, ToldBroker, line_on
from tests.support.shops import abort, commit, prepare, until

LOGIC = {"postgres": "postgresql+asyncpg", "mariadb": "mysql+asyncmy"}


class Table(DeclarativeBase):
    pass


class Order(Table):
    __tablename__ = "orders"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    changes: Mapped[int]


class Parcel(Table):
    """Two for one message would be two rows."""

    __tablename__ = "parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
    message: Mapped[str] = mapped_column(String(200))


class Repeating:
    """A subscription that gives each message twice."""

    def __init__(self, inner: Subscription) -> None:
        self._inner = inner
        self.acknowledged: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def fetch(self) -> list[Delivery]:
        return [each for delivery in await self._inner.fetch() for each in (delivery, delivery)]

    async def acknowledge(self, delivery: Delivery) -> None:
        await self._inner.acknowledge(delivery)
        self.acknowledged.append(delivery.message.id)


@pytest.fixture(params=sorted(LOGIC))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(kind: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{kind}_dsn"))


@pytest.fixture
def engine(kind: str, empty: str) -> AsyncEngine:
    """One of the service's own, as its migrations have."""
    return create_async_engine(f"{LOGIC[kind]}://{empty.partition('://')[2]}", poolclass=NullPool)


@pytest.fixture
async def dsn(empty: str, engine: AsyncEngine) -> str:
    """A database with the tables of this file."""
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    return empty


@pytest.fixture
def line(redis: Redis) -> Line:
    return line_on(redis)


def _resource(dsn: str) -> SQLAlchemy:
    limits = ResourceLimits(lock_wait_s=30.0, deadlock_wait_s=30.0)
    if dsn.startswith("postgresql"):
        return SQLAlchemy(PostgreSQL(dsn, schema=outbox.POSTGRESQL, limits=limits))
    return SQLAlchemy(MariaDB(dsn, schema=outbox.MARIADB, limits=limits))


def _shop(dsn: str, broker: Broker | None) -> Participant:
    """`order` publishes first, and then changes the order; its body is as in `_body`."""
    shop = Participant("shop", _resource(dsn), broker=broker)

    @shop.action("order")
    async def order(session: AsyncSession, body: Any) -> list[str]:
        name = body["name"]
        said = [
            await outbox.publish(session, body["subject"], {"number": number}, key=name)
            for number in range(body["messages"])
        ]
        found = await session.get(Order, name)
        if found is None:
            session.add(Order(name=name, changes=1))
        else:
            found.changes += 1
        if body["no"]:
            raise Reject("no")
        return said

    return shop


def _body(subject: str, name: str = "a", messages: int = 1, *, no: bool = False) -> dict[str, Any]:
    return {"name": name, "subject": subject, "messages": messages, "no": no}


async def _read(participant: Participant, view: Any) -> Any:
    return await participant._resource.read(Call.of("look", view, None))


async def _orders(session: AsyncSession, _: Any) -> dict[str, int]:
    return {order.name: order.changes for order in await session.scalars(select(Order))}


async def _parcels(session: AsyncSession, _: Any) -> list[str]:
    return list(await session.scalars(select(Parcel.message).order_by(Parcel.message)))


async def _measured(service: Any, **expected: int) -> bool:
    measured = (await service.measures())["outbox"]
    return all(measured[name] == value for name, value in expected.items())


async def test_what_a_session_publishes_is_handled_once_if_it_commits_and_never_if_not(dsn: str, line: Line) -> None:
    """The shop and the reader of its messages are one participant; each message comes twice.

    Seen red with the row written on a connection of its own (PostgreSQL), and with branches that were named anew for
    each delivery.
    """
    subscription = Repeating(line.subscription())
    shop = _shop(dsn, line.broker())

    @shop.consumer(subscription)
    async def hear(session: AsyncSession, message: Message) -> None:
        session.add(Parcel(message=message.id))

    async def are_all_done() -> bool:
        return len(subscription.acknowledged) == 6

    async with shop.serving() as serving:
        service = serving.service
        assert (await prepare(service, "yes", _body(line.subject, "a", 2))).state is BranchState.PREPARED
        assert (await prepare(service, "undone", _body(line.subject, "b"))).state is BranchState.PREPARED
        assert (await commit(service, "no", _body(line.subject, "c", no=True))).state is BranchState.ABORTED
        await abort(service, "undone")
        await commit(service, "yes")
        assert (await commit(service, "at-once", _body(line.subject, "d"))).state is BranchState.COMMITTED
        await until(are_all_done)
        assert await _read(shop, _parcels) == ["at-once/b/0", "yes/b/0", "yes/b/1"]
        assert await _read(shop, _orders) == {"a": 1, "d": 1}
        await until(lambda: _measured(service, waiting=0, dead=0))


async def test_a_session_that_runs_again_publishes_under_the_same_ids(dsn: str, line: Line) -> None:
    """The action of the second has published before it waits for the row that the first one holds.

    Seen red with numbers that went on in the next run.
    """
    broker = ToldBroker()
    shop = _shop(dsn, broker)
    runs: list[list[str]] = []

    @shop.action("tell")
    async def tell(session: AsyncSession, body: Any) -> None:
        runs.append(await shop._actions["order"](session, body))
        await session.flush()

    async def is_waiting() -> bool:
        return bool((await serving.service.status()).waiting)

    async with shop.serving() as serving:
        service = serving.service
        await commit(service, "made", _body("s", messages=0))
        await prepare(service, "first", _body("s", messages=0))
        second = BranchKey("second", "b")
        telling = asyncio.ensure_future(
            service.perform(Operation(Verb.PREPARE, second, "tell", _body("s", messages=2)))
        )
        await until(is_waiting)
        await commit(service, "first")
        assert (await telling).state is BranchState.PREPARED
        await commit(service, "second")
        await until(lambda: _measured(service, waiting=0))
        assert await _read(shop, _orders) == {"a": 3}
    assert runs == [["second/b/0", "second/b/1"]] * 2
    assert [message.id for message in broker.sent] == ["second/b/0", "second/b/1"]


async def test_what_is_published_in_a_part_that_is_undone_is_not_sent(dsn: str) -> None:
    """SQLAlchemy begins the savepoint of a part only at the first statement in it, and publishing may be that.

    Seen red without the question for the session's connection.
    """
    broker = ToldBroker()
    shop = Participant("shop", _resource(dsn), broker=broker)

    @shop.action("try")
    async def in_parts(session: AsyncSession, _: Any) -> None:
        for name in ("kept", "undone", "kept too"):
            try:
                async with session.begin_nested():
                    await outbox.publish(session, "parts", name)
                    if name == "undone":
                        raise LookupError(name)
            except LookupError:
                continue

    async with shop.serving() as serving:
        operation = Operation(Verb.COMMIT, BranchKey("gid", "b"), "try", None, one_phase=True)
        assert (await serving.service.perform(operation)).state is BranchState.COMMITTED
        await until(lambda: _measured(serving.service, waiting=0))
    assert [message.body for message in broker.sent] == ["kept", "kept too"]


async def test_a_handler_with_a_session_is_tried_again_and_buried(
    dsn: str, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had added to the session before it failed is not there. Seen red with a session in the place of the `tx`
    that buries.
    """
    monkeypatch.setattr(patience, "PAUSE_MIN_S", 0.001)
    shop = _shop(dsn, line.broker())
    tries: list[str] = []

    @shop.consumer(line.subscription(), attempts_max=2)
    async def hear(session: AsyncSession, message: Message) -> None:
        session.add(Parcel(message=message.id))
        await session.flush()
        tries.append(message.id)
        if message.id == "bad/b/0" or len(tries) == 1:
            raise RuntimeError("not now")

    async with shop.serving() as serving:
        for gid in ("good", "bad"):
            await commit(serving.service, gid, _body(line.subject, "a"))
        await until(lambda: _measured(serving.service, waiting=0, dead=1))
        assert await _read(shop, _parcels) == ["good/b/0"]
    assert tries.count("bad/b/0") == 2


async def test_a_view_cannot_publish(dsn: str) -> None:
    async def tell(session: AsyncSession, _: Any) -> None:
        await outbox.publish(session, "subject", None)

    shop = _shop(dsn, None)
    async with shop.serving():
        with pytest.raises(ActionError, match="published by an action, with its tx or session"):
            await _read(shop, tell)


async def test_a_session_of_ones_own_cannot_publish(engine: AsyncEngine) -> None:
    """Its transaction is no branch."""
    async with AsyncSession(engine) as session:
        with pytest.raises(ActionError, match="published by an action"):
            await outbox.publish(session, "subject", None)
