"""`kill -9` of random processes under load, and the same audit as the demo's at the end.

Method: the demo's cluster, clients and audit; transfers and victims are drawn from a seed. A victim is a coordinator
or a bank, also one that is still recovering from the last blow; it is started again after a moment, while the next
one may already be dying, so that majorities are lost and found, and recoveries are interrupted. Snapshots are taken
every few hundred entries, so that compaction and transfers are interrupted too. After each salvo everything is
left alone until it serves again and every client has its answer: liveness after the faults stop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from coordinator.demo.accounts import BANKS, opening
from coordinator.demo.audit import Verdict, audit
from coordinator.demo.cluster import Cluster
from coordinator.demo.evidence import collect
from coordinator.demo.run import CLIENTS, NODES
from coordinator.demo.transfers import Account, Transfer
from coordinator.demo.workload import Heard, Workload, open_accounts
from coordinator.wire import Outcome

__all__ = ["Outcomes", "besiege"]

BATCH = 64  # transfers at a time, until the last kill of a salvo
SALVO = 10  # kills
AMOUNT_MAX_CENTS = 50_00
PAUSE_S = (0.0, 1.5)  # between two blows
DOWN_S = (0.0, 1.0)  # before a victim is started again
SNAPSHOT_ENTRIES = 300


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the siege ended. `kills` by victim."""

    verdict: Verdict
    heard: tuple[Heard, ...]
    kills: Counter[str]

    def count(self, outcome: Outcome) -> int:
        """How many transfers ended so."""
        return sum(heard.outcome is outcome for heard in self.heard)

    @property
    def ok(self) -> bool:
        """Whether the books are right and every client has its answer."""
        return self.verdict.ok and self.count(Outcome.DECIDING) == 0


async def besiege(kills: int, seed: int, directory: Path, say: Callable[[str], None]) -> Outcomes:
    """Kill `kills` times under load, let it heal, and audit."""
    chance = Random(seed)
    accounts = opening()
    heard: list[Heard] = []
    victims: list[str] = []
    async with Cluster(directory, NODES, BANKS, raft={"snapshot_entries": SNAPSHOT_ENTRIES}) as cluster:
        await open_accounts(tuple(cluster.replicas.values()), accounts, chance)
        while len(victims) < kills:
            salvo = chance.choices(sorted(cluster.processes), k=min(SALVO, kills - len(victims)))
            async with asyncio.TaskGroup() as group:
                killing = group.create_task(_kill(cluster, salvo, Random(chance.random())))
                while not killing.done():
                    batch = _draw(sorted(accounts), chance, first=len(heard) + 1)
                    heard += await _work(cluster, batch, chance)
            victims += salvo
            say(f"{len(victims)} kills, {len(heard)} transfers")
        verdict = audit(await collect(cluster, accounts, heard))
    return Outcomes(verdict, tuple(heard), Counter(victims))


async def _kill(cluster: Cluster, salvo: Sequence[str], chance: Random) -> None:
    """Blow after blow; then wait until everything serves again."""
    restarting: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as restarts:
        for victim in salvo:
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            if victim in restarting:
                await restarting[victim]
            await cluster.processes[victim].kill()
            restarting[victim] = restarts.create_task(_restart(cluster, victim, chance.uniform(*DOWN_S)))
    for name in cluster.processes:
        await cluster.ready(name)


async def _restart(cluster: Cluster, name: str, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await cluster.processes[name].start()


async def _work(cluster: Cluster, batch: list[Transfer], chance: Random) -> list[Heard]:
    workload = Workload(batch, tuple(cluster.replicas.values()), CLIENTS, chance, tell=lambda _: None)
    await workload.allow(len(batch))
    await workload.run()
    return workload.heard


def _draw(accounts: list[Account], chance: Random, first: int) -> list[Transfer]:
    pairs = (chance.sample(accounts, 2) for _ in range(BATCH))
    return [
        Transfer(number, source, target, chance.randint(1, AMOUNT_MAX_CENTS))
        for number, (source, target) in enumerate(pairs, first)
    ]
