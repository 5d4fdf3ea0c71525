"""A proof holds for what was signed, with the secret that it was signed with, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from participant.proof import SECRET_BYTES_MIN, Seal, Source
from participant.termination import Ending

SECRET = b"0123456789abcdef"
GOLDEN = "c3bc581f71a5e13b80bc3a04cb29119c5708f95238cd07b2c771588ea8b8a341"
KEY_ID = "c28c3e64a6f5fd63"


def test_a_proof_holds_for_its_transaction_only() -> None:
    seal = Seal(SECRET)
    proof = seal.sign("t", Ending.COMMIT, Source.LOG, 7, 41)
    assert seal.holds("t", proof)
    assert Seal(SECRET).holds("t", proof), "whoever has the secret checks it"
    assert not seal.holds("u", proof)
    assert not Seal(SECRET[::-1]).holds("t", proof)


@pytest.mark.parametrize(
    "changes",
    [
        {"ending": Ending.ABORT},
        {"source": Source.QUORUM},
        {"term": 8},
        {"index": 40},
        {"branch": "b"},
        {"participant": "bank"},
        {"signature": b"\0" * 32},
        {"signature": b""},
    ],
    ids=str,
)
def test_whatever_is_changed_breaks_it(changes: dict[str, object]) -> None:
    """Seen red for each field that was left out of what is signed."""
    seal = Seal(SECRET)
    proof = seal.sign("t", Ending.COMMIT, Source.LOG, 7, 41)
    assert not seal.holds("t", replace(proof, **changes))  # type: ignore[arg-type]


def test_the_signature_is_fixed() -> None:
    """Participants of another release, or in another language, must come to the same one."""
    proof = Seal(SECRET).sign("t", Ending.COMMIT, Source.LOG, 7, 41)
    assert proof.signature.hex() == GOLDEN
    assert Seal(SECRET).key_id == KEY_ID


def test_secrets_are_told_apart_by_their_id() -> None:
    assert Seal(SECRET).key_id != Seal(SECRET + b"!").key_id
    assert SECRET.hex() not in Seal(SECRET).key_id


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match=f"at least {SECRET_BYTES_MIN} bytes"):
        Seal(SECRET[1:])
