"""asyncmy against aiomysql: XA branches per second and CPU of this process for each, on one throw-away MariaDB.

    python -m benchmarks.mysql_drivers

A branch is XA START, a SELECT and an UPDATE with parameters, XA END, XA PREPARE, XA COMMIT. Rounds alternate between
the drivers, and the medians are compared.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import aiomysql
import asyncmy

from participant.testing.servers import MariaDB

ROUNDS = 5
BRANCHES = 1_500  # of one round
CONNECTIONS = (1, 16)

Execute: TypeAlias = Callable[..., Awaitable[Any]]


async def _branch(execute: Execute, name: str, row: int) -> None:
    xid = f"'{name}','b',1"
    await execute(f"XA START {xid}")
    await execute("SELECT value FROM numbers WHERE name = %s", row)
    await execute("UPDATE numbers SET value = value + 1 WHERE name = %s", row)
    for verb in ("END", "PREPARE", "COMMIT"):
        await execute(f"XA {verb} {xid}")


async def _executor(driver: Any, port: int) -> tuple[Any, Execute]:
    connection = await driver.connect(host="127.0.0.1", port=port, user="root", password="", autocommit=True)
    cursor = connection.cursor() if driver is asyncmy else await connection.cursor()

    async def execute(sql: str, *values: Any) -> Any:
        await cursor.execute(sql, values or None)
        return await cursor.fetchall()

    return connection, execute


async def _round(driver: Any, port: int, connections: int, number: int) -> tuple[float, float]:
    """Branches per second, and microseconds of CPU for each."""
    opened = [await _executor(driver, port) for _ in range(connections)]
    for _, execute in opened:
        await execute("USE bench")

    async def line(execute: Execute, first: int) -> None:
        for i in range(first, BRANCHES, connections):
            await _branch(execute, f"{driver.__name__}-{number}-{i}", first)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(line(execute, first) for first, (_, execute) in enumerate(opened)))
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    for connection, _ in opened:
        connection.close()
    return BRANCHES / took, spent / BRANCHES * 1e6


async def main() -> None:
    async with MariaDB.running() as server:
        connection, execute = await _executor(asyncmy, server.port)
        await execute("CREATE DATABASE bench")
        await execute("USE bench")
        await execute("CREATE TABLE numbers (name int PRIMARY KEY, value int NOT NULL)")
        await execute("INSERT INTO numbers SELECT seq, 0 FROM seq_0_to_63")
        connection.close()
        print("| connections | driver | branches/s | CPU per branch |\n|---|---|---|---|")
        for connections in CONNECTIONS:
            seen: dict[Any, list[tuple[float, float]]] = {asyncmy: [], aiomysql: []}
            for number in range(ROUNDS):
                for driver, rounds in seen.items():
                    rounds.append(await _round(driver, server.port, connections, connections * 100 + number))
            for driver, rounds in seen.items():
                rate, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
                print(f"| {connections} | {driver.__name__} | {rate:,.0f} | {cpu:,.0f} µs |")


if __name__ == "__main__":
    asyncio.run(main())
