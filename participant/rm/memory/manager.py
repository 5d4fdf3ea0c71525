"""The key-value store as a resource manager: the store below an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from participant.resource import ResourceLimits
from participant.rm.manager import EngineManager
from participant.rm.memory.store import MemoryStore
from participant.rm.retention import wall_clock_ms
from raftlog.disk import Disk, RealDisk
from raftlog.worker import ThreadWorker, Worker

__all__ = ["Memory"]


class Memory(EngineManager):
    """Keys and values in memory, durable in a journal: in a directory, or on any `raftlog.disk.Disk`."""

    def __init__(
        self,
        where: str | Path | Disk,
        *,
        limits: ResourceLimits | None = None,
        wall_ms: Callable[[], int] = wall_clock_ms,
        worker: Callable[[str], Worker] = ThreadWorker,
    ) -> None:
        disk = RealDisk(where) if isinstance(where, str | Path) else where
        super().__init__(MemoryStore(disk), limits or ResourceLimits(), wall_ms, worker)
