"""A decision that one participant hands to another, and the proof that it is one. Sans-IO.

A participant that is asked by a peer how a transaction ended may have heard it from the coordinators, from a majority
of the participants, or have made it so by refusing its vote. It hands over the *ending*, where it is from, and a
signature: HMAC-SHA256 (RFC 2104) with the secret that coordinators and participants share. One that does not check is
no decision.

What it defends against is a decision of another cluster, of another transaction, or of anybody who is not configured
with the secret; and, because a branch's own end is signed with its name and its participant's, a decision of a branch
that is none of this transaction. A participant that has the secret and lies is not defended against. See
`docs/adr/0026`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from enum import StrEnum

import msgpack

from participant.termination import Ending

__all__ = ["SECRET_BYTES_MIN", "Proof", "Seal", "Source"]

SECRET_BYTES_MIN = 16
KEY_ID_CHARS = 16
_CONTEXT = "commitd proof 1"


class Source(StrEnum):
    """Who has decided."""

    LOG = "log"  # the coordinators; `term` and `index` of their log
    QUORUM = "quorum"  # a majority of the participants; the `number` and the `place` of their ballot
    BRANCH = "branch"  # the branch itself is at its end, for it refused its vote, or has heard the decision


@dataclass(frozen=True, slots=True)
class Proof:
    """A signed decision. `term` and `index` say when: see `Source`; 0 of a branch. `branch` and `participant`: whose
    end it is, of a branch; "" of the others.
    """

    ending: Ending
    source: Source
    term: int
    index: int
    signature: bytes
    branch: str = ""
    participant: str = ""


class Seal:
    """Signs and checks with one secret of at least SECRET_BYTES_MIN bytes. Raises ValueError for a shorter one.

    `key_id` tells secrets apart, and says nothing about them.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret is too short: at least {SECRET_BYTES_MIN} bytes")
        self._secret = secret
        self.key_id = self._mac("key id").hex()[:KEY_ID_CHARS]

    def sign(self, gid: str, ending: Ending, source: Source, term: int = 0, index: int = 0) -> Proof:
        """A proof of what the caller, which is no branch, knows to be so."""
        return self._signed(gid, Proof(ending, source, term, index, b""))

    def sign_own(self, gid: str, ending: Ending, branch: str, participant: str) -> Proof:
        """A proof of how this branch of this participant has ended."""
        return self._signed(gid, Proof(ending, Source.BRANCH, 0, 0, b"", branch, participant))

    def holds(self, gid: str, proof: Proof) -> bool:
        """Whether somebody with the secret has signed it for this transaction."""
        return hmac.compare_digest(self._signed(gid, proof).signature, proof.signature)

    def _signed(self, gid: str, proof: Proof) -> Proof:
        what = (gid, proof.ending.value, proof.source.value, proof.term, proof.index, proof.branch, proof.participant)
        return replace(proof, signature=self._mac(*what))

    def _mac(self, *parts: str | int) -> bytes:
        return hmac.digest(self._secret, msgpack.packb((_CONTEXT, *parts)), hashlib.sha256().name)
