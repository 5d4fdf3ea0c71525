"""Claims of C. Mohan, B. Lindsay and R. Obermarck, "Transaction Management in the R* Distributed Database Management
System", ACM TODS 11(4), 1986, held against our code.

Each test states a claim of the paper, in our words, with its section, and checks it over every step of a small world
(`tests/exhaustive`). Subordinates are our participants, the coordinator's log is our replicated one.
"""

from __future__ import annotations

import pytest

from coordinator.ledger.commands import BY_INQUIRY, BY_VOTES, Begin, Decide
from coordinator.ledger.records import BranchRecord, Decision, Path, Phase
from coordinator.ledger.table import Accepted, Ledger, Rejected
from participant.wire import BranchState, Verb
from tests.exhaustive.search import edges
from tests.exhaustive.world import NO, READ_ONLY, YES, BranchWorld, Rules, World

DECIDED_COMMIT = (Phase.COMMITTING, Phase.COMMITTED)
DECIDED_ABORT = (Phase.ABORTING, Phase.ABORTED)


def under_way(world: World, verb: Verb) -> bool:
    return any(request[0] == verb for branch in world.branches for request in branch.requests)


def newly_sent(before: BranchWorld, after: BranchWorld) -> set[str]:
    """The verbs of the requests for whose answers somebody waits since this step."""
    return {request[0] for request in set(after.requests) - set(before.requests) if request[2]}


def test_the_commit_record_is_forced_before_any_commit_is_sent() -> None:
    """Section 2.1: after all votes are yes the coordinator forces a commit record, and sends COMMIT only then.

    Seen red with `commits_too_early` of `tests/exhaustive`.
    """
    sent = 0
    for _, label, after in edges(Rules(), (YES, YES), crashes=1, timeouts=0):
        if under_way(after, Verb.COMMIT):
            sent += 1
            assert after.phase in DECIDED_COMMIT, label
    assert sent


def test_abort_is_sent_only_once_it_is_decided() -> None:
    """Section 2.1: ABORT follows the coordinator's decision. Here also the tombstone of an inquiry is one."""
    sent = 0
    for _, label, after in edges(Rules(), (YES, NO), crashes=1, timeouts=0):
        if under_way(after, Verb.ABORT):
            sent += 1
            assert after.phase in DECIDED_ABORT, label
    assert sent


def test_who_voted_no_is_not_told() -> None:
    """Section 2.1: ABORT goes only to subordinates that voted yes or did not vote; who voted no has already aborted.

    A leader that takes over has not heard the vote and may tell it all the same; so this is about one leader.
    """
    heard = 0
    for before, label, after in edges(Rules(), (YES, NO), crashes=0, timeouts=0):
        for was, branch in zip(before.branches, after.branches, strict=True):
            if was.will == NO and was.fact[3] == BranchState.ABORTED:
                heard += 1
                assert Verb.ABORT not in newly_sent(was, branch), label
    assert heard


def test_the_coordinator_does_not_forget_before_everybody_has_acknowledged() -> None:
    """Section 2.1: only after all acknowledgements does the coordinator write its end record and forget."""
    finished = 0
    for _, label, after in edges(Rules(), (YES, YES), crashes=1, timeouts=0):
        if after.phase is Phase.COMMITTED:
            finished += 1
            assert {branch.durable for branch in after.branches} == {BranchState.COMMITTED}, label
    assert finished


def test_without_information_a_transaction_is_aborted() -> None:
    """Section 3 (presumed abort): asked about a transaction of which it knows nothing, the coordinator says abort.

    We differ in one thing: it makes that durable first, because the record of the branches may still be under way.
    """
    ledger = Ledger()
    inquiry = Decide("t", Decision.ABORT, BY_INQUIRY, 0)
    first = ledger.execute(inquiry)
    assert isinstance(first, Accepted)
    assert first.record is not None
    assert first.record.decision is Decision.ABORT
    begin = Begin("t", b"d", Path.CLASSIC, (BranchRecord("a", "bank-a", None, b""),), 1000, 0)
    assert isinstance(ledger.execute(begin), Rejected)
    assert isinstance(ledger.execute(Decide("t", Decision.COMMIT, BY_VOTES, 0)), Rejected)
    assert ledger.execute(inquiry) == first


@pytest.mark.parametrize("wills", [(YES, READ_ONLY), (NO, READ_ONLY)], ids="+".join)
def test_a_read_only_subordinate_hears_nothing_of_the_outcome(wills: tuple[str, ...]) -> None:
    """Section 3: who has updated nothing votes read-only, releases its locks, and takes no part in phase two."""
    voted = 0
    for before, label, after in edges(Rules(), wills, crashes=0, timeouts=0, calm=True):
        for was, branch in zip(before.branches, after.branches, strict=True):
            if was.fact[3] == BranchState.READ_ONLY:
                voted += 1
                assert not newly_sent(was, branch), label
    assert voted


def test_an_entirely_read_only_transaction_has_no_phase_two() -> None:
    """Section 3: if every vote is read-only there is no second phase at all."""
    ends = 0
    for _, label, after in edges(Rules(), (READ_ONLY, READ_ONLY), crashes=0, timeouts=0, calm=True):
        assert not under_way(after, Verb.COMMIT), label
        assert after.phase is not Phase.COMMITTING, label
        ends += after.phase is Phase.COMMITTED
    assert ends
