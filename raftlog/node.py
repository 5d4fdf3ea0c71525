"""`RaftLog`: one replica of the log on asyncio. The ready loop, and the order that makes it safe.

A *turn* runs whenever something happened: a message, a proposal, a finished sync, a timer.

    1. what peers sent has been fed to the core; the turn ticks it once: it appends to the journal's queue, moves the
       commit index, applies, and hands its messages to the guard
    2. the journal's queue goes to the disk as one batch, off the loop: one write, one sync (group commit)
    3. when that is durable, the guard says what it held back, and the next turn begins

A leader's appends leave in step 1, so that leader and followers write at the same time. While a sync is in flight,
proposals collect; the next entry takes them all. Nothing polls: the only timers are the heartbeat and the election.

Any exception in a turn, in `apply` or from the disk stops the node at once and for good (`stopped` raises it). The
process should then end: what the disk holds is unknown until it is read again.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from pysyncobj import FAIL_REASON

from raftlog.config import LogConfig
from raftlog.core import RaftCore
from raftlog.disk import Disk
from raftlog.errors import ConfigError
from raftlog.journal import RaftJournal
from raftlog.machine import Applier, is_too_large, pack, take_batch
from raftlog.messages import Message, MessageError, check
from raftlog.port import (
    Applied,
    Leadership,
    LeadershipListener,
    Member,
    Outcome,
    Refusal,
    Refused,
    Role,
    StateMachine,
    Status,
    Unknown,
)
from raftlog.reads import Reads
from raftlog.snapshots import Snapshot, SnapshotMeta, SnapshotStore
from raftlog.transfers import Transfers
from raftlog.transport import PeerTransport
from raftlog.wal import WriteAheadLog

__all__ = ["PROPOSALS_WAITING_MAX", "RaftLog"]

PROPOSALS_WAITING_MAX = 100_000  # queued and not yet in the log; past it, a proposal is refused as overloaded

_log = structlog.get_logger("raftlog")
_Waiting = tuple[bytes | None, bytes, "asyncio.Future[Outcome]"]


class RaftLog:
    """One replica; implements `raftlog.port.ReplicatedLog`. `disk` is its directory, `dice` its only chance."""

    def __init__(self, config: LogConfig, machine: StateMachine, disk: Disk, dice: random.Random) -> None:
        config.validate()
        self._config = config
        self._disk = disk
        self._dice = dice
        self._applier = Applier(machine)
        self._core: RaftCore
        self._journal: RaftJournal
        self._peers: PeerTransport
        self._reads: Reads
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Future[None]
        self._wal = WriteAheadLog(disk, "journal", {"cluster": config.cluster, "node": config.name})
        self._store = SnapshotStore(disk, config.cluster)
        self._writer = ThreadPoolExecutor(1, f"{config.name}-journal")
        self._snapshotter = ThreadPoolExecutor(1, f"{config.name}-snapshot")
        self._waiting: deque[_Waiting] = deque()
        self._in_log: set[asyncio.Future[Outcome]] = set()
        self._listeners: list[LeadershipListener] = []
        self._announced = Leadership(Role.FOLLOWER, 0, None)
        self._counters: Counter[str] = Counter()
        self._running = False
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._flushing = False
        self._received: Snapshot | None = None  # installed, and to be on the disk before its journal record
        self._finished: SnapshotMeta | None = None  # ours, durable; the journal is trimmed to it when it can be
        self._capturing = False
        self._loading = False
        self._snapshot_index = 0

    # Life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover what is on the disk, then join the cluster. Raises Corrupt, DiskFailed, ConfigError, OSError."""
        if self._running:
            raise ConfigError("the node has been started already")
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        snapshot, payloads = await self._loop.run_in_executor(self._writer, self._read_disk)
        meta = snapshot.meta if snapshot is not None else None
        if snapshot is not None:
            self._applier.restore(snapshot.chunks())
            self._snapshot_index = snapshot.meta.index
        self._journal = RaftJournal(payloads, meta)
        self._peers = PeerTransport(self._config, self, self._dice)
        members = meta.members if meta is not None else self._config.members
        self._core = RaftCore(
            self._config.name,
            members,
            self._config.timing,
            self._journal,
            self._peers,
            Transfers(self._load_snapshot, self._holds, self._install),
            clock=self._loop.time,
            dice=self._dice,
            apply=self._applier.apply,
            on_state=self._state_changed,
            on_members=self._members_changed,
        )
        self._reads = Reads(self._loop, self._config.timing.election_max_s)
        own = next(member for member in self._config.members if member.name == self._config.name)
        await self._peers.start(own.address)
        self._running = True
        self._members_changed()
        self._wake()
        _log.info("log started", node=self._config.name, last_index=self._journal.last_index, term=self._core.term)

    def _read_disk(self) -> tuple[Snapshot | None, list[bytes]]:
        return self._store.recover(), self._wal.recover()

    async def stop(self) -> None:
        """Leave quietly. What is queued and not yet durable is lost, as after a crash."""
        self._end(None)
        await self._peers.stop()
        await self._loop.run_in_executor(None, self._writer.shutdown)
        await self._loop.run_in_executor(None, self._snapshotter.shutdown)
        self._wal.close()

    async def stopped(self) -> None:
        """Return when the node was stopped; raise what broke it if it broke."""
        await asyncio.shield(self._ended)

    def _fail(self, error: BaseException) -> None:
        _log.critical("log failed", node=self._config.name, error=repr(error), exc_info=error)
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        self._running = False
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
            self._ended.exception()  # retrieved by `stopped`, if anybody asks
        if self._timer is not None:
            self._timer.cancel()
        self._give_up("the node stopped")
        self._reads.end("the node stopped")
        self._announce(Leadership(Role.FOLLOWER, self._announced.term, None))
        if error is not None:
            self._peers_down = self._loop.create_task(self._peers.stop())

    # The port --------------------------------------------------------------------------------------------

    async def propose(self, command: bytes, *, command_id: bytes | None = None) -> Outcome:
        if is_too_large(command, command_id):
            return Refused(Refusal.TOO_LARGE)
        if (refused := self._refused()) is not None:
            return refused
        if len(self._waiting) >= PROPOSALS_WAITING_MAX:
            return Refused(Refusal.OVERLOADED, self._config.name)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting.append((command_id, command, future))
        self._wake()
        return await future

    async def barrier(self) -> Outcome:
        if not self._running:
            return Refused(Refusal.STOPPED)
        leader = self._core.leader
        if leader is None:
            return Refused(Refusal.NOT_LEADER)
        if self._announced.role is Role.LEADER:
            waiting = self._reads.at_leader()
            self._wake()
        else:
            waiting = self._reads.at_follower(lambda request: self._peers.send(leader, request))
        return await waiting

    @property
    def leadership(self) -> Leadership:
        return self._announced

    def subscribe(self, listener: LeadershipListener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def status(self) -> Status:
        core, journal = self._core, self._journal
        counters = self._counters + core.guard.counters + self._peers.counters
        return Status(
            name=self._config.name,
            leadership=self._announced,
            members=core.members(),
            connected=self._peers.connected(),
            last_index=journal.last_index,
            durable_index=journal.durable_index,
            commit_index=core.commit_index,
            applied_index=core.applied_index,
            snapshot_index=self._snapshot_index,
            journal_bytes=self._wal.size_bytes,
            counters=dict(counters),
        )

    async def add_member(self, member: Member) -> Outcome:
        return await self._change_members(member, add=True)

    async def remove_member(self, name: str) -> Outcome:
        return await self._change_members(Member(name, ""), add=False)

    async def _change_members(self, member: Member, *, add: bool) -> Outcome:
        if (refused := self._refused()) is not None:
            return refused
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._in_log.add(future)
        self._core.propose_member(member, add=add, proposed=lambda _, reason: self._settle_one(future, reason))
        self._wake()
        return await future

    def _refused(self) -> Refused | None:
        if not self._running:
            return Refused(Refusal.STOPPED)
        if self._announced.role is not Role.LEADER or not self._core.leading:
            return Refused(Refusal.NOT_LEADER, self._core.leader)
        return None

    # The turn --------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._turn_due and self._running:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if not self._running:
            return
        try:
            self._submit()
            self._core.tick()
            self._observe_leadership()
            self._reads.applied(self._core.applied_index)
            self._maybe_snapshot()
            self._flush()
        except Exception as error:  # noqa: BLE001  # the border: whatever it is, this node has lost its way
            self._fail(error)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._core.wake_at(), self._wake)

    def _submit(self) -> None:
        """What was proposed since the last sync began, as entries; a read point rides along with the last one."""
        if self._flushing or not self._core.leading or not self._core.settled:
            return
        while self._waiting:
            batch = take_batch(self._waiting)
            futures = [future for _, _, future in batch]
            self._in_log.update(futures)
            entry = pack((command_id, command) for command_id, command, _ in batch)
            self._core.propose(entry, self._settler(futures))
        if self._reads.wanted:
            self._core.propose(pack(()), self._reads.settler(lambda: self._core.applied_index))

    def _settler(self, futures: list[asyncio.Future[Outcome]]) -> Callable[[Any, int], None]:
        def settle(results: Any, reason: int) -> None:
            index = self._core.applied_index
            self._in_log.difference_update(futures)
            for position, future in enumerate(futures):
                if not future.done():
                    applied = reason == FAIL_REASON.SUCCESS
                    future.set_result(Applied(index, results[position]) if applied else self._not_logged(reason))

        return settle

    def _settle_one(self, future: asyncio.Future[Outcome], reason: int) -> None:
        self._in_log.discard(future)
        if not future.done():
            applied = reason == FAIL_REASON.SUCCESS
            future.set_result(Applied(self._core.applied_index, None) if applied else self._not_logged(reason))

    def _not_logged(self, reason: int) -> Refused:
        """The library turned an entry away before it appended it."""
        if reason == FAIL_REASON.REQUEST_DENIED:
            return Refused(Refusal.DENIED, self._config.name)
        return Refused(Refusal.NOT_LEADER, self._core.leader)

    # The disk --------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Hand everything queued to the disk, unless a batch is on its way already."""
        if self._flushing:
            return
        received, self._received = self._received, None
        if self._finished is not None and received is None and not self._core.transfers.sending:
            job = self._trim_job(self._finished)
            self._finished = None
        elif self._journal.dirty:
            job = self._write_job(received)
        else:
            return
        self._flushing = True
        self._core.guard.flush_started()
        self._counters["syncs"] += 1
        self._loop.run_in_executor(self._writer, job).add_done_callback(self._flushed)

    def _write_job(self, received: Snapshot | None) -> Callable[[], None]:
        payload = self._journal.take()

        def write() -> None:
            if received is not None:
                self._store.adopt(received)  # first: the journal's record refers to it
            self._wal.write(payload)

        return write

    def _trim_job(self, meta: SnapshotMeta) -> Callable[[], None]:
        checkpoint = self._journal.compact(meta)
        return lambda: self._wal.rotate(checkpoint)

    def _flushed(self, done: asyncio.Future[None]) -> None:
        if not self._running:
            return
        self._flushing = False
        error = done.exception()
        if error is not None:
            self._fail(error)
            return
        try:
            self._core.flushed()
        except Exception as broken:  # noqa: BLE001  # as in a turn
            self._fail(broken)
            return
        self._wake()

    # Snapshots -------------------------------------------------------------------------------------------

    def _maybe_snapshot(self) -> None:
        applied = self._core.applied_index
        grown = applied - self._snapshot_index >= self._config.snapshot_entries
        heavy = self._wal.size_bytes >= self._config.snapshot_bytes and applied > self._snapshot_index + 1
        if not (grown or heavy) or self._capturing or self._finished is not None or self._core.membership_open:
            return
        term, previous = self._journal.term_at(applied), self._journal.term_at(applied - 1)
        if term is None or previous is None:
            return
        meta = SnapshotMeta(self._config.cluster, applied, term, previous, self._core.members())
        chunks = self._applier.snapshot()
        self._capturing = True
        writing = self._loop.run_in_executor(self._snapshotter, self._store.write, meta, chunks)
        writing.add_done_callback(lambda done: self._captured(meta, done))

    def _captured(self, meta: SnapshotMeta, done: asyncio.Future[None]) -> None:
        self._capturing = False
        if not self._running:
            return
        error = done.exception()
        if error is not None:
            self._fail(error)
        elif meta.index > self._snapshot_index:  # else a leader's snapshot overtook ours
            self._snapshot_index = meta.index
            self._finished = meta
            self._counters["snapshots"] += 1
            self._wake()

    def _load_snapshot(self) -> None:
        if not self._loading:
            self._loading = True
            self._loop.run_in_executor(self._snapshotter, self._store.newest).add_done_callback(self._loaded)

    def _loaded(self, done: asyncio.Future[Snapshot | None]) -> None:
        self._loading = False
        if not self._running:
            return
        error = done.exception()
        if error is not None:
            self._fail(error)
        elif (snapshot := done.result()) is not None:
            self._core.transfers.offer(snapshot)
            self._core.guard.behind = True
            self._wake()

    def _holds(self, index: int, term: int) -> bool:
        return index <= self._core.commit_index or self._journal.term_at(index) == term

    def _install(self, snapshot: Snapshot) -> None:
        """A whole snapshot of the leader: into the state machine now, onto the disk with the next batch."""
        self._applier.restore(snapshot.chunks())
        self._core.install(snapshot.meta)
        self._snapshot_index = snapshot.meta.index
        self._received, self._finished = snapshot, None
        self._counters["snapshots_installed"] += 1

    # Leadership ------------------------------------------------------------------------------------------

    def _state_changed(self) -> None:
        if not self._core.leading:
            self._give_up("leadership was lost")
            self._reads.end("leadership was lost")

    def _give_up(self, why: str) -> None:
        """What is in the log may yet be applied; what only waited to be proposed never was."""
        pending, self._in_log = self._in_log, set()
        waiting, self._waiting = self._waiting, deque()
        for future in pending:
            if not future.done():
                future.set_result(Unknown(why))
        for _, _, future in waiting:
            if not future.done():
                future.set_result(Refused(Refusal.NOT_LEADER if self._running else Refusal.STOPPED))

    def _observe_leadership(self) -> None:
        core = self._core
        role = Role.LEADER if core.leading and core.settled else Role.FOLLOWER
        leader = core.leader if role is Role.LEADER or not core.leading else None
        self._announce(Leadership(role, core.term, leader))

    def _announce(self, leadership: Leadership) -> None:
        if leadership == self._announced:
            return
        self._announced = leadership
        _log.info(
            "leadership", node=self._config.name, role=leadership.role, term=leadership.term, leader=leadership.leader
        )
        for listener in list(self._listeners):
            listener(leadership)

    def _members_changed(self) -> None:
        if self._running:
            self._peers.set_members(self._core.members())

    # What the peers say ----------------------------------------------------------------------------------

    def peer_connected(self, peer: str) -> None:
        """A peer has proven who it is."""
        if self._running:
            self._core.connected(peer)
            self._wake()

    def peer_disconnected(self, peer: str) -> None:
        """A peer is gone."""
        if self._running:
            self._core.disconnected(peer)
            self._wake()

    def peer_message(self, peer: str, message: Message) -> None:
        """One message from an authenticated peer."""
        if not self._running:
            return
        try:
            if message["type"] in ("read_index", "read_index_reached"):
                self._on_read(peer, message)
            else:
                self._core.receive(peer, message)
        except Exception as error:  # noqa: BLE001  # as in a turn
            self._fail(error)
        self._wake()

    def _on_read(self, peer: str, message: Message) -> None:
        try:
            check(message)
        except MessageError:
            self._counters["malformed"] += 1
            return
        if message["type"] == "read_index_reached":
            self._reads.leader_reached(message["id"], message["index"], self._core.applied_index)
        elif self._announced.role is not Role.LEADER:
            self._peers.send(peer, {"type": "read_index_reached", "id": message["id"], "index": None})
        else:
            self._reads.for_follower(
                lambda index: self._peers.send(
                    peer, {"type": "read_index_reached", "id": message["id"], "index": index}
                )
            )
