"""A shop on each database whose steps stand behind the barrier: what the suite of barriers is run on.

Each step changes one row: what is `free`, what is `frozen` by tries, and how many steps have run. Its result is what is
free afterwards, so that a repeat that ran again would give another answer. A shop that has too little refuses, after it
has written, so that there is something to undo.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

import aiomysql
import asyncmy
import asyncpg
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from yarl import URL

from participant.barrier import Outcome, Step, StepKind
from participant.barriers.limits import BarrierLimits
from participant.barriers.mariadb import MariaDBBarrier
from participant.barriers.postgres import PostgresBarrier
from participant.barriers.redis import RedisBarrier
from participant.barriers.sqlite import SQLiteBarrier
from participant.errors import Reject

__all__ = ["EFFECTS", "FREE", "SHOPS", "Books", "Fault", "Gate", "Shop", "step_of"]

FREE = 100

EFFECTS: Mapping[StepKind, tuple[int, int]] = {
    StepKind.TRY: (-1, 1),
    StepKind.CONFIRM: (0, -1),
    StepKind.CANCEL: (1, -1),
    StepKind.ACTION: (-1, 0),
    StepKind.COMPENSATE: (1, 0),
    StepKind.MESSAGE: (1, 0),
}


class Books(NamedTuple):
    """What is in the shop. `runs`: how often a function has run and stayed."""

    free: int = FREE
    frozen: int = 0
    runs: int = 0


class Fault(Exception):
    """What a function raises that is broken."""


class Gate:
    """Holds a function after it has written; for threads, too. Behind its block it is open, however that ends."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.set()

    async def is_entered(self) -> None:
        await asyncio.to_thread(self.entered.wait)


class Order(NamedTuple):
    """How a step is to go. `pieces` is its body."""

    step: Step
    pieces: int
    is_faulty: bool = False
    gate: Gate | None = None
    result: Any = None  # instead of its own

    @property
    def changes(self) -> tuple[int, int]:
        free, frozen = EFFECTS[self.step.kind]
        return free * self.pieces, frozen * self.pieces

    def end(self, free: int) -> Any:
        """What a function does after it has written."""
        if free < 0:
            raise Reject(f"not enough: {free}")
        if self.is_faulty:
            raise Fault
        return {"free": free} if self.result is None else self.result


def step_of(gid: str, kind: str, pieces: int = 1) -> Step:
    """A step of the branch `b`; its body is the number of pieces."""
    return Step.of(gid, "b", kind, {"pieces": pieces})


class Shop(ABC):
    """One database with one barrier."""

    def __init__(self, place: str, limits: BarrierLimits | None = None) -> None:
        self.place = place
        self.limits = limits or BarrierLimits(lock_wait_s=20)

    @abstractmethod
    @contextlib.asynccontextmanager
    async def opened(self, *, is_new: bool = True) -> AsyncIterator[Shop]:
        """The shop with its tables, for as long as the block runs; with the books at their beginning, if new."""
        yield self

    @abstractmethod
    async def do(self, order: Order, limits: BarrierLimits | None = None) -> Outcome:
        """Do a step on a connection that nobody else has meanwhile."""

    @abstractmethod
    async def books(self) -> Books:
        """What is true now."""

    @abstractmethod
    async def rows(self) -> int:
        """How many branches are remembered."""

    @abstractmethod
    async def forget(self, limits: BarrierLimits) -> int:
        """Forget what is older than these limits say."""

    async def run(self, gid: str, kind: str, pieces: int = 1, **how: Any) -> Outcome:
        """`how`: see `Order`."""
        return await self.do(Order(step_of(gid, kind, pieces), pieces, **how))


_TABLES = "DROP TABLE IF EXISTS shop, commitd_barrier"
_TABLE = "CREATE TABLE IF NOT EXISTS shop (free integer NOT NULL, frozen integer NOT NULL, runs integer NOT NULL)"
_NEW = f"INSERT INTO shop VALUES ({FREE}, 0, 0)"
_BOOKS = "SELECT free, frozen, runs FROM shop"
_ROWS = "SELECT count(*) FROM commitd_barrier WHERE state <> 'running'"


