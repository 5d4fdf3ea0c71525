"""The shop of `examples/frameworks`, on each framework, as a process that can be killed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from participant.testing import Target
from participant.testing.conformance.process import Process
from participant.testing.conformance.talk import Talk
from tests.support.ports import free_addresses

__all__ = ["EXAMPLES", "MOUNTED", "NOBODY", "PREFIX", "fastapi_shop", "running", "shop_on", "with_stock"]

EXAMPLES = Path(__file__).parents[2] / "examples/frameworks"
PREFIX = "/commitd"
MOUNTED = ("fastapi", "starlette", "litestar", "django")  # by ASGI
NOBODY = "http://127.0.0.1:1"  # no replica answers there
WANTED = {"item": "mug", "pieces": 1}


def shop_on(framework: str, directory: Path, *, replica: str = NOBODY, options: tuple[str, ...] = ()) -> Target:
    """The shop on SQLite: on aiohttp as a sub-application, or mounted in one of `MOUNTED` under uvicorn."""
    host, port = free_addresses(1)[0].split(":")
    setting = ("env", f"REPLICAS={replica}", f"SHOP_DB={directory / 'shop.db'}")
    command = (*_uvicorn(f"on_{framework}", host, port), *options)
    if framework == "aiohttp":
        command = (sys.executable, str(EXAMPLES / "on_aiohttp.py"), host, port)
    return Target(f"http://{host}:{port}{PREFIX}", "reserve", WANTED, (*setting, *command))


def fastapi_shop(file: str, dsn: str, *, replica: str = NOBODY) -> Target:
    """The shop on PostgreSQL, `before` or `after` it became a participant; its tables are there (`with_stock`)."""
    host, port = free_addresses(1)[0].split(":")
    setting = ("env", f"REPLICAS={replica}", f"SHOP_DSN={dsn}")
    return Target(f"http://{host}:{port}{PREFIX}", "reserve", WANTED, (*setting, *_uvicorn(file, host, port)))


async def with_stock(dsn: str, pieces: int) -> None:
    """What a migration would have made."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE stock (item text PRIMARY KEY, pieces integer NOT NULL)")
        await connection.execute("INSERT INTO stock VALUES ('mug', $1)", pieces)
    finally:
        await connection.close()


@asynccontextmanager
async def running(target: Target) -> AsyncIterator[Talk]:
    """The process, and requests to its root."""
    talk = Talk(target.url.removesuffix(PREFIX))

    async def serves() -> bool:
        return not (await talk.get("/")).unreachable

    process = Process(target.start, serves)
    await talk.start()
    try:
        await process.start()
        yield talk
    finally:
        await process.close()
        await talk.stop()


def _uvicorn(module: str, host: str, port: str) -> tuple[str, ...]:
    where = ("--host", host, "--port", port, "--log-level", "warning")
    return (sys.executable, "-W", "error", "-m", "uvicorn", f"{module}:app", "--app-dir", str(EXAMPLES), *where)
