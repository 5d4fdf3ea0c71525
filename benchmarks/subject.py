"""The subject of the commit path's benchmark: three replicas and the participants of every load, each a process.

Owns: the processes, and what they have spent. A measurement uses some of the participants; the others idle meanwhile.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import aiohttp

from benchmarks.clients import Calling, ClientCaller
from benchmarks.services import RETENTION_S
from benchmarks.spending import Reading, cpu_s
from coordinator.demo.cluster import Cluster
from coordinator.demo.process import Process
from coordinator.demo.run import NODES
from participant.books import SCHEMA

__all__ = ["ACCOUNTS", "BANKS", "CLASSIC_KEYS", "KEYS", "OPENING_CENTS", "Child", "Subject", "fill"]

KEYS = ("keys-a", "keys-b")
CLASSIC_KEYS = ("classic-a", "classic-b")
BANKS = ("bank-a", "bank-b")
PARTICIPANTS = {
    **dict.fromkeys(KEYS, "keys"),
    **dict.fromkeys(CLASSIC_KEYS, "keys-classic"),
    **dict.fromkeys(BANKS, "bank"),
}
ACCOUNTS = 20_000  # at each bank
OPENING_CENTS = 1_000_000_00


class Child(Process):
    """A process that can be looked up in /proc."""

    @property
    def pid(self) -> int:
        """While it runs."""
        if self._child is None:
            raise ProcessLookupError(f"{self.name} does not run")
        return self._child.pid


class Subject(Cluster):
    """A cluster whose participants are of the benchmark's own kinds (`benchmarks.services.KINDS`), by name."""

    calling: Calling = ClientCaller

    def __init__(
        self,
        directory: Path,
        kinds: Mapping[str, str] | None = None,
        *,
        server: str = "coordinator",
        limits: Mapping[str, int] = MappingProxyType({}),
        proof_secret: str | None = None,
        retention_s: float = RETENTION_S,
    ) -> None:
        """`server`: the module that runs a replica. `limits`: keys of that section of the configuration. `retention_s`:
        of the coordinators. The rest: see `Cluster`."""
        self._kinds = PARTICIPANTS if kinds is None else kinds
        self._server = server
        self.children: dict[str, Child] = {}
        super().__init__(directory, NODES, tuple(self._kinds), proof_secret=proof_secret)
        with (directory / "cluster.toml").open("a", encoding="utf-8") as config:
            config.write(f"\n[timing]\nretention_s = {retention_s}\n\n[limits]\n")
            config.writelines(f"{key} = {limit}\n" for key, limit in limits.items())
        for name, kind in self._kinds.items():
            if kind == "bank":
                fill(directory / f"{name}.db")
        self._session = aiohttp.ClientSession()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await super().__aexit__(kind, error, trace)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients ask."""
        return tuple(self.replicas.values())

    async def kill(self, name: str) -> None:
        """kill -9. What it has spent is not looked at any more."""
        await self.processes[name].kill()
        del self.children[name]

    async def read(self) -> Reading:
        """What all processes have spent until now, those of the clients not among them."""
        self.check()
        syncs = sum(await asyncio.gather(*self._syncs()))
        cpu = {"coordinators": self._cpu_s(self.replicas), "participants": self._cpu_s(self.banks)}
        return Reading.now(cpu, syncs)

    async def open_transactions(self) -> int:
        """Unfinished transactions, by the leader's word."""
        view = await self._document(f"{self.replicas[await self.leader()]}/v1/cluster")
        return int(view["open"])

    def _cpu_s(self, names: Iterable[str]) -> float:
        return cpu_s(self.children[name].pid for name in names if name in self.children)

    def _syncs(self) -> Iterable[asyncio.Future[int]]:
        for url in self.replicas.values():
            yield asyncio.ensure_future(self._replica_syncs(url))
        for name in self.banks.keys() & self.children.keys():
            yield asyncio.ensure_future(self._participant_syncs(self.banks[name]))

    async def _replica_syncs(self, url: str) -> int:
        return int((await self._document(f"{url}/v1/cluster"))["counters"]["syncs"])

    async def _participant_syncs(self, url: str) -> int:
        return int((await self._document(f"{url}/v1/syncs"))["syncs"])

    async def _document(self, url: str) -> dict[str, Any]:
        async with self._session.get(url, raise_for_status=True) as response:
            document: dict[str, Any] = await response.json()
            return document

    def _process(self, name: str, verb: str, config: Path, *more: str) -> Process:
        log = self.directory / f"{name}.log"
        if verb == "serve":
            child = Child(name, (verb, "--config", str(config), *more), log, module=self._server)
        else:
            child = Child(name, (self._kinds[name], "--config", str(config)), log, module="benchmarks.services")
        self.children[name] = child
        return child


def fill(file: Path) -> None:
    """A bank's database with all its accounts, named by their numbers."""
    with sqlite3.connect(file) as db:
        db.executescript(SCHEMA)
        rows = ((str(number), OPENING_CENTS) for number in range(ACCOUNTS))
        db.executemany("INSERT INTO accounts VALUES (?, ?)", rows)
    db.close()
