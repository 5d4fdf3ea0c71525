"""SQLite on a disk that forgets: what of each file has been synced is kept apart from what was written.

Method: a VFS in front of the real one. At each sync it notes the file's content; `power_cut` writes the noted contents
(and, by chance, some of the 512-byte blocks written since) into another directory, for SQLite to recover.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import apsw

__all__ = ["PowerlessDisk"]

_BLOCK_BYTES = 512


class _File(apsw.VFSFile):
    def __init__(self, disk: PowerlessDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        super().__init__("unix", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 - the name is SQLite's
        self._disk.count_sync()
        super().xSync(flags)
        self._disk.note(self._path)


class PowerlessDisk(apsw.VFS):
    """SQLite's default disk while the block runs. `syncs` counts the forced writes."""

    def __init__(self) -> None:
        self.syncs = 0
        self._failing = False
        self._durable: dict[Path, bytes] = {}

    def __enter__(self) -> Self:
        super().__init__("powerless", "unix", makedefault=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unregister()

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self, name, flags)

    def fail_next_sync(self) -> None:
        """Let the next sync fail, and leave what it was asked for in the page cache."""
        self._failing = True

    def count_sync(self) -> None:
        self.syncs += 1
        if self._failing:
            self._failing = False
            raise apsw.IOError("the disk fails, as the test wants it to")

    def note(self, path: Path) -> None:
        self._durable[path] = path.read_bytes()

    def kill(self, into: Path) -> None:
        """What a kill of the process now leaves, in the directory `into`: all that was written, synced or not."""
        into.mkdir()
        for path, durable in [(path, durable) for path, durable in self._durable.items() if path.exists()]:
            (into / path.name).write_bytes(path.read_bytes())
            self._durable[into / path.name] = durable

    def power_cut(self, into: Path, rng: Random, *, of: Path | None = None) -> None:
        """What a power cut now may leave of the files (of those in the directory `of`), in the directory `into`."""
        into.mkdir()
        keep = rng.choice((0.0, 0.5, 1.0))
        for path, durable in self._durable.items():
            if path.exists() and of in (None, path.parent):
                (into / path.name).write_bytes(_survivor(durable, path.read_bytes(), keep, rng))


def _survivor(durable: bytes, cached: bytes, keep: float, rng: Random) -> bytes:
    content = bytearray(durable)
    for start in range(0, len(cached), _BLOCK_BYTES):
        block = cached[start : start + _BLOCK_BYTES]
        if durable[start : start + _BLOCK_BYTES] != block and rng.random() < keep:
            content.extend(bytes(max(0, start - len(content))))
            content[start : start + len(block)] = block
    return bytes(content)