class PostgresShop(Shop):
    def __init__(self, place: str, limits: BarrierLimits | None = None, *, isolation: str = "read committed") -> None:
        super().__init__(place, limits)
        self.settings = {"default_transaction_isolation": isolation}

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.place, server_settings=self.settings)

    @contextlib.asynccontextmanager
    async def opened(self, *, is_new: bool = True) -> AsyncIterator[Shop]:
        async with asyncpg.create_pool(self.place, min_size=1, max_size=12, server_settings=self.settings) as self.pool:
            if is_new:
                await self.pool.execute(f"{_TABLES}; {_TABLE}; {_NEW}")
            async with self.pool.acquire() as connection:
                await PostgresBarrier(self.limits).open(connection)
            yield self

    async def do(self, order: Order, limits: BarrierLimits | None = None) -> Outcome:
        async with self.pool.acquire() as connection:
            return await PostgresBarrier(limits or self.limits).run(connection, order.step, _on_postgres, order)

    async def books(self) -> Books:
        return Books(*await self.pool.fetchrow(_BOOKS))

    async def rows(self) -> int:
        return int(await self.pool.fetchval(_ROWS))

    async def forget(self, limits: BarrierLimits) -> int:
        async with self.pool.acquire() as connection:
            return await PostgresBarrier(limits).forget(connection)


async def _on_postgres(connection: Any, order: Order) -> Any:
    free = await connection.fetchval(
        "UPDATE shop SET free = free + $1, frozen = frozen + $2, runs = runs + 1 RETURNING free", *order.changes
    )
    await _wait(order)
    return order.end(free)


