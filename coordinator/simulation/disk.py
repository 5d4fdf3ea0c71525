"""A disk in memory that does to unsynced data whatever a real one may do. It implements `raftlog.disk.Disk`.

Sources: POSIX fsync, rename; Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014 (what survives a
crash); Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020 (what a failed sync leaves).

- An append changes the page cache. A power cut keeps any subset of the unsynced 512-byte blocks; a block that is
  lost is zero, or what it held at the last sync, and the file may also be shorter.
- A created, renamed or removed name changes the directory. A power cut keeps a prefix, in order, of the changes
  since `sync_directory`; a name may so survive while the content of its file does not.
- A sync that fails reports it once. The pages count as clean from then on, are still read back, and may be gone
  after a power cut, whatever later syncs say.
- `kill -9` loses nothing: the page cache is the kernel's. It stays unsynced, though.

A `SimDisk` is one process's view. After a crash, go on with the disk that `crash` or `kill` returns. After `kill`,
or a crash point that was reached, whoever still holds the old object gets `PowerCut`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

__all__ = ["BLOCK_BYTES", "PowerCut", "SimDisk"]

BLOCK_BYTES = 512


class PowerCut(BaseException):
    """The machine died in the middle of an operation. Not an Exception, so that no handler lives on."""


@dataclass(slots=True)
class _Inode:
    """One file: what is read back, what is on the platters, and what was written in between.

    Only the bytes from `start` to `stop` may differ from the platters, apart from the length.
    """

    cached: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    start: int = 0
    stop: int = 0
    dirty: bool = False

    def write(self, offset: int, data: bytes) -> None:
        self._touch(offset, offset + len(data))
        _write_at(self.cached, offset, data)

    def reserve(self, size: int) -> None:
        """Zeros up to `size`: a longer file, as of the next sync."""
        if size > len(self.cached):
            self._touch(len(self.cached), len(self.cached))
            self.cached.extend(bytes(size - len(self.cached)))

    def sync(self) -> None:
        if self.dirty:
            _write_at(self.durable, self.start, self.cached[self.start : self.stop])
            self.durable.extend(bytes(len(self.cached) - len(self.durable)))
            self.dirty = False

    def _touch(self, start: int, stop: int) -> None:
        self.start = min(self.start, start) if self.dirty else start
        self.stop = max(self.stop, stop) if self.dirty else stop
        self.dirty = True

    def fail_sync(self, rng: Random) -> None:
        """The pages become clean without having been written: perhaps some of them, perhaps none."""
        self.durable = self.survivor(rng)
        self.dirty = False

    def truncate(self, size: int) -> None:
        self.sync()
        del self.cached[size:]
        del self.durable[size:]

    def survivor(self, rng: Random) -> bytearray:
        """What a power cut leaves."""
        content = bytearray(self.durable)
        if not self.dirty:
            return content
        content.extend(bytes(self._surviving_length(rng) - len(content)))
        end = min(self.stop, len(content))
        keep = rng.choice((0.0, 0.5, 0.9, 1.0))
        for block in range(self.start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            low, high = max(block * BLOCK_BYTES, self.start), min((block + 1) * BLOCK_BYTES, end)
            if low < high and rng.random() < keep:
                content[low:high] = self.cached[low:high]
        return content

    def _surviving_length(self, rng: Random) -> int:
        """The length is written apart from the content: the old one, the new one, or one in between."""
        old, new = len(self.durable), max(len(self.durable), len(self.cached))
        match rng.randrange(3):
            case 0:
                return old
            case 1:
                return new
            case _:
                return rng.randint(old, new)


def _write_at(target: bytearray, offset: int, data: bytes | bytearray) -> None:
    """Write `data` at `offset`; a gap before it, left by a failed sync, reads as zeros."""
    if offset > len(target):
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class SimDisk:
    """One directory. `rng` draws what a failed sync leaves. Counts its operations, for enumerating crash points.

    `reserves`: whether `File.reserve` makes room, which then reads as zeros; without it a file ends where its data do.
    """

    def __init__(self, rng: Random | None = None, *, reserves: bool = False) -> None:
        self.reserves = reserves
        self.operations = 0  # that changed something or made something durable
        self.syncs = 0
        self.failures = 0  # injected, and reported to the caller
        self.bytes_written = 0
        self._rng = rng or Random(0)
        self._entropy = Random(0)  # apart, so that what a fault does depends on nothing but `rng`
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._changes: list[Callable[[dict[str, _Inode]], None]] = []
        self._crash_at: int | None = None
        self._when_cut: Callable[[], None] = lambda: None
        self._fail_at: int | None = None
        self._fail_next_sync = False
        self._dead = False

    def __repr__(self) -> str:
        return f"SimDisk({len(self._names)} files, {self.operations} operations)"

    # The port ------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Nobody else can reach it."""

    def release(self) -> None:
        """See `claim`."""

    def random_bytes(self, count: int) -> bytes:
        self._alive()
        return self._entropy.randbytes(count)

    def names(self) -> list[str]:
        self._alive()
        return sorted(self._names)

    def read(self, name: str) -> bytes:
        self._alive()
        return bytes(self._inode(name).cached)

    def open(self, name: str) -> _OpenFile:
        self._alive()
        if name not in self._names:
            self._operation()
            inode = _Inode()

            def create(names: dict[str, _Inode]) -> None:
                names[name] = inode

            self._change(create)
        return _OpenFile(self, self._names[name])

    def truncate(self, name: str, size: int) -> None:
        inode = self._inode(name)
        self._operation()
        inode.truncate(size)

    def replace(self, old: str, new: str) -> None:
        self._inode(old)
        self._operation()

        def rename(names: dict[str, _Inode]) -> None:
            names[new] = names.pop(old)

        self._change(rename)

    def remove(self, name: str) -> None:
        self._inode(name)
        self._operation()

        def unlink(names: dict[str, _Inode]) -> None:
            del names[name]

        self._change(unlink)

    def sync_directory(self) -> None:
        self._operation()
        self._failing_sync()
        self._durable_names = dict(self._names)
        self._changes.clear()

    # Faults ----------------------------------------------------------------------------------------------------

    def crash(self, rng: Random) -> SimDisk:
        """What a power cut now may leave, drawn by `rng`. Changes nothing: ask again for another possibility."""
        names = dict(self._durable_names)
        for change in self._changes[: rng.randint(0, len(self._changes))]:
            change(names)
        after = SimDisk(rng, reserves=self.reserves)
        after._entropy = self._entropy
        for name, inode in names.items():
            content = inode.survivor(rng)
            after._names[name] = _Inode(cached=bytearray(content), durable=content)
        after._durable_names = dict(after._names)
        return after

    def kill(self) -> SimDisk:
        """kill -9 of the process: everything written is still there, and still unsynced."""
        after = SimDisk(self._rng, reserves=self.reserves)
        after._entropy = self._entropy
        after._names, after._durable_names, after._changes = self._names, self._durable_names, self._changes
        self._dead = True
        return after

    def crash_at(self, operation: int, when_cut: Callable[[], None] | None = None) -> None:
        """Die just before operation number `operation` (from 0): call `when_cut`, then raise PowerCut."""
        self._crash_at = operation
        self._when_cut = when_cut or (lambda: None)

    def fail_at(self, operation: int) -> None:
        """Let operation number `operation` fail with EIO; if it is a sync, as a failed sync does."""
        self._fail_at = operation

    def fail_next_sync(self) -> None:
        """Let the next sync, of a file or of the directory, fail."""
        self._fail_next_sync = True

    def relent(self) -> None:
        """Take back every fault that was asked for and has not happened yet."""
        self._crash_at = self._fail_at = None
        self._fail_next_sync = False

    def flip_bit(self, name: str, offset: int) -> None:
        """Rot: change one bit of what is stored."""
        inode = self._inode(name)
        inode.cached[offset] ^= 1
        if offset < len(inode.durable):
            inode.durable[offset] ^= 1

    # Inside ----------------------------------------------------------------------------------------------------

    def write_to(self, inode: _Inode, offset: int, data: bytes) -> None:
        self._operation()
        self.bytes_written += len(data)
        inode.write(offset, data)

    def reserve_in(self, inode: _Inode, size: int) -> None:
        self._operation()
        inode.reserve(size)

    def sync_of(self, inode: _Inode) -> None:
        try:
            self._operation()
            self._failing_sync()
        except OSError:
            inode.fail_sync(self._rng)
            raise
        inode.sync()

    def _alive(self) -> None:
        if self._dead:
            raise PowerCut("this process is dead")

    def _operation(self) -> None:
        self._alive()
        number, self.operations = self.operations, self.operations + 1
        if number == self._crash_at:
            self._dead = True
            self._when_cut()
            raise PowerCut(f"before operation {number}")
        if number == self._fail_at:
            self.failures += 1
            raise OSError(errno.EIO, f"injected failure of operation {number}")

    def _failing_sync(self) -> None:
        self.syncs += 1
        if self._fail_next_sync:
            self._fail_next_sync = False
            self.failures += 1
            raise OSError(errno.EIO, "injected failure of a sync")

    def _change(self, change: Callable[[dict[str, _Inode]], None]) -> None:
        change(self._names)
        self._changes.append(change)

    def _inode(self, name: str) -> _Inode:
        self._alive()
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return self._names[name]


class _OpenFile:
    """A handle for appending. As with the real one, its end is that of the file when it was opened."""

    def __init__(self, disk: SimDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode
        self._end = len(inode.cached)
        self._open = True

    def append(self, data: bytes) -> None:
        self._check()
        self._disk.write_to(self._inode, self._end, data)
        self._end += len(data)

    def reserve(self, size_bytes: int) -> None:
        self._check()
        if self._disk.reserves:
            self._disk.reserve_in(self._inode, self._end + size_bytes)

    def sync(self) -> None:
        self._check()
        self._disk.sync_of(self._inode)

    def close(self) -> None:
        self._open = False

    def _check(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, "the file is closed")
