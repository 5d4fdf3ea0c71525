"""The disk itself: `python -m tests.support.fuse_disk IMAGE DEVICE`; see `tests.support.virtual_disk`.

Reads orders of power cuts from its standard input, a JSON array in each line, and answers each in a line. It ends when
it is unmounted.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import mfusepy

from tests.support.virtual_disk import BLOCK_BYTES, FILE, Cut

__all__: list[str] = []

IDLE_S = 1.0  # without enough writes, after which the power is cut nevertheless


class _Disk(mfusepy.Operations):  # type: ignore[misc]  # the library has no types
    """One file. A block that is in `cache` has not been flushed."""

    use_ns = True

    def __init__(self, image: str) -> None:
        self.image = image
        self.file = os.open(image, os.O_RDWR)
        self.size = os.fstat(self.file).st_size
        self.cache: dict[int, bytes] = {}
        self.writes_left = 0  # until the cut that was ordered; 0: none was
        self.order: tuple[str, int, float] = ("", 0, 0.0)
        self.done = threading.Event()
        self.result = Cut(0.0, 0, 0)
        self.turn = threading.Lock()

    def getattr(self, path: str, _handle: Any = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path != f"/{FILE}":
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self.size}

    def readdir(self, _path: str, _handle: int) -> Sequence[str]:
        return (".", "..", FILE)

    def open(self, _path: str, _flags: int) -> int:
        return 0

    def read(self, _path: str, size: int, offset: int, _handle: int) -> bytes:
        with self.turn:
            return self._span(offset, size)[1]

    def write(self, _path: str, data: bytes, offset: int, _handle: int) -> int:
        with self.turn:
            first, whole = self._around(offset, len(data))
            begin = offset - first * BLOCK_BYTES
            changed = whole[:begin] + data + whole[begin + len(data) :]
            for place in range(0, len(changed), BLOCK_BYTES):
                self.cache[first + place // BLOCK_BYTES] = changed[place : place + BLOCK_BYTES]
            if self.writes_left:
                self.writes_left -= 1
                if not self.writes_left:
                    self._cut()
        return len(data)

    def fsync(self, _path: str, _datasync: int, _handle: int) -> int:
        """The disk's flush."""
        with self.turn:
            for block in sorted(self.cache):
                os.pwrite(self.file, self.cache[block], block * BLOCK_BYTES)
            self.cache.clear()
        return 0

    def flush(self, _path: str, _handle: int) -> int:
        """At close; it promises nothing."""
        return 0

    def fallocate(self, *_: Any) -> int:
        raise mfusepy.FuseOSError(errno.EOPNOTSUPP)  # no discarding

    def cut(self, into: str, seed: int, keep: float, writes: int) -> Cut:
        self.done.clear()
        with self.turn:
            self.order, self.writes_left = (into, seed, keep), writes
        if not self.done.wait(IDLE_S):
            with self.turn:
                if self.writes_left:
                    self._cut()
        self.done.wait()
        return self.result

    def _cut(self) -> None:
        at = time.monotonic()
        into, seed, keep = self.order
        chance, survived = Random(seed), 0
        subprocess.run(["cp", "--sparse=always", self.image, into], check=True)
        with Path(into).open("r+b") as copy:
            for block, content in self.cache.items():
                if chance.random() < keep:
                    survived += 1
                    copy.seek(block * BLOCK_BYTES)
                    copy.write(content)
        self.result, self.writes_left = Cut(at, len(self.cache), survived), 0
        self.done.set()

    def _span(self, offset: int, size: int) -> tuple[int, bytes]:
        first, whole = self._around(offset, size)
        begin = offset - first * BLOCK_BYTES
        return first, whole[begin : begin + size]

    def _around(self, offset: int, size: int) -> tuple[int, bytes]:
        """The whole blocks around a span, and the number of the first."""
        first, end = offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES)
        return first, b"".join(self._block(block) for block in range(first, end))

    def _block(self, block: int) -> bytes:
        return self.cache.get(block) or os.pread(self.file, BLOCK_BYTES, block * BLOCK_BYTES)


def main(image: str, device: str) -> None:
    """Be the disk."""
    disk = _Disk(image)

    def obey() -> None:
        for line in sys.stdin:
            print(json.dumps(disk.cut(*json.loads(line))), flush=True)

    threading.Thread(target=obey, daemon=True).start()
    mfusepy.FUSE(disk, device, foreground=True, nothreads=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
