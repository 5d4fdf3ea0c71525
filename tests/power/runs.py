"""Runs that use every part of the log at once: snapshots of our own and of a leader, trims, conflicts, kills, cuts."""

from __future__ import annotations

from itertools import count

from raftlog.port import Applied
from tests.power.cluster import SNAPSHOT_ENTRIES, Node, PowerCluster

__all__ = ["alone", "elections", "slow_leader", "together"]


def _words() -> count[int]:
    return count(1)


def _some(words: count[int], how_many: int) -> list[bytes]:
    return [b"w%d" % next(words) for _ in range(how_many)]


async def alone(cluster: PowerCluster) -> None:
    """One node: bursts and single commands over several snapshots, a kill -9, and a power cut."""
    words = _words()
    (name,) = cluster.disks
    await cluster.start()
    for _ in range(2):
        for burst in (1, 5, 1, 3, 1, 4):
            await cluster.propose(*_some(words, burst))
        for _ in range(SNAPSHOT_ENTRIES):
            await cluster.applied(*_some(words, 1))
        cluster.kill(name)
        await cluster.start()
        await cluster.applied(*_some(words, 2))
        cluster.cut_power(name)
        await cluster.start()
    await cluster.applied(*_some(words, SNAPSHOT_ENTRIES))


async def together(cluster: PowerCluster) -> None:
    """Three nodes: a follower that needs a snapshot, a leader that is killed, one that is deposed with a tail that
    nobody else has, and a machine that loses its power."""
    words = _words()
    await cluster.start()
    leader = await cluster.leader()
    away = next(name for name in cluster.disks if name != leader.name)
    await cluster.applied(*_some(words, 3))
    await _lag(cluster, leader, away, words)
    await cluster.applied(*_some(words, 2))

    cluster.kill(leader.name)
    await cluster.applied(*_some(words, 2))
    await cluster.start(leader.name)
    await cluster.settle()

    await _depose(cluster, await cluster.leader(), words)
    cluster.cut_power(away)
    await cluster.applied(*_some(words, 3))
    await cluster.start(away)
    await cluster.applied(*_some(words, 2))
    await cluster.settle()


async def _lag(cluster: PowerCluster, leader: Node, away: str, words: count[int]) -> None:
    """Cut one node off until it can be brought up to date with a snapshot only; then bring it up to date."""
    cluster.isolate(away)
    await cluster.until(lambda: away not in leader.log.status().connected)
    await cluster.applied(*_some(words, 2 * SNAPSHOT_ENTRIES))
    cluster.links.mend_all()
    await cluster.settle()
    assert cluster.nodes[away].log.status().counters["snapshots_installed"] == 1


async def _depose(cluster: PowerCluster, old: Node, words: count[int]) -> None:
    """Give a leader commands that it cannot replicate, elect another, and let the old one lose its tail."""
    cluster.isolate(old.name)
    tail = _some(words, 4)
    pending = cluster.loop.create_task(cluster.propose(*tail, at=old))
    await cluster.leader(other_than=old.name)
    await cluster.applied(*_some(words, 3))
    assert not any(isinstance(outcome, Applied) for outcome in await pending)
    cluster.links.mend_all()
    await cluster.settle()
    assert not set(tail) & set(old.tape.commands)


async def elections(cluster: PowerCluster) -> None:
    """Many of them, most of them by force, and each with something to agree on."""
    words = _words()
    await cluster.start()
    for round_number in range(6):
        leader = await cluster.leader()
        await cluster.applied(*_some(words, 1))
        if round_number % 2:
            cluster.kill(leader.name)
        else:
            cluster.cut_power(leader.name)
        await cluster.leader()
        await cluster.start(leader.name)
        await cluster.settle()


async def slow_leader(cluster: PowerCluster) -> None:
    """One follower is away, and the disk of the leader is much slower than that of the other."""
    words = _words()
    await cluster.start()
    leader = await cluster.leader()
    cluster.isolate(next(name for name in cluster.disks if name != leader.name))
    leader.process.disk_speed.mean_s *= 50
    for _ in range(SNAPSHOT_ENTRIES):
        await cluster.applied(*_some(words, 1))
