"""The core's own rules: who is followed, when it stands, and what a removal carries.

Each replica is real from its disk up (`tests.support.ours`); time and messages are given by hand.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import raftlog.core
from coordinator.simulation.disk import SimDisk
from raftlog.config import Timing
from raftlog.messages import Message
from raftlog.port import Member
from tests.support.ours import OurWorld, _Replica
from tests.support.world import Network, Settings

TIMING = Timing()
LATER = 9


class One:
    """Replica `n1` of three, connected to both others, in its own time."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.network = Network()
        self.network.link("n1", "n2")
        self.network.link("n1", "n3")
        self.replica = _Replica("n1", ("n1", "n2", "n3"), SimDisk(), self.network, TIMING, lambda: self.now)
        self.core = self.replica.core
        for peer in ("n2", "n3"):
            self.core.connected(peer)

    def hears(self, peer: str, message: Message) -> None:
        self.core.receive(peer, message)
        self.replica.flush()

    def ticks(self) -> None:
        self.core.tick()
        self.replica.flush()

    def wins(self) -> None:
        """An election, from standing to leading."""
        self.now += TIMING.election_max_s
        self.ticks()
        self.hears("n2", {"type": "response_vote", "term": self.core.term})
        assert self.core.leading

    def said(self, peer: str) -> list[str]:
        """The kinds of what it has sent since it was last asked."""
        queue = self.network.in_flight("n1", peer)
        kinds = [str(message["type"]) for message in queue]
        queue.clear()
        return kinds


@pytest.fixture
def one() -> One:
    return One()


def heartbeat(term: int) -> Message:
    fields = {"commit_index": 1, "burst": 0, "prevLogIdx": 1, "prevLogTerm": 0, "entries": []}
    return {"type": "append_entries", "term": term, **fields}


def candidacy(term: int) -> Message:
    return {"type": "request_vote", "term": term, "last_log_index": 50, "last_log_term": term - 1}


def refusal(term: int) -> Message:
    answer = {"next_node_idx": 0, "reset": False, "success": False, "burst": 0, "received": 0}
    return {"type": "next_node_idx", "term": term, **answer}


# Who is followed -----------------------------------------------------------------------------------------------------


def test_a_leader_is_followed_until_it_is_silent_for_the_shortest_election_timeout(one: One) -> None:
    """A follower that waited for its own, drawn timeout would not help one that lost patience first: both would stand
    in the same term, and neither would win. Red when the leader is followed for as long as it is known."""
    one.hears("n2", heartbeat(1))
    one.now += TIMING.election_min_s - 0.01
    one.hears("n3", candidacy(2))
    assert one.core.followed == "n2"
    assert one.core.term == 1
    one.hears("n2", heartbeat(1))
    one.now += TIMING.election_min_s + 0.01
    assert one.core.followed is None
    assert one.core.leader == "n2", "it may be asked for a while yet"
    one.said("n3")
    one.hears("n3", candidacy(2))
    assert one.said("n3") == ["response_vote"]


def test_a_leader_whose_connection_broke_is_not_followed(one: One) -> None:
    """Red when only silence counts: after a crash an election would take a timeout longer."""
    one.hears("n2", heartbeat(1))
    one.core.disconnected("n2")
    assert one.core.followed is None
    one.hears("n3", candidacy(2))
    assert one.core.term == 2


def test_a_leader_follows_itself_however_long_it_leads(one: One) -> None:
    one.wins()
    for _ in range(20):
        one.now += TIMING.heartbeat_s
        one.ticks()
        one.hears("n2", refusal(one.core.term))
    one.hears("n3", candidacy(LATER))
    assert one.core.leading
    assert one.core.followed == "n1"


# When it stands ------------------------------------------------------------------------------------------------------


def test_a_replica_that_reaches_no_member_that_it_knows_does_not_stand(one: One) -> None:
    """Whoever else has dialled it. Red when the library counts its connections itself."""
    for peer in ("n2", "n3"):
        one.core.disconnected(peer)
    one.core.connected("n9")
    for _ in range(50):
        one.now += TIMING.election_max_s
        one.ticks()
    assert one.core.term == 0


def test_a_leader_that_yielded_stands_again_before_its_followers_do(one: One) -> None:
    """Its later term is durable first. Red when it rests for an election timeout."""
    one.wins()
    one.hears("n3", refusal(LATER))
    assert not one.core.leading
    assert one.core.term == LATER
    one.said("n2")
    one.ticks()
    assert one.said("n2") == [], "not at once"
    one.now += 2.5 * TIMING.heartbeat_s
    one.ticks()
    assert one.core.term == LATER + 1
    assert one.said("n2") == ["request_vote"]
    assert 2.5 * TIMING.heartbeat_s < TIMING.election_min_s


def test_a_leader_that_yielded_follows_who_leads_in_that_term(one: One) -> None:
    """The one that was elected while this one was away speaks within a heartbeat. Red when it stands at once: then it
    deposes that one, in its turn."""
    one.wins()
    one.hears("n3", refusal(LATER))
    one.now += 1.4 * TIMING.heartbeat_s
    one.ticks()
    one.hears("n3", heartbeat(LATER))
    one.now += 0.9 * TIMING.election_min_s
    one.ticks()
    assert one.core.leader == "n3"
    assert one.core.term == LATER


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[OurWorld]:
    world = OurWorld(("a", "b", "c"), Settings(), monkeypatch)
    yield world
    world.close()


# Catching up ---------------------------------------------------------------------------------------------------------


def test_a_follower_that_conflicts_just_behind_a_snapshot_is_not_sent_it_for_ever(
    world: OurWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what the snapshot covers, and then an entry of the same term that is none. So it refuses back into the
    snapshot, of which it needs nothing. Red when the end of a transfer does not say where to go on."""
    monkeypatch.setattr(raftlog.core, "APPLY_ENTRIES_MAX", 1)
    world.elect("a")
    world.settle()
    world.put("a", b"held")
    world.tick("a")
    world.deliver("a", "b")
    world.deliver("a", "c")
    world.isolate("a")
    world.put("a", b"lost")
    world.tick("a")
    world.elect("b", "c")
    while world.state("b") != [b"held"]:
        world.tick("b", "c")
        world.exchange("b", "c")
    world.snapshot("b")  # just before the first entry of the new term
    world.put("b", b"new")
    world.settle("b", "c")
    world.link("a", "b")
    world.tick("b")
    world.cut("a", "b")  # what was sent is lost, so the next append is a gap
    world.link("a", "b")
    world.settle(rounds=20)
    assert world.failures == []
    assert world.state("a") == world.state("b") == [b"held", b"new"]


# Membership ----------------------------------------------------------------------------------------------------------


def test_a_removal_that_is_truncated_brings_the_member_back_with_its_address(world: OurWorld) -> None:
    """Red when the entry has no address in it: the member would never be dialled again."""
    world.elect("a")
    world.settle()
    core = world._replicas["a"].core
    before = core.members()
    world.isolate("a")
    core.propose_member(Member("c", ""), add=False, proposed=lambda *_: None)
    world.tick("a")
    assert [member.name for member in core.members()] == ["a", "b"]
    world.elect("b", "c")
    world.settle("b", "c")
    world.join_up()
    world.settle()
    assert world.failures == []
    assert core.members() == before
