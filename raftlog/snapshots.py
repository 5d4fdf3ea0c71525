"""Snapshots on the disk: written whole or not at all, verified on load, handed to lagging followers in pieces.

    file   snapshot-<index, 20 digits>.snap
    file   = magic  meta length (u32)  meta (msgpack)  chunk*  end  digest
    chunk  = length (u32, > 0)  bytes            end = 0 (u32)            digest = BLAKE2b-256 of all before it

A snapshot gets its name only after its content is on the disk, so one that does not verify is corruption, never a
crash's leftover.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgpack

from raftlog.disk import Disk
from raftlog.errors import ConfigError, Corrupt, DiskFailed
from raftlog.port import Member

__all__ = ["SNAPSHOT_VERSION", "Snapshot", "SnapshotMeta", "SnapshotStore"]

SNAPSHOT_VERSION = 1

_MAGIC = b"\xc7SNAP\x00\x00\x01"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_NAME = re.compile(r"snapshot-(\d{20})\.snap")
_UNFINISHED = ".tmp"


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: every entry up to `index`, whose term is `term`; `members` as of that entry."""

    cluster: str
    index: int
    term: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified snapshot: `data` is the whole file."""

    meta: SnapshotMeta
    data: bytes

    @classmethod
    def verify(cls, data: bytes, name: str = "snapshot") -> Snapshot:
        """Check a file's content. Raises Corrupt with `name` and the offset of what does not hold."""
        if data[: len(_MAGIC)] != _MAGIC:
            raise Corrupt(name, 0, "it is not a snapshot of a format version that this code knows")
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if _digest(body) != digest:
            raise Corrupt(name, len(body), "the digest does not match the content")
        (size,) = _LENGTH.unpack_from(data, len(_MAGIC))
        start = len(_MAGIC) + _LENGTH.size
        fields = msgpack.unpackb(data[start : start + size])
        if fields["version"] != SNAPSHOT_VERSION:
            raise Corrupt(name, start, f"format version {fields['version']}; this code knows {SNAPSHOT_VERSION}")
        members = tuple(Member(*member) for member in fields["members"])
        meta = SnapshotMeta(fields["cluster"], fields["index"], fields["term"], members)
        return cls(meta, data)

    def chunks(self) -> Iterator[bytes]:
        """The state machine's bytes, as it gave them."""
        (size,) = _LENGTH.unpack_from(self.data, len(_MAGIC))
        offset = len(_MAGIC) + _LENGTH.size + size
        while True:
            (length,) = _LENGTH.unpack_from(self.data, offset)
            offset += _LENGTH.size
            if length == 0:
                return
            yield self.data[offset : offset + length]
            offset += length


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _pieces(meta: SnapshotMeta, chunks: Iterable[bytes]) -> Iterator[bytes]:
    packed = msgpack.packb(
        {
            "version": SNAPSHOT_VERSION,
            "cluster": meta.cluster,
            "index": meta.index,
            "term": meta.term,
            "members": [[member.name, member.address] for member in meta.members],
        }
    )
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for piece in (_MAGIC, _LENGTH.pack(len(packed)), packed):
        digest.update(piece)
        yield piece
    for chunk in chunks:
        if chunk:
            for piece in (_LENGTH.pack(len(chunk)), chunk):
                digest.update(piece)
                yield piece
    digest.update(_LENGTH.pack(0))
    yield _LENGTH.pack(0)
    yield digest.digest()


class SnapshotStore:
    """The snapshots in one directory. Every method blocks; `write` may run beside the journal, on another thread."""

    def __init__(self, disk: Disk, cluster: str) -> None:
        self._disk = disk
        self._cluster = cluster

    def recover(self) -> Snapshot | None:
        """The newest snapshot, after clearing away what a crash left unfinished.

        Raises: Corrupt, ConfigError (it belongs to another cluster), DiskFailed.
        """
        try:
            for name in self._disk.names():
                if name.startswith("snapshot-") and name.endswith(_UNFINISHED):
                    self._disk.remove(name)
            return self.newest()
        except OSError as error:
            raise DiskFailed(f"cannot read the snapshots: {error}") from error

    def newest(self) -> Snapshot | None:
        """Read and verify the newest snapshot. Raises Corrupt, ConfigError, OSError."""
        indexes = self._indexes()
        if not indexes:
            return None
        name = _file_name(indexes[-1])
        try:
            data = self._disk.read(name)
        except FileNotFoundError:  # a newer one took its place just now
            return self.newest()
        snapshot = Snapshot.verify(data, name)
        if snapshot.meta.cluster != self._cluster:
            raise ConfigError(f"{name} in {self._disk!r} belongs to cluster {snapshot.meta.cluster!r}")
        return snapshot

    def write(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        """Encode and store a snapshot of our own state. Raises DiskFailed."""
        self._store(meta.index, "own", _pieces(meta, chunks))

    def adopt(self, snapshot: Snapshot) -> None:
        """Store a snapshot that a leader sent. Raises DiskFailed."""
        self._store(snapshot.meta.index, "received", [snapshot.data])

    def _store(self, index: int, origin: str, pieces: Iterable[bytes]) -> None:
        name = _file_name(index)
        unfinished = f"{name}.{origin}{_UNFINISHED}"
        try:
            file = self._disk.open(unfinished)
            for piece in pieces:
                file.append(piece)
            file.sync()
            file.close()
            self._disk.replace(unfinished, name)
            self._disk.sync_directory()
            for older in self._indexes()[:-1]:
                with suppress(FileNotFoundError):  # `write` and `adopt` may clear away at the same time
                    self._disk.remove(_file_name(older))
        except OSError as error:
            raise DiskFailed(f"cannot write {name}: {error}") from error

    def _indexes(self) -> list[int]:
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, self._disk.names()) if match)


def _file_name(index: int) -> str:
    return f"snapshot-{index:020d}.snap"
