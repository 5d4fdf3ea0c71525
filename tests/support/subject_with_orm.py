"""The subject of `participant.testing` that reaches its numbers by an ORM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from participant.errors import Reject
from participant.resource import ResourceLimits
from participant.rm.mariadb import MariaDB
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlalchemy import SQLAlchemy
from participant.testing import Subject

__all__ = ["orm_subject"]


class _Table(DeclarativeBase):
    pass


class _Number(_Table):
    __tablename__ = "numbers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[int]


def orm_subject(below: Callable[[ResourceLimits], PostgreSQL | MariaDB]) -> Subject:
    """A server and its tables, by an ORM."""

    async def put(session: AsyncSession, body: Any) -> None:
        await session.merge(_Number(name=body["key"], value=body["value"]))

    async def add(session: AsyncSession, body: Any) -> None:
        number = await session.get(_Number, body["key"])
        if number is None or number.value + body["amount"] < 0:
            raise Reject("too little")
        number.value += body["amount"]

    async def get(session: AsyncSession, body: Any) -> Any:
        number = await session.get(_Number, body["key"])
        return number and number.value

    def make(limits: ResourceLimits) -> SQLAlchemy:
        return SQLAlchemy(below(limits))

    return Subject(make, put, add, get, only_tx_awaited=False)
