"""Claims of J. Gray and L. Lamport, "Consensus on Transaction Commit", ACM TODS 31(1), 2006, held against our code.

Each test states a claim of the paper, in our words, with its section, and checks it over every step of a small world
(`tests/exhaustive`). Resource managers (RMs) are our participants, the transaction manager (TM) is our leader.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from coordinator.ledger.records import Decision, Phase, TransactionRecord
from participant.wire import BranchState, Verb
from tests.exhaustive.search import edges, search
from tests.exhaustive.world import NO, YES, Rules, Violation, World

ALL_WILLS = list(combinations_with_replacement((YES, NO), 2))
ENDED = (BranchState.COMMITTED, BranchState.ABORTED)


def durable(world: World) -> list[str]:
    return [branch.durable for branch in world.branches]


@pytest.mark.parametrize("wills", ALL_WILLS, ids="+".join)
def test_stability(wills: tuple[str, ...]) -> None:
    """Section 2: an RM that has entered the committed or the aborted state remains in it for ever.

    Seen red with a participant's table that lets an abort undo a commit.
    """
    ended = 0
    for before, label, after in edges(Rules(), wills, crashes=1, timeouts=0):
        for was, becomes in zip(durable(before), durable(after), strict=True):
            if was in ENDED:
                ended += 1
                assert becomes == was, label
    assert ended


@pytest.mark.parametrize("wills", ALL_WILLS, ids="+".join)
def test_consistency(wills: tuple[str, ...]) -> None:
    """Section 2: it is impossible that one RM is committed while another one is aborted."""
    for _, label, after in edges(Rules(), wills, crashes=1, timeouts=0):
        assert set(durable(after)) != set(ENDED), label


def calm_ends(wills: tuple[str, ...]) -> list[World]:
    """Every world in which nothing more happens, when nothing fails and nobody is late."""
    steps = list(edges(Rules(), wills, crashes=0, timeouts=0, calm=True))
    left = {before for before, _, _ in steps}
    return [after for _, _, after in steps if after not in left and not after.driver]


def test_non_triviality_commit() -> None:
    """Section 2: if the whole network is nonfaulty and all RMs reach the prepared state, all of them commit."""
    ends = calm_ends((YES, YES))
    assert ends
    assert all(set(durable(world)) == {BranchState.COMMITTED} for world in ends)


def test_non_triviality_abort() -> None:
    """Section 2: if the whole network is nonfaulty and some RM reaches the aborted state, all of them abort."""
    ends = calm_ends((YES, NO))
    assert ends
    assert all(set(durable(world)) == {BranchState.ABORTED} for world in ends)


def test_an_rm_aborts_alone_only_before_it_is_prepared() -> None:
    """Section 3.1: a prepared RM waits for the TM; until then it may abort whenever it likes.

    Here: whenever a branch leaves PREPARED, the record held that decision.
    """
    left = 0
    decided = {
        BranchState.COMMITTED: (Phase.COMMITTING, Phase.COMMITTED),
        BranchState.ABORTED: (Phase.ABORTING, Phase.ABORTED),
    }
    for before, label, after in edges(Rules(), (YES, NO), crashes=1, timeouts=0):
        for was, becomes in zip(durable(before), durable(after), strict=True):
            if was == BranchState.PREPARED != becomes:
                left += 1
                assert after.phase in decided[BranchState(becomes)], label
    assert left


def test_the_cost_of_two_phase_commit() -> None:
    """Section 3.2: without failures each RM is sent one prepare and one commit message, and one record is forced
    for the decision of the TM.

    Ours costs one more command (the list of the branches, which goes through the log during the prepares) and one
    that nobody waits for (the end).
    """
    world = Rules()
    sent: list[str] = []
    state = next(after for before, _, after in edges(world, (YES, YES), crashes=0, timeouts=0, calm=True))
    while moves := [move for move in world.successors(state) if not move[1].excused]:
        label, state = moves[0]
        sent.append(label.removesuffix(f" reaches {YES}") if " reaches " in label else label.partition(" is ")[0])
    assert sent.count(Verb.PREPARE) <= 2
    assert sent.count(Verb.COMMIT) == 2
    assert (sent.count("Decide"), sent.count("End")) == (1, 1)
    assert state.phase is Phase.COMMITTED


def nobody_answers(_: TransactionRecord | None) -> tuple[Decision | None, bool]:
    """No replica is there to be asked."""
    return None, False


def test_two_phase_commit_blocks_with_one_coordinator() -> None:
    """Section 3.3: if the TM fails after RMs have prepared, they cannot end the transaction until it is repaired."""
    with pytest.raises(Violation, match=r"never finishes|stays in doubt"):
        search(Rules(takeover=False, inquire=nobody_answers), (YES, YES), crashes=1, timeouts=0)


def test_a_replicated_decision_does_not_block() -> None:
    """Section 2 (liveness) and 4: with several coordinators every RM comes to an end although one of them fails.

    The same world as above, with a successor that knows nothing but the record. `search` raises Violation for
    every run that does not end with each RM committed or aborted.
    """
    census = search(Rules(), (YES, YES), crashes=1, timeouts=0)
    assert census.committed
    assert census.aborted
