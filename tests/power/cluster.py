"""A cluster of production nodes on simulated machines, driven step by step, whose disks may be photographed.

Everything is deterministic: `SimLoop` turns the nodes, `SimDisk` holds what they write. Coroutines of this module run
in the world, outside every machine; time is virtual, so that a glance at the nodes costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from coordinator.simulation.disk import SimDisk
from coordinator.simulation.links import Links
from coordinator.simulation.loop import SimLoop
from coordinator.simulation.network import Network
from coordinator.simulation.process import Process
from coordinator.simulation.worker import SimWorker
from raftlog.config import LogConfig, Security, Timing
from raftlog.disk import Disk
from raftlog.node import RaftLog
from raftlog.port import Applied, Member, Outcome, Role
from tests.support.survivals import NOTHING

__all__ = ["CLUSTER", "SNAPSHOT_ENTRIES", "Node", "PowerCluster", "Tape"]

CLUSTER = "powerless"
SNAPSHOT_ENTRIES = 8

_TIMING = Timing(heartbeat_s=0.05, election_min_s=0.2, election_max_s=0.4, lease_s=0.5, silence_s=0.6, redial_s=0.05)
_PATIENCE_S = 30.0  # virtual
_GLANCE_S = 0.01  # virtual


class Tape:
    """Remembers every command in the order of application, and tells `heard` of each."""

    def __init__(self, heard: Callable[[bytes], None] = lambda _: None) -> None:
        self.commands: list[bytes] = []
        self._heard = heard

    def apply(self, _index: int, command: bytes) -> int:
        self._heard(command)
        self.commands.append(command)
        return len(self.commands)

    def snapshot(self) -> Iterable[bytes]:
        captured = list(self.commands)
        return (b"\n".join(part) + b"\n" for part in (captured[:3], captured[3:]) if part)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.commands = b"".join(chunks).splitlines()


class Node:
    """One incarnation of one node."""

    def __init__(self, name: str, process: Process, log: RaftLog, tape: Tape) -> None:
        self.name = name
        self.process = process
        self.log = log
        self.tape = tape

    @property
    def leads(self) -> bool:
        return self.log.leadership.role is Role.LEADER


class PowerCluster:
    """`disks` by name; `wrap` puts something between a node and its disk; `applied_one` hears what any node applies."""

    def __init__(self, disks: dict[str, SimDisk], wrap: Callable[[str, SimDisk], Disk] = lambda _, disk: disk) -> None:
        self.disks = disks
        self.nodes: dict[str, Node] = {}
        self.acknowledged: list[bytes] = []
        self.proposed: list[bytes] = []
        self.applied_one: Callable[[bytes], None] = lambda _: None
        self._wrap = wrap
        self._members = tuple(Member(name, f"{name}:7000") for name in disks)
        self.loop = SimLoop(len(disks))
        self.links = Links(len(disks))
        self._network = Network(self.loop, self.links)

    def run(self, coroutine: Any) -> Any:
        """Run to the end, and close the world."""
        try:
            return self.loop.run_until_complete(coroutine)
        finally:
            self.loop.close()
            assert self.loop.failures == []

    # Machines ----------------------------------------------------------------------------------------------------

    async def start(self, *names: str) -> None:
        """Power on and start; all of them unless named."""
        for name in names or self.disks:
            self.links.power_on(name)
            process = self.loop.process(name)
            await process.run(self._start(name, process))

    async def _start(self, name: str, process: Process) -> None:
        config = LogConfig(
            cluster=CLUSTER,
            name=name,
            members=self._members,
            security=Security(secret=b"a secret of the power tests"),
            timing=_TIMING,
            snapshot_entries=SNAPSHOT_ENTRIES,
        )
        tape = Tape(self._heard)
        log = RaftLog(config, tape, self._wrap(name, self.disks[name]), Random(f"{name} {process}"), SimWorker)
        await log.start()
        self.nodes[name] = Node(name, process, log, tape)

    def _heard(self, command: bytes) -> None:
        self.applied_one(command)

    def kill(self, name: str) -> None:
        """kill -9: what was written stays in the page cache."""
        self.nodes.pop(name).process.kill()
        self.disks[name] = self.disks[name].kill()

    def cut_power(self, name: str, survival: Random = NOTHING) -> None:
        self.links.power_off(name)
        self.nodes.pop(name).process.kill()
        self.disks[name] = self.disks[name].crash(survival)

    def isolate(self, name: str) -> None:
        self.links.partition([name], [other for other in self.disks if other != name])

    # Work --------------------------------------------------------------------------------------------------------

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(_GLANCE_S)

    async def leader(self, *, other_than: str = "") -> Node:
        """The node that leads, once one does."""
        await self.until(lambda: self._leaders(other_than))
        return max(self._leaders(other_than), key=lambda node: node.log.leadership.term)

    def _leaders(self, other_than: str) -> list[Node]:
        return [node for node in self.nodes.values() if node.leads and node.name != other_than]

    async def propose(self, *commands: bytes, at: Node | None = None) -> list[Outcome]:
        """Propose all of them at once, at the leader unless said otherwise; notes what is acknowledged, when it is."""
        node = at or await self.leader()
        self.proposed += commands
        tasks = [node.process.spawn(self._propose(node, command)) for command in commands]
        await asyncio.wait((*tasks, node.process.gone()), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((asyncio.gather(*tasks), node.process.gone()), return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in tasks if task.done()]

    async def _propose(self, node: Node, command: bytes) -> Outcome:
        outcome = await node.log.propose(command, command_id=command)
        if isinstance(outcome, Applied):
            self.acknowledged.append(command)
        return outcome

    async def applied(self, *commands: bytes) -> None:
        """Propose until each is applied: with its id, again and again is once."""
        for command in commands:
            async with asyncio.timeout(_PATIENCE_S):
                while not isinstance((await self.propose(command) or [None])[0], Applied):  # noqa: ASYNC110
                    await asyncio.sleep(_GLANCE_S)

    async def settle(self) -> None:
        """Until every node that runs has applied what the leader has."""
        leader = await self.leader()
        await self.until(lambda: all(n.tape.commands == leader.tape.commands for n in self.nodes.values()))
