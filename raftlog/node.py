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
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from raftlog.compaction import Compaction
from raftlog.config import LogConfig
from raftlog.core import RaftCore
from raftlog.disk import Disk
from raftlog.errors import ConfigError
from raftlog.journal import RaftJournal
from raftlog.machine import Applier, pack
from raftlog.messages import Message, MessageError, check
from raftlog.office import Office
from raftlog.port import (
    Leadership,
    LeadershipListener,
    Member,
    Outcome,
    Refusal,
    Refused,
    StateMachine,
    Status,
)
from raftlog.proposals import Proposals
from raftlog.reads import Reads
from raftlog.snapshots import Snapshot, SnapshotStore
from raftlog.transfers import Transfers
from raftlog.transport import PeerTransport
from raftlog.wal import WriteAheadLog
from raftlog.worker import ThreadWorker, Worker

__all__ = ["RaftLog"]

_log = structlog.get_logger("raftlog")


class RaftLog:
    """One replica; implements `raftlog.port.ReplicatedLog`.

    `disk` is its directory. `dice` is its only chance, nonces included: outside of tests, a `random.SystemRandom`.
    `worker` makes what waits for the journal's syncs.
    """

    def __init__(
        self,
        config: LogConfig,
        machine: StateMachine,
        disk: Disk,
        dice: random.Random,
        worker: Callable[[str], Worker] = ThreadWorker,
    ) -> None:
        config.validate()
        self._config = config
        self._disk = disk
        self._dice = dice
        self._applier = Applier(machine)
        self._wal = WriteAheadLog(disk, "journal", {"cluster": config.cluster, "node": config.name})
        self._store = SnapshotStore(disk, config.cluster)
        self._make_worker = worker
        self._writer: Worker | None = None
        self._snapshotter = ThreadPoolExecutor(1, f"{config.name}-snapshot")
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Future[None] | None = None
        self._peers: PeerTransport
        self._journal: RaftJournal
        self._core: RaftCore
        self._compaction: Compaction
        self._proposals: Proposals
        self._reads: Reads
        self._office = Office(config.name)
        self._counters: Counter[str] = Counter()
        self._running = False
        self._turn_due = False
        self._flushing = False
        self._flushing_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # Life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover what is on the disk, then join the cluster. Raises Corrupt, DiskFailed, ConfigError, OSError."""
        if self._ended is not None:
            raise ConfigError("the node has been started already")
        self._loop = asyncio.get_running_loop()
        snapshot, payloads = await self._loop.run_in_executor(self._snapshotter, self._read_disk)
        self._peers = PeerTransport(self._config, self, self._dice)
        self._assemble(snapshot, payloads)
        own = next(member for member in self._config.members if member.name == self._config.name)
        await self._peers.start(own.address)
        self._writer = self._make_worker(f"{self._config.name}-journal")
        self._ended = self._loop.create_future()
        self._running = True
        self._members_changed()
        self._wake()
        _log.info("log started", node=self._config.name, last_index=self._journal.last_index, term=self._core.term)

    def _read_disk(self) -> tuple[Snapshot | None, list[bytes]]:
        try:
            self._disk.claim()
        except BlockingIOError as error:
            raise ConfigError(f"{self._disk!r} is in use by another process: stop that one first") from error
        return self._store.recover(), self._wal.recover()

    def _assemble(self, snapshot: Snapshot | None, payloads: list[bytes]) -> None:
        config, meta, members = self._config, None, self._config.members
        if snapshot is not None:
            self._applier.restore(snapshot.chunks())
            meta, configured = snapshot.meta, {member.name: member for member in config.members}
            members = tuple(configured.get(member.name, member) for member in meta.members)  # addresses may change
        self._journal = RaftJournal(payloads, meta)
        self._compaction = Compaction(
            config, self._store, self._wal, self._applier, self._snapshotter, wake=self._wake, fail=self._fail
        )
        self._core = RaftCore(
            config.name,
            members,
            config.timing,
            self._journal,
            self._peers,
            Transfers(self._compaction.load, self._compaction.holds, self._compaction.install),
            clock=self._loop.time,
            dice=self._dice,
            apply=self._applier.apply,
            on_state=self._state_changed,
            on_members=self._members_changed,
        )
        self._compaction.bind(self._core, self._journal, meta)
        self._proposals = Proposals(self._loop, self._core)
        self._reads = Reads(self._loop, config.timing.election_max_s)

    async def stop(self) -> None:
        """Leave quietly. What is queued and not yet durable is lost, as after a crash."""
        if self._ended is not None:
            self._end(None)
            await self._peers.stop()
        await asyncio.get_running_loop().run_in_executor(None, self._close_disk)

    def _close_disk(self) -> None:
        if self._writer is not None:
            self._writer.stop()
        self._snapshotter.shutdown()
        self._wal.close()
        self._disk.release()

    async def stopped(self) -> None:
        """Return when the node was stopped; raise what broke it if it broke."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    def _fail(self, error: BaseException) -> None:
        if self._running:
            _log.critical("log failed", node=self._config.name, error=repr(error), exc_info=error)
            self._peers.abort()
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if not self._running or self._ended is None:
            return
        self._running = False
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
            self._ended.exception()  # so that nobody is warned if nobody asks `stopped`
        if self._timer is not None:
            self._timer.cancel()
        self._proposals.give_up("the node stopped", Refused(Refusal.STOPPED))
        self._reads.end("the node stopped")
        self._office.close()

    # The port --------------------------------------------------------------------------------------------

    def propose(self, command: bytes, *, command_id: bytes | None = None) -> asyncio.Future[Outcome]:
        if (refused := self._refused()) is not None:
            return self._proposals.turn_away(refused)
        self._wake()
        return self._proposals.add(command, command_id)

    async def barrier(self) -> Outcome:
        if not self._running:
            return Refused(Refusal.STOPPED)
        if self._office.holds(self._core):
            reached = self._reads.at_leader()
        elif (leader := self._core.leader) is not None:
            reached = self._reads.at_follower(lambda request: self._peers.send(leader, request))
        else:
            return Refused(Refusal.NOT_LEADER)
        self._wake()
        return await reached

    async def add_member(self, member: Member) -> Outcome:
        return await self._change_members(member, add=True)

    async def remove_member(self, name: str) -> Outcome:
        return await self._change_members(Member(name, ""), add=False)

    async def _change_members(self, member: Member, *, add: bool) -> Outcome:
        if (refused := self._refused()) is not None:
            return refused
        outcome = self._proposals.add_member(member, add=add)
        self._wake()
        return await outcome

    def _refused(self) -> Refused | None:
        if not self._running:
            return Refused(Refusal.STOPPED)
        return None if self._office.holds(self._core) else Refused(Refusal.NOT_LEADER, self._core.leader)

    @property
    def leadership(self) -> Leadership:
        return self._office.announced

    def subscribe(self, listener: LeadershipListener) -> Callable[[], None]:
        return self._office.subscribe(listener)

    def status(self) -> Status:
        core, journal, compaction = self._core, self._journal, self._compaction
        taken = Counter(
            snapshots=compaction.taken,
            snapshots_installed=compaction.installed,
            snapshots_refused=core.transfers.refused,
            snapshots_rejected=core.transfers.rejected,
        )
        return Status(
            name=self._config.name,
            leadership=self._office.announced,
            members=core.members(),
            connected=self._peers.connected(),
            last_index=journal.last_index,
            durable_index=journal.durable_index,
            commit_index=core.commit_index,
            applied_index=core.applied_index,
            snapshot_index=compaction.index,
            journal_bytes=self._wal.size_bytes,
            counters=dict(self._counters + core.guard.counters + self._peers.counters + taken),
        )

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
            if self._flushing and self._core.leading and self._disk_hangs():
                self._core.step_down()
            self._office.observe(self._core)
            self._reads.applied(self._core.applied_index)
            self._compaction.consider()
            self._rearm()
            self._flush()  # last: from here on the writer's thread may want the interpreter
        except Exception as error:  # noqa: BLE001  # the border: whatever it is, this node has lost its way
            self._fail(error)

    def _disk_hangs(self) -> bool:
        """A leader that cannot write must not keep its followers from electing one that can."""
        return self._loop.time() - self._flushing_since > self._config.timing.lease_s

    def _rearm(self) -> None:
        """Wake when the core wants it. A timer that rings too early may stay: its turn arms the next one."""
        at = self._core.wake_at()
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake()

    def _submit(self) -> None:
        """What was proposed since the last sync began goes into entries; read points share an entry of their own."""
        if self._flushing or not self._core.settled:
            return
        self._proposals.submit()
        if self._reads.wanted:
            self._core.propose(pack(()), self._reads.settler(lambda: self._core.applied_index))

    def _flush(self) -> None:
        """Hand everything queued to the disk, unless a batch is on its way already."""
        if self._flushing or self._writer is None or (job := self._compaction.next_job()) is None:
            return
        self._flushing, self._flushing_since = True, self._loop.time()
        self._core.guard.flush_started()
        self._counters["syncs"] += 1
        self._writer.submit(job, self._flushed)

    def _flushed(self, error: BaseException | None) -> None:
        self._flushing = False
        if not self._running:
            return
        if error is not None:
            self._fail(error)
            return
        try:
            self._core.flushed()
        except Exception as broken:  # noqa: BLE001  # as in a turn
            self._fail(broken)
        core = self._core
        if core.leading or core.commit_index > core.applied_index or self._journal.dirty:
            self._wake()  # else a follower has said what it had to say, and a turn would do nothing

    # Leadership ------------------------------------------------------------------------------------------

    def _state_changed(self) -> None:
        if not self._core.leading:
            self._proposals.give_up("leadership was lost", Refused(Refusal.NOT_LEADER))
            self._reads.end("leadership was lost")

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
            elif not self._core.receive(peer, message):
                return
        except Exception as error:  # noqa: BLE001  # as in a turn
            self._fail(error)
        self._wake()

    def _on_read(self, peer: str, message: Message) -> None:
        try:
            check(message)
        except MessageError:
            self._counters["malformed"] += 1
            return
        request = message["id"]
        if message["type"] == "read_index_reached":
            self._reads.leader_reached(request, message["index"], self._core.applied_index)
            return

        def answer(index: int | None) -> None:
            self._core.guard.behind = True  # the follower waits to hear that the index is committed
            self._peers.send(peer, {"type": "read_index_reached", "id": request, "index": index})

        if self._office.holds(self._core):
            self._reads.for_follower(answer)
        else:
            answer(None)
