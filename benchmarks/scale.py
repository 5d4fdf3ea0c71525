"""What does a transaction cost with 1, 2 and 4 shards, and what does a shard cost that has nothing to do?

    python -m benchmarks.scale [--quick] [--json] [--directory DIR]

Three nodes and two banks on SQLite (`synchronous=FULL`), each node a parent with one process for each shard, and one
`Client` in this process. More shards cannot be faster on a machine whose cores are busy already; they scale out if a
transaction costs no more CPU with them. So what is compared is the CPU time of all processes together, by transaction,
while every shard has the same to do: so many transactions a second, at random moments. After that, as many clients as
it takes to keep the machine busy show what bounds a shard.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from benchmarks.harness import Options, Report, data_directory, options, progress, use_uvloop
from benchmarks.spending import cpu_s, resident_bytes
from coordinator.client import Branch, Client, Committed
from coordinator.demo.accounts import BANKS
from coordinator.demo.cluster import Cluster
from coordinator.demo.measures import percentile
from coordinator.demo.run import NODES
from coordinator.demo.transfers import Account
from coordinator.demo.workload import open_accounts

SHARDS = (1, 2, 4)
PER_SHARD_S = 60  # transactions a second, of each shard: so few that four of them leave two cores some room
CLIENTS_PER_SHARD = 64
OPENING_CENTS = 100_00
ATTEMPT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long it takes. `rounds`: clusters of each size."""

    rounds: int
    idle_s: float
    warm_up_s: float
    load_s: float


FULL = Plan(rounds=3, idle_s=4.0, warm_up_s=2.0, load_s=8.0)
QUICK = Plan(rounds=1, idle_s=0.5, warm_up_s=0.5, load_s=2.0)


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by kind of process at one moment, and of each replica's process."""

    at_s: float
    coordinators: float
    participants: float
    clients: float
    by_replica: dict[int, float]

    @classmethod
    def now(cls, cluster: Cluster) -> Spent:
        """Read the processes of `cluster`, and this one."""
        groups = _groups()
        by_replica = {pid: cpu_s([pid]) for name in cluster.replicas for pid in groups[cluster.processes[name].pid]}
        banks = cpu_s(pid for name in cluster.banks for pid in groups[cluster.processes[name].pid])
        return cls(time.monotonic(), sum(by_replica.values()), banks, cpu_s([os.getpid()]), by_replica)


@dataclass(frozen=True, slots=True)
class Load:
    """What was committed in one stretch of time, and its CPU in µs a transaction; `busiest`: of a single process."""

    per_s: float
    p50_ms: float
    coordinators: float
    participants: float
    clients: float
    busiest: float

    @property
    def cpu(self) -> float:
        """Of all processes together."""
        return self.coordinators + self.participants + self.clients


@dataclass(frozen=True, slots=True)
class Measured:
    """One cluster. `idle`: CPU ms a second of its coordinators, when nobody asks them; `memory`: theirs, in MiB."""

    paced: Load
    busy: Load
    idle: float
    memory: float
    failed: int


def _groups() -> dict[int, list[int]]:
    """All processes by the group that they are in: a node's parent leads one, and its children are in it."""
    groups: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                groups[os.getpgid(int(entry.name))].append(int(entry.name))
            except ProcessLookupError:  # it ended meanwhile
                continue
    return groups


# The load ----------------------------------------------------------------------------------------------------


class Clients:
    """Who move one cent there and back between two accounts, each of which only one of them uses at a time."""

    def __init__(self, client: Client, accounts: int, chance: Random) -> None:
        self.latencies_ms: list[float] = []
        self.failed = 0
        self.working = True
        self._client = client
        self._chance = chance
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for number in range(accounts):
            self._free.put_nowait(number)

    async def paced(self, per_s: float) -> None:
        """Begin so many a second, at moments that know nothing of each other (a Poisson process)."""
        next_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while self.working:
                next_s += self._chance.expovariate(per_s)
                await asyncio.sleep(next_s - time.monotonic())
                group.create_task(self._transfer(await self._free.get()))

    async def busy(self, count: int) -> None:
        """Let so many clients work, each of which begins a transaction when its last one is answered."""

        async def work() -> None:
            while self.working:
                await self._transfer(await self._free.get())

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(work())

    async def _transfer(self, number: int) -> None:
        begun_s = time.monotonic()
        for branches in _branches(number):
            ended = await self._client.commit(branches)
            self.latencies_ms.append((time.monotonic() - begun_s) * 1e3)
            self.failed += not isinstance(ended, Committed)
            begun_s = time.monotonic()
        self._free.put_nowait(number)


def _branches(number: int) -> tuple[list[Branch], list[Branch]]:
    body = {"account": f"client-{number}", "amount": 1}
    one, other = BANKS
    return (
        [Branch(one, "debit", body, one), Branch(other, "credit", body, other)],
        [Branch(one, "credit", body, one), Branch(other, "debit", body, other)],
    )


async def _measure(directory: Path, shards: int, plan: Plan) -> Measured:
    chance, count = Random(1), shards * CLIENTS_PER_SHARD
    async with Cluster(directory, NODES, BANKS, shards=shards) as cluster:
        urls = tuple(cluster.replicas.values())
        accounts = {Account(bank, f"client-{number}"): OPENING_CENTS for bank in BANKS for number in range(count)}
        await open_accounts(urls, accounts, chance)
        resting = Spent.now(cluster)
        await asyncio.sleep(plan.idle_s)
        rested = Spent.now(cluster)
        async with Client(urls, attempt_timeout_s=ATTEMPT_TIMEOUT_S, chance=chance) as client:
            clients = Clients(client, count, chance)
            paced = await _load(cluster, clients, clients.paced(PER_SHARD_S * shards / 2), plan)
            busy = await _load(cluster, clients, clients.busy(count), plan)
        cluster.check()
        memory = sum(resident_bytes(pid) for pid in rested.by_replica)
    idle = (rested.coordinators - resting.coordinators) * 1e3 / (rested.at_s - resting.at_s)
    return Measured(paced, busy, idle, memory / (1 << 20), clients.failed)


