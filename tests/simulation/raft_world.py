"""The raft world: real `RaftLog` nodes on simulated machines, clients that propose and read, and faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from coordinator.simulation.machines import Machine
from coordinator.simulation.worker import SimWorker
from raftlog.config import LogConfig, Security
from raftlog.errors import DiskFailed
from raftlog.node import RaftLog
from raftlog.port import Applied, Refusal, Refused, Unknown
from tests.simulation.checkers.applied import AppliedSequence
from tests.simulation.checkers.journals import LogMatching
from tests.simulation.checkers.leaders import OneLeaderPerTerm
from tests.simulation.checkers.proposals import Proposals
from tests.simulation.checkers.reads import Linearizable
from tests.simulation.faults import FaultPlan
from tests.simulation.listing import Listing
from tests.simulation.world import PROGRESS_S, SECRET, THINK_MAX_S, TIMING, World, members_of

__all__ = ["RaftWorld", "Settings"]

_PATIENCE_S = 8.0
_CHANGE_EVERY_S = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the seed chose for one world."""

    nodes: int
    spares: int  # nodes that are no members at first, and join and leave
    snapshot_entries: int
    ballast_bytes: int
    clients: int
    think_s: float
    faults: FaultPlan

    @classmethod
    def draw(cls, rng: Random) -> Settings:
        return cls(
            nodes=rng.choice((3, 3, 3, 5)),
            spares=rng.choice((0, 0, 1, 2)),
            snapshot_entries=rng.choice((8, 30, 100, 1_000)),
            ballast_bytes=rng.choice((0, 0, 3_000, 30_000)),
            clients=rng.randint(2, 4),
            think_s=rng.choice((2.0, 5.0, 15.0)),
            faults=FaultPlan.draw(rng),
        )


