"""The memory store's journal: what changed, batch by batch, and now and then a checkpoint of everything.

Owns the bytes of its entries; `raftlog.wal` owns checksums, torn tails and forced writes.

    payload    = ["batch", [entry, …]] | ["checkpoint", [[key, bytes], …], [entry of every branch and note]]
    entry      = ["branch", gid, branch, state, digest, reason, changed_at_ms, result, intent, locks]
               | ["apply", intent] | ["forget", [[gid, branch], …]]
               | ["note", gid, branch, note, changed_at_ms, is_finished] | ["forget notes", [[gid, branch], …]]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack

from participant.branch import Branch
from participant.errors import ResourceFailed
from participant.ids import BranchKey
from participant.rm.store import Effects, pack_rows, unpack_rows
from participant.wire import BranchState
from raftlog.disk import Disk
from raftlog.errors import LogError
from raftlog.wal import WriteAheadLog

__all__ = ["CHECKPOINT_BYTES_MIN", "FORMAT_VERSION", "Entry", "Journal", "branch_entry", "branch_of"]

FORMAT_VERSION = 2
CHECKPOINT_BYTES_MIN = 16 << 20  # a journal grows to at least this, and to twice its checkpoint, before the next one

Entry = list[Any]


def branch_entry(branch: Branch, effects: Effects) -> Entry:
    """The row of a branch, as an entry."""
    (gid, name), state, *rest = branch
    locks = pack_rows(effects.rows) if effects.intent else b""
    return ["branch", gid, name, state.value, *rest, effects.intent, locks]


def branch_of(entry: Entry) -> tuple[Branch, Effects]:
    """The inverse of `branch_entry`."""
    _, gid, branch, state, *rest, intent, locks = entry
    rows = unpack_rows(locks) if locks else frozenset()
    return Branch(BranchKey(gid, branch), BranchState(state), *rest), Effects(rows, intent)


class Journal:
    """Entries on a disk. Every call blocks, and raises ResourceFailed, after which the journal is of no use."""

    def __init__(self, disk: Disk) -> None:
        self._log = WriteAheadLog(disk, "memory", {"format": FORMAT_VERSION})
        self._checkpoint_bytes = 0

    def recover(self) -> tuple[dict[str, bytes], list[Entry]]:
        """The rows of the newest checkpoint, and every entry since, the checkpoint's own branches first."""
        rows: dict[str, bytes] = {}
        entries: list[Entry] = []
        try:
            payloads = self._log.recover()
        except LogError as error:
            raise ResourceFailed(str(error)) from error
        for payload in payloads:
            match msgpack.unpackb(payload):
                case ["checkpoint", list(pairs), list(branches)]:
                    rows, entries = dict(pairs), list(branches)
                    self._checkpoint_bytes = len(payload)
                case ["batch", list(batch)]:
                    entries += batch
                case other:
                    raise ResourceFailed(f"the journal holds a payload of an unknown kind: {other!r:.80}")
        return rows, entries

    def write(self, entries: list[Entry]) -> None:
        """Make entries durable, together."""
        try:
            self._log.write(msgpack.packb(["batch", entries]))
        except LogError as error:
            raise ResourceFailed(str(error)) from error

    @property
    def is_long(self) -> bool:
        """Whether a checkpoint would be worth its price."""
        return self._log.size_bytes > max(CHECKPOINT_BYTES_MIN, 2 * self._checkpoint_bytes)

    def checkpoint(self, rows: dict[str, bytes], branches: Iterable[Entry]) -> None:
        """Replace everything that was written by this."""
        payload = msgpack.packb(["checkpoint", list(rows.items()), list(branches)])
        try:
            self._log.rotate(payload)
        except LogError as error:
            raise ResourceFailed(str(error)) from error
        self._checkpoint_bytes = len(payload)

    def close(self) -> None:
        """Give the file back."""
        self._log.close()
