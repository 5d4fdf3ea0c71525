"""Whole nodes over real sockets: snapshots in many pieces, members that come and go, and no pickle on any path."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pysyncobj.syncobj
import pytest

from raftlog.frames import Channel
from raftlog.port import Applied, Member, Refusal, Refused
from raftlog.transfers import PIECE_BYTES, WINDOW_BYTES
from tests.support.loopback import LoopbackCluster
from tests.support.ports import free_addresses

NAMES = ("n1", "n2", "n3")
BALLAST = bytes(range(256)) * (5 * WINDOW_BYTES // 256 // 2)  # two and a half windows

Make = Callable[..., LoopbackCluster]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes clusters, and ends them."""
    made: list[LoopbackCluster] = []

    def make(*names: str, **options: Any) -> LoopbackCluster:
        made.append(LoopbackCluster(tmp_path, names or NAMES, **options))
        return made[-1]

    yield make
    for cluster in made:
        await cluster.stop()


def words(first: int, last: int) -> list[bytes]:
    return [b"w%d" % number for number in range(first, last)]


async def lagging(cluster: LoopbackCluster) -> str:
    """A follower that was away while the others trimmed their logs."""
    await cluster.start(ballast=BALLAST)
    leader = await cluster.leader()
    away = next(name for name in cluster.members if name != leader)
    await cluster.applied(*words(0, 5))
    await cluster.stop(away)
    await cluster.applied(*words(5, 60))
    await cluster.until(lambda: cluster.logs[leader].status().snapshot_index > 40)
    return away


# Snapshots ------------------------------------------------------------------------------------------------------------


async def test_a_follower_that_was_away_catches_up_from_a_snapshot_in_many_pieces(make: Make) -> None:
    """More pieces than a window holds, so that its answers are needed to go on.

    Red when answers do not open the window (`Transfers.acknowledged` forgets what it is told).
    """
    cluster = make()
    away = await lagging(cluster)
    await cluster.start(away)
    assert await cluster.words(away) == words(0, 60)
    assert cluster.machines[away].ballast == BALLAST
    assert len(BALLAST) > WINDOW_BYTES > PIECE_BYTES
    assert cluster.logs[away].status().counters["snapshots_installed"] == 1
    await cluster.stop(away)
    await cluster.start(away)
    assert await cluster.words(away) == words(0, 60)
    assert cluster.machines[away].ballast == BALLAST, "it was not on the disk"


async def test_a_damaged_piece_is_rejected_and_the_snapshot_sent_again(make: Make) -> None:
    """Damaged in the memory of the leader, behind every check of the wire. Red when `Transfers.take` installs what
    does not verify, and when a rejected snapshot is not begun again."""
    cluster = make()
    away = await lagging(cluster)
    transfers: Any = cluster.logs[await cluster.leader()]
    transfers = transfers._core.transfers
    next_piece, damaged = transfers.next_piece, []

    def damage_one(peer: str) -> Any:
        piece = next_piece(peer)
        if piece is not None and piece["offset"] == 3 * PIECE_BYTES and not damaged:
            damaged.append(peer)
            piece["data"] = piece["data"][:100] + b"?" + piece["data"][101:]
        return piece

    transfers.next_piece = damage_one
    await cluster.start(away)
    assert await cluster.words(away) == words(0, 60)
    assert damaged == [away]
    counters = cluster.logs[away].status().counters
    assert (counters["snapshots_rejected"], counters["snapshots_installed"]) == (1, 1)


async def test_the_log_goes_on_while_a_snapshot_is_sent(make: Make) -> None:
    cluster = make()
    away = await lagging(cluster)
    catching_up = asyncio.create_task(cluster.start(away))
    await cluster.applied(*words(60, 120))
    await catching_up
    assert await cluster.words(away) == words(0, 120)


