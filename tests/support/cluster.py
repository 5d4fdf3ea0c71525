"""A whole coordinator cluster in one process: production replicas over a `MemoryGroup`, participants in memory.

Method: every replica is the production object; only the log and the participants are the in-memory
implementations of their ports. `serve` puts the production HTTP application of each replica on a loopback port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from coordinator.driver.admission import Admission
from coordinator.driver.notices import SILENT
from coordinator.driver.replica import Replica, Tunables
from coordinator.http.app import build_app, serving
from coordinator.http.context import Context
from coordinator.ledger.records import TransactionRecord
from coordinator.ledger.table import Ledger
from coordinator.participants.local import LocalParticipants
from coordinator.ports import Notifier
from coordinator.wire import BranchRequest, TransactionRequest
from raftlog.memory import MemoryGroup
from raftlog.port import Leadership, Role
from tests.support.participants import Clerk

__all__ = ["ADMISSION", "TUNABLES", "WAIT_S", "Cluster", "cluster", "recorded", "request", "until"]

ADMISSION = Admission()
TUNABLES = Tunables(ride_along_s=0.0)
WAIT_S = 30.0  # how long anything that must happen may take


def request(*names: str, gid: str | None = None, body: object = 1, deadline_ms: int = 10_000) -> TransactionRequest:
    """A transaction with one branch at each of the named participants."""
    branches = [BranchRequest(participant=name, action="do", body=body) for name in names]
    return TransactionRequest(gid=gid, branches=branches, deadline_ms=deadline_ms)


class Cluster:
    """`replicas` by name, `clerks` (participants) by name, `urls` of the served replicas, `now_ms` the wall clock."""

    def __init__(
        self,
        names: Iterable[str],
        clerks: Iterable[Clerk],
        admission: Admission,
        tunables: Tunables,
        notifier: Notifier = SILENT,
    ) -> None:
        self.group = MemoryGroup(names)
        self.clerks = {clerk.name: clerk for clerk in clerks}
        self.urls: dict[str, str] = {}
        self.replicas: dict[str, Replica] = {}
        self.now_ms = 1_700_000_000_000
        self._admission = admission
        self._tunables = tunables
        self._notifier = notifier

    async def start(self, name: str) -> Replica:
        """Start a replica, also again after a crash."""
        ledger = Ledger()
        replica = Replica(
            self.group.join(name, ledger),
            ledger,
            LocalParticipants(self.clerks),
            wall_ms=lambda: self.now_ms,
            chance=Random(name),
            admission=self._admission,
            tunables=self._tunables,
            notifier=self._notifier,
        )
        self.replicas[name] = replica
        await replica.start()
        return replica

    async def lead(self, name: str) -> Replica:
        """Make `name` the leader, and wait until everybody knows."""
        self.group.elect(name)
        for replica in self.replicas.values():
            await until(replica, lambda seen: seen.leader == name)
        return self.replicas[name]

    async def crash(self, name: str) -> None:
        """End a replica as `kill -9` would: nothing is said to anybody."""
        self.group.crash(name)
        await self.replicas.pop(name).stop()

    def context(self, name: str) -> Context:
        """For the HTTP application of one replica."""
        participants = {clerk: f"http://{clerk}.invalid" for clerk in self.clerks}
        return Context(self.replicas[name], "test", name, self.urls, participants)

    async def stop(self) -> None:
        """Stop every replica."""
        for replica in self.replicas.values():
            await replica.stop()


async def until(replica: Replica, holds: Callable[[Leadership], bool]) -> None:
    """Wait until the leadership as `replica` sees it is as wanted."""
    changed = asyncio.Event()
    end = replica.log.subscribe(lambda _: changed.set())
    try:
        async with asyncio.timeout(WAIT_S):
            while not holds(replica.log.leadership):
                changed.clear()
                await changed.wait()
    finally:
        end()


async def recorded(
    replica: Replica, gid: str, holds: Callable[[TransactionRecord], bool], wait_s: float = WAIT_S
) -> TransactionRecord:
    """Wait until the ledger of `replica` holds a record of `gid` as wanted."""
    changed = asyncio.Event()
    end = replica.ledger.subscribe(lambda _: changed.set())
    try:
        async with asyncio.timeout(wait_s):
            while (record := replica.ledger.get(gid)) is None or not holds(record):
                changed.clear()
                await changed.wait()
            return record
    finally:
        end()


@asynccontextmanager
async def cluster(
    replicas: int = 3,
    clerks: Iterable[str] = ("bank-a", "bank-b"),
    *,
    prevent: bool = True,
    admission: Admission = ADMISSION,
    tunables: Tunables = TUNABLES,
    serve: bool = False,
    notifier: Notifier = SILENT,
) -> AsyncIterator[Cluster]:
    """A running cluster that `n1` leads; with `serve`, each replica listens on loopback.

    With `prevent`, which every clerk then can, transactions of several branches take the staged path, else the
    classic one.
    """
    names = [f"n{number}" for number in range(1, replicas + 1)]
    made = Cluster(names, [Clerk(name, prevent=prevent) for name in clerks], admission, tunables, notifier)
    async with AsyncExitStack() as stack:
        for name in names:
            await made.start(name)
        stack.push_async_callback(made.stop)
        await made.lead("n1")
        await until(made.replicas["n1"], lambda seen: seen.role is Role.LEADER)
        for name in names if serve else ():
            app = build_app(made.context(name), Random(name))
            port = await stack.enter_async_context(serving(app, "127.0.0.1", 0, shutdown_s=0.5))
            made.urls[name] = f"http://127.0.0.1:{port}"
        yield made
