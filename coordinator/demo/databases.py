"""The database servers of the banks, started from what is installed, and thrown away in the end.

Owns: which kinds there are, the servers, and the question to one what it holds prepared, which passes by all else that
is ours. Must never do: know the banks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from coordinator.demo.errors import DemoError
from coordinator.demo.ports import HOST
from participant.testing.servers import MariaDB, Postgres, ServerFailed, ServerMissing

__all__ = ["KINDS", "SERVERS", "SQLITE", "Database", "check_installed"]

ASK_TIMEOUT_S = 20.0
FOLDER_MODE = 0o711  # as root, a server runs as a user of its own, who must pass


async def _prepared_in_postgres(server: Postgres) -> list[str]:
    import asyncpg  # an extra, as asyncmy is

    connection = await asyncpg.connect(server.dsn)
    try:
        return [row["gid"] for row in await connection.fetch("SELECT gid FROM pg_prepared_xacts ORDER BY prepared")]
    finally:
        await connection.close()


async def _prepared_in_mariadb(server: MariaDB) -> list[str]:
    import asyncmy

    connection = await asyncmy.connect(host=HOST, port=server.port, user="root")
    try:
        async with connection.cursor() as cursor:
            await cursor.execute("XA RECOVER FORMAT='SQL'")
            return [str(row[3]) for row in await cursor.fetchall()]
    finally:
        connection.close()


class Kind(NamedTuple):
    """A kind of servers. `driver` is the module that reaches them, `prepared` asks one for all that it has prepared."""

    server: type[Postgres | MariaDB]
    driver: str
    prepared: Callable[..., Awaitable[list[str]]]


SQLITE = "sqlite"  # a file of the bank; no server
SERVERS = {
    "postgres": Kind(Postgres, "asyncpg", _prepared_in_postgres),
    "mariadb": Kind(MariaDB, "asyncmy", _prepared_in_mariadb),
}
KINDS = (SQLITE, *SERVERS)


def check_installed(kind: str) -> None:
    """Raises DemoError, which says what to install."""
    if kind == SQLITE:
        return
    Database(kind, Path("nowhere"), 0)
    driver = SERVERS[kind].driver
    if find_spec(driver) is None:
        raise DemoError(f"{kind}: the driver {driver} is not installed: pip install 'commitd[{kind}]'")


class Database:
    """A server of a kind, in a new `folder`. Every method, and this, may raise DemoError."""

    def __init__(self, kind: str, folder: Path, port: int) -> None:
        self.kind = kind
        self._folder = folder
        with self._failing():
            self._server = SERVERS[kind].server(folder, port)

    @property
    def url(self) -> str:
        """Of its database, as the bank's configuration calls it."""
        return self._server.dsn

    async def set_up(self) -> None:
        """Make its data, and start it."""
        self._folder.mkdir()
        self._folder.parent.chmod(FOLDER_MODE)
        with self._failing():
            await self._server.set_up()

    async def start(self) -> None:
        """Start it again, on the same data and port."""
        with self._failing():
            await self._server.start()

    async def kill(self) -> None:
        """kill -9 of all its processes."""
        await self._server.kill()

    def check(self) -> None:
        """Whether it runs, or was asked to end."""
        with self._failing():
            self._server.check()

    async def prepared(self) -> list[str]:
        """Everything that it holds prepared, by its own word."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await SERVERS[self.kind].prepared(self._server)
        except Exception as error:
            raise DemoError(
                f"{self.kind} does not say what is prepared: {str(error) or type(error).__name__}"
            ) from error

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (ServerMissing, ServerFailed) as error:
            raise DemoError(f"{self.kind}: {error}") from error
