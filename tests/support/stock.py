"""The stock library, pysyncobj 0.3.17 as it is installed, in a `World`: what we would build on without a guard.

Its journal is a memory map that nothing flushes (`pysyncobj/journal.py`); `_PowerlessFile` keeps beside each file
what would be on the platters: its content at the last flush, which never comes, or when the kernel last wrote back
by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pysyncobj.journal
import pysyncobj.pickle
import pysyncobj.syncobj
import pytest
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.support.world import NEVER_S, Answer, Message, Network, Settings, World

__all__ = ["StockWorld"]

# The documented meaning of each reason (pysyncobj/config.py); a command that was "discarded" or had "no time to
# commit" before the leader changed was, by these words, not applied.
_MEANING = {FAIL_REASON.SUCCESS: Answer.APPLIED, FAIL_REASON.UNKNOWN_OUTCOME: Answer.UNKNOWN}


class _Links(Transport):  # type: ignore[misc]  # the library has no types
    """The library's transport on a `Network`."""

    ready = True

    def __init__(self, replica: Any, own: Node, network: Network) -> None:
        super().__init__(replica, own, [])
        self._own = own.id
        self._network = network

    def send(self, node: Node, message: Message) -> bool:
        return self._network.send(self._own, node.id, message)

    def receive(self, peer: str, message: Message) -> None:
        self._onMessageReceived(Node(peer), message)

    def connected(self, peer: str) -> None:
        self._onNodeConnected(Node(peer))

    def disconnected(self, peer: str) -> None:
        self._onNodeDisconnected(Node(peer))

    def destroy(self) -> None:
        """Nothing is held."""


class Register(SyncObj):  # type: ignore[misc]  # the library has no types
    """What a user of the library writes: an object with one replicated method."""

    POISON = b"poison"

    def __init__(self, own: str, others: Iterable[str], conf: SyncObjConf, network: Network) -> None:
        nodes = [Node(other) for other in others]
        self.links = _Links(self, Node(own), network)
        super().__init__(Node(own), nodes, conf, nodeClass=Node, transport=self.links)
        self.values: list[bytes] = []

    @replicated  # type: ignore[untyped-decorator]  # the library has no types
    def put(self, value: bytes) -> None:
        self.values.append(value)
        if value == self.POISON:
            raise ZeroDivisionError("a bug in the state machine")


class _PowerlessFile(pysyncobj.journal.ResizableFile):  # type: ignore[misc]  # the library has no types
    """The library's memory-mapped file, and what of it a power cut would leave."""

    durable: ClassVar[dict[str, bytes]]
    open_files: ClassVar[dict[str, _PowerlessFile]]

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._name = name
        self.open_files[name] = self
        self.durable.setdefault(name, self.content())

    def content(self) -> bytes:
        return Path(self._name).read_bytes()

    def flush(self) -> None:
        super().flush()
        self.durable[self._name] = self.content()

    def abandon(self) -> None:
        """`kill -9`: the mapping goes, its pages stay with the kernel."""
        self._ResizableFile__mm.close()
        self._ResizableFile__f.close()


