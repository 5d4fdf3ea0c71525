"""SQLite as a resource manager: the store below an engine."""

from __future__ import annotations

from pathlib import Path

from participant.resource import ResourceLimits
from participant.rm.manager import EngineManager
from participant.rm.sqlite.store import SqliteStore

__all__ = ["SQLite"]


class SQLite(EngineManager):
    """The tables of one SQLite file.

    `schema` is SQL that runs at each opening, so it must be harmless when repeated (CREATE TABLE IF NOT EXISTS …).
    Every table needs a primary key; see `participant.rm.sqlite.tables` for what else cannot be recorded.
    """

    def __init__(self, path: str | Path, *, schema: str, limits: ResourceLimits | None = None) -> None:
        super().__init__(SqliteStore(Path(path), schema), limits or ResourceLimits())
