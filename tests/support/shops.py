"""A shop that publishes what it does, and a reader that counts what it hears, on each database that messages are for.

A place is where the data is: a directory, or the DSN of a database.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from participant import Participant, Reject
from participant.ids import BranchKey
from participant.messages import Broker, Message, Subscription, outbox
from participant.resource import Call, ResourceLimits, ResourceManager
from participant.rm.mariadb import MariaDB
from participant.rm.postgres import PostgreSQL
from participant.rm.sqlite import SQLite
from participant.service import ParticipantService
from participant.wire import Answer, Operation, Verb

__all__ = [
    "DATABASES",
    "abort",
    "ask",
    "commit",
    "dead",
    "has_heard",
    "heard",
    "is_empty",
    "make_reader",
    "make_shop",
    "order",
    "prepare",
    "until",
]

UNTIL_S = 30.0
_PAUSE_S = 0.02

_ORDERS = "CREATE TABLE IF NOT EXISTS orders (name VARCHAR(64) NOT NULL PRIMARY KEY, changes INTEGER NOT NULL)"
_HEARD = """
CREATE TABLE IF NOT EXISTS heard (
    id VARCHAR(200) NOT NULL PRIMARY KEY, body VARCHAR(999) NOT NULL, times INTEGER NOT NULL)
"""


def _sqlite(place: str, limits: ResourceLimits) -> ResourceManager:
    return SQLite(Path(place, "data.db"), schema=f"{_ORDERS};{_HEARD};{outbox.SQLITE}", limits=limits)


def _postgres(place: str, limits: ResourceLimits) -> ResourceManager:
    return PostgreSQL(place, schema=f"{_ORDERS};{_HEARD};{outbox.POSTGRESQL}", limits=limits)


def _mariadb(place: str, limits: ResourceLimits) -> ResourceManager:
    schema = [f"{_ORDERS} ENGINE=InnoDB", f"{_HEARD} ENGINE=InnoDB", *outbox.MARIADB]
    return MariaDB(place, schema=schema, limits=limits)


DATABASES: Mapping[str, Callable[[str, ResourceLimits], ResourceManager]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "mariadb": _mariadb,
}


async def run(tx: Any, sql: str, *values: Any) -> None:
    """One statement, with ? for each value."""
    if tx.dialect == "postgresql":
        await tx.execute(_numbered(sql), *values)
    else:
        await tx.execute(sql if tx.dialect == "sqlite" else sql.replace("?", "%s"), values)


async def rows_of(tx: Any, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a statement gives."""
    match tx.dialect:
        case "postgresql":
            return [tuple(row) for row in await tx.fetch(_numbered(sql), *values)]
        case "sqlite":
            return list(await tx.execute(sql, values))
    return list(await tx.fetch_all(sql.replace("?", "%s"), values))


def _numbered(sql: str) -> str:
    first, *rest = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


async def _count_up(tx: Any, table: str, column: str, name: str, more: Mapping[str, Any]) -> int:
    """Change one row: how often it was changed by then."""
    known = await rows_of(tx, f"SELECT {column} FROM {table} WHERE {next(iter(more))} = ?", name)
    if known:
        await run(tx, f"UPDATE {table} SET {column} = ? WHERE {next(iter(more))} = ?", known[0][0] + 1, name)
        return int(known[0][0]) + 1
    columns = ", ".join([*more, column])
    await run(tx, f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * (len(more) + 1))})", *more.values(), 1)
    return 1


def make_shop(kind: str, place: str, broker: Broker | None, limits: ResourceLimits | None = None) -> Participant:
    """`order` changes the order `name` and publishes about it, `messages` times; or says no in the end."""
    shop = Participant("shop", DATABASES[kind](place, limits or ResourceLimits()), broker=broker)

    @shop.action("order")
    async def order(tx: Any, body: Any) -> list[str]:
        change = await _count_up(tx, "orders", "changes", body["name"], {"name": body["name"]})
        published = [
            await outbox.publish(tx, body["subject"], {"change": change, "number": number}, key=body["name"])
            for number in range(body["messages"])
        ]
        if body["no"]:
            raise Reject("no")
        return published

    return shop


def order(line: Any, name: str, messages: int = 1, *, no: bool = False) -> dict[str, Any]:
    """The body of one. `line` has a `subject`."""
    return {"name": name, "subject": line.subject, "messages": messages, "no": no}


def make_reader(
    kind: str,
    place: str,
    subscription: Subscription,
    *,
    fail: Callable[[Message], None] = lambda _: None,
    **options: Any,
) -> Participant:
    """Each message that it has handled is a row, which says how often. `fail` may raise, after that."""
    reader = Participant("reader", DATABASES[kind](place, ResourceLimits()))

    @reader.consumer(subscription, **options)
    async def hear(tx: Any, message: Message) -> None:
        body = json.dumps(message.body)
        await _count_up(tx, "heard", "times", message.id, {"id": message.id, "body": body})
        fail(message)

    return reader


async def ask(participant: Participant, sql: str) -> list[tuple[Any, ...]]:
    """What a participant that is serving has in its tables."""

    async def view(tx: Any, _: Any) -> Any:
        return await rows_of(tx, sql)

    rows: list[tuple[Any, ...]] = await participant._resource.read(Call.of("ask", view, None))
    return rows


async def heard(reader: Participant) -> dict[str, int]:
    """How often each message had its effect."""
    return {_text(id_): times for id_, times in await ask(reader, "SELECT id, times FROM heard")}


async def has_heard(reader: Participant, count: int) -> bool:
    """Whether so many messages have had an effect."""
    return len(await heard(reader)) >= count


async def is_empty(shop: Participant) -> bool:
    """Whether nothing waits in its outbox."""
    return await ask(shop, "SELECT 1 FROM message_outbox") == []


async def dead(participant: Participant) -> dict[str, str]:
    """Each message that nobody takes, with the reason."""
    return {_text(id_): _text(why) for id_, why in await ask(participant, "SELECT id, reason FROM message_dead")}


async def prepare(service: ParticipantService, gid: str, body: Any) -> Answer:
    return await service.perform(Operation(Verb.PREPARE, BranchKey(gid, "b"), "order", body))


async def commit(service: ParticipantService, gid: str, body: Any = None) -> Answer:
    """What is prepared; with a body, in one phase."""
    if body is None:
        return await service.perform(Operation(Verb.COMMIT, BranchKey(gid, "b")))
    return await service.perform(Operation(Verb.COMMIT, BranchKey(gid, "b"), "order", body, one_phase=True))


async def abort(service: ParticipantService, gid: str) -> Answer:
    return await service.perform(Operation(Verb.ABORT, BranchKey(gid, "b")))


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    """Wait for something that is about to become true."""
    async with asyncio.timeout(UNTIL_S):
        while not await holds():  # noqa: ASYNC110 - it is true in a database
            await asyncio.sleep(_PAUSE_S)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
