"""The state machine of the raft world: an append-only list, kept as a length and a hash of all that is in it."""

from __future__ import annotations

from collections.abc import Iterable

import msgpack

from tests.simulation.checkers.applied import EMPTY_CHAIN, AppliedSequence, link

__all__ = ["Listing"]


class Listing:
    """`raftlog.port.StateMachine` of one node. `apply` returns the position, from 1; the checker sees everything.

    `ballast_bytes` pads the snapshots, so that they travel in several pieces.
    """

    def __init__(self, node: str, sequence: AppliedSequence, ballast_bytes: int) -> None:
        self.length = 0
        self._node = node
        self._sequence = sequence
        self._ballast = bytes(ballast_bytes)
        self._chain = EMPTY_CHAIN

    def apply(self, index: int, command: bytes) -> int:
        self.length += 1
        self._chain = link(self._chain, command)
        self._sequence.applied(self._node, self.length, index, command)
        return self.length

    def snapshot(self) -> Iterable[bytes]:
        return iter((msgpack.packb([self.length, self._chain, self._ballast]),))

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.length, self._chain, _ = msgpack.unpackb(b"".join(chunks))
        self._sequence.restored(self._node, self.length, self._chain)
