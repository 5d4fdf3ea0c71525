"""A MariaDB server. The superuser is `root`, without a password; there is a database `test`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from participant.testing.servers.server import LOOPBACK, Server, find_program

__all__ = ["MariaDB"]

_SETTINGS = {"innodb-buffer-pool-size": "32M", "innodb-log-file-size": "16M", "max-connections": "300"}
_PACKAGE = "mariadb-server"


class MariaDB(Server):
    """`settings` are options of `mariadbd`."""

    user = "mysql"

    def __init__(self, folder: Path, port: int, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, port)
        self.settings = {**_SETTINGS, **(settings or {})}
        self._first = folder / "first.sql"
        self._daemon = find_program("mariadbd", _PACKAGE)
        self._installer = find_program("mariadb-install-db", _PACKAGE)

    @property
    def dsn(self) -> str:
        """Of the database `test`."""
        return self.dsn_of("test")

    def dsn_of(self, database: str) -> str:
        """Of any database; of none, if empty."""
        return f"mariadb://root@{LOOPBACK}:{self.port}/{database}"

    async def make(self) -> None:
        await self.run_to_end(
            self._installer,
            *("--no-defaults", f"--datadir={self.folder / 'data'}", "--auth-root-authentication-method=normal"),
            "--skip-test-db",  # which everybody may use
        )
        self._first.write_text("CREATE DATABASE IF NOT EXISTS test;\n", encoding="ascii")

    def command(self) -> Sequence[str | Path]:
        return (
            self._daemon,
            *("--no-defaults", f"--datadir={self.folder / 'data'}", f"--socket={self.folder / 'socket'}"),
            *(f"--pid-file={self.folder / 'pid'}", f"--port={self.port}", f"--bind-address={LOOPBACK}"),
            *("--skip-name-resolve", f"--init-file={self._first}"),
            *(f"--{name}={value}" for name, value in self.settings.items()),
        )

    async def probe(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> bool:
        """It greets: a packet number 0 with the version 10 of the protocol."""
        header = await reader.readexactly(5)
        return header[3] == 0 and header[4] == 10
