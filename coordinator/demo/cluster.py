"""Three coordinators, two banks and the banks' databases on loopback, in one directory, as processes of their own.

Owns: the processes and their configurations. Must never do: ask them about transactions.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import aiohttp

from coordinator.demo.databases import SQLITE, Database
from coordinator.demo.errors import DemoError
from coordinator.demo.ports import HOST, Ports
from coordinator.demo.process import Process
from coordinator.wire import ClusterView

__all__ = ["READY_TIMEOUT_S", "Cluster"]

READY_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 1.0
ASK_EVERY_S = 0.02
SECRET_BYTES = 24


class Cluster:
    """`replicas` (of the first shard) and `banks`: where they are reached, by name. `databases`: the servers of those
    banks that have one. `raft`: keys of that section of the configuration; `kinds`: of each bank's database;
    `proof_secret`: what coordinators and banks share, for three phases.

    Used with `async with`; leaving it kills everything.
    """

    def __init__(
        self,
        directory: Path,
        nodes: Sequence[str],
        banks: Sequence[str],
        raft: Mapping[str, float] = MappingProxyType({}),
        shards: int = 1,
        kinds: Mapping[str, str] = MappingProxyType({}),
        proof_secret: str | None = None,
    ) -> None:
        self.directory = directory
        self.shards = shards
        self._ports = Ports()
        peers = {name: self._ports.take(shards) for name in nodes}
        clients = {name: self._ports.take(shards) for name in nodes}
        accounts = {name: self._ports.take() for name in banks}
        self._clients = clients
        self.replicas = {name: self.url(name) for name in nodes}
        self.banks = {name: f"http://{HOST}:{port}" for name, port in accounts.items()}
        config = directory / "cluster.toml"
        shared = [] if proof_secret is None else [f'proof_secret = "{proof_secret}"']
        config.write_text(_cluster_toml(peers, clients, self.banks, raft, [f"shards = {shards}", *shared]), "utf-8")
        self.processes = {name: self._process(name, "serve", config, "--node", name) for name in nodes}
        self.databases = {
            name: Database(kind, directory / f"{name}-{kind}", self._ports.take())
            for name, kind in kinds.items()
            if kind != SQLITE
        }
        for name, port in accounts.items():
            file = directory / f"{name}.toml"
            kept = [self._place(name), *shared]
            file.write_text(_bank_toml(name, port, kept, self.replicas.values()), encoding="utf-8")
            self.processes[name] = self._process(name, "participant", file)
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S))

    async def __aenter__(self) -> Self:
        try:
            for database in self.databases.values():
                await database.set_up()
            async with asyncio.TaskGroup() as group:
                for process in self.processes.values():
                    group.create_task(process.start())
            for name in self.processes:
                await self.ready(name)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def url(self, name: str, shard: int = 0) -> str:
        """Where the replica of a shard on a node is reached."""
        return f"http://{HOST}:{self._clients[name] + shard}"

    def check(self) -> None:
        """Raises DemoError if a process has ended although nobody asked it to."""
        for process in self._all:
            process.check()

    async def restart(self, name: str) -> None:
        """Start `name` again, and wait until it serves."""
        await self.processes[name].start()
        await self.ready(name)

    async def ready(self, name: str) -> None:
        """Wait until `name` serves; a coordinator also knows a leader of every shard then. Raises DemoError."""
        if name in self.replicas:
            urls = [f"{self.url(name, shard)}/readyz" for shard in range(self.shards)]
        else:
            urls = [f"{self.banks[name]}/livez"]
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                for url in urls:
                    while not await self._serves(url):
                        self.processes[name].check()
                        await asyncio.sleep(ASK_EVERY_S)
        except TimeoutError:
            raise DemoError(f"{name} does not serve after {READY_TIMEOUT_S:.0f} s; see {self.directory}") from None

    async def leader(self, shard: int = 0, *, other_than: str = "") -> str:
        """The node that leads a shard, by its own word; of several, that of the highest term. Raises DemoError."""
        asked = [self.url(name, shard) for name in self.replicas if name != other_than]
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while True:
                    views = await asyncio.gather(*(self._view(url) for url in asked))
                    leading = [view for view in views if view is not None and view.leader == view.node]
                    if leading:
                        return max(leading, key=lambda view: view.term).node
                    await asyncio.sleep(ASK_EVERY_S)
        except TimeoutError:
            raise DemoError(f"nobody leads after {READY_TIMEOUT_S:.0f} s; see {self.directory}") from None

    async def _serves(self, url: str) -> bool:
        return await self._get(url) is not None

    async def _view(self, url: str) -> ClusterView | None:
        said = await self._get(f"{url}/v1/cluster")
        return None if said is None else ClusterView.model_validate_json(said, extra="ignore")

    async def _get(self, url: str) -> bytes | None:
        """What `url` answers, if it answers 200."""
        try:
            async with self._http.get(url) as response:
                said = await response.read()
                return said if response.status == HTTPStatus.OK else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    def _process(self, name: str, verb: str, config: Path, *more: str) -> Process:
        return Process(name, (verb, "--config", str(config), *more), self.directory / f"{name}.log")

    def _place(self, bank: str) -> str:
        """Where a bank keeps its accounts, as its configuration says it."""
        if bank in self.databases:
            return f'database = "{self.databases[bank].url}"'
        return f'data = "{self.directory / bank}.db"'

    @property
    def _all(self) -> list[Process | Database]:
        return [*self.processes.values(), *self.databases.values()]

    async def _end(self) -> None:
        await asyncio.gather(*(process.kill() for process in self._all))
        await self._http.close()
        self._ports.close()


def _cluster_toml(
    peers: Mapping[str, int],
    clients: Mapping[str, int],
    banks: Mapping[str, str],
    raft: Mapping[str, float],
    more: Iterable[str],
) -> str:
    lines = ["[cluster]", 'id = "demo"', f'secret = "{secrets.token_hex(SECRET_BYTES)}"', *more]
    for name in peers:
        lines += [
            "",
            "[[nodes]]",
            f'name = "{name}"',
            f'raft_address = "{HOST}:{peers[name]}"',
            f'client_address = "{HOST}:{clients[name]}"',
            f'data_dir = "{name}"',
        ]
    lines += ["", "[participants]", *(f'{name} = "{url}"' for name, url in banks.items())]
    lines += ["", "[raft]", *(f"{key} = {value}" for key, value in raft.items())]
    return "\n".join(lines) + "\n"


def _bank_toml(name: str, port: int, more: Iterable[str], replicas: Iterable[str]) -> str:
    urls = ", ".join(f'"{url}"' for url in replicas)
    lines = [f'name = "{name}"', f"port = {port}", *more, f"replicas = [{urls}]"]
    return "\n".join(lines) + "\n"
