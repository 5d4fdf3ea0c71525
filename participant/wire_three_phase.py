"""What a transaction in three phases adds to the contract of `participant.wire`: one field, `three_phase`, both ways.

    prepare                        {"peers": [[branch, participant, url], ...], "policy": "quorum"}
    canvass, precommit, preabort   {"ballot": [number, place], "participant": the name of who is meant}
    commit, abort                  {"proof": {"ending", "source", "term", "index", "signature", "branch"?,
                                    "participant"?}}
    an answer                      {"register": {"leaning", "promised": ballot, "accepted": ballot}, "proof": {...}}

`signature` is 64 hexadecimal digits. A proof names a branch and a participant if its source is `branch`. What the
fields mean stands in `participant.termination` and `participant.proof`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from participant.errors import WireError
from participant.ids import is_branch_id
from participant.proof import Proof, Source
from participant.termination import (
    BALLOT_NUMBER_MAX,
    Ballot,
    Ending,
    Leaning,
    Peer,
    Policy,
    Register,
)

__all__ = ["PEERS_MAX", "TERMS_FIELDS", "URL_CHARS_MAX", "Terms"]

PEERS_MAX = 64
URL_CHARS_MAX = 512
SIGNATURE_BYTES = 32
_INDEX_MAX = 2**63 - 1

TERMS_FIELDS = ("peers", "policy", "ballot", "register", "proof", "participant")


class Terms(NamedTuple):
    """What goes with one operation, or its answer; which of it, see above."""

    peers: tuple[Peer, ...] = ()
    policy: Policy = Policy.QUORUM
    ballot: Ballot | None = None
    register: Register | None = None
    proof: Proof | None = None
    participant: str = ""

    def to_map(self) -> dict[str, Any]:
        """The wire form; fields that say nothing are left out."""
        form: dict[str, Any] = {}
        if self.peers:
            form["peers"] = [list(peer) for peer in self.peers]
            form["policy"] = self.policy.value
        if self.ballot is not None:
            form["ballot"] = list(self.ballot)
        if self.register is not None:
            form["register"] = register_to_map(self.register)
        if self.proof is not None:
            form["proof"] = proof_to_map(self.proof)
        if self.participant:
            form["participant"] = self.participant
        return form

    @classmethod
    def from_map(cls, form: object, where: str) -> Terms:
        """From its wire form; other fields are ignored. Raises WireError, naming the field under `where`."""
        if not isinstance(form, dict):
            raise WireError(where, "must be a map")
        get = form.get
        return cls(
            _peers(form["peers"], f"{where}.peers") if "peers" in form else (),
            _member(Policy, form["policy"], f"{where}.policy") if "policy" in form else Policy.QUORUM,
            None if get("ballot") is None else _ballot(form["ballot"], f"{where}.ballot"),
            None if get("register") is None else register_from_map(form["register"], f"{where}.register"),
            None if get("proof") is None else proof_from_map(form["proof"], f"{where}.proof"),
            _name(form, "participant", where),
        )


def register_to_map(register: Register) -> dict[str, Any]:
    """The wire form."""
    form: dict[str, Any] = {"leaning": register.leaning.value, "promised": list(register.promised)}
    if register.accepted is not None:
        form["accepted"] = list(register.accepted)
    return form


def register_from_map(form: object, where: str) -> Register:
    """The inverse of `register_to_map`. Raises WireError."""
    if not isinstance(form, dict):
        raise WireError(where, "must be a map")
    accepted = form.get("accepted")
    return Register(
        _member(Leaning, form.get("leaning"), f"{where}.leaning"),
        _ballot(form.get("promised"), f"{where}.promised"),
        None if accepted is None else _ballot(accepted, f"{where}.accepted"),
    )


def proof_to_map(proof: Proof) -> dict[str, Any]:
    """The wire form."""
    form = {
        "ending": proof.ending.value,
        "source": proof.source.value,
        "term": proof.term,
        "index": proof.index,
        "signature": proof.signature.hex(),
    }
    if proof.source is Source.BRANCH:
        form |= {"branch": proof.branch, "participant": proof.participant}
    return form


def proof_from_map(form: object, where: str) -> Proof:
    """The inverse of `proof_to_map`. Raises WireError."""
    if not isinstance(form, dict):
        raise WireError(where, "must be a map")
    signature = form.get("signature")
    try:
        signed = bytes.fromhex(signature) if isinstance(signature, str) else b""
    except ValueError:
        signed = b""
    if len(signed) != SIGNATURE_BYTES:
        raise WireError(f"{where}.signature", f"must be {2 * SIGNATURE_BYTES} hexadecimal digits")
    return Proof(
        _member(Ending, form.get("ending"), f"{where}.ending"),
        _member(Source, form.get("source"), f"{where}.source"),
        _number(form.get("term"), f"{where}.term", _INDEX_MAX),
        _number(form.get("index"), f"{where}.index", _INDEX_MAX),
        signed,
        _name(form, "branch", where),
        _name(form, "participant", where),
    )


def _name(form: dict[Any, Any], field: str, where: str) -> str:
    """A name, or "" if there is none."""
    name = form.get(field, "")
    if not isinstance(name, str) or (name and not is_branch_id(name)):
        raise WireError(f"{where}.{field}", "must be 1 to 64 of A-Z a-z 0-9 _ . : -, or absent")
    return name


def _peers(value: object, where: str) -> tuple[Peer, ...]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= PEERS_MAX:
        raise WireError(where, f"must be a list of 1 to {PEERS_MAX} peers")
    peers = tuple(_peer(each, f"{where}[{index}]") for index, each in enumerate(value))
    if len({peer.branch for peer in peers}) != len(peers):
        raise WireError(where, "name a branch twice")
    return peers


def _peer(value: object, where: str) -> Peer:
    match value:
        case [str(branch), str(participant), str(url)]:
            is_named = is_branch_id(branch) and is_branch_id(participant)
            if is_named and 0 < len(url) <= URL_CHARS_MAX:
                return Peer(branch, participant, url)
    raise WireError(where, f"must be [branch, participant, url], the url of 1 to {URL_CHARS_MAX} characters")


def _ballot(value: object, where: str) -> Ballot:
    match value:
        case [number, place]:
            return Ballot(_number(number, where, BALLOT_NUMBER_MAX), _number(place, where, PEERS_MAX))
    raise WireError(where, "must be [number, place]")


def _number(value: object, where: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise WireError(where, f"must be an integer from 0 to {most:,}")
    return value


_E = TypeVar("_E", bound=StrEnum)


def _member(kind: type[_E], value: object, where: str) -> _E:
    for member in kind:
        if member.value == value:
            return member
    raise WireError(where, f"must be one of {', '.join(kind)}")
