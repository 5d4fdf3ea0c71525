"""What is on a disk after a power cut, found out as a node finds it out: snapshot, write-ahead log, journal."""

from __future__ import annotations

from random import Random

from coordinator.simulation.disk import SimDisk
from raftlog.journal import RaftJournal
from raftlog.machine import Applier
from raftlog.snapshots import Snapshot, SnapshotStore
from raftlog.wal import WriteAheadLog
from tests.power.cluster import CLUSTER, Tape
from tests.support.survivals import NOTHING

__all__ = ["Recovered"]

_REGULAR = 0


class Recovered:
    """One node's disk, recovered. Raises whatever the node would refuse to start with."""

    def __init__(self, name: str, image: SimDisk) -> None:
        self._image = image
        self._name = name
        self.snapshot: Snapshot | None = SnapshotStore(image, CLUSTER).recover()
        self._wal = WriteAheadLog(image, "journal", {"cluster": CLUSTER, "node": name})
        self.journal = RaftJournal(self._wal.recover(), None if self.snapshot is None else self.snapshot.meta)

    @classmethod
    def after(cls, name: str, disk: SimDisk, survival: Random) -> Recovered:
        """If the power were cut now, and that survived."""
        return cls(name, disk.crash(survival))

    @property
    def ballot(self) -> tuple[int, str | None]:
        return self.journal.getCurrentTerm(), self.journal.getVotedForNodeId()

    def commands(self) -> list[bytes]:
        """Every command in the snapshot and in the log, committed or not."""
        tape = Tape()
        applier = Applier(tape)
        if self.snapshot is not None:
            applier.restore(self.snapshot.chunks())
        for command, index, _ in self.journal[1:]:
            if command[0] == _REGULAR:
                applier.apply(index, command[1:])
        return tape.commands

    def lives_on(self) -> None:
        """One more entry, and another power cut in which only what was synced survives: it is there, where it was."""
        journal = self.journal
        journal.add(b"\x01", journal.last_index + 1, journal.last_term)
        self._wal.write(journal.take())
        again = Recovered.after(self._name, self._image, NOTHING)
        assert again.journal[:] == journal[:]
        assert again.ballot == self.ballot
