"""Snapshots on their way between replicas, in bounded pieces. Sans-IO.

Outgoing: stands in the place of the library's serializer, which asks for the next piece each time it would send to a
follower that is too far behind. At most `WINDOW_BYTES` are on the way to one follower; the rest waits for its word.
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
    snapshot: Snapshot
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
        self._offered: Snapshot | None = None
        self._outgoing: dict[str, _Outgoing] = {}
        self._incoming: _Incoming | None = None
        self.rejected = 0  # received snapshots that did not verify

    # Outgoing: the library's serializer ------------------------------------------------------------------

    def getTransmissionData(self, node: Any) -> tuple[dict[str, Any], bool, bool] | None:  # noqa: N802
        """The next piece for `node`, or None while there is none to send.

        Never says that a piece is the last: the library would guess where the follower then is. Its word will tell.
        """
        outgoing = self._outgoing.get(node.id)
        if outgoing is None:
            if self._offered is None:
                self._load()
                return None
            outgoing = self._outgoing[node.id] = _Outgoing(self._offered)
        meta, data, offset = outgoing.snapshot.meta, outgoing.snapshot.data, outgoing.sent_bytes
        if offset == len(data) or offset - outgoing.acknowledged_bytes >= WINDOW_BYTES:
            return None
        end = outgoing.sent_bytes = min(offset + PIECE_BYTES, len(data))
        piece = {
            "index": meta.index,
            "term": meta.term,
            "offset": offset,
            "total": len(data),
            "data": data[offset:end],
        }
        return piece, offset == 0, False

    def cancelTransmisstion(self, node: Any) -> None:  # noqa: N802  # the library's spelling
        """The connection to `node` is gone, and so is what was on the way."""
        self._finished(node.id)

    def _finished(self, peer: str) -> None:
        self._outgoing.pop(peer, None)
        if not self._outgoing:
            self._offered = None  # megabytes that nobody needs now

    @property
    def sending(self) -> bool:
        """Whether some follower is being brought up to date. The log is not trimmed under its feet."""
        return bool(self._outgoing)

    def offer(self, snapshot: Snapshot) -> None:
        """The snapshot that `load` asked for."""
        self._offered = snapshot

    def acknowledged(self, peer: str, received_bytes: int, *, satisfied: bool) -> bool:
        """A follower has collected so much, or all that it needed (`satisfied`); whether there is more for it."""
        outgoing = self._outgoing.get(peer)
        if outgoing is None:
            return False
        if satisfied or received_bytes >= len(outgoing.snapshot.data):
            self._finished(peer)  # if it could not use the whole, the library asks again from the beginning
            return False
        outgoing.acknowledged_bytes = max(outgoing.acknowledged_bytes, min(received_bytes, outgoing.sent_bytes))
        return True

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
            self.rejected += 1
            return None
        self._install(snapshot)
        return int(index)
