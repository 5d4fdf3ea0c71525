"""Snapshots on their way between replicas, in bounded pieces. Sans-IO.

Outgoing: a follower that is too far behind for the log gets the newest snapshot first. At most `WINDOW_BYTES` are on
the way to it; the rest waits for its word.
Incoming: pieces are collected until the whole verifies; only then is anything installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raftlog.errors import Corrupt
from raftlog.snapshots import Snapshot

__all__ = ["PIECE_BYTES", "SNAPSHOT_BYTES_MAX", "WINDOW_BYTES", "Transfers"]

PIECE_BYTES = 256 << 10
WINDOW_BYTES = 1 << 20
SNAPSHOT_BYTES_MAX = 1 << 30


@dataclass(slots=True)
class _Outgoing:
    snapshot: Snapshot | None = None  # until it has been read
    sent_bytes: int = 0
    acknowledged_bytes: int = 0


@dataclass(slots=True)
class _Incoming:
    leader: str
    index: int
    total_bytes: int
    data: bytearray = field(default_factory=bytearray)


class Transfers:
    """Both directions of one node.

    `load`: asks for the newest snapshot, to be handed to `offer` when it has been read. `held`: whether this node
    already holds what a snapshot up to (index, term) would bring. `install`: takes a verified snapshot over.
    """

    def __init__(
        self,
        load: Callable[[], None],
        held: Callable[[int, int], bool],
        install: Callable[[Snapshot], None],
    ) -> None:
        self._load = load
        self._held = held
        self._install = install
        self._outgoing: dict[str, _Outgoing] = {}
        self._incoming: _Incoming | None = None
        self.refused = 0  # sent snapshots that were of no use to the follower
        self.rejected = 0  # received snapshots that did not verify

    # Outgoing --------------------------------------------------------------------------------------------

    def begin(self, peer: str) -> None:
        """This follower needs a snapshot; no change if it is getting one."""
        if peer not in self._outgoing:
            self._outgoing[peer] = _Outgoing()
            self._load()

    def active(self, peer: str) -> bool:
        """Whether this follower is being brought up to date."""
        return peer in self._outgoing

    @property
    def sending(self) -> bool:
        """Whether any follower is. The log is not trimmed under its feet."""
        return bool(self._outgoing)

    def offer(self, snapshot: Snapshot) -> None:
        """The snapshot that `load` asked for."""
        for outgoing in self._outgoing.values():
            if outgoing.snapshot is None:
                outgoing.snapshot = snapshot

    def next_piece(self, peer: str) -> dict[str, Any] | None:
        """What to send to this follower now, if anything."""
        outgoing = self._outgoing[peer]
        if outgoing.snapshot is None:
            return None
        meta, data, offset = outgoing.snapshot.meta, outgoing.snapshot.data, outgoing.sent_bytes
        if offset == len(data) or offset - outgoing.acknowledged_bytes >= WINDOW_BYTES:
            return None
        end = outgoing.sent_bytes = min(offset + PIECE_BYTES, len(data))
        return {
            "index": meta.index,
            "term": meta.term,
            "offset": offset,
            "total": len(data),
            "data": data[offset:end],
        }

    def acknowledged(self, peer: str, received_bytes: int, *, satisfied: bool) -> bool:
        """A follower has collected so much, or all that it needed (`satisfied`); whether there is more for it."""
        outgoing = self._outgoing.get(peer)
        if outgoing is None or outgoing.snapshot is None:
            return False
        if satisfied:
            del self._outgoing[peer]
        elif received_bytes >= len(outgoing.snapshot.data):
            # It could not use the whole, and may never be able to. The end, so that the log can be trimmed; the next
            # heartbeat shows that the follower still lacks something, and the newest snapshot is sent.
            del self._outgoing[peer]
            self.refused += 1
            return False
        else:
            outgoing.acknowledged_bytes = max(outgoing.acknowledged_bytes, min(received_bytes, outgoing.sent_bytes))
        return True

    def cancel(self, peer: str) -> None:
        """What was on the way to this follower is lost, or of no use any more."""
        self._outgoing.pop(peer, None)

    def cancel_all(self) -> None:
        """We lead no more."""
        self._outgoing.clear()

    def getTransmissionData(self, node: Any) -> None:  # noqa: N802
        """For the library, in the place of its serializer: it has nothing to send itself (see `guard`)."""

    def cancelTransmisstion(self, node: Any) -> None:  # noqa: N802
        """For the library, in its spelling: the connection is gone."""
        self.cancel(node.id)

    # Incoming --------------------------------------------------------------------------------------------

    def take(self, leader: str, piece: dict[str, Any]) -> int | None:
        """Collect a piece; once the whole is installed, or known to be needless, the index it stands for."""
        index, offset = piece["index"], piece["offset"]
        if self._held(index, piece["term"]):
            self._incoming = None
            return int(index)
        if offset == 0 and piece["total"] <= SNAPSHOT_BYTES_MAX:
            self._incoming = _Incoming(leader, index, piece["total"])
        incoming = self._incoming
        if incoming is None or (incoming.leader, incoming.index) != (leader, index) or len(incoming.data) != offset:
            return None  # the leader begins again when its library notices that nothing arrived
        incoming.data += piece["data"]
        if len(incoming.data) < incoming.total_bytes:
            return None
        self._incoming = None
        try:
            snapshot = Snapshot.verify(bytes(incoming.data), f"snapshot {index} from {leader}")
        except Corrupt:
            snapshot = None
        if snapshot is None or (snapshot.meta.index, snapshot.meta.term) != (index, piece["term"]):
            self.rejected += 1
            return None
        self._install(snapshot)
        return int(index)
