"""A disk that says so before each operation that changes it or makes something durable."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.simulation.disk import SimDisk
from raftlog.disk import File

__all__ = ["WatchedDisk"]


class WatchedDisk:
    """`raftlog.disk.Disk` on a `SimDisk`. What a power cut at this very moment leaves is `disk.crash(...)`."""

    def __init__(self, disk: SimDisk, before: Callable[[str], None]) -> None:
        self.disk = disk
        self._before = before

    def claim(self) -> None:
        self.disk.claim()

    def release(self) -> None:
        self.disk.release()

    def random_bytes(self, count: int) -> bytes:
        return self.disk.random_bytes(count)

    def names(self) -> list[str]:
        return self.disk.names()

    def read(self, name: str) -> bytes:
        return self.disk.read(name)

    def open(self, name: str) -> File:
        self._before(f"open {name}")
        return _WatchedFile(self.disk.open(name), name, self._before)

    def truncate(self, name: str, size: int) -> None:
        self._before(f"truncate {name}")
        self.disk.truncate(name, size)

    def replace(self, old: str, new: str) -> None:
        self._before(f"replace {old}")
        self.disk.replace(old, new)

    def remove(self, name: str) -> None:
        self._before(f"remove {name}")
        self.disk.remove(name)

    def sync_directory(self) -> None:
        self._before("sync directory")
        self.disk.sync_directory()


class _WatchedFile:
    def __init__(self, file: File, name: str, before: Callable[[str], None]) -> None:
        self._file = file
        self._name = name
        self._before = before

    def append(self, data: bytes) -> None:
        self._before(f"append {self._name}")
        self._file.append(data)

    def reserve(self, size_bytes: int) -> None:
        self._file.reserve(size_bytes)

    def sync(self) -> None:
        self._before(f"sync {self._name}")
        self._file.sync()

    def close(self) -> None:
        self._file.close()
