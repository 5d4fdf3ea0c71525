"""Keeping the log short: when to take a snapshot, and when the journal may be trimmed to it.

Order is everything. A snapshot of ours is durable before the journal forgets what it covers; one that a leader sent is
durable before the journal says that it stands for the log. Encoding and writing happen on a thread of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from raftlog.config import LogConfig
from raftlog.core import RaftCore
from raftlog.errors import invariant
from raftlog.journal import RaftJournal
from raftlog.machine import Applier
from raftlog.snapshots import Snapshot, SnapshotMeta, SnapshotStore
from raftlog.wal import WriteAheadLog

__all__ = ["Compaction"]

TAIL_PART = 4  # of what triggers a snapshot, a quarter stays in the log behind it


class Compaction:
    """The snapshots of one node. `wake` asks for a turn, `fail` stops the node."""

    def __init__(
        self,
        config: LogConfig,
        store: SnapshotStore,
        wal: WriteAheadLog,
        applier: Applier,
        executor: Executor,
        *,
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._store = store
        self._wal = wal
        self._applier = applier
        self._executor = executor
        self._wake, self._fail = wake, fail
        self._loop = asyncio.get_running_loop()
        self._core: RaftCore
        self._journal: RaftJournal
        self._trimmed_bytes = 0  # of the journal just after it was trimmed
        self._capturing = False
        self._loading = False
        self._received: Snapshot | None = None  # installed, to be on the disk before its journal record
        self._finished: SnapshotMeta | None = None  # ours, durable; the journal may be trimmed to it
        self.index = 0  # everything up to here is covered by a snapshot
        self.taken = 0
        self.installed = 0

    def bind(self, core: RaftCore, journal: RaftJournal, snapshot: SnapshotMeta | None) -> None:
        """Whose log is kept short, and which snapshot it starts from."""
        self._core, self._journal = core, journal
        self.index = 0 if snapshot is None else snapshot.index

    # Our own ---------------------------------------------------------------------------------------------

    def consider(self) -> None:
        """Start a snapshot if the log has grown enough since the last one."""
        applied, config = self._core.applied_index, self._config
        grown = applied - self.index >= config.snapshot_entries
        heavy = self._wal.size_bytes - self._trimmed_bytes >= config.snapshot_bytes and applied > self.index + 1
        if not (grown or heavy) or self._capturing or self._finished is not None or self._core.membership_open:
            return
        term = self._journal.term_at(applied)
        invariant(term is not None, f"entry {applied} is applied but not held")
        meta = SnapshotMeta(config.cluster, applied, term or 0, self._core.members())
        self._capturing = True
        writing = self._loop.run_in_executor(self._executor, self._store.write, meta, self._applier.snapshot())
        writing.add_done_callback(lambda done: self._captured(meta, done))

    def _captured(self, meta: SnapshotMeta, done: asyncio.Future[None]) -> None:
        self._capturing = False
        if not self._failed(done) and meta.index > self.index:  # else a leader's snapshot overtook ours
            self.index, self._finished = meta.index, meta
            self.taken += 1
            self._wake()

    def next_job(self) -> Callable[[], None] | None:
        """What the disk should do next, as a blocking call for the journal's thread; None if nothing is queued."""
        if self._received is None and self._finished is not None and not self._core.transfers.sending:
            tail_entries = self._config.snapshot_entries // TAIL_PART
            tail_bytes = self._config.snapshot_bytes // TAIL_PART
            checkpoint = self._journal.compact(self._finished, tail_entries=tail_entries, tail_bytes=tail_bytes)
            self._finished, self._trimmed_bytes = None, len(checkpoint)
            return lambda: self._wal.rotate(checkpoint)
        if not self._journal.dirty:
            return None
        received, self._received = self._received, None
        payload = self._journal.take()
        if received is None:
            return lambda: self._wal.write(payload)

        def write_both() -> None:
            self._store.adopt(received)
            self._wal.write(payload)

        return write_both

    # A leader's ------------------------------------------------------------------------------------------

    def holds(self, index: int, term: int) -> bool:
        """Whether a snapshot up to (index, term) would bring nothing new."""
        return index <= self._core.commit_index or self._journal.term_at(index) == term

    def install(self, snapshot: Snapshot) -> None:
        """Into the state machine now, onto the disk with the next batch."""
        self._applier.restore(snapshot.chunks())
        self._core.install(snapshot.meta)
        self.index = snapshot.meta.index
        self._received, self._finished = snapshot, None
        self.installed += 1

    # A follower's ----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the newest snapshot for a follower that needs one."""
        if not self._loading:
            self._loading = True
            self._loop.run_in_executor(self._executor, self._store.newest).add_done_callback(self._loaded)

    def _loaded(self, done: asyncio.Future[Snapshot | None]) -> None:
        self._loading = False
        if not self._failed(done) and (snapshot := done.result()) is not None:
            self._core.transfers.offer(snapshot)
            self._core.guard.behind = True
            self._wake()

    def _failed(self, done: asyncio.Future[Any]) -> bool:
        error = done.exception()
        if error is not None:
            self._fail(error)
        return error is not None
