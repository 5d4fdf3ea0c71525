"""A shop with an ORM. Its tables are made by `python examples/orm_shop.py DSN`, or by migrations."""

import asyncio
import sys

from sqlalchemy import ForeignKey, String, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

from participant import Participant, Reject
from participant.rm.mariadb import MariaDB
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlalchemy import SQLAlchemy

DRIVERS = {"postgresql": "postgresql+asyncpg", "mariadb": "mariadb+asyncmy"}


class Table(DeclarativeBase):
    pass


class Stock(Table):
    __tablename__ = "stock"

    item: Mapped[str] = mapped_column(String(64), primary_key=True)
    pieces: Mapped[int]


class Order(Table):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    buyer: Mapped[str] = mapped_column(String(64))
    lines: Mapped[list["OrderLine"]] = relationship(cascade="all, delete-orphan")


class OrderLine(Table):
    __tablename__ = "order_lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    item: Mapped[str] = mapped_column(ForeignKey("stock.item"))
    pieces: Mapped[int]


def make_shop(dsn):
    kind = PostgreSQL if dsn.startswith("postgresql") else MariaDB
    shop = Participant("shop", SQLAlchemy(kind(dsn)))

    @shop.action("order")
    async def order(session: AsyncSession, body):
        order = Order(buyer=body["buyer"])
        for item, pieces in body["items"].items():
            stock = await session.get(Stock, item)
            if stock is None or stock.pieces < pieces:
                raise Reject(f"not enough {item}: {stock.pieces if stock else 0} left")
            stock.pieces -= pieces
            order.lines.append(OrderLine(item=item, pieces=pieces))
        session.add(order)

    @shop.view("/v1/orders")
    async def orders(session: AsyncSession, _query):
        found = await session.scalars(select(Order).options(selectinload(Order.lines)).order_by(Order.id))
        return [{"buyer": order.buyer, "items": {line.item: line.pieces for line in order.lines}} for order in found]

    @shop.view("/v1/stock")
    async def stock(session: AsyncSession, _query):
        return {stock.item: stock.pieces for stock in await session.scalars(select(Stock))}

    return shop


async def make_tables(dsn):
    """What Alembic would do: by an engine of its own, before the service starts."""
    scheme, _, place = dsn.partition("://")
    engine = create_async_engine(f"{DRIVERS[scheme]}://{place}")
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    async with AsyncSession(engine) as session, session.begin():
        if await session.get(Stock, "mug") is None:
            session.add(Stock(item="mug", pieces=10))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make_tables(sys.argv[1]))
