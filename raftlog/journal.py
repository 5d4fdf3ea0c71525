"""The Raft log on the disk: pysyncobj's journal interface in memory, our write-ahead log underneath.

Nothing here waits for the disk. The library adds, truncates and votes in memory; every change is also queued as a
record. `take` hands all queued records over as one batch; whoever wrote and synced it calls `synced`. Between the
two, `durable_index` says how far the log may be vouched for.

Records of a batch, each a msgpack array:

    [ENTRY, index, term, command]     appended
    [BALLOT, term, vote|nil]          current term and whom we voted for in it
    [CUT, index]                      everything from `index` on is discarded
    [BASE, index, term]               the log is discarded; a snapshot stands for it, up to `index` at least

The log begins with an entry that a snapshot covers (at first, with an empty entry 1 of term 0): the snapshot's last
one, or one a little before it. That one is never sent: what it holds is gone, only its index and term are known.

The commit index is *not* kept: it is volatile (Ongaro & Ousterhout 2014, figure 2), and a stored one may point
behind the end of a log whose tail a power cut took.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgpack
from pysyncobj.journal import Journal

from raftlog.errors import Corrupt, invariant
from raftlog.snapshots import SnapshotMeta

__all__ = ["Entry", "RaftJournal"]

Entry = tuple[bytes, int, int]  # command, index, term: the library's own shape


class _Kind(IntEnum):
    ENTRY = 1
    BALLOT = 2
    CUT = 3
    BASE = 4


_NO_OP = b"\x01"  # what stands in the first entry


class RaftJournal(Journal):  # type: ignore[misc]  # the library has no types
    """The library's `Journal`, plus what a crash-safe node needs to know about durability."""

    def __init__(self, payloads: list[bytes], snapshot: SnapshotMeta | None) -> None:
        """Rebuild from what the disk held. Raises Corrupt when log and snapshot do not belong together."""
        self._entries: list[Entry] = []
        self._term = 0
        self._vote: str | None = None
        self._records: list[list[Any]] = []
        for payload in payloads:
            for record in msgpack.unpackb(payload):
                self._replay(record)
        self._join(snapshot)
        self._durable = self.last_index
        self._taken = self.last_index

    # What the library calls ------------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        if self._entries:
            invariant(idx == self._entries[-1][1] + 1, f"entry {idx} after {self._entries[-1][1]}")
        self._entries.append((command, idx, term))
        self._records.append([_Kind.ENTRY, idx, term, command])

    def clear(self) -> None:
        raise NotImplementedError("the log is cleared by `rebase` only")

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        index = self._entries[entryFrom][1]
        del self._entries[entryFrom:]
        self._records.append([_Kind.CUT, index])
        self._durable = min(self._durable, index - 1)
        self._taken = min(self._taken, index - 1)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        raise NotImplementedError("the log is trimmed by `compact` only")

    def __getitem__(self, item: Any) -> Any:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def _destroy(self) -> None:
        """The file belongs to the node, not to us."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Volatile: see the module's header."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return max(self.first_index, 1)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        self._term, self._vote = term, votedForNodeId
        self._records.append([_Kind.BALLOT, term, votedForNodeId])

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        return self._vote

    # What the guard and the node ask ---------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first index: everything up to it is covered by a snapshot (index 1: by the empty state)."""
        return self._entries[0][1] if self._entries else 0

    @property
    def last_index(self) -> int:
        return self._entries[-1][1] if self._entries else 0

    @property
    def last_term(self) -> int:
        return self._entries[-1][2] if self._entries else 0

    @property
    def durable_index(self) -> int:
        """Every entry up to here, as the log stands now, is on our disk."""
        return self._durable

    @property
    def dirty(self) -> bool:
        """Whether something was changed that no `take` has handed over yet."""
        return bool(self._records)

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`, or None if it is not held."""
        at = index - self.first_index
        return self._entries[at][2] if 0 <= at < len(self._entries) else None

    def slice(self, start: int, count: int) -> list[Entry]:
        """Up to `count` entries from index `start` on."""
        at = start - self.first_index
        return self._entries[at : at + count]

    def first_of_run(self, index: int, floor: int) -> int:
        """The first index, not below `floor`, of the run of entries of one term that `index` belongs to."""
        term = self.term_at(index)
        while index > floor and self.term_at(index - 1) == term:
            index -= 1
        return index

    # Durability ------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Everything queued, as one batch. The caller writes and syncs it, then calls `synced`; one at a time."""
        records, self._records = self._records, []
        self._taken = self.last_index
        return bytes(msgpack.packb(records))

    def synced(self) -> None:
        """The last batch taken is durable (less what was cut from the log in the meantime)."""
        self._durable = self._taken

    # Snapshots -------------------------------------------------------------------------------------------

    def compact(self, meta: SnapshotMeta, *, tail_entries: int = 0, tail_bytes: int = 0) -> bytes:
        """Drop what a durable snapshot of ours covers; returns the checkpoint that stands for all that is left.

        A tail of it stays, within both bounds: a follower that was away for a moment is then served from the log.
        Counts as a `take`: the caller rotates the write-ahead log to the checkpoint, then calls `synced`.
        """
        base = self._tail_base(meta.index, max(self.first_index, meta.index - tail_entries), tail_bytes)
        base_term = self.term_at(base) or 0
        keep = [entry for entry in self._entries if entry[1] > base]
        self._entries = [(_NO_OP, base, base_term), *keep]
        records: list[list[Any]] = [[_Kind.BALLOT, self._term, self._vote], _base_record(base, base_term)]
        records += [[_Kind.ENTRY, index, term, command] for command, index, term in keep]
        self._records = []
        self._taken = self.last_index
        return bytes(msgpack.packb(records))

    def _tail_base(self, index: int, lowest: int, room_bytes: int) -> int:
        """The index, from `lowest` to `index`, from which on the commands up to `index` fit into `room_bytes`."""
        while index > lowest:
            room_bytes -= len(self._entries[index - self.first_index][0])
            if room_bytes < 0:
                break
            index -= 1
        return index

    def rebase(self, meta: SnapshotMeta) -> None:
        """Discard the log: a snapshot received from the leader stands for it (figure 13, step 7)."""
        self._rebase(meta)
        self._records.append(_base_record(meta.index, meta.term))
        # The snapshot is vouched for when its record is synced.
        self._durable = min(self._durable, meta.index - 1)
        self._taken = min(self._taken, meta.index - 1)

    def _rebase(self, meta: SnapshotMeta) -> None:
        self._entries = [(_NO_OP, meta.index, meta.term)]

    def _replay(self, record: list[Any]) -> None:
        match record:
            case [_Kind.ENTRY, index, term, command]:
                if self._entries and index != self.last_index + 1:
                    raise Corrupt("journal", 0, f"entry {index} follows entry {self.last_index}")
                self._entries.append((command, index, term))
            case [_Kind.BALLOT, term, vote]:
                self._term, self._vote = term, vote
            case [_Kind.CUT, index]:
                del self._entries[index - self.first_index :]
            case [_Kind.BASE, index, term]:
                self._entries = [(_NO_OP, index, term)]
            case _:
                raise Corrupt("journal", 0, f"unknown record {record[:1]}")

    def _join(self, snapshot: SnapshotMeta | None) -> None:
        """Let the snapshot stand for what it covers, keeping every later entry (figure 13, steps 6 and 7)."""
        covered = 1 if snapshot is None else snapshot.index
        if self.first_index > covered:
            raise Corrupt("journal", 0, f"it begins at entry {self.first_index}, but the snapshot ends at {covered}")
        if snapshot is None:
            return
        if self.term_at(snapshot.index) == snapshot.term:
            keep = [entry for entry in self._entries if entry[1] > snapshot.index]
        else:  # a crash came between the snapshot that a leader sent and the record of it
            keep = []
            self._records.append(_base_record(snapshot.index, snapshot.term))
        self._rebase(snapshot)
        self._entries += keep


def _base_record(index: int, term: int) -> list[Any]:
    return [_Kind.BASE, index, term]
