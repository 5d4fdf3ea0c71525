"""Where the data of each kind of resource manager lies on a disk, and the server that must run for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from participant.testing.servers import MariaDB, Postgres
from tests.support.databases import run_on_mariadb
from tests.support.ports import free_addresses
from tests.support.virtual_disk import DISK_BYTES, DROP_SYNCS

__all__ = ["KINDS", "room", "served"]

KINDS = ("memory", "sqlite", "postgres", "mariadb")
_DATABASE = "bank"


class _Careless(Postgres):
    """One whose syncs do nothing, without its knowledge."""

    def command(self) -> Sequence[str | Path]:
        return (*DROP_SYNCS, *super().command())


class _CarelessMaria(MariaDB):
    """The same."""

    def command(self) -> Sequence[str | Path]:
        return (*DROP_SYNCS, *super().command())


@contextmanager
def room() -> Iterator[Path]:
    """A new directory for a disk, in memory where that is possible, that the servers' users may pass."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > 2 * DISK_BYTES
    with tempfile.TemporaryDirectory(prefix="commitd-", dir=memory if has_room else None) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@asynccontextmanager
async def served(kind: str, disk: Path, *, is_new: bool, drops_syncs: bool = False) -> AsyncIterator[str]:
    """The place (as in `tests.support.subjects`) of a database on `disk`, as long as the block runs; then its server is
    killed. Raises ServerFailed.
    """
    if kind not in ("postgres", "mariadb"):
        folder = disk / "data"
        folder.mkdir(exist_ok=True)
        yield str(folder)
        return
    kinds = (_Careless, _CarelessMaria) if drops_syncs else (Postgres, MariaDB)
    server = kinds[kind == "mariadb"](disk / "server", int(free_addresses(1)[0].rpartition(":")[2]))
    if is_new:
        server.folder.mkdir()
        server._give_away(server.folder)
        await server.make()
    (server.folder / "data" / "postmaster.pid").unlink(missing_ok=True)  # it names the server of the other disk
    await server.start()
    try:
        if is_new and isinstance(server, MariaDB):
            await run_on_mariadb(server, f"CREATE DATABASE {_DATABASE}")
        yield server.dsn_of("postgres" if isinstance(server, Postgres) else _DATABASE)
    finally:
        await server.kill()