class StockWorld(World):
    """`directory` keeps the journals; without it everything is in memory, as is the library's default.

    `options` go to `SyncObjConf`; in those that are text, {directory} and {name} are filled in. An exception in a
    tick or a message is followed by the next one, as in the library's own thread.
    """

    def __init__(
        self,
        names: Iterable[str],
        settings: Settings,
        patch: pytest.MonkeyPatch,
        directory: Path | None = None,
        **options: Any,
    ) -> None:
        self.meta_survives = True
        self._directory = directory
        self._options = options
        self._replicas: dict[str, Register] = {}
        self._reset_library(patch)
        super().__init__(names, settings)

    def _reset_library(self, patch: pytest.MonkeyPatch) -> None:
        """As if nobody had adapted the module, but for its clock and its dice."""
        module = pysyncobj.syncobj
        patch.setattr(module, "createJournal", pysyncobj.journal.createJournal)
        patch.setattr(module, "pickle", pysyncobj.pickle)
        patch.setattr(module, "monotonicTime", lambda: self.now)
        patch.setattr(module, "random", random.Random(1))
        _PowerlessFile.durable, _PowerlessFile.open_files = {}, {}
        patch.setattr(pysyncobj.journal, "ResizableFile", _PowerlessFile)

    def _boot(self, name: str) -> None:
        files: dict[str, str] = {}
        if self._directory is not None:
            files["journalFile"] = str(self._directory / f"{name}.journal")
        conf = SyncObjConf(
            **{
                "autoTick": False,
                "useFork": False,
                "appendEntriesPeriod": 0.1,
                "appendEntriesBatchSizeBytes": self.settings.append_bytes,
                "raftMinTimeout": NEVER_S,
                "raftMaxTimeout": 2 * NEVER_S,
                "connectionTimeout": 2 * NEVER_S,
                "leaderFallbackTimeout": self.settings.lease_s,
                "logCompactionMinEntries": 1 << 40,
                "logCompactionMinTime": NEVER_S,
                **files,
                **{key: self._expand(value, name) for key, value in self._options.items()},
            }
        )
        others = [other for other in self.names if other != name]
        self._replicas[name] = Register(name, others, conf, self.network)

    def _expand(self, value: Any, name: str) -> Any:
        return value.format(directory=self._directory, name=name) if isinstance(value, str) else value

    def _halt(self, name: str) -> None:
        del self._replicas[name]
        file = _PowerlessFile.open_files.pop(self._journal(name), None)
        if file is not None:
            file.abandon()

    def _journal(self, name: str) -> str:
        return str(self._directory / f"{name}.journal") if self._directory is not None else ""

    def _lose_power(self, name: str) -> None:
        """The `.meta` file is renamed into place without a sync: its content may survive or be empty."""
        if self._directory is not None:
            Path(self._journal(name)).write_bytes(_PowerlessFile.durable[self._journal(name)])
            if not self.meta_survives:
                Path(self._journal(name) + ".meta").write_bytes(b"")

    def rot(self, name: str, content: bytes) -> None:
        path = Path(self._journal(name))
        path.write_bytes(path.read_bytes().replace(content, bytes([content[0] ^ 1]) + content[1:]))

    def write_back(self) -> None:
        for path, file in _PowerlessFile.open_files.items():
            _PowerlessFile.durable[path] = file.content()

    def _failed(self, name: str) -> None:
        """The library's thread logs it and ticks again (`SyncObj._autoTickThread`)."""

    def _tick(self, name: str) -> None:
        self._replicas[name].doTick(0)

    def _receive(self, name: str, peer: str, message: Message) -> None:
        self._replicas[name].links.receive(peer, message)

    def _connected(self, name: str, peer: str) -> None:
        if name in self._replicas:
            self._replicas[name].links.connected(peer)

    def _disconnected(self, name: str, peer: str) -> None:
        self._replicas[name].links.disconnected(peer)

    def _expire(self, name: str) -> None:
        self._replicas[name]._SyncObj__raftElectionDeadline = 0

    def put(self, name: str, value: bytes, then: Callable[[], None] = lambda: None) -> None:
        def answered(_result: Any, reason: int) -> None:
            self.answers[value] = _MEANING.get(reason, Answer.REFUSED)
            then()

        self._replicas[name].put(value, callback=answered)

    def state(self, name: str) -> list[bytes]:
        return self._replicas[name].values

    def leads(self, name: str) -> bool:
        return bool(self._replicas[name]._isLeader())

    def term(self, name: str) -> int:
        return int(self._replicas[name].raftCurrentTerm)

    def last_index(self, name: str) -> int:
        return int(self._replicas[name]._SyncObj__raftLog[-1][1])

    def snapshot(self, *names: str, trim: bool = True) -> None:
        """The library writes its dump at the end of one tick, and trims the log at the end of the next."""
        for name in names:
            self._replicas[name].forceLogCompaction()
        self.tick(*names)
        if trim:
            self.tick(*names)
