"""Snapshots on their way: a window at a time, nothing installed before the whole verifies, and no leak."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from raftlog import transfers as transfers_module
from raftlog.port import Member
from raftlog.snapshots import Snapshot, SnapshotMeta, SnapshotStore
from raftlog.transfers import PIECE_BYTES, WINDOW_BYTES, Transfers


def snapshot(size_bytes: int, index: int = 20, term: int = 3) -> Snapshot:
    disk = SimDisk()
    store = SnapshotStore(disk, "c")
    store.write(SnapshotMeta("c", index, term, (Member("n1", "h:1"),)), [bytes(range(256)) * (size_bytes // 256)])
    newest = store.newest()
    assert newest is not None
    return newest


class Side:
    """One node's transfers, and what it asked of the node."""

    def __init__(self) -> None:
        self.loads = 0
        self.installed: list[Snapshot] = []
        self.held_index = 0
        self.transfers = Transfers(self._load, lambda index, _term: index <= self.held_index, self.installed.append)

    def _load(self) -> None:
        self.loads += 1

    def pieces(self, peer: str) -> list[dict[str, Any]]:
        """Everything that may be sent now."""
        return list(iter(lambda: self.transfers.next_piece(peer), None))


def end(piece: dict[str, Any]) -> int:
    return int(piece["offset"]) + len(piece["data"])


# Sending ------------------------------------------------------------------------------------------------------------


def test_a_follower_that_needs_a_snapshot_gets_nothing_before_it_is_read() -> None:
    leader = Side()
    assert not leader.transfers.sending
    leader.transfers.begin("n2")
    leader.transfers.begin("n2")
    assert leader.loads == 1
    assert leader.transfers.active("n2")
    assert not leader.transfers.active("n3")
    assert leader.transfers.sending
    assert leader.pieces("n2") == []


