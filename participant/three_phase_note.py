"""What a participant keeps of a branch in three phases: a `NoteKeeper` holds it as bytes. Sans-IO."""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from participant.errors import ResourceFailed, WireError
from participant.proof import Proof
from participant.termination import Peer, Policy, Register
from participant.wire_three_phase import Terms

__all__ = ["Note"]


class Note(NamedTuple):
    """What is kept of one branch. `proof`: of its end, once that is known."""

    peers: tuple[Peer, ...]
    policy: Policy
    register: Register = Register()
    proof: Proof | None = None

    @property
    def is_bound(self) -> bool:
        """Whether its branch has promised something, or knows its end. It has voted then."""
        return self.proof is not None or self.register != Register()

    def pack(self) -> bytes:
        """As bytes: the wire form of its terms."""
        terms = Terms(self.peers, self.policy, register=self.register, proof=self.proof)
        packed: bytes = msgpack.packb(terms.to_map())
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Note:
        """The inverse of `pack`. Raises ResourceFailed if it is none."""
        try:
            terms = Terms.from_map(msgpack.unpackb(data), "note")
        except (WireError, ValueError, msgpack.UnpackException) as error:
            raise ResourceFailed(f"a note holds what is none: {error}") from error
        return cls(terms.peers, terms.policy, terms.register or Register(), terms.proof)
