"""The shop: it takes orders, and says so to whoever ships them. Its database is a PostgreSQL at `SHOP_DSN`."""

import asyncio
import os

from sqlalchemy import String, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from participant import Participant, Reject
from participant.messages import outbox
from participant.messages.redis import RedisStreams
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlalchemy import SQLAlchemy

DSN = os.environ["SHOP_DSN"]
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
BROKER = RedisStreams("redis://127.0.0.1:6400/0")


class Table(DeclarativeBase):
    pass


class Order(Table):
    __tablename__ = "orders"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    buyer: Mapped[str] = mapped_column(String(64))
    mugs: Mapped[int]


shop = Participant("shop", SQLAlchemy(PostgreSQL(DSN, schema=outbox.POSTGRESQL)), broker=BROKER)


@shop.action("order")
async def order(session: AsyncSession, body):
    match body:
        case {"name": str(name), "buyer": str(buyer), "mugs": int(mugs)} if 1 <= mugs <= 1000:
            session.add(Order(name=name, buyer=buyer, mugs=mugs))
        case _:
            raise Reject("an order has a name, a buyer, and 1 to 1000 mugs")
    await outbox.publish(session, "orders.created", {"order": name, "to": buyer, "mugs": mugs}, key=name)


@shop.view("/v1/orders")
async def orders(session: AsyncSession, _query):
    return [order.name for order in await session.scalars(select(Order).order_by(Order.name))]


async def make_tables():
    """What Alembic would do."""
    engine = create_async_engine(DSN.replace("postgresql", "postgresql+asyncpg", 1))
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make_tables())
    shop.run(port=9002, replicas=REPLICAS)
