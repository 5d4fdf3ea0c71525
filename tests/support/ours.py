"""Our core, guard, journal and snapshots in a `World`: everything of `RaftLog` but its event loop and its sockets.

The disk is `SimDisk`, so `kill -9` keeps what was written and a power cut only what was synced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from pysyncobj import FAIL_REASON

import raftlog.core
from coordinator.simulation.disk import SimDisk
from raftlog.config import Timing
from raftlog.core import RaftCore
from raftlog.journal import RaftJournal
from raftlog.machine import Applier, pack
from raftlog.port import Member
from raftlog.snapshots import Snapshot, SnapshotMeta, SnapshotStore
from raftlog.transfers import Transfers
from raftlog.wal import WriteAheadLog
from tests.support.world import NEVER_S, Answer, Message, Network, Settings, World

__all__ = ["OurWorld"]

_CLUSTER = "world"


class Register:
    """The same state machine as the stock library's user writes."""

    POISON = b"poison"

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def apply(self, _index: int, value: bytes) -> None:
        self.values.append(value)
        if value == self.POISON:
            raise ZeroDivisionError("a bug in the state machine")

    def snapshot(self) -> Iterable[bytes]:
        captured = list(self.values)
        return (len(value).to_bytes(4, "big") + value for value in captured)

    def restore(self, chunks: Iterable[bytes]) -> None:
        data, self.values = b"".join(chunks), []
        while data:
            size = int.from_bytes(data[:4], "big")
            self.values.append(data[4 : 4 + size])
            data = data[4 + size :]


class _Replica:
    """One node from its disk up, as `RaftLog` builds it; every step ends with a finished sync."""

    def __init__(
        self, name: str, names: Iterable[str], disk: SimDisk, network: Network, timing: Timing, now: Any
    ) -> None:
        self._name = name
        self._network = network
        self._received: Snapshot | None = None
        self.pending: dict[bytes, None] = {}
        self.answers: dict[bytes, Answer] = {}
        self.machine = Register()
        self._applier = Applier(self.machine)
        self._store = SnapshotStore(disk, _CLUSTER)
        self._wal = WriteAheadLog(disk, "journal", {"cluster": _CLUSTER, "node": name})
        snapshot, payloads = self._store.recover(), self._wal.recover()
        if snapshot is not None:
            self._applier.restore(snapshot.chunks())
        self._journal = RaftJournal(payloads, None if snapshot is None else snapshot.meta)
        self._transfers = Transfers(self._load, self._holds, self._install)
        self.core = RaftCore(
            name,
            tuple(Member(member, f"{member}:1") for member in names),
            timing,
            self._journal,
            self,
            self._transfers,
            clock=now,
            dice=random.Random(name),
            apply=self._applier.apply,
            on_state=self._state_changed,
            on_members=lambda: None,
        )
        self.flush()

    def send(self, peer: str, message: Message) -> bool:
        return self._network.send(self._name, peer, message)

    def backlog_bytes(self, _peer: str) -> int:
        return 0

    def flush(self) -> None:
        while self._journal.dirty:
            received, self._received = self._received, None
            payload = self._journal.take()
            self.core.guard.flush_started()
            if received is not None:
                self._store.adopt(received)
            self._wal.write(payload)
            self.core.flushed()

    def propose(self, value: bytes, then: Callable[[], None]) -> None:
        if not self.core.leading:
            self.answers[value] = Answer.REFUSED
            return

        def proposed(_results: Any, reason: int) -> None:
            self.pending.pop(value, None)
            self.answers[value] = Answer.APPLIED if reason == FAIL_REASON.SUCCESS else Answer.REFUSED
            then()

        self.pending[value] = None
        self.core.propose(pack([(None, value)]), proposed)

    def snapshot(self, *, trim: bool) -> None:
        applied = self.core.applied_index
        term = self._journal.term_at(applied)
        assert term is not None
        meta = SnapshotMeta(_CLUSTER, applied, term, self.core.members())
        self._store.write(meta, self._applier.snapshot())
        if trim:
            checkpoint = self._journal.compact(meta)
            self.core.guard.flush_started()
            self._wal.rotate(checkpoint)
            self.core.flushed()

    def _load(self) -> None:
        snapshot = self._store.newest()
        if snapshot is not None:
            self._transfers.offer(snapshot)

    def _holds(self, index: int, term: int) -> bool:
        return index <= self.core.commit_index or self._journal.term_at(index) == term

    def _install(self, snapshot: Snapshot) -> None:
        self._applier.restore(snapshot.chunks())
        self.core.install(snapshot.meta)
        self._received = snapshot

    def _state_changed(self) -> None:
        if not self.core.leading:
            self.answers |= dict.fromkeys(self.pending, Answer.UNKNOWN)
            self.pending.clear()


class OurWorld(World):
    """An exception in any step stops the replica for good, as `RaftLog` stops its node."""

    def __init__(self, names: Iterable[str], settings: Settings, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(raftlog.core, "APPEND_BYTES_MAX", settings.append_bytes)
        self._dice = random.Random(1)
        self._replicas: dict[str, _Replica] = {}
        self._machines: dict[str, Register] = {}  # outlives a replica that failed, for the post-mortem
        names = tuple(names)
        self._disks = {name: SimDisk(self._dice) for name in names}
        self._timing = Timing(
            election_min_s=NEVER_S, election_max_s=2 * NEVER_S, silence_s=2 * NEVER_S, lease_s=settings.lease_s
        )
        super().__init__(names, settings)

    def _boot(self, name: str) -> None:
        replica = _Replica(name, self.names, self._disks[name], self.network, self._timing, lambda: self.now)
        replica.answers = self.answers
        self._replicas[name] = replica
        self._machines[name] = replica.machine

    def _halt(self, name: str) -> None:
        del self._replicas[name]
        self._disks[name] = self._disks[name].kill()

    def _lose_power(self, name: str) -> None:
        self._disks[name] = self._disks[name].crash(self._dice)

    def write_back(self) -> None:
        """What was promised is on the disk already."""

    def _failed(self, name: str) -> None:
        self.crash(name)

    def _tick(self, name: str) -> None:
        self._replicas[name].core.tick()
        self._replicas[name].flush()

    def _receive(self, name: str, peer: str, message: Message) -> None:
        self._replicas[name].core.receive(peer, message)
        self._replicas[name].flush()

    def _connected(self, name: str, peer: str) -> None:
        if name in self._replicas:
            self._replicas[name].core.connected(peer)
            self._replicas[name].flush()

    def _disconnected(self, name: str, peer: str) -> None:
        self._replicas[name].core.disconnected(peer)

    def _expire(self, name: str) -> None:
        self._replicas[name].core._SyncObj__raftElectionDeadline = 0

    def put(self, name: str, value: bytes, then: Callable[[], None] = lambda: None) -> None:
        self._replicas[name].propose(value, then)

    def rot(self, name: str, content: bytes) -> None:
        disk = self._disks[name]
        for file in disk.names():
            offset = disk.read(file).find(content)
            if offset >= 0:
                disk.flip_bit(file, offset)

    def state(self, name: str) -> list[bytes]:
        return self._machines[name].values

    def leads(self, name: str) -> bool:
        return self._replicas[name].core.leading

    def term(self, name: str) -> int:
        return self._replicas[name].core.term

    def last_index(self, name: str) -> int:
        return self._replicas[name]._journal.last_index

    def snapshot(self, *names: str, trim: bool = True) -> None:
        for name in names:
            self._replicas[name].snapshot(trim=trim)
