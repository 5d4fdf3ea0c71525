"""A PostgreSQL server. The superuser is `postgres`, without a password; its database is `postgres`."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from participant.testing.servers.server import LOOPBACK, Server, ServerMissing, find_program

__all__ = ["Postgres"]

_PACKAGES = Path("/usr/lib/postgresql")  # Debian's: one folder for each version
_SETTINGS = {
    "max_prepared_transactions": "200",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",  # in its folder: a killed server would leave some of /dev/shm behind
}
_VERSION_3 = 196_608  # of the protocol: 3.0
_STARTUP = b"user\0postgres\0database\0postgres\0\0"


class Postgres(Server):
    """`settings` go before those of `postgresql.conf`.

    `version` is the major one of Debian's packages; the newest if empty. `programs` is the folder with `initdb` and
    `postgres` of another installation, which `user` must be allowed to read.
    """

    user = "postgres"

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        settings: Mapping[str, str] | None = None,
        version: str = "",
        programs: Path | None = None,
    ) -> None:
        super().__init__(folder, port)
        self.settings = {**_SETTINGS, **(settings or {})}
        self._programs = _programs(version) if programs is None else _at(programs)

    @staticmethod
    def versions() -> list[str]:
        """The major versions that are installed, oldest first."""
        return sorted((path.parent.parent.name for path in _PACKAGES.glob("*/bin/postgres")), key=float)

    @property
    def dsn(self) -> str:
        """Of the database `postgres`."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Of any database."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"

    async def make(self) -> None:
        await self.run_to_end(
            self._programs / "initdb",
            *("-D", self.folder / "data", "-A", "trust", "-U", "postgres", "--no-sync"),
            *("--locale=C.UTF-8", "-E", "UTF8"),
        )

    def command(self) -> Sequence[str | Path]:
        settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": "", **self.settings}
        chosen = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        return (self._programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), *chosen)

    async def probe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Log in; AuthenticationOk is the message R with a 0. A server that is starting says E."""
        writer.write(struct.pack("!ii", 8 + len(_STARTUP), _VERSION_3) + _STARTUP)
        return await reader.readexactly(9) == b"R" + struct.pack("!ii", 8, 0)


def _at(programs: Path) -> Path:
    if not (programs / "postgres").is_file():
        raise ServerMissing(f"there is no PostgreSQL in {programs}")
    return programs


def _programs(version: str) -> Path:
    known = Postgres.versions()
    if version and version not in known:
        raise ServerMissing(f"PostgreSQL {version} is not installed: apt-get install postgresql-{version}")
    if known:
        return _PACKAGES / (version or known[-1]) / "bin"
    return find_program("initdb", "postgresql").parent