class RaftWorld(World):
    """One run of one seed."""

    def __init__(self, seed: int) -> None:
        super().__init__("raft", seed)
        self.settings = Settings.draw(self.rng)
        self.leaders = OneLeaderPerTerm(self.findings)
        self.journals = LogMatching(self.findings)
        self.sequence = AppliedSequence(self.findings)
        self.proposals = Proposals(self.findings, self.sequence)
        self.order = Linearizable(self.findings)
        names = [f"n{number}" for number in range(1, self.settings.nodes + self.settings.spares + 1)]
        for name in names:
            self.add_machine(name, self._main)
        self._founders = names[: self.settings.nodes]
        self._changes = 0
        self._nodes: dict[str, tuple[RaftLog, Listing]] = {}
        self._clients: list[asyncio.Task[None]] = []
        self._commands = 0
        self.plan_faults(self.settings.faults)

    def summary(self) -> str:
        return (
            f"{self.settings.nodes} nodes, {self._changes} changes of members, {self.faults.done} faults, "
            f"{self.leaders.elections} terms, "
            f"{self.proposals.counts}, {self.order.reads} reads"
        )

    # Rounds ------------------------------------------------------------------------------------------------------

    def begin_round(self, group: asyncio.TaskGroup) -> None:
        self._clients = [group.create_task(self._client(number)) for number in range(self.settings.clients)]
        if self.settings.spares:
            self._clients.append(group.create_task(self._operator()))

    async def settle(self) -> None:
        """Everything that is open ends, and all nodes come to the same state."""
        deadline = self.loop.time() + PROGRESS_S
        ended = await self.wait_until("all clients answered", self._all_answered, deadline)
        if not ended or not await self.wait_until("all members equal", self._all_equal, deadline):
            return
        members = self._members()
        self.proposals.check(min(self._nodes[name][1].length for name in members))
        self.trace.note("settled", len(self.sequence), self.leaders.elections, *members)

    def _all_answered(self) -> bool:
        return all(client.done() for client in self._clients)

    def _all_equal(self) -> bool:
        members = self._members()
        lengths = {self._nodes[name][1].length if name in self._nodes else -1 for name in members}
        return lengths == {len(self.sequence)}

    def _members(self) -> list[str]:
        """As the leader has them; nobody while there is none."""
        leader = self.favourite()
        return [member.name for member in self._nodes[leader][0].status().members] if leader is not None else []

    def excused(self, machine: Machine, error: BaseException | None) -> bool:
        self._nodes.pop(machine.name, None)
        return isinstance(error, DiskFailed) and machine.disk.failures > 0

    def favourite(self) -> str | None:
        for name, (node, _) in self._nodes.items():
            if self.machines[name].running and node.leadership.leader == name:
                return name
        return None

    # Nodes -------------------------------------------------------------------------------------------------------

    async def _main(self, machine: Machine) -> None:
        name = machine.name
        self._nodes.pop(name, None)
        listing = Listing(name, self.sequence, self.settings.ballast_bytes)
        config = LogConfig(
            cluster="simulated",
            name=name,
            members=members_of(self._founders if name in self._founders else [*self._founders, name]),
            security=Security(secret=SECRET),
            timing=TIMING,
            snapshot_entries=self.settings.snapshot_entries,
        )
        node = RaftLog(config, listing, machine.disk, machine.chance(), SimWorker)
        await node.start()
        self._watch(name, node)
        self._nodes[name] = (node, listing)
        await node.stopped()

    def _watch(self, name: str, node: RaftLog) -> None:
        """Show the checkers what the node does; its own code stays as it is."""
        core: Any = node._core
        journal: Any = node._journal
        held = journal[:]
        for previous, entry in pairwise(held):
            self.journals.appended(name, entry, previous[2])
        add, on_state = journal.add, core._on_state

        def appended(command: bytes, index: int, term: int) -> None:
            self.journals.appended(name, (command, index, term), journal.term_at(index - 1))
            add(command, index, term)

        def state_changed() -> None:
            if core.leading:
                self.trace.note("leads", name, core.term)
                self.leaders.leads(name, core.term)
            on_state()

        journal.add, core._on_state = appended, state_changed

    # Operator and clients --------------------------------------------------------------------------------------

    async def _operator(self) -> None:
        """Adds and removes replicas, one at a time; three or more remain."""
        rng = Random(f"{self.seed}/operator/{self.loop.time()}")
        while self.working:
            await asyncio.sleep(min(rng.expovariate(1.0) * _CHANGE_EVERY_S, THINK_MAX_S))
            leader, members = self.favourite(), self._members()
            strangers = [name for name in self.machines if name not in members]
            if leader is None:
                continue
            if strangers and (len(members) <= 3 or rng.random() < 0.5):
                name = rng.choice(strangers)
                outcome = await self._ask(leader, lambda node, _, name=name: node.add_member(*members_of([name])))
            else:
                name = rng.choice([name for name in members if name != leader])
                outcome = await self._ask(leader, lambda node, _, name=name: node.remove_member(name))
            self._changes += isinstance(outcome, Applied)
            self.trace.note("changed", name, *members, type(outcome).__name__)

    async def _client(self, number: int) -> None:
        rng = Random(f"{self.seed}/client/{number}/{self.loop.time()}")
        while self.working:
            await asyncio.sleep(min(rng.expovariate(1.0) * self.settings.think_s, THINK_MAX_S))
            match rng.randrange(10):
                case 0 | 1 | 2:
                    await self._read(self._choose(rng))
                case 3:
                    burst = (self._propose(rng, identified=rng.random() < 0.5) for _ in range(rng.randint(2, 40)))
                    await asyncio.gather(*burst)
                case 4 | 5:
                    await self._propose(rng, identified=False)
                case 6 | 7:
                    await self._propose(rng, identified=True)
                case _:
                    await self._propose(rng, identified=True)
                    await asyncio.gather(*map(self._read, self.machines))  # a deposed leader must not know less

    def _choose(self, rng: Random) -> str:
        """Some node, mostly the leader."""
        return (self.favourite() if rng.random() < 0.8 else None) or rng.choice(list(self.machines))

    async def _ask(self, name: str, question: Callable[[RaftLog, Listing], Any]) -> Any:
        """Ask a node. The answer is None when the caller cannot know what became of it."""
        process = self.machines[name].process
        if name not in self._nodes or process is None or not self.machines[name].up:
            await asyncio.sleep(0.5)
            return Refused(Refusal.STOPPED)
        task = process.spawn(question(*self._nodes[name]))
        await asyncio.wait((task, process.gone()), timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None

    async def _read(self, name: str) -> None:
        began = self.order.begin()

        async def read(node: RaftLog, listing: Listing) -> int | None:
            return listing.length if isinstance(await node.barrier(), Applied) else None

        length = await self._ask(name, read)
        if isinstance(length, int):
            self.trace.note("read", name, length)
            self.order.read(name, began, length)

    async def _propose(self, rng: Random, *, identified: bool) -> None:
        """Propose a new command; with an id, again and again until it is applied."""
        self._commands += 1
        command_id = b"%d" % self._commands
        command = command_id + bytes(rng.choice((1, 10, 100, 5_000)))
        began = self.order.begin()
        unknown = False

        async def propose(node: RaftLog, _listing: Listing) -> Any:
            return await node.propose(command, command_id=command_id if identified else None)

        while True:
            name = self._choose(rng)
            outcome = await self._ask(name, propose)
            self.trace.note("proposed", int(command_id), name, type(outcome).__name__)
            match outcome:
                case Applied(result=position):
                    self.proposals.acknowledged(command, position)
                    self.order.wrote(began, position)
                    return
                case Refused():
                    if not identified or (not self.working and not unknown):
                        if not unknown:
                            self.proposals.refused(command)
                        return
                case Unknown() | None:
                    unknown = True
                    self.proposals.unknown += 1
                    if not identified:
                        return
            await asyncio.sleep(rng.expovariate(2.0))
