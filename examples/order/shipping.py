"""The shipping: it packs a parcel for each order that was taken. Its database is a MariaDB at `SHIPPING_DSN`."""

import asyncio
import os

from sqlalchemy import String, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from participant import Participant
from participant.messages import outbox
from participant.messages.redis import RedisStreams
from participant.rm.mariadb import MariaDB
from participant.rm.sqlalchemy import SQLAlchemy

DSN = os.environ["SHIPPING_DSN"]
BROKER = RedisStreams("redis://127.0.0.1:6400/0")


class Table(DeclarativeBase):
    pass


class Parcel(Table):
    """Nothing here keeps an order from having two."""

    __tablename__ = "parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_name: Mapped[str] = mapped_column(String(64))
    receiver: Mapped[str] = mapped_column(String(64))
    mugs: Mapped[int]


shipping = Participant("shipping", SQLAlchemy(MariaDB(DSN, schema=outbox.MARIADB)))


@shipping.consumer(BROKER.subscription("orders.created", group="shipping"))
async def created(session: AsyncSession, message):
    order = message.body
    session.add(Parcel(order_name=order["order"], receiver=order["to"], mugs=order["mugs"]))


@shipping.view("/v1/parcels")
async def parcels(session: AsyncSession, _query):
    found = await session.scalars(select(Parcel).order_by(Parcel.id))
    return [f"{parcel.order_name} to {parcel.receiver}" for parcel in found]


async def make_tables():
    """What Alembic would do."""
    engine = create_async_engine(DSN.replace("mariadb", "mariadb+asyncmy", 1))
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(make_tables())
    shipping.run(port=9003)
