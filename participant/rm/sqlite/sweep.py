"""A SQLite file, swept. It belongs to one process: while its participant runs, what is prepared can be read, no more.
Once the participant has ended, the file is owned here for as long as branches are being ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from participant.errors import ConfigError, ResourceBusy
from participant.ids import BranchKey
from participant.resource import ResourceLimits
from participant.rm.retention import wall_clock_ms
from participant.rm.sqlite.manager import SQLite
from participant.rm.sqlite.store import BUSY_TIMEOUT_MS
from participant.rm.sweep import Ender, InDoubt, Look

__all__ = ["SqliteSweep"]

KEEP_S = 1e9  # a sweep forgets no branch: for how long they are remembered is the participant's to say

_TABLE = "SELECT 1 FROM sqlite_schema WHERE name = 'commitd_branch'"
_PREPARED = "SELECT gid, branch, changed_at_ms FROM commitd_branch WHERE intent IS NOT NULL ORDER BY changed_at_ms"


class SqliteSweep:
    """`participant.rm.sweep.Database` over a file. To be used by the user that the participant runs as."""

    def __init__(self, path: str, wall_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._path = Path(path).resolve()
        self._wall_ms = wall_ms

    async def open(self) -> None:
        if not self._path.is_file():
            raise ConfigError(f"there is no file {self._path}")

    async def close(self) -> None:
        return None

    async def look(self) -> Look:
        now_ms = self._wall_ms()
        rows = await asyncio.to_thread(self._read)
        return Look(tuple(InDoubt(BranchKey(gid, branch), max(0, now_ms - at) / 1_000) for gid, branch, at in rows))

    def _read(self) -> list[Any]:
        """Without a lock that anybody would wait for. Raises ConfigError, ResourceBusy."""
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        try:
            db = apsw.Connection(f"file:{quote(str(self._path))}?mode=ro", flags=flags)
            try:
                db.set_busy_timeout(BUSY_TIMEOUT_MS)
                if not db.execute(_TABLE).fetchall():
                    raise ConfigError("no participant has used this file: it has no table commitd_branch")
                rows: list[Any] = db.execute(_PREPARED).fetchall()
                return rows
            finally:
                db.close()
        except apsw.BusyError as error:
            raise ResourceBusy(f"{self._path} is locked: {error}") from error
        except apsw.Error as error:
            raise ConfigError(f"{self._path} cannot be read: {error}") from error

    @asynccontextmanager
    async def ending(self) -> AsyncIterator[Ender]:
        owned = SQLite(self._path, schema="", limits=ResourceLimits(retention_s=KEEP_S))
        await owned.open()
        try:
            yield owned
        finally:
            await owned.close()
