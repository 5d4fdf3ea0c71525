"""Doing to the processes what a fault says, and waiting until it is healed. Owns: the signals and the restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.demo.cluster import Cluster
from coordinator.demo.faults import Fault, FaultKind

__all__ = ["Struck", "strike"]


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that struck `target`: a bank, its database, or the leader of `shard`. Loop seconds; `healed_at_s` is
    when the process served again.
    """

    kind: FaultKind
    target: str
    at_s: float
    healed_at_s: float
    shard: int | None = None


async def strike(cluster: Cluster, fault: Fault, say: Callable[[str], None]) -> Struck:
    """Strike now, and return when it is healed. Raises DemoError if it does not heal."""
    loop = asyncio.get_running_loop()
    shard = None if fault.bank is not None else fault.shard
    target = fault.bank or await cluster.leader(fault.shard)
    role = f"the leader of shard {shard}" if cluster.shards > 1 else "the leader"
    process = cluster.processes[target]
    await asyncio.sleep(fault.hesitation_s)
    process.check()
    at_s = loop.time()
    match fault.kind:
        case FaultKind.KILL_LEADER | FaultKind.KILL_BANK:
            await process.kill()
            say(f"kill -9 {target}" + (f" ({role})" if fault.kind is FaultKind.KILL_LEADER else ""))
            await asyncio.sleep(fault.down_s)
            await cluster.restart(target)
        case FaultKind.KILL_DATABASE:
            database = cluster.databases[target]
            database.check()
            await database.kill()
            say(f"kill -9 of {target}'s {database.kind}")
            await asyncio.sleep(fault.down_s)
            await database.start()
            await cluster.ready(target)
        case FaultKind.PAUSE_LEADER:
            process.pause()
            say(f"SIGSTOP {target} ({role})")
            heir = await cluster.leader(fault.shard, other_than=target)
            await asyncio.sleep(fault.down_s)
            process.resume()
            say(f"SIGCONT {target}; {heir} leads")
            await cluster.ready(target)
    return Struck(fault.kind, target, at_s, loop.time(), shard)
