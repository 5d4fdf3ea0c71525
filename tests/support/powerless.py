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
        super().xSync(flags)
        self._disk.note(self._path)


class PowerlessDisk(apsw.VFS):
    """SQLite's default disk while the block runs. `syncs` counts the forced writes."""

    def __init__(self) -> None:
        self.syncs = 0
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

    def note(self, path: Path) -> None:
        self.syncs += 1
        self._durable[path] = path.read_bytes()

    def power_cut(self, into: Path, rng: Random) -> None:
        """What a power cut now may leave, in the directory `into`."""
        into.mkdir()
        keep = rng.choice((0.0, 0.5, 1.0))
        for path, durable in self._durable.items():
            if path.exists():
                (into / path.name).write_bytes(_survivor(durable, path.read_bytes(), keep, rng))


def _survivor(durable: bytes, cached: bytes, keep: float, rng: Random) -> bytes:
    content = bytearray(durable)
    for start in range(0, len(cached), _BLOCK_BYTES):
        block = cached[start : start + _BLOCK_BYTES]
        if durable[start : start + _BLOCK_BYTES] != block and rng.random() < keep:
            content.extend(bytes(max(0, start - len(content))))
            content[start : start + len(block)] = block
    return bytes(content)
