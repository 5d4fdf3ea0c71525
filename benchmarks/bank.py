"""The subject of the benchmarks of whole transactions: three replicas and two banks, each a process, and their clients.

A client moves one cent back and forth between an account at one bank and an account at the other that nobody else
uses. So nothing ever runs short or waits for a row, and every abort is the coordinator's own doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from coordinator.client import Branch, Client, Committed
from coordinator.demo.accounts import BANKS
from coordinator.demo.cluster import Cluster
from coordinator.demo.run import NODES
from coordinator.demo.transfers import Account
from coordinator.demo.workload import ATTEMPT_TIMEOUT_S, open_accounts
from coordinator.errors import OutcomeUnknown, Unavailable
from coordinator.wire import Outcome

__all__ = ["CLIENTS_MAX", "Clients", "Heard", "serving"]

CLIENTS_MAX = 64
OPENING_CENTS = 100_00


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client was told, and when (seconds of the loop). `reason` is empty for a commit."""

    gid: str
    begun_at_s: float
    ended_at_s: float
    outcome: Outcome
    reason: str


class Clients:
    """`count` clients that work until `stop`. `heard` grows in the order of the answers."""

    def __init__(self, urls: Sequence[str], count: int, chance: Random) -> None:
        self.heard: list[Heard] = []
        self._urls = tuple(urls)
        self._count = count
        self._chance = chance
        self._news = asyncio.Condition()
        self._working = True

    async def run(self) -> None:
        """Until every client has heard the answer to its last transaction."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._client(number))

    def stop(self) -> None:
        """Begin no more transactions."""
        self._working = False

    async def answered(self, more: int) -> None:
        """Wait until so many more answers have come."""
        wanted = len(self.heard) + more
        async with self._news:
            await self._news.wait_for(lambda: len(self.heard) >= wanted)

    async def _client(self, number: int) -> None:
        there, back = _branches(number)
        async with Client(self._urls, attempt_timeout_s=ATTEMPT_TIMEOUT_S, chance=self._chance) as client:
            while self._working:
                heard = await _commit(client, there)
                there, back = back, there
                async with self._news:
                    self.heard.append(heard)
                    self._news.notify_all()


@asynccontextmanager
async def serving(directory: Path, chance: Random, kind: type[Cluster] = Cluster) -> AsyncIterator[Cluster]:
    """The processes, with an account of every client open at both banks."""
    async with kind(directory, NODES, BANKS) as cluster:
        accounts = {Account(bank, f"client-{number}"): OPENING_CENTS for bank in BANKS for number in range(CLIENTS_MAX)}
        await open_accounts(tuple(cluster.replicas.values()), accounts, chance)
        yield cluster


def _branches(number: int) -> tuple[list[Branch], list[Branch]]:
    """A transfer from the first bank to the second, and one back."""
    body = {"account": f"client-{number}", "amount": 1}
    one, other = BANKS
    return (
        [Branch(one, "debit", body, one), Branch(other, "credit", body, other)],
        [Branch(one, "credit", body, one), Branch(other, "debit", body, other)],
    )


async def _commit(client: Client, branches: Sequence[Branch]) -> Heard:
    loop = asyncio.get_running_loop()
    gid, begun_at_s = client.new_gid(), loop.time()
    try:
        ended = await client.commit(branches, gid=gid)
    except (OutcomeUnknown, Unavailable) as error:
        return Heard(gid, begun_at_s, loop.time(), Outcome.DECIDING, str(error))
    if isinstance(ended, Committed):
        return Heard(gid, begun_at_s, loop.time(), Outcome.COMMITTED, "")
    return Heard(gid, begun_at_s, loop.time(), Outcome.ABORTED, ended.reason)
