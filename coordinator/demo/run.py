"""The demo from its first process to its last: start, open the accounts, work under faults, audit.

Owns: the order of things. Must never do: print (`show.py` and `report.py` do).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Protocol

from coordinator.demo.accounts import BANKS, opening
from coordinator.demo.audit import Verdict, audit
from coordinator.demo.cluster import Cluster
from coordinator.demo.databases import SQLITE
from coordinator.demo.evidence import collect
from coordinator.demo.faults import Fault, schedule
from coordinator.demo.strike import Struck, strike
from coordinator.demo.transfers import TransferFile
from coordinator.demo.workload import Heard, Workload, open_accounts
from coordinator.errors import CoordinatorError

__all__ = ["CLIENTS", "NODES", "Result", "Spectator", "run"]

NODES = ("n1", "n2", "n3")
CLIENTS = 16


class Spectator(Protocol):
    """Who watches the demo."""

    def say(self, line: str) -> None:
        """Something happened."""

    def answered(self, heard: Heard) -> None:
        """A client heard how its transfer ended."""


@dataclass(frozen=True, slots=True)
class Result:
    """What there is to report. `heard` is in the order of the answers, `struck` in that of the faults."""

    file: TransferFile
    heard: tuple[Heard, ...]
    struck: tuple[Struck, ...]
    verdict: Verdict
    took_s: float
    shards: int = 1


async def run(
    file: TransferFile,
    seed: int,
    directory: Path,
    spectator: Spectator,
    *,
    shards: int = 1,
    kinds: Mapping[str, str] = MappingProxyType({}),
) -> Result:
    """Carry out `file` in `directory`, with so many shards, and banks on databases of such `kinds`, by name.

    Raises CoordinatorError if the demo cannot go on.
    """
    begun_at_s = asyncio.get_running_loop().time()
    chance = Random(seed)  # noqa: S311 - a demo that can be repeated
    servers = [bank for bank in BANKS if kinds.get(bank, SQLITE) != SQLITE]
    faults = schedule(len(file.transfers), BANKS, chance, shards, servers)
    accounts = opening()
    async with Cluster(directory, NODES, BANKS, shards=shards, kinds=kinds) as cluster:
        urls = tuple(cluster.replicas.values())
        leaders = [await cluster.leader(shard) for shard in range(shards)]
        lead = f"{leaders[0]} leads" if shards == 1 else f"the leaders of {shards} shards: {', '.join(leaders)}"
        on = f" (on {', '.join(kinds[bank] for bank in BANKS)})" if servers else ""
        spectator.say(f"{len(NODES)} coordinators and {len(BANKS)} banks{on} serve; {lead}")
        await open_accounts(urls, accounts, chance)
        spectator.say(f"{len(accounts)} accounts are open; {CLIENTS} clients begin")
        workload = Workload(file.transfers, urls, CLIENTS, chance, spectator.answered)
        struck = await _besieged(cluster, workload, faults, spectator)
        spectator.say("the work is done; now the books")
        verdict = audit(await collect(cluster, accounts, workload.heard))
    took_s = asyncio.get_running_loop().time() - begun_at_s
    return Result(file, tuple(workload.heard), tuple(struck), verdict, took_s, shards)


async def _besieged(
    cluster: Cluster, workload: Workload, faults: Sequence[Fault], spectator: Spectator
) -> list[Struck]:
    """The clients' work and the faults, side by side, until both are over."""
    struck: list[Struck] = []

    async def strike_all() -> None:
        for fault in faults:
            await workload.allow(fault.until)
            await workload.answered(fault.after)
            struck.append(await strike(cluster, fault, spectator.say))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(workload.run())
            group.create_task(strike_all())
    except* CoordinatorError as failures:
        raise _first(failures) from failures
    return struck


def _first(failures: BaseExceptionGroup[CoordinatorError]) -> CoordinatorError:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