class MariaDBShop(Shop):
    def __init__(
        self,
        place: str,
        limits: BarrierLimits | None = None,
        *,
        isolation: str = "READ-COMMITTED",
        driver: ModuleType = asyncmy,
        client_flag: int = 0,
    ) -> None:
        super().__init__(place, limits)
        self.isolation = isolation
        self.driver = driver
        self.client_flag = client_flag
        self._idle: list[Any] = []

    async def connect(self) -> Any:
        url = URL(self.place)
        return await self.driver.connect(
            host=url.host,
            port=url.port,
            user=url.user,
            password="",
            db=url.path.removeprefix("/"),
            charset="utf8mb4",
            autocommit=True,
            client_flag=self.client_flag,
            init_command=f"SET SESSION tx_isolation = '{self.isolation}'",
        )

    @contextlib.asynccontextmanager
    async def opened(self, *, is_new: bool = True) -> AsyncIterator[Shop]:
        try:
            async with self.connection() as connection:
                if is_new:
                    if await _say(connection, "SHOW TABLES"):
                        await _say(connection, _TABLES)
                    await _say(connection, _TABLE)
                    await _say(connection, _NEW)
                await MariaDBBarrier(self.limits).open(connection)
            yield self
        finally:
            for connection in self._idle:
                await connection.ensure_closed()
            self._idle.clear()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One from the pool; one whose use has failed is not used again."""
        connection = self._idle.pop() if self._idle else await self.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)

    async def do(self, order: Order, limits: BarrierLimits | None = None) -> Outcome:
        async with self.connection() as connection:
            return await MariaDBBarrier(limits or self.limits).run(connection, order.step, _on_mariadb, order)

    async def books(self) -> Books:
        async with self.connection() as connection:
            return Books(*(await _say(connection, _BOOKS))[0])

    async def rows(self) -> int:
        async with self.connection() as connection:
            return int((await _say(connection, _ROWS))[0][0])

    async def forget(self, limits: BarrierLimits) -> int:
        async with self.connection() as connection:
            return await MariaDBBarrier(limits).forget(connection)


async def _say(connection: Any, sql: str, values: Any = None) -> Any:
    async with connection.cursor() as cursor:
        await cursor.execute(sql, values)
        return await cursor.fetchall() if cursor.description is not None else ()


async def _on_mariadb(connection: Any, order: Order) -> Any:
    await _say(connection, "UPDATE shop SET free = free + %s, frozen = frozen + %s, runs = runs + 1", order.changes)
    [[free, *_]] = await _say(connection, _BOOKS)
    await _wait(order)
    return order.end(free)


async def _wait(order: Order) -> None:
    if order.gate is not None:
        order.gate.entered.set()
        await asyncio.to_thread(order.gate.opened.wait)


class SQLiteShop(Shop):
    def __init__(self, place: str, limits: BarrierLimits | None = None, *, journal: str = "wal") -> None:
        super().__init__(place, limits)
        self.journal = journal

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(Path(self.place, "shop.db"))) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def opened(self, *, is_new: bool = True) -> AsyncIterator[Shop]:
        with self.connection() as connection:
            connection.execute(f"PRAGMA journal_mode = {self.journal}")
            if is_new:
                with connection:
                    connection.execute(_TABLE)
                    connection.execute(_NEW)
            SQLiteBarrier(self.limits).open(connection)
        yield self

    async def do(self, order: Order, limits: BarrierLimits | None = None) -> Outcome:
        barrier = SQLiteBarrier(limits or self.limits)
        outcome: Outcome = await self._in_thread(
            lambda connection: barrier.run(connection, order.step, _on_sqlite, order)
        )
        return outcome

    async def books(self) -> Books:
        return Books(*await self._in_thread(lambda connection: connection.execute(_BOOKS).fetchone()))

    async def rows(self) -> int:
        return int(await self._in_thread(lambda connection: connection.execute(_ROWS).fetchone()[0]))

    async def forget(self, limits: BarrierLimits) -> int:
        return int(await self._in_thread(SQLiteBarrier(limits).forget))

    async def _in_thread(self, ask: Callable[[sqlite3.Connection], Any]) -> Any:
        def work() -> Any:
            with self.connection() as connection:
                return ask(connection)

        return await asyncio.to_thread(work)


def _on_sqlite(connection: sqlite3.Connection, order: Order) -> Any:
    connection.execute("UPDATE shop SET free = free + ?, frozen = frozen + ?, runs = runs + 1", order.changes)
    [free, *_] = connection.execute(_BOOKS).fetchone()
    if order.gate is not None:
        order.gate.entered.set()
        order.gate.opened.wait()
    return order.end(free)


class RedisShop(Shop):
    _LUA = """
    local free = redis.call('HINCRBY', KEYS[1], 'free', ARGV[1])
    redis.call('HINCRBY', KEYS[1], 'frozen', ARGV[2])
    redis.call('INCR', KEYS[2])
    if free < 0 then reject('not enough: ' .. free) end
    if ARGV[3] == '1' then error('fault') end
    if ARGV[4] ~= '' then return string.rep('x', tonumber(ARGV[4])) end
    return {free = free}
    """
    _KEYS = ("{shop}:stock", "{shop}:runs")

    def __init__(self, place: str, limits: BarrierLimits | None = None, *, decode: bool = False) -> None:
        super().__init__(place, limits)
        self.decode = decode

    @contextlib.asynccontextmanager
    async def opened(self, *, is_new: bool = True) -> AsyncIterator[Shop]:
        retry = Retry(NoBackoff(), 0)  # the tests repeat by themselves
        async with Redis.from_url(self.place, decode_responses=self.decode, retry=retry) as self.client:
            if is_new:
                await self.client.flushall()
                await self.client.hset(self._KEYS[0], mapping={"free": FREE, "frozen": 0})
            await RedisBarrier.open(self.client)
            yield self

    async def do(self, order: Order, limits: BarrierLimits | None = None) -> Outcome:
        barrier = await RedisBarrier.open(self.client, limits or self.limits)
        length = "" if order.result is None else len(order.result)
        arguments = [*order.changes, int(order.is_faulty), length]
        return await barrier.run(order.step, self._LUA, self._KEYS, arguments, tag="shop")

    async def books(self) -> Books:
        free, frozen = await self.client.hmget(self._KEYS[0], ["free", "frozen"])
        return Books(int(free or 0), int(frozen or 0), int(await self.client.get(self._KEYS[1]) or 0))

    async def rows(self) -> int:
        return len(await self.client.keys("commitd:{shop}:*"))

    async def forget(self, limits: BarrierLimits) -> int:
        """Redis does it by itself."""
        return 0


_FOUND_ROWS = 2  # CLIENT.FOUND_ROWS, which SQLAlchemy sets: an UPDATE counts the rows that it found

SHOPS: Mapping[str, Callable[..., Shop]] = {
    "postgres": PostgresShop,
    "postgres-repeatable-read": partial(PostgresShop, isolation="repeatable read"),
    "postgres-serializable": partial(PostgresShop, isolation="serializable"),
    "mariadb": MariaDBShop,
    "mariadb-repeatable-read": partial(MariaDBShop, isolation="REPEATABLE-READ"),
    "mariadb-serializable": partial(MariaDBShop, isolation="SERIALIZABLE", client_flag=_FOUND_ROWS),
    "mariadb-aiomysql": partial(MariaDBShop, isolation="REPEATABLE-READ", driver=aiomysql),
    "sqlite": SQLiteShop,
    "sqlite-rollback-journal": partial(SQLiteShop, journal="delete"),
    "redis": RedisShop,
    "redis-decoding": partial(RedisShop, decode=True),
}
