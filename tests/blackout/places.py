"""Where the data of each kind of resource manager lies on a disk, and the server that must run for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from participant.testing.servers import MariaDB, Postgres
from tests.support.databases import packaged_postgres, run_on_mariadb
from tests.support.ports import free_addresses
from tests.support.virtual_disk import DISK_BYTES, DROP_SYNCS

__all__ = ["KINDS", "MORE_KINDS", "programs_of", "room", "served"]

KINDS = ("memory", "sqlite", "postgres", "mariadb")
MORE_KINDS = ("postgres-16", "postgres-18")  # by hand
_DATABASE = "bank"


class _CarelessPostgres(Postgres):
    """One whose syncs do nothing, without its knowledge."""

    def command(self) -> Sequence[str | Path]:
        return (*DROP_SYNCS, *super().command())


class _CarelessMariaDB(MariaDB):
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


@contextmanager
def programs_of(kind: str) -> Iterator[Path | None]:
    """The folder of the server's programs, where it is not the installed one."""
    name, _, version = kind.partition("-")
    if name == "postgres" and version:
        with packaged_postgres(version) as programs:
            yield programs
    else:
        yield None


@asynccontextmanager
async def served(
    kind: str, disk: Path, *, is_new: bool = False, drops_syncs: bool = False, programs: Path | None = None
) -> AsyncIterator[str]:
    """The place (as in `tests.support.subjects`) of a database on `disk`, as long as the block runs; then its server is
    killed. Raises ServerFailed.
    """
    if kind in ("memory", "sqlite"):
        folder = disk / "data"
        folder.mkdir(exist_ok=True)
        yield str(folder)
        return
    folder, port = disk / "server", int(free_addresses(1)[0].rpartition(":")[2])
    server: Postgres | MariaDB
    if kind == "mariadb":
        server = (_CarelessMariaDB if drops_syncs else MariaDB)(folder, port)
    else:
        server = (_CarelessPostgres if drops_syncs else Postgres)(folder, port, programs=programs)
    if is_new:
        server.folder.mkdir()
        await server.set_up()
    else:
        (server.folder / "data" / "postmaster.pid").unlink(missing_ok=True)  # it names the server of the other disk
        await server.start()
    try:
        if is_new and isinstance(server, MariaDB):
            await run_on_mariadb(server, f"CREATE DATABASE {_DATABASE}")
        yield server.dsn_of("postgres" if isinstance(server, Postgres) else _DATABASE)
    finally:
        await server.kill()
