"""What is seen of one run: rows that are held, and a part without the others, of two banks and of three."""

from __future__ import annotations

import pytest

from coordinator.failures.protocols import PROTOCOLS, Protocol, Request
from coordinator.failures.sight import Sight
from participant.ids import BranchKey
from participant.wire import BranchState

A, B, C = "bank-a", "bank-b", "bank-c"


def _key(branch: str) -> BranchKey:
    return BranchKey("transfer", branch)


def _three() -> Sight:
    """All have prepared at 1 s; A commits at 2 s, B at 4 s, and C is still in doubt."""
    sight = Sight([A, B, C], {"": +1})
    for bank in (A, B, C):
        sight.came_to(bank, _key(bank), BranchState.PREPARED, 1.0)
    sight.came_to(A, _key(A), BranchState.COMMITTED, 2.0)
    sight.came_to(B, _key(B), BranchState.COMMITTED, 4.0)
    return sight


def test_rows_are_held_for_as_long_as_a_branch_is_prepared() -> None:
    """Goal: who is still in doubt counts until now."""
    sight = _three()
    assert sight.is_holding
    assert sight.held_s(31.0) == [30.0, 3.0, 1.0]
    sight.came_to(C, _key(C), BranchState.ABORTED, 41.0)
    assert not sight.is_holding
    assert sight.held_s(50.0) == [40.0, 3.0, 1.0]


def test_half_of_it_is_seen_until_the_last_shows_its_part() -> None:
    """Goal: of three, one that is missing is enough. Seen red where the first two were compared."""
    sight = _three()
    assert sight.half_done_s(10.0) == 8.0
    sight.came_to(C, _key(C), BranchState.COMMITTED, 12.0)
    assert sight.half_done_s(99.0) == 10.0


def test_to_be_told_again_changes_nothing() -> None:
    sight = _three()
    sight.came_to(C, _key(C), BranchState.PREPARED, 30.0)
    sight.came_to(C, _key(C), BranchState.COMMITTED, 31.0)
    sight.came_to(C, _key(C), BranchState.COMMITTED, 40.0)
    assert sight.held_s(50.0) == [30.0, 3.0, 1.0]
    assert sight.half_done_s(50.0) == 29.0


def test_an_undo_takes_back_what_was_to_be_seen() -> None:
    sight = Sight([A, B], {"": +1, "undo": -1})
    sight.came_to(A, _key("1"), BranchState.COMMITTED, 1.0)
    sight.came_to(A, _key("1:undo"), BranchState.COMMITTED, 3.0)
    assert sight.half_done_s(9.0) == 2.0
    assert sight.held_s(9.0) == [0.0, 0.0]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.key)
def test_money_only_moves(protocol: Protocol) -> None:
    """Goal: no protocol makes or loses any, whoever takes part; and one at most refuses."""
    assert sum(protocol.moves.values()) == 0
    request = Request("transfer", protocol.moves, refuses=True)
    assert sum(request.at(participant)["refuses"] for participant in protocol.moves) == 1
