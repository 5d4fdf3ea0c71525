"""What three phases add to the wire: there and back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from participant.errors import WireError
from participant.ids import BranchKey
from participant.proof import Proof, Source
from participant.termination import COORDINATORS, Ballot, Ending, Leaning, Peer, Policy, Register
from participant.wire import Answer, BranchState, Operation, Verb
from participant.wire_three_phase import PEERS_MAX, TERMS_FIELDS, URL_CHARS_MAX, Terms

KEY = BranchKey("t", "b")
PROOF = Proof(Ending.COMMIT, Source.LOG, 7, 41, b"\x01" * 32)
PROOF_FORM = {"signature": "00" * 32, "ending": "commit", "source": "branch", "term": 0, "index": 0}
PEERS = (Peer("b", "bank-b", "http://b"), Peer("c", "bank-c", "http://c"))

ballots = st.builds(Ballot, st.integers(0, 10**9), st.integers(0, PEERS_MAX))
names = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
peers = st.lists(st.builds(Peer, names, names, st.text(min_size=1, max_size=20)), max_size=5, unique_by=lambda p: p[0])
registers = st.builds(Register, st.sampled_from(Leaning), ballots, st.none() | ballots)
numbers = st.integers(0, 2**63 - 1)
signatures = st.binary(min_size=32, max_size=32)
decided = st.sampled_from([Source.LOG, Source.QUORUM])
proofs = st.builds(Proof, st.sampled_from(Ending), decided, numbers, numbers, signatures) | st.builds(
    Proof, st.sampled_from(Ending), st.just(Source.BRANCH), numbers, numbers, signatures, names, names
)
terms = st.builds(
    lambda each, policy, *rest: Terms(tuple(each), policy if each else Policy.QUORUM, *rest),
    peers,
    st.sampled_from(Policy),
    st.none() | ballots,
    st.none() | registers,
    st.none() | proofs,
    st.just("") | names,
)


@given(terms)
def test_terms_come_back_as_they_went(sent: Terms) -> None:
    """In either encoding."""
    assert Terms.from_map(msgpack.unpackb(msgpack.packb(sent.to_map())), "x") == sent
    assert Terms.from_map(json.loads(json.dumps(sent.to_map())), "x") == sent


def test_every_field_is_known() -> None:
    assert Terms._fields == TERMS_FIELDS


@pytest.mark.parametrize(
    ("form", "where"),
    [
        ([], "x"),
        ({"peers": []}, "x.peers"),
        ({"peers": [["a", "bank", "u"]] * 2}, "x.peers"),
        ({"peers": [["a", "bank"]]}, "x.peers[0]"),
        ({"peers": [["a b", "bank", "u"]]}, "x.peers[0]"),
        ({"peers": [["a", "bank", "u" * (URL_CHARS_MAX + 1)]]}, "x.peers[0]"),
        ({"peers": [[str(n), "bank", "u"] for n in range(PEERS_MAX + 1)]}, "x.peers"),
        ({"policy": "hope"}, "x.policy"),
        ({"ballot": [1]}, "x.ballot"),
        ({"ballot": [True, 1]}, "x.ballot"),
        ({"ballot": [-1, 1]}, "x.ballot"),
        ({"ballot": [10**9 + 1, 1]}, "x.ballot"),
        ({"register": {"leaning": "left", "promised": [0, 0]}}, "x.register.leaning"),
        ({"register": {"leaning": "prepared"}}, "x.register.promised"),
        ({"register": 1}, "x.register"),
        ({"proof": 1}, "x.proof"),
        ({"proof": {"signature": "zz"}}, "x.proof.signature"),
        ({"proof": {"signature": "00" * 31}}, "x.proof.signature"),
        ({"proof": {"signature": "00" * 32, "ending": "rollback"}}, "x.proof.ending"),
        ({"proof": {"signature": "00" * 32, "ending": "commit", "source": "me"}}, "x.proof.source"),
        ({"proof": {"signature": "00" * 32, "ending": "commit", "source": "log", "term": 1}}, "x.proof.index"),
        ({"proof": PROOF_FORM | {"branch": 1}}, "x.proof.branch"),
        ({"proof": PROOF_FORM | {"participant": "a b"}}, "x.proof.participant"),
        ({"participant": "a b"}, "x.participant"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(form: Any, where: str) -> None:
    with pytest.raises(WireError) as refused:
        Terms.from_map(form, "x")
    assert refused.value.field == where


def test_operations_and_answers_carry_them() -> None:
    operation = Operation(Verb.PREPARE, KEY, "debit", {"x": 1}, three_phase=Terms(PEERS))
    assert Operation.from_map(operation.to_map(), "o") == operation
    answer = Answer(BranchState.PREPARED, three_phase=Terms(register=Register(), proof=PROOF))
    assert Answer.from_map(answer.to_map(), "a") == answer


@pytest.mark.parametrize(
    ("operation", "where"),
    [
        (Operation(Verb.CANVASS, KEY), "o.three_phase.ballot"),
        (Operation(Verb.PRECOMMIT, KEY, three_phase=Terms()), "o.three_phase.ballot"),
        (Operation(Verb.CANVASS, KEY, three_phase=Terms(ballot=Ballot(1, 1))), "o.three_phase.participant"),
        (Operation(Verb.OUTCOME, KEY, three_phase=Terms(ballot=COORDINATORS)), "o.three_phase"),
        (Operation(Verb.PREVENT, KEY, three_phase=Terms(ballot=COORDINATORS)), "o.three_phase"),
        (Operation(Verb.COMMIT, KEY, "debit", {}, one_phase=True, three_phase=Terms(PEERS)), "o.three_phase"),
    ],
)
def test_an_operation_has_the_terms_that_it_needs(operation: Operation, where: str) -> None:
    with pytest.raises(WireError) as refused:
        Operation.from_map(operation.to_map(), "o")
    assert refused.value.field == where


def test_an_operation_has_no_unknown_field_and_an_answer_may() -> None:
    form = Operation(Verb.CANVASS, KEY, three_phase=Terms(ballot=Ballot(1, 1), participant="bank")).to_map()
    form["three_phase"]["mood"] = 1
    with pytest.raises(WireError, match="mood"):
        Operation.from_map(form, "o")
    assert Answer.from_map({"state": "prepared", "three_phase": {"mood": 1}}, "a").three_phase == Terms()