async def test_a_follower_that_lags_by_more_than_a_connection_may_queue_is_not_cut(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log is still held, so it gets entries; but not all of them at once. With smaller bounds than the real ones.

    Red when the guard does not look at the backlog: the follower is cut for not keeping up, again and again.
    """
    monkeypatch.setattr("raftlog.guard.BACKLOG_BYTES_MAX", 512 << 10)
    monkeypatch.setattr("raftlog.transport.SEND_BUFFER_BYTES_MAX", 3 << 20)
    cluster = make(snapshot_entries=10_000)
    await cluster.start()
    leader = await cluster.leader()
    away = next(name for name in cluster.members if name != leader)
    await cluster.stop(away)
    large = [b"%d " % number + bytes(100_000) for number in range(200)]
    await cluster.applied(*large)
    await cluster.start(away)
    assert await cluster.words(away) == large
    assert "cut_slow" not in cluster.logs[leader].status().counters
    assert cluster.logs[away].status().counters.get("snapshots_installed", 0) == 0


# Members --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot_entries", [20, 10_000], ids=["snapshots", "log only"])
async def test_members_come_and_go_under_load_and_restarts_remember_them(make: Make, snapshot_entries: int) -> None:
    """A fourth joins, one of the first three leaves, while clients write; then everything is started again, with the
    configuration of the first day.

    Red when membership entries are not replayed at the start (`RaftCore.__init__`), and when snapshots hold the members
    of the configuration.
    """
    cluster = make(*NAMES, "n4", snapshot_entries=snapshot_entries)
    await cluster.start(*NAMES, among=NAMES)
    writing = asyncio.create_task(cluster.applied(*words(0, 150)))
    await cluster.start("n4")
    await cluster.changed(lambda log: log.add_member(cluster.members["n4"]))
    leader = await cluster.leader()
    gone = next(name for name in NAMES if name != leader)
    await cluster.changed(lambda log: log.remove_member(gone))
    await writing
    left = sorted({*NAMES, "n4"} - {gone})
    await cluster.stop(gone)
    for name in left:
        assert await cluster.words(name) == words(0, 150)
    for _ in range(2):
        await cluster.stop()
        await cluster.start(*(name for name in left if name != "n4"), among=NAMES)
        await cluster.start("n4")
        await cluster.leader()
        for name in left:
            assert await cluster.words(name) == words(0, 150)
            assert sorted(member.name for member in cluster.logs[name].status().members) == left


@pytest.mark.parametrize("snapshot_entries", [20, 10_000], ids=["snapshots", "log only"])
async def test_a_member_may_move_to_another_address_between_two_starts(make: Make, snapshot_entries: int) -> None:
    """The configuration says where; names are for ever. Red when the addresses in a snapshot count for more."""
    cluster = make(snapshot_entries=snapshot_entries)
    await cluster.start()
    await cluster.applied(*words(0, 50))
    await cluster.stop()
    for name, address in zip(NAMES, free_addresses(len(NAMES)), strict=True):
        cluster.members[name] = Member(name, address)
    await cluster.start()
    await cluster.applied(*words(50, 60))
    for name in NAMES:
        assert await cluster.words(name) == words(0, 60)
        assert set(cluster.logs[name].status().members) == set(cluster.members.values())


async def test_one_change_of_members_at_a_time(make: Make) -> None:
    """Red when the core does not look for an open change."""
    cluster = make(*NAMES, "n4", "n5")
    await cluster.start(*NAMES, among=NAMES)
    log = cluster.logs[await cluster.leader()]
    outcomes = await asyncio.gather(*(log.add_member(cluster.members[name]) for name in ("n4", "n5")))
    assert [isinstance(outcome, Applied) for outcome in outcomes] == [True, False]
    assert outcomes[1] == Refused(Refusal.DENIED, outcomes[1].leader)  # type: ignore[union-attr]


# Nonsense -------------------------------------------------------------------------------------------------------------


async def test_nonsense_from_a_peer_that_has_proven_itself_is_counted_and_harms_nobody(make: Make) -> None:
    """The frames are authentic, what they say is not ours. Red when the guard does not check shapes."""
    cluster = make()
    await cluster.start("n1")
    host, port = cluster.members["n1"].address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    channel = Channel("loopback", "n2", b"a secret of the loopback", b"N" * 32, dialing=True, expected="n1")
    writer.write(channel.greeting())
    while not channel.open:
        for item in channel.receive(await reader.read(4_096)):
            assert isinstance(item, bytes)
            writer.write(item)
    nonsense: list[dict[str, Any]] = [
        {"type": "append_entries", "term": 1, "entries": "all of them"},
        {"type": "append_entries", "term": -1, "commit_index": 0, "burst": 0, "serialized": {}},
        {"type": "request_vote", "term": "5"},
        {"type": "apply_command", "command": b"rm"},
        {"type": ["response_vote"]},
        {"type": None},
        {"type": "read_index", "id": None},
        {"type": "next_node_idx", "next_node_idx": 1e9},
    ]
    log = cluster.logs["n1"]
    for message in nonsense:
        writer.write(channel.encode(message))
    await cluster.until(lambda: log.status().counters.get("malformed") == len(nonsense))
    assert log.status().connected == ("n2",)
    writer.close()
    await cluster.start("n2", "n3")
    await cluster.applied(b"well")
    assert await cluster.words("n1") == [b"well"]


# No pickle ------------------------------------------------------------------------------------------------------------


async def test_nothing_is_pickled_or_unpickled_on_any_path(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals, membership, snapshots, restarts. Red when `adapt_library` leaves the library its pickle."""

    def pickled(*_args: object, **_options: object) -> Any:
        raise AssertionError("somebody pickles")

    for name in ("dumps", "loads", "dump", "load", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, pickled)
        monkeypatch.setattr(f"pysyncobj.pickle.{name}", pickled, raising=False)
    cluster = make(*NAMES, "n4")
    await cluster.start(*NAMES, among=NAMES)
    assert not hasattr(pysyncobj.syncobj.pickle, "Unpickler")
    await cluster.applied(*words(0, 30))
    await cluster.start("n4")
    await cluster.changed(lambda log: log.add_member(cluster.members["n4"]))
    await cluster.applied(*words(30, 60))
    assert await cluster.words("n4") == words(0, 60)
    await cluster.stop()
    await cluster.start()
    assert await cluster.words("n1") == words(0, 60)
