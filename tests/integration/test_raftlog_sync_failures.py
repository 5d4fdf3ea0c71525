"""Syncs that fail on a real file system: the node stops, says why, and acknowledges nothing from there on."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from raftlog.disk import File, RealDisk
from raftlog.errors import DiskFailed
from raftlog.node import RaftLog
from raftlog.port import Applied, Refusal, Refused, Role, Unknown
from tests.support.lines import captured_lines
from tests.support.loopback import LoopbackCluster

COMMANDS = 24
SNAPSHOT_EVERY = 8
PATIENCE_S = 20.0
LAST_SYNCS = 8  # runs differ in so many: what becomes durable together is synced once


class FailingDisk(RealDisk):
    """The operating system's disk, but one sync, of a file or of the directory, reports EIO; counted from 0."""

    def __init__(self, path: Path, fail_at: int | None) -> None:
        super().__init__(path)
        self._fail_at = fail_at
        self.syncs = 0

    def sync_one(self) -> None:
        number, self.syncs = self.syncs, self.syncs + 1
        if number == self._fail_at:
            raise OSError(errno.EIO, "Input/output error")

    def open(self, name: str) -> File:
        return _FailingFile(super().open(name), self)

    def sync_directory(self) -> None:
        self.sync_one()
        super().sync_directory()


class _FailingFile:
    def __init__(self, file: File, disk: FailingDisk) -> None:
        self._file = file
        self._disk = disk
        self.append = file.append
        self.reserve = file.reserve
        self.close = file.close

    def sync(self) -> None:
        self._disk.sync_one()
        self._file.sync()


class Node:
    """One node alone, whose disk fails at one sync."""

    def __init__(self, directory: Path, fail_at: int | None) -> None:
        self.disks: list[FailingDisk] = []
        self.fail_at = fail_at
        self.acknowledged: list[bytes] = []
        self.cluster = LoopbackCluster(directory, ["n1"], snapshot_entries=SNAPSHOT_EVERY, disk=self._disk)

    def _disk(self, path: Path) -> FailingDisk:
        self.disks.append(FailingDisk(path, self.fail_at))
        return self.disks[-1]

    async def fails(self) -> bool:
        """Run until the disk fails; False if it never does."""
        try:
            await self.cluster.start()
        except DiskFailed:
            return True
        log = self.cluster.logs["n1"]
        ended = asyncio.ensure_future(log.stopped())
        await self.cluster.until(lambda: log.leadership.role is Role.LEADER or ended.done())
        for number in range(COMMANDS):
            outcome = await log.propose(b"w%d" % number)
            if isinstance(outcome, Applied):
                assert not ended.done(), "acknowledged after the failure"
                self.acknowledged.append(b"w%d" % number)
            else:
                assert isinstance(outcome, Unknown) or outcome == Refused(Refusal.STOPPED)
                break
            await self.cluster.until(lambda: ended.done() or self._has_snapshot(log))
        if self.fail_at is None or self.disks[0].syncs <= self.fail_at:
            await self.cluster.stop()
            await ended
            return False
        with pytest.raises(DiskFailed, match="Input/output error"):
            await ended
        assert await log.propose(b"late") == Refused(Refusal.STOPPED)
        assert await log.barrier() == Refused(Refusal.STOPPED)
        assert log.leadership.role is Role.FOLLOWER
        return True

    def _has_snapshot(self, log: RaftLog) -> bool:
        """Whether none is due: each run takes as many, whoever is quicker."""
        status = log.status()
        return status.applied_index - status.snapshot_index < SNAPSHOT_EVERY

    async def starts_again(self) -> None:
        """On the same directory, with a disk that works."""
        await self.cluster.stop()
        self.fail_at = None
        await self.cluster.start()
        words = await self.cluster.words("n1")
        assert words[: len(self.acknowledged)] == self.acknowledged
        assert len(words) <= len(self.acknowledged) + 1


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    nodes: list[Node] = []
    with captured_lines():
        yield nodes
        for node in nodes:
            await node.cluster.stop()


async def test_whichever_sync_fails_the_node_stops_and_nothing_acknowledged_is_lost(
    tmp_path: Path, nodes: list[Node]
) -> None:
    """Every sync of a run in its turn: journal, directory, rotation, snapshot.

    Red when `WriteAheadLog.write` swallows the error, when a failed snapshot does not stop the node, and when `_fail`
    does not end what is pending.
    """
    well = Node(tmp_path / "well", None)
    nodes.append(well)
    assert not await well.fails()
    assert len(well.acknowledged) == COMMANDS
    nodes += [Node(tmp_path / str(number), number) for number in range(well.disks[0].syncs)]

    async def run(node: Node) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            failed = await node.fails()
            await node.starts_again()
        return failed

    failed = await asyncio.gather(*(run(node) for node in nodes[1:]))
    assert len(failed) > COMMANDS + 10
    assert all(failed[:-LAST_SYNCS]), "a sync was never reached, and it is none of the last, which a run may share"


async def test_a_leader_whose_disk_fails_is_replaced_and_nothing_acknowledged_is_lost(
    tmp_path: Path, nodes: list[Node]
) -> None:
    """Red when `RaftLog._flushed` does not look at the error: the leader would keep its office, and answer nobody."""
    disks: dict[str, FailingDisk] = {}

    def disk(path: Path) -> FailingDisk:
        disks[path.name] = FailingDisk(path, None)
        return disks[path.name]

    cluster = LoopbackCluster(tmp_path, ["n1", "n2", "n3"], disk=disk)
    try:
        await cluster.start()
        first = await cluster.leader()
        await cluster.applied(b"before")
        disks[first]._fail_at = disks[first].syncs
        with pytest.raises(DiskFailed):
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(cluster.logs[first].propose(b"lost or not"), cluster.logs[first].stopped())
        await cluster.applied(b"after")
        assert await cluster.leader() != first
        for name in {"n1", "n2", "n3"} - {first}:
            words = await cluster.words(name)
            assert [word for word in words if word != b"lost or not"] == [b"before", b"after"]
    finally:
        await cluster.stop()
