"""A guard between a wire that keeps what leaves and a core that keeps what arrives; for the tests beside it.

The core is a stub that says what it is told to say and keeps what it is given; the journal is the real one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from raftlog.guard import Guard
from raftlog.journal import RaftJournal
from raftlog.messages import Message
from raftlog.snapshots import Snapshot
from raftlog.transfers import Transfers

TERM = 5


class Wire:
    """Who was sent what."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.backlog = 0

    def send(self, peer: str, message: Message) -> bool:
        self.sent.append((peer, message))
        return True

    def backlog_bytes(self, _peer: str) -> int:
        return self.backlog


class Core:
    """What the guard asks of the core, answered as a test wants it; and what the guard let through."""

    def __init__(self) -> None:
        self.term = TERM
        self.leading = False
        self.followed: str | None = None
        self.yielded: list[int] = []
        self.commit_index = 1
        self.applied_index = 1
        self.members = {"n2", "n3"}
        self.next: dict[str, int] = {}
        self.delivered: list[tuple[str, Message]] = []
        self.loads = 0
        self.held_index = 0
        self.installed: list[Snapshot] = []
        self.transfers = Transfers(self._load, lambda index, _: index <= self.held_index, self.installed.append)

    def _load(self) -> None:
        self.loads += 1

    def node(self, name: str) -> Any:
        return SimpleNamespace(id=name)

    def is_member(self, name: str) -> bool:
        return name in self.members

    def next_index(self, name: str) -> int:
        return self.next.get(name, 0)

    def set_next_index(self, name: str, index: int) -> None:
        self.next[name] = index

    def yield_to(self, term: int) -> None:
        self.yielded.append(term)


class Node:
    """A guard in its place. The log has the entries 1 to 10: 1 of term 0, 2 to 6 of term 3, 7 to 10 of term 4."""

    def __init__(self, *, leading: bool = False) -> None:
        self.journal = RaftJournal([], None)
        for index in range(1, 11):
            self.journal.add(b"\0c", index, 0 if index == 1 else 3 if index < 7 else 4)
        self.core = Core()
        self.core.leading = leading
        self.wire = Wire()
        self.guard = Guard(self.core, self.journal, self.wire)
        self.guard.setOnMessageReceivedCallback(self._deliver)
        self.flush()

    def _deliver(self, node: Any, message: Message) -> None:
        self.core.delivered.append((node.id, message))

    # The disk
    def begin(self) -> None:
        self.journal.take()
        self.guard.flush_started()

    def finish(self) -> None:
        self.journal.synced()
        self.guard.flush_done()

    def flush(self) -> None:
        self.begin()
        self.finish()

    # The peers
    def receives(self, peer: str, message: Message) -> Message | None:
        """What the library sees of a message, if anything."""
        before = len(self.core.delivered)
        self.guard.receive(peer, message)
        seen = self.core.delivered[before:]
        assert len(seen) <= 1
        return seen[0][1] if seen else None

    def sends(self, peer: str, message: Message) -> None:
        """What the library says."""
        self.guard.send(SimpleNamespace(id=peer), message)

    @property
    def said(self) -> list[Message]:
        return [message for _, message in self.wire.sent]


def append(previous: int, previous_term: int, *entries: tuple[int, int], **fields: Any) -> Message:
    """Entries as (index, term)."""
    message: Message = {"type": "append_entries", "term": TERM, "commit_index": 0, "burst": 0}
    listed = [[b"\0c", index, term] for index, term in entries]
    return {**message, "prevLogIdx": previous, "prevLogTerm": previous_term, "entries": listed, **fields}


def answer(following: int, **fields: Any) -> Message:
    message: Message = {"type": "next_node_idx", "next_node_idx": following, "reset": False, "success": True}
    return {**message, "term": TERM, "burst": 0, "received": 0, **fields}


def shape(message: Message | None) -> tuple[Any, ...]:
    assert message is not None
    return message["prevLogIdx"], message["prevLogTerm"], [(entry[1], entry[2]) for entry in message["entries"]]
