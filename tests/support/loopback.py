"""Nodes of the log in this process: real sockets on loopback, the operating system's disk, the event loop's clock."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from raftlog.config import LogConfig, Security, Timing
from raftlog.disk import Disk, RealDisk
from raftlog.node import RaftLog
from raftlog.port import Applied, Member, Outcome, Refusal, Refused, Role
from tests.support.ports import free_addresses

__all__ = ["Blob", "LoopbackCluster"]

_TIMING = Timing(heartbeat_s=0.02, election_min_s=0.1, election_max_s=0.2, lease_s=0.5, silence_s=0.5, redial_s=0.02)
_PATIENCE_S = 20.0
_GLANCE_S = 0.005


class Blob:
    """Remembers every command; the snapshot carries `ballast` as well, so that it may be large."""

    def __init__(self, ballast: bytes = b"") -> None:
        self.commands: list[bytes] = []
        self.ballast = ballast

    def apply(self, _index: int, command: bytes) -> int:
        self.commands.append(command)
        return len(self.commands)

    def snapshot(self) -> Iterable[bytes]:
        captured = list(self.commands)
        return iter((b"\n".join(captured), b"\0", self.ballast))

    def restore(self, chunks: Iterable[bytes]) -> None:
        commands, _, self.ballast = b"".join(chunks).partition(b"\0")
        self.commands = commands.split(b"\n") if commands else []


class LoopbackCluster:
    """`members` that may run here; `start` some of them. `disk` makes the disk of a node from its directory."""

    def __init__(
        self,
        directory: Path,
        names: Iterable[str],
        *,
        snapshot_entries: int = 20,
        disk: Callable[[Path], Disk] = RealDisk,
    ) -> None:
        names = list(names)
        addresses = free_addresses(len(names))
        self.members = {name: Member(name, address) for name, address in zip(names, addresses, strict=True)}
        self.logs: dict[str, RaftLog] = {}
        self.machines: dict[str, Blob] = {}
        self._directory = directory
        self._snapshot_entries = snapshot_entries
        self._disk = disk

    async def start(self, *names: str, among: Iterable[str] = (), ballast: bytes = b"") -> None:
        """Start nodes whose configuration names the members `among` (all, unless said)."""
        members = tuple(self.members[name] for name in among or self.members)
        for name in names or self.members:
            config = LogConfig(
                cluster="loopback",
                name=name,
                members=members,
                security=Security(secret=b"a secret of the loopback"),
                timing=_TIMING,
                snapshot_entries=self._snapshot_entries,
            )
            self.machines[name] = Blob(ballast)
            disk = self._disk(self._directory / name)
            log = RaftLog(config, self.machines[name], disk, random.Random(name))
            self.logs[name] = log  # also if it does not start: it is closed in the end
            await log.start()

    async def stop(self, *names: str) -> None:
        for name in names or list(self.logs):
            await self.logs.pop(name).stop()

    async def leader(self) -> str:
        await self.until(self._leaders)
        return max(self._leaders(), key=lambda name: self.logs[name].leadership.term)

    def _leaders(self) -> list[str]:
        return [name for name, log in self.logs.items() if log.leadership.role is Role.LEADER]

    async def until(self, holds: Callable[[], object]) -> None:
        """For what no event tells: looked at again and again."""
        async with asyncio.timeout(_PATIENCE_S):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(_GLANCE_S)

    async def applied(self, *commands: bytes) -> None:
        """Propose each where the leader is, until it is applied."""
        for command in commands:
            name = hashlib.blake2b(command, digest_size=16).digest()

            def propose(log: RaftLog, command: bytes = command, name: bytes = name) -> Any:
                return log.propose(command, command_id=name)

            await self._insist(propose)

    async def changed(self, change: Callable[[RaftLog], Any]) -> None:
        """Make a change of the membership where the leader is."""
        await self._insist(change)

    async def _insist(self, ask: Callable[[RaftLog], Any]) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                outcome: Outcome = await ask(self.logs[await self.leader()])
                if isinstance(outcome, Applied):
                    return
                assert outcome != Refused(Refusal.TOO_LARGE)
                await asyncio.sleep(_GLANCE_S)

    async def words(self, name: str) -> list[bytes]:
        """What a node holds behind a read point."""
        await self._insist(lambda _: self.logs[name].barrier())
        return self.machines[name].commands
