"""The ledger's state as bytes: canonical, versioned, checked. The same state gives the same bytes everywhere.

A stream of msgpack values: a header [MAGIC, SNAPSHOT_VERSION, revision, number of records], each record as an array
in order of its gid, and a trailer, the SHA-256 of everything before it. Records are immutable, so they are encoded
lazily, a chunk at a time, in whatever thread consumes the iterator, while the ledger goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgpack

from coordinator.ledger.errors import SnapshotError
from coordinator.ledger.records import (
    Asked,
    BranchRecord,
    Delivery,
    Mode,
    Notice,
    Path,
    Phase,
    Report,
    Reporting,
    Retry,
    StepRecord,
    TransactionRecord,
    WorkflowRecord,
    shared_names,
    telling,
)

__all__ = ["CHUNK_BYTES", "SNAPSHOT_VERSION", "decode", "encode"]

SNAPSHOT_VERSION = 2
MAGIC = "commitd-ledger"
CHUNK_BYTES = 262_144  # a chunk is cut at the first record that reaches it

_TRAILER_BYTES = 2 + hashlib.sha256().digest_size  # a msgpack `bin 8`: its type and length come first
_VALUE_BYTES_MAX = 2**31 - 1


def encode(revision: int, records: Sequence[TransactionRecord]) -> Iterator[bytes]:
    """The chunks of a snapshot. `records` in any order; it must not change while the iterator is consumed."""
    digest = hashlib.sha256()
    packer = msgpack.Packer()
    chunk = bytearray(packer.pack((MAGIC, SNAPSHOT_VERSION, revision, len(records))))
    for record in sorted(records, key=attrgetter("gid")):
        chunk += packer.pack(_to_array(record))
        if len(chunk) >= CHUNK_BYTES:
            digest.update(chunk)
            yield bytes(chunk)
            chunk.clear()
    digest.update(chunk)
    yield bytes(chunk + packer.pack(digest.digest()))


def decode(chunks: Iterable[bytes]) -> tuple[int, list[TransactionRecord]]:
    """The revision and the records, ordered by gid. Chunk borders may lie anywhere.

    Raises SnapshotError unless the snapshot is whole, of this version, and as it was written.
    """
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=_VALUE_BYTES_MAX)
    values: list[Any] = []
    try:
        for piece in _verified(chunks):
            unpacker.feed(piece)
            values.extend(unpacker)
        return _from_values(values)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise SnapshotError(f"a snapshot does not hold what it should: {error or type(error).__name__}") from error


def _verified(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Everything before the trailer; raises SnapshotError at the end if the trailer is not its digest."""
    digest = hashlib.sha256()
    tail = b""
    for chunk in chunks:
        tail += chunk
        piece, tail = tail[:-_TRAILER_BYTES], tail[-_TRAILER_BYTES:]
        digest.update(piece)
        yield piece
    if tail != msgpack.packb(digest.digest()):
        raise SnapshotError("a snapshot is torn or damaged: its digest does not match")


def _from_values(values: list[Any]) -> tuple[int, list[TransactionRecord]]:
    magic, version, revision, count = values[0] if values else ("", 0, 0, 0)
    if (magic, version) != (MAGIC, SNAPSHOT_VERSION):
        raise SnapshotError(
            f"a snapshot is {magic!r} version {version!r}; expected {MAGIC!r} version {SNAPSHOT_VERSION}"
        )
    if len(values) != 1 + count:
        raise SnapshotError(f"a snapshot holds {len(values) - 1} records instead of {count}")
    return revision, [_from_array(value) for value in values[1:]]


def _to_array(record: TransactionRecord) -> tuple[Any, ...]:
    branches = tuple(tuple(b) if b.step is not None else b[:-1] for b in record.branches)
    begun = (record.gid, record.digest, record.path, record.phase, branches, record.deadline_ms, record.begun_at_ms)
    decided = (record.decided_at_ms, record.decided_by, record.reason, record.culprit)
    workflow = None if record.workflow is None else tuple(record.workflow)
    asked = (record.trace, record.key, record.notify, record.notified, workflow, record.notice_dropped)
    return (*begun, *decided, record.revision, *telling(asked))


def _from_array(array: Any) -> TransactionRecord:
    gid, digest, path, phase, branches, *rest = array
    restored = tuple([_branch(*branch) for branch in branches])
    record = TransactionRecord(gid, digest, Path(path), Phase(phase), restored, *rest)
    record = record if record.notified is Notice.NONE else record._replace(notified=Notice(record.notified))
    return record if record.workflow is None else record._replace(workflow=_workflow(*record.workflow))


def _workflow(name: str, given: bytes, asked: Any, *rest: Any) -> WorkflowRecord:
    return WorkflowRecord(name, given, tuple([Asked(*each) for each in asked]), *rest)


def _branch(branch: str, participant: str, action: str | None, *rest: Any) -> BranchRecord:
    body, ended, works, *step = rest
    record = BranchRecord(*shared_names(branch, participant, action), body, ended, works)
    if not step:
        return record
    mode, after, confirm, undo, takes, retry, *progress = step[0]
    made = StepRecord(Mode(mode), after, confirm, undo, takes, Retry(*retry), *progress)
    delivery = None if made.delivery is None else Delivery(*made.delivery)
    return record._replace(step=made._replace(reporting=_reporting(made.reporting), delivery=delivery))


def _reporting(array: Any) -> Reporting | None:
    if array is None:
        return None
    field, secret, begun, heard = array
    return Reporting(field, secret, begun, None if heard is None else Report(heard))