async def _load(cluster: Cluster, clients: Clients, work: Coroutine[Any, Any, None], plan: Plan) -> Load:
    clients.working = True
    async with asyncio.TaskGroup() as group:
        group.create_task(work)
        await asyncio.sleep(plan.warm_up_s)
        before, done = Spent.now(cluster), len(clients.latencies_ms)
        await asyncio.sleep(plan.load_s)
        after, heard = Spent.now(cluster), clients.latencies_ms[done:]
        clients.working = False

    def us(spent_s: float) -> float:
        return spent_s * 1e6 / len(heard)

    return Load(
        per_s=len(heard) / (after.at_s - before.at_s),
        p50_ms=percentile(heard, 50),
        coordinators=us(after.coordinators - before.coordinators),
        participants=us(after.participants - before.participants),
        clients=us(after.clients - before.clients),
        busiest=us(max(after.by_replica[pid] - before.by_replica.get(pid, 0.0) for pid in after.by_replica)),
    )


# The report --------------------------------------------------------------------------------------------------


def _run(chosen: Options) -> None:
    use_uvloop()
    plan = QUICK if chosen.quick else FULL
    report = Report("Shards: what a transaction costs with 1, 2 and 4", chosen)
    report.machine()
    found: dict[int, list[Measured]] = defaultdict(list)
    for number in range(1, plan.rounds + 1):
        for shards in SHARDS:
            with data_directory(chosen) as directory:
                found[shards].append(asyncio.run(_measure(directory, shards, plan)))
            progress(f"{shards} shards, round {number} of {plan.rounds}")
    paced = {shards: [each.paced for each in measured] for shards, measured in found.items()}
    busy = {shards: [each.busy for each in measured] for shards, measured in found.items()}
    _report(report, found, paced, busy)
    cpu = _medians(paced, "cpu")
    report.end(
        {
            "cpu_us": {str(shards): round(each) for shards, each in cpu.items()},
            "cpu_over_one_shard": {str(shards): round(each / cpu[1], 2) for shards, each in cpu.items()},
            "coordinators_us": {str(shards): round(each) for shards, each in _medians(paced, "coordinators").items()},
            "busy_cpu_us": {str(shards): round(each) for shards, each in _medians(busy, "cpu").items()},
            "leader_us": round(_medians(busy, "busiest")[1]),
            "failed": sum(each.failed for measured in found.values() for each in measured),
        }
    )


def _report(
    report: Report, found: dict[int, list[Measured]], paced: dict[int, list[Load]], busy: dict[int, list[Load]]
) -> None:
    headers = ["shards", "CPU µs", "against one", "coordinators", "banks", "clients", "committed/s", "cores", "p50 ms"]
    report.heading("CPU time by transaction: the same work for each shard")
    report.table(headers, _rows(paced))
    report.text(
        f"Medians of {len(found[1])} clusters each; {PER_SHARD_S} transactions a second for each shard, at random"
        " moments. So few seldom travel together, and each pays for its requests, log entries and forced writes alone;"
        " but every shard is in the same situation, as on machines of its own. *cores*: how many all processes together"
        " kept busy."
    )
    report.heading("CPU time by transaction: as much as the machine does")
    report.table(headers, _rows(busy))
    leader_us = _medians(busy, "busiest")[1]
    report.text(
        f"{CLIENTS_PER_SHARD} clients for each shard. Here the shards share what one had for itself, so each does less,"
        " and its requests, log entries and forced writes carry less. What *cores* leaves idle waits for the disk, or"
        f" for others on this machine. The leader of the only shard needed {leader_us:,.0f} µs of its core for a"
        f" transaction: one shard can do no more than **{1e6 / leader_us:,.0f}/s** on such a core."
    )
    report.heading("What the processes of the three nodes cost by themselves")
    rows = []
    for shards, measured in found.items():
        idle, memory = (median(getattr(each, key) for each in measured) for key in ("idle", "memory"))
        processes = len(NODES) * (1 if shards == 1 else shards + 1)
        rows.append([str(shards), str(processes), f"{idle:.0f}", f"{memory:.0f}", f"{memory / processes:.0f}"])
    report.table(["shards", "processes", "CPU ms/s when idle", "memory MiB", "of each process"], rows)
    failed = sum(each.failed for measured in found.values() for each in measured)
    report.text(f"Transactions of the whole run that were not committed: {failed}.")


def _medians(loads: dict[int, list[Load]], key: str) -> dict[int, float]:
    return {shards: median(getattr(load, key) for load in measured) for shards, measured in loads.items()}


def _rows(loads: dict[int, list[Load]]) -> Iterator[list[str]]:
    cpu, rate, p50 = (_medians(loads, key) for key in ("cpu", "per_s", "p50_ms"))
    parts = [_medians(loads, key) for key in ("coordinators", "participants", "clients")]
    for shards in loads:
        yield [
            str(shards),
            f"{cpu[shards]:,.0f}",
            f"{cpu[shards] / cpu[1]:.2f} x",
            *(f"{part[shards]:,.0f}" for part in parts),
            f"{rate[shards]:,.0f}",
            f"{rate[shards] * cpu[shards] / 1e6:.1f}",
            f"{p50[shards]:.0f}",
        ]


if __name__ == "__main__":
    _run(options("CPU time of a transaction with 1, 2 and 4 shards"))