def test_at_most_a_window_is_on_its_way_until_the_follower_answers() -> None:
    """Red when `next_piece` does not look at what was acknowledged."""
    leader, whole = Side(), snapshot(5 * WINDOW_BYTES)
    leader.transfers.begin("n2")
    leader.transfers.offer(whole)
    first = leader.pieces("n2")
    assert [piece["offset"] for piece in first] == [
        number * PIECE_BYTES for number in range(WINDOW_BYTES // PIECE_BYTES)
    ]
    assert leader.pieces("n2") == []
    assert leader.transfers.acknowledged("n2", end(first[0]), satisfied=False)
    second = leader.pieces("n2")
    assert [piece["offset"] for piece in second] == [WINDOW_BYTES]
    for piece in first + second:
        assert (piece["index"], piece["term"], piece["total"]) == (20, 3, len(whole.data))
        assert piece["data"] == whole.data[piece["offset"] : end(piece)]


def test_an_answer_that_comes_twice_or_late_opens_no_wider_window() -> None:
    leader = Side()
    leader.transfers.begin("n2")
    leader.transfers.offer(snapshot(5 * WINDOW_BYTES))
    first = leader.pieces("n2")
    leader.transfers.acknowledged("n2", end(first[1]), satisfied=False)
    assert len(leader.pieces("n2")) == 2
    for late in (end(first[0]), end(first[1]), 0):
        leader.transfers.acknowledged("n2", late, satisfied=False)
    assert leader.pieces("n2") == []


def test_a_follower_that_has_what_it_needs_ends_the_transfer() -> None:
    leader = Side()
    leader.transfers.begin("n2")
    leader.transfers.offer(snapshot(3 * WINDOW_BYTES))
    leader.pieces("n2")
    leader.transfers.acknowledged("n2", PIECE_BYTES, satisfied=True)
    assert not leader.transfers.active("n2")
    assert not leader.transfers.sending
    assert not leader.transfers.acknowledged("n2", PIECE_BYTES, satisfied=True)


def test_a_follower_that_could_not_use_the_whole_ends_the_transfer_and_gets_the_newest_the_next_time() -> None:
    """It may never be able to. Red when the same one begins again: it would hold the log from being trimmed."""
    leader, whole = Side(), snapshot(PIECE_BYTES)
    leader.transfers.begin("n2")
    leader.transfers.offer(whole)
    leader.pieces("n2")
    assert not leader.transfers.acknowledged("n2", len(whole.data), satisfied=False), "not at once"
    assert not leader.transfers.sending
    assert leader.transfers.refused == 1
    leader.transfers.begin("n2")
    assert leader.loads == 2
    leader.transfers.offer(snapshot(PIECE_BYTES, index=30))
    assert {piece["index"] for piece in leader.pieces("n2")} == {30}


def test_two_followers_are_served_apart_from_each_other() -> None:
    leader = Side()
    leader.transfers.begin("n2")
    leader.transfers.offer(snapshot(3 * WINDOW_BYTES, index=20))
    sent = leader.pieces("n2")
    leader.transfers.begin("n3")
    leader.transfers.offer(snapshot(3 * WINDOW_BYTES, index=30))
    assert {piece["index"] for piece in leader.pieces("n3")} == {30}
    leader.transfers.acknowledged("n2", end(sent[-1]), satisfied=False)
    assert {piece["index"] for piece in leader.pieces("n2")} == {20}, "changed in the middle"
    leader.transfers.cancel("n2")
    assert leader.transfers.sending
    leader.transfers.cancel("n3")
    assert not leader.transfers.sending


def test_nothing_is_kept_for_followers_that_we_lead_no_more() -> None:
    """Else the log would never be trimmed again. Red when `cancel_all` does nothing."""
    leader = Side()
    leader.transfers.begin("n2")
    leader.transfers.begin("n3")
    leader.transfers.cancel_all()
    assert not leader.transfers.sending
    leader.transfers.offer(snapshot(PIECE_BYTES))
    assert not leader.transfers.active("n2")


# Receiving ----------------------------------------------------------------------------------------------------------


def all_pieces(whole: Snapshot) -> list[dict[str, Any]]:
    leader = Side()
    leader.transfers.begin("n2")
    leader.transfers.offer(whole)
    taken: list[dict[str, Any]] = []
    while pieces := leader.pieces("n2"):
        taken += pieces
        leader.transfers.acknowledged("n2", end(pieces[-1]) - 1, satisfied=False)
    return taken


def test_the_whole_is_installed_once_and_not_before_its_last_piece() -> None:
    follower, whole = Side(), snapshot(3 * WINDOW_BYTES)
    *first, last = all_pieces(whole)
    assert [follower.transfers.take("n1", piece) for piece in first] == [None] * len(first)
    assert follower.installed == []
    assert follower.transfers.take("n1", last) == 20
    assert [snapshot.data for snapshot in follower.installed] == [whole.data]


def test_what_is_held_already_is_not_installed_but_answered() -> None:
    follower = Side()
    follower.held_index = 20
    assert follower.transfers.take("n1", all_pieces(snapshot(PIECE_BYTES))[0]) == 20
    assert follower.installed == []


@pytest.mark.parametrize("what", ["repeated", "missing", "other leader", "other snapshot"])
def test_a_piece_that_does_not_follow_spoils_nothing(what: str) -> None:
    """Red, each of them, when `take` does not compare leader, index and offset."""
    follower, pieces = Side(), all_pieces(snapshot(WINDOW_BYTES))
    follower.transfers.take("n1", pieces[0])
    match what:
        case "repeated":
            assert _take(follower, "n1", [pieces[1], *pieces[1:]])[-1] == 20
            return
        case "missing":
            answer = _take(follower, "n1", pieces[2:])
        case "other leader":
            answer = _take(follower, "n3", pieces[1:])
        case _:
            answer = _take(follower, "n1", [{**piece, "index": 21} for piece in pieces[1:]])
    assert set(answer) == {None}
    assert follower.installed == []
    assert follower.transfers.rejected == 0, "nothing was put together"
    assert _take(follower, "n1", pieces)[-1] == 20, "a new beginning always helps"


def _take(side: Side, leader: str, pieces: list[dict[str, Any]]) -> list[int | None]:
    return [side.transfers.take(leader, piece) for piece in pieces]


@pytest.mark.parametrize("at", [0, 100, PIECE_BYTES + 5, -1])
def test_damage_on_the_way_is_counted_and_nothing_is_installed(at: int) -> None:
    """Red when `take` installs what does not verify."""
    follower, pieces = Side(), all_pieces(snapshot(2 * PIECE_BYTES))
    number = at // PIECE_BYTES if at >= 0 else len(pieces) - 1
    data = bytearray(pieces[number]["data"])
    data[at % PIECE_BYTES if at >= 0 else -1] ^= 1
    bad = [*pieces]
    bad[number] = {**pieces[number], "data": bytes(data)}
    assert _take(follower, "n1", bad)[-1] is None
    assert follower.installed == []
    assert follower.transfers.rejected == 1
    assert _take(follower, "n1", pieces)[-1] == 20


@pytest.mark.parametrize("claim", [{"index": 40}, {"term": 9}], ids=str)
def test_a_snapshot_of_something_else_than_was_said_is_not_installed(claim: dict[str, int]) -> None:
    """`held` was asked about what the pieces say. Red when `take` does not compare."""
    follower = Side()
    pieces = [{**piece, **claim} for piece in all_pieces(snapshot(2 * PIECE_BYTES))]
    assert set(_take(follower, "n1", pieces)) == {None}
    assert follower.installed == []
    assert follower.transfers.rejected == 1


def test_what_is_larger_than_any_snapshot_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers_module, "SNAPSHOT_BYTES_MAX", 1_000)
    follower = Side()
    assert set(_take(follower, "n1", all_pieces(snapshot(2_048)))) == {None}
    assert follower.installed == []
