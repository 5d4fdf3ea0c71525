"""A disk that fails, at every operation of a run: the node stops, promises nothing more, and has lost nothing.

The worst of it comes later: after a sync that failed, the pages count as clean. They are read back by the next process
as if they were durable, syncing them again succeeds without writing anything, and a power cut takes them.
"""

from __future__ import annotations

from random import Random

import pytest

from coordinator.simulation.disk import SimDisk
from raftlog.errors import DiskFailed
from raftlog.port import Refusal, Refused
from tests.power.cluster import SNAPSHOT_ENTRIES, PowerCluster

WORDS = [b"w%d" % number for number in range(3 * SNAPSHOT_ENTRIES)]


class Failing:
    """One node whose disk fails at one operation."""

    def __init__(self, operation: int) -> None:
        disk = SimDisk(Random(operation))
        disk.fail_at(operation)
        self.cluster = PowerCluster({"n1": disk})
        self.failed = False

    async def run(self) -> None:
        await self._until_it_fails()
        if self.failed:
            self.cluster.nodes.pop("n1", None)
            self.cluster.loop._processes[-1].kill()
            self.cluster.disks["n1"] = self.cluster.disks["n1"].kill()
            await self._again(b"after the failure")
            self.cluster.cut_power("n1")
            await self._again(b"after the power cut")

    async def _until_it_fails(self) -> None:
        cluster = self.cluster
        try:
            await cluster.start()
        except DiskFailed:
            self.failed = True
            return
        node = cluster.nodes["n1"]
        ended = node.process.spawn(node.log.stopped())
        for word in WORDS:
            await cluster.until(lambda: node.leads or ended.done())
            if not ended.done():
                await cluster.propose(word, at=node)
        if not ended.done():
            return
        with pytest.raises(DiskFailed):
            ended.result()
        acknowledged = list(cluster.acknowledged)
        assert await cluster.propose(b"late", at=node) == [Refused(Refusal.STOPPED)]
        assert cluster.acknowledged == acknowledged
        self.failed = True

    async def _again(self, word: bytes) -> None:
        await self.cluster.start()
        await self.cluster.applied(word)
        tape = self.cluster.nodes["n1"].tape.commands
        assert [command for command in tape if command in self.cluster.acknowledged] == self.cluster.acknowledged
        assert len(set(tape)) == len(tape)


def test_a_failure_of_any_operation_stops_the_node_and_loses_nothing() -> None:
    """Each write, sync, rename and removal fails once; the node is started again on the same page cache, works on, and
    then loses its power.

    Red when recovery goes on with the file that it read instead of writing it anew, when `WriteAheadLog.write` ignores
    the error of a sync, and when a failed snapshot does not stop the node.
    """
    failures = 0
    for operation in range(10_000):
        failing = Failing(operation)
        try:
            failing.cluster.run(failing.run())
        except BaseException as error:
            raise AssertionError(f"operation {operation} failed") from error
        if not failing.failed:
            break
        failures += 1
    assert failures == operation > 100


def test_the_run_without_failure_is_a_run() -> None:
    failing = Failing(1_000_000)
    failing.cluster.run(failing.run())
    assert failing.cluster.acknowledged == WORDS
    assert not failing.failed
