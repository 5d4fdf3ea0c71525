"""A write-ahead log of opaque batches: checksummed, append-only, crash-safe. One write and one sync a batch.

Owns the bytes on the disk and what a crash may leave of them; knows nothing of what a batch means.

    file       <prefix>-<generation, 10 digits>.wal
    file       = header batch*                                      (the header is a batch of its own kind)
    batch      = magic  kind  length  sequence  crc32  payload      (little endian, `_HEAD`)
    header     = {"wal": version, "salt": 32 random bits, …}        (msgpack; its own checksum is without salt)

**One batch is in flight at a time**, and the next is written only after the last was synced. So a crash can tear
the last batch and no other. What recovery finds at the first batch that does not verify:

- nothing valid behind it: that is the torn tail. It was never synced, so nobody was told of it; it is cut off.
- a *valid batch with a later sequence number* behind it: the bad batch had been synced, and what it promised is
  lost. That is corruption, and the log refuses to open (file and offset are in the error).

**Salt.** Each generation draws a salt, and the checksum of each of its batches begins with it. A payload may hold
anything, the bytes of a batch of some other log too; a part of it that a crash left behind must not pass for a later
batch. Whoever chooses payloads does not see the salt, so such bytes verify by an accident of 1 in 2^32 at most.

Damage to the very last batch cannot be told from a torn tail by any log that syncs in place; replication is what
protects from that.

**Generations.** `rotate(checkpoint)` begins a new file whose checkpoint stands for everything before it. A file gets
its name only after its first batches are on the disk, and the old one goes after that; so every named file is whole
but for its tail, and after a crash in between the newest one counts.

**Recovery rewrites what it read** into a new generation. A batch that was written but never synced (the process was
killed, or the sync failed) reads back from the page cache as if it were durable; it is not, and the kernel may even
believe that it has nothing left to write (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from raftlog.disk import Disk, File
from raftlog.errors import ConfigError, Corrupt, DiskFailed, invariant

__all__ = ["BATCH_BYTES_MAX", "WAL_VERSION", "WriteAheadLog"]

WAL_VERSION = 2
BATCH_BYTES_MAX = 1 << 30
RESERVE_BYTES = 1 << 20  # room made ahead of what is written: see `File.reserve`

_MAGIC = b"\xc7WAL"
_HEAD = struct.Struct("<4sBIQI")  # magic, kind, payload length, sequence, crc32 of salt + kind + sequence + payload
_HEADER, _BATCH = 1, 2
_SALT_BYTES = 4  # as many as the checksum has: each salt gives another checksum
_NO_SALT = 0  # of the header, which has to be read before the salt is known
_UNFINISHED = ".tmp"


@dataclass(frozen=True, slots=True)
class _Batch:
    kind: int
    sequence: int
    payload: bytes
    end: int


def _encode(kind: int, sequence: int, payload: bytes, salt: int) -> bytes:
    invariant(len(payload) <= BATCH_BYTES_MAX, "a batch is larger than the format allows")
    return _HEAD.pack(_MAGIC, kind, len(payload), sequence, _checksum(kind, sequence, payload, salt)) + payload


def _checksum(kind: int, sequence: int, payload: bytes, salt: int) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<BQ", kind, sequence), salt))


def _decode(data: bytes, offset: int, salt: int) -> _Batch | None:
    """The batch at `offset`, or None if there is no whole, verified batch."""
    if len(data) - offset < _HEAD.size:
        return None
    magic, kind, length, sequence, crc = _HEAD.unpack_from(data, offset)
    start, end = offset + _HEAD.size, offset + _HEAD.size + length
    if magic != _MAGIC or end > len(data):
        return None
    payload = data[start:end]
    if _checksum(kind, sequence, payload, salt) != crc:
        return None
    return _Batch(kind, sequence, payload, end)


def _later_batch(data: bytes, offset: int, sequence: int, salt: int) -> bool:
    """Whether a valid batch of `sequence` or later stands anywhere behind `offset`."""
    at = data.find(_MAGIC, offset + 1)
    while at >= 0:
        batch = _decode(data, at, salt)
        if batch is not None and batch.sequence >= sequence:
            return True
        at = data.find(_MAGIC, at + 1)
    return False


def _scan(name: str, data: bytes, after: _Batch, salt: int) -> Iterator[_Batch]:
    """The batches behind `after`, up to the first that does not verify."""
    offset, expected = after.end, after.sequence + 1
    while (batch := _decode(data, offset, salt)) is not None:
        if batch.sequence != expected:
            raise Corrupt(name, offset, f"batch {batch.sequence} where {expected} was expected")
        yield batch
        offset, expected = batch.end, batch.sequence + 1


class WriteAheadLog:
    """The log in one directory under one `prefix`. Call `recover` first, to its end; all calls block.

    `header` says whose log it is (e.g. cluster and node); a log with another header is refused with ConfigError.
    """

    def __init__(self, disk: Disk, prefix: str, header: dict[str, Any]) -> None:
        self._disk = disk
        self._prefix = prefix
        self._header = header
        self._name = re.compile(re.escape(prefix) + r"-(\d{10})\.wal")
        self._generation = 0
        self._sequence = 0
        self._salt = _NO_SALT
        self._file: File | None = None
        self._bytes = 0
        self._reserved = 0  # bytes of the file that are written or reserved

    @property
    def size_bytes(self) -> int:
        """Bytes in the current generation."""
        return self._bytes

    def recover(self) -> list[bytes]:
        """Every payload that the newest generation holds, in order, its checkpoint first; all of it durable now.

        Cuts a torn tail, removes what a crash left of other generations, and leaves the log ready for `write`.

        Raises: Corrupt, ConfigError (the log belongs to another owner or format version), DiskFailed.
        """
        try:
            payloads = self._read_newest()
            self._begin(self._generation + 1, payloads)
        except OSError as error:
            raise DiskFailed(f"cannot recover the log {self._prefix!r}: {error}") from error
        return payloads

    def write(self, payload: bytes) -> None:
        """Append one batch and make it durable. Raises DiskFailed; the log cannot be used any more then."""
        file = self._writable()
        data = _encode(_BATCH, self._sequence, payload, self._salt)
        self._file = None  # only a write that ended well gives the handle back
        try:
            if self._bytes + len(data) > self._reserved:
                file.reserve(len(data) + RESERVE_BYTES)
                self._reserved = self._bytes + len(data) + RESERVE_BYTES
            file.append(data)
            file.sync()
        except OSError as error:
            raise DiskFailed(f"cannot write the log {self._prefix!r}: {error}") from error
        self._file = file
        self._sequence += 1
        self._bytes += len(data)

    def rotate(self, checkpoint: bytes) -> None:
        """Start a new generation in which `checkpoint` stands for all that was written. Raises DiskFailed."""
        self._writable().close()
        self._file = None
        try:
            self._begin(self._generation + 1, [checkpoint])
        except OSError as error:
            raise DiskFailed(f"cannot rotate the log {self._prefix!r}: {error}") from error

    def close(self) -> None:
        """Give the file back. What was written stays durable."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _writable(self) -> File:
        if self._file is None:
            raise DiskFailed(f"the log {self._prefix!r} is closed, or an earlier write to it failed")
        return self._file

    def _file_name(self, generation: int) -> str:
        return f"{self._prefix}-{generation:010d}.wal"

    def _begin(self, generation: int, payloads: Iterable[bytes]) -> None:
        """Make `payloads` the whole content of a new generation, durable before it has a name; forget all others."""
        name = self._file_name(generation)
        self._salt = int.from_bytes(self._disk.random_bytes(_SALT_BYTES))
        header: bytes = msgpack.packb({"wal": WAL_VERSION, "salt": self._salt, **self._header})
        file = self._disk.open(name + _UNFINISHED)
        size = 0
        batches = ((_BATCH, payload, self._salt) for payload in payloads)
        for kind, payload, salt in ((_HEADER, header, _NO_SALT), *batches):
            data = _encode(kind, self._sequence, payload, salt)
            file.append(data)
            self._sequence += 1
            size += len(data)
        file.sync()
        file.close()
        self._disk.replace(name + _UNFINISHED, name)
        self._disk.sync_directory()
        for other in self._generations():
            if other != generation:
                self._disk.remove(self._file_name(other))
        self._disk.sync_directory()
        self._file, self._generation, self._bytes = self._disk.open(name), generation, size
        self._reserved = size

    def _generations(self) -> list[int]:
        return sorted(int(match[1]) for match in map(self._name.fullmatch, self._disk.names()) if match)

    def _read_newest(self) -> list[bytes]:
        for name in self._disk.names():
            if name.startswith(f"{self._prefix}-") and name.endswith(f".wal{_UNFINISHED}"):
                self._disk.remove(name)
        generations = self._generations()
        if not generations:
            return []
        self._generation = generations[-1]
        name = self._file_name(self._generation)
        data = self._disk.read(name)
        header = _decode(data, 0, _NO_SALT)
        if header is None or header.kind != _HEADER:
            raise Corrupt(name, 0, "the file does not begin with a header")
        salt = self._salt_in(name, header)
        batches = list(_scan(name, data, header, salt))
        last = batches[-1] if batches else header
        self._sequence = last.sequence + 1
        if _later_batch(data, last.end, self._sequence, salt):
            raise Corrupt(name, last.end, "a batch does not verify, but a later one does")
        return [batch.payload for batch in batches]

    def _salt_in(self, name: str, header: _Batch) -> int:
        """The salt of a file that is ours. Raises ConfigError."""
        found = msgpack.unpackb(header.payload)
        salt = found.pop("salt", _NO_SALT)
        expected = {"wal": WAL_VERSION, **self._header}
        if found != expected:
            raise ConfigError(f"{name} in {self._disk!r} belongs to {found}, not to {expected}")
        return int(salt)
