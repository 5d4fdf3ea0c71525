"""The guard between the wire and the library: what each of them gets to see of the other."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.simulation.disk import SimDisk
from raftlog.errors import InvariantError
from raftlog.guard import BACKLOG_BYTES_MAX
from raftlog.messages import Message
from raftlog.port import Member
from raftlog.snapshots import Snapshot, SnapshotMeta, SnapshotStore
from tests.unit.raftlog.guarded import TERM, Node, answer, append, shape

# Appends: what truncates and what does not --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        append(10, 4),
        append(4, 3),
        append(1, 0),
        append(4, 3, (5, 3)),
        append(4, 3, (5, 3), (6, 3), (7, 4)),
        append(1, 0, *((index, 3 if index < 7 else 4) for index in range(2, 11))),
    ],
    ids=lambda message: str(shape(message)),
)
def test_a_repeated_append_reaches_the_library_as_nothing_new(message: Message) -> None:
    """The library would truncate behind every one of these. Red when `_trimmed` passes the append as it came."""
    assert shape(Node().receives("n2", message)) == (10, 4, [])


@pytest.mark.parametrize(
    "message",
    [
        append(10, 4, (11, 5)),
        append(9, 4, (10, 4), (11, 5)),
        append(4, 3, *((i, 3 if i < 7 else 4) for i in range(5, 11)), (11, 5)),
    ],
    ids=["plain", "one known", "six known"],
)
def test_what_is_really_new_extends_the_log(message: Message) -> None:
    assert shape(Node().receives("n2", message)) == (10, 4, [(11, 5)])


@pytest.mark.parametrize(
    ("message", "seen"),
    [
        (append(8, 4, (9, 5)), (8, 4, [(9, 5)])),
        (append(6, 3, (7, 4), (8, 5), (9, 5)), (7, 4, [(8, 5), (9, 5)])),
        (append(6, 3, (7, 5), (8, 5), (9, 5), (10, 5), (11, 5)), (6, 3, [(i, 5) for i in range(7, 12)])),
    ],
    ids=["end", "middle", "longer"],
)
def test_a_true_conflict_of_terms_truncates_from_there_on(message: Message, seen: tuple[Any, ...]) -> None:
    """Red when the matching prefix is not compared, or compared by index only."""
    assert shape(Node().receives("n2", message)) == seen


def test_an_append_that_would_truncate_what_is_committed_stops_the_node() -> None:
    """It cannot happen; if it does, a promise is about to be broken. Red when the invariant is removed."""
    node = Node()
    node.core.commit_index = 8
    with pytest.raises(InvariantError, match="entry 8 is committed"):
        node.receives("n2", append(6, 3, (7, 4), (8, 5)))
    assert shape(node.receives("n2", append(8, 4, (9, 5)))) == (8, 4, [(9, 5)])


def test_an_append_from_before_a_trimmed_log_is_no_news() -> None:
    """What the log was trimmed by is committed, so this leader has the same. Red when `_trimmed` refuses it."""
    node = Node()
    node.journal.compact(SnapshotMeta("c", 8, 4, ()))
    node.journal.synced()
    assert shape(node.receives("n2", append(3, 3, (4, 3), (5, 3)))) == (10, 4, [])
    assert shape(node.receives("n2", append(3, 3, *((i, 4) for i in range(4, 11)), (11, 5)))) == (10, 4, [(11, 5)])


def test_an_append_of_an_older_term_is_not_heard() -> None:
    """Red when `_on_append` lets it pass."""
    node = Node()
    assert node.receives("n2", append(10, 4, (11, 4), term=TERM - 1)) is None
    assert node.guard.counters["stale_append"] == 1


def test_an_append_of_an_older_term_is_answered_with_ours_once_that_is_durable() -> None:
    """Red when `_on_append` says nothing: a leader that we outgrew would never reach us again."""
    node = Node()
    node.journal.setCurrentTerm(TERM, None)
    node.receives("n2", append(10, 4, (11, 4), term=TERM - 1, burst=3))
    assert node.said == []
    node.flush()
    assert node.said == [answer(0, success=False, burst=3)]


def test_a_new_leader_is_heard_even_if_its_membership_is_news() -> None:
    assert Node().receives("n9", append(10, 4, (11, 5))) is not None


def test_no_more_is_committed_than_was_verified() -> None:
    """Entries behind the append may be of an old leader. Red when the commit index is passed on as it came."""
    node = Node()
    seen = node.receives("n2", append(4, 3, (5, 3), commit_index=9))
    assert seen is not None
    assert seen["commit_index"] == 5


# Appends: what is answered ------------------------------------------------------------------------------------------


class Follower(Node):
    """Its library answers an append as pysyncobj does."""

    def _deliver(self, node: Any, message: Message) -> None:
        super()._deliver(node, message)
        previous = message.get("prevLogIdx")
        if message["type"] != "append_entries" or "entries" not in message:
            return
        held = self.journal.term_at(previous) if previous is not None else None
        following, success = self.journal.last_index + 1, held == message["prevLogTerm"] and held is not None
        if success:
            following = previous + len(message["entries"]) + 1
            if previous < self.journal.last_index:
                self.journal.deleteEntriesFrom(previous + 1 - self.journal.first_index)
            for entry in message["entries"]:
                self.journal.add(*entry)
        elif held is not None:
            following = previous
        reply = {"type": "next_node_idx", "next_node_idx": following, "reset": not success, "success": success}
        self.sends(node.id, reply)


def test_an_acknowledgement_says_what_was_verified_and_not_what_is_held() -> None:
    """What stands behind it may be of an old leader. Red when the library's own answer is passed on."""
    node = Follower()
    node.receives("n2", append(4, 3, (5, 3), burst=7))
    assert node.said == [answer(6, burst=7)]


def test_an_acknowledgement_carries_the_term() -> None:
    node = Follower()
    node.core.term = 9
    node.receives("n2", append(10, 4, term=9))
    assert node.said[0]["term"] == 9


def test_an_acknowledgement_waits_for_the_disk() -> None:
    """Red when `_hold` sends at once."""
    node = Follower()
    node.receives("n2", append(10, 4, (11, 5)))
    assert node.said == []
    node.begin()
    assert node.said == []
    node.finish()
    assert node.said == [answer(12)]


def test_an_acknowledgement_of_a_batch_on_its_way_waits_for_that_one() -> None:
    """The repeated append adds nothing, but what it repeats is not durable yet."""
    node = Follower()
    node.receives("n2", append(10, 4, (11, 5)))
    node.begin()
    node.receives("n2", append(10, 4, (11, 5)))
    assert node.said == []
    node.finish()
    assert node.said == [answer(12)] * 2


def test_an_acknowledgement_of_the_next_batch_waits_for_the_next_one() -> None:
    """Red when `_hold` counts the batch that is on its way."""
    node = Follower()
    node.receives("n2", append(10, 4, (11, 5)))
    node.begin()
    node.receives("n2", append(11, 5, (12, 5)))
    node.finish()
    assert node.said == [answer(12)]
    node.flush()
    assert node.said == [answer(12), answer(13)]


@pytest.mark.parametrize("kind", ["request_vote", "response_vote"])
def test_votes_and_candidacies_wait_until_the_ballot_is_durable(kind: str) -> None:
    """Else a node that crashes votes twice in one term. Red when `send` lets them pass."""
    node = Node()
    node.journal.setCurrentTerm(TERM, "n2")
    node.sends("n2", {"type": kind, "term": TERM})
    assert node.said == []
    node.flush()
    assert [message["type"] for message in node.said] == [kind]


def test_what_is_held_leaves_in_its_order() -> None:
    node = Node()
    node.journal.setCurrentTerm(TERM, "n2")
    node.sends("n2", {"type": "response_vote", "term": TERM})
    node.begin()
    node.sends("n3", {"type": "request_vote", "term": TERM})  # waits for the batch before it only
    node.finish()
    assert [peer for peer, _ in node.wire.sent] == ["n2", "n3"]


def test_a_refusal_names_the_first_entry_of_the_conflicting_term() -> None:
    """So that a leader steps back a term at a time. Red when the library's own answer is passed on."""
    node = Follower()
    node.receives("n2", append(9, 5, burst=3))
    assert node.said == [answer(7, reset=True, success=False, burst=3)]


def test_a_refusal_never_goes_behind_what_is_committed() -> None:
    node = Follower()
    node.core.commit_index = 8
    node.receives("n2", append(10, 5))
    assert node.said[0]["next_node_idx"] == 9


@pytest.mark.parametrize("message", [append(12, 5, (13, 5)), append(None, None)], ids=["gap", "no index"])  # type: ignore[arg-type]
def test_a_gap_is_refused_with_what_is_held(message: Message) -> None:
    node = Follower()
    node.receives("n2", message)
    assert node.said == [answer(11, reset=True, success=False)]


# A leader's side: acknowledgements ----------------------------------------------------------------------------------


def test_an_acknowledgement_of_an_older_term_is_not_counted() -> None:
    """Red when `_on_acknowledgement` does not compare."""
    node = Node(leading=True)
    assert node.receives("n2", answer(11, term=TERM - 1)) is None
    assert node.guard.counters["stale_acknowledgement"] == 1


@pytest.mark.parametrize(
    ("peer", "leading", "yielded"),
    [("n2", True, [TERM + 1]), ("n9", True, []), ("n2", False, [])],
    ids=["member", "stranger", "not leading"],
)
def test_a_leader_yields_to_the_later_term_of_a_member_only(peer: str, leading: bool, yielded: list[int]) -> None:
    """It cannot serve that member before. Red when the term is just another one; and, for a stranger, when
    membership is not asked first: whoever was removed would depose every leader."""
    node = Node(leading=leading)
    assert node.receives(peer, answer(11, term=TERM + 1)) is None
    assert node.core.yielded == yielded


def test_an_acknowledgement_is_not_heard_by_one_who_leads_no_more() -> None:
    assert Node(leading=False).receives("n2", answer(11)) is None


def test_no_acknowledgement_counts_further_than_our_own_disk() -> None:
    """The library counts the leader without asking whether the entry is on its disk.

    Red when the acknowledgement is delivered as it came.
    """
    node = Node(leading=True)
    for index in (11, 12):
        node.journal.add(b"\0c", index, TERM)
    seen = node.receives("n2", answer(13))
    assert seen is not None
    assert seen["next_node_idx"] == 11
    node.begin()
    node.journal.add(b"\0c", 13, TERM)
    node.finish()
    assert node.core.delivered[-1][1]["next_node_idx"] == 13


def test_an_early_acknowledgement_of_an_office_that_was_lost_is_forgotten() -> None:
    """Red when the early ones are delivered without asking again."""
    node = Node(leading=True)
    node.journal.add(b"\0c", 11, TERM)
    node.receives("n2", answer(12))
    node.core.leading = False
    count = len(node.core.delivered)
    node.flush()
    assert len(node.core.delivered) == count


def test_an_early_acknowledgement_of_a_member_that_was_removed_is_forgotten() -> None:
    """Found by the simulator, raft seed 0: the library has no place for it any more, and the leader died."""
    node = Node(leading=True)
    node.journal.add(b"\0c", 11, TERM)
    node.receives("n2", answer(12))
    node.core.members.remove("n2")
    count = len(node.core.delivered)
    node.flush()
    assert len(node.core.delivered) == count


def test_pipelined_appends_are_not_sent_again_at_every_answer() -> None:
    """The library steps back to what it acknowledges. Red when its step is not undone."""
    node = Node(leading=True)
    node.core.next["n2"] = 11

    def library(_node: Any, message: Message) -> None:
        node.core.next["n2"] = message["next_node_idx"]

    node.guard.setOnMessageReceivedCallback(library)
    node.guard.receive("n2", answer(5))
    assert node.core.next["n2"] == 11


def test_one_refusal_of_each_burst_is_obeyed() -> None:
    """Red when bursts are not compared: each late refusal would send everything once more."""
    node = Node(leading=True)
    refusal = answer(4, reset=True, success=False)
    first = node.receives("n2", refusal)
    assert first is not None
    assert first["reset"]
    second = node.receives("n2", refusal)
    assert second is not None
    assert not second["reset"], "a sign of life, no more"
    assert node.guard.counters["stale_refusal"] == 1
    node.sends("n2", append(3, 3, (4, 3)))
    assert node.said[-1]["burst"] == 1
    third = node.receives("n2", {**refusal, "burst": 1})
    assert third is not None
    assert third["reset"]


def test_a_follower_is_never_thought_further_than_the_log() -> None:
    node = Node(leading=True)
    seen = node.receives("n2", answer(90, reset=True, success=False))
    assert seen is not None
    assert seen["next_node_idx"] == 11


# Votes --------------------------------------------------------------------------------------------------------------


def test_a_vote_counts_once() -> None:
    """Red when `_on_vote` does not remember."""
    node = Node()
    vote = {"type": "response_vote", "term": TERM}
    assert node.receives("n2", vote) is not None
    assert node.receives("n2", vote) is None
    assert node.receives("n3", vote) is not None
    assert node.guard.counters["stale_vote"] == 1
    node.core.term = TERM + 1
    assert node.receives("n2", {**vote, "term": TERM + 1}) is not None


@pytest.mark.parametrize("term", [TERM - 1, TERM + 1])
def test_a_vote_of_another_term_does_not_count(term: int) -> None:
    assert Node().receives("n2", {"type": "response_vote", "term": term}) is None


CANDIDACY: Message = {"type": "request_vote", "term": TERM + 1, "last_log_index": 99, "last_log_term": 99}


@pytest.mark.parametrize("peer", ["n2", "n9"], ids=["member", "stranger"])
def test_nobody_is_heard_who_stands_while_another_leads(peer: str) -> None:
    """Not even its term: it would depose that leader, and a node that was removed stands for ever. Red when
    `_on_candidate` delivers it."""
    node = Node()
    node.core.followed = "n3"
    assert node.receives(peer, CANDIDACY) is None
    assert node.guard.counters["needless_candidacy"] == 1


@pytest.mark.parametrize("peer", ["n2", "n9"], ids=["member", "stranger"])
def test_without_a_leader_everybody_is_heard_who_stands(peer: str) -> None:
    """A stranger may be a member whose entry we lack, and need. Red when `is_member` is asked."""
    assert Node().receives(peer, CANDIDACY) == CANDIDACY


def test_a_stranger_that_has_nothing_new_is_not_heard() -> None:
    """A replica that was started before it is added stands for itself. Red when its log is not looked at: at the birth
    of a cluster it came to lead one that it was no member of."""
    node = Node()
    last = {"last_log_index": node.journal.last_index, "last_log_term": node.journal.last_term}
    assert node.receives("n9", {**CANDIDACY, **last}) is None
    assert node.guard.counters["stranger"] == 1
    assert node.receives("n2", {**CANDIDACY, **last}) is not None


def test_a_leader_that_stands_again_leads_no_more_by_its_own_word() -> None:
    """Red when only silence ends an office: its followers would wait for an election timeout."""
    node = Node()
    node.core.followed = "n2"
    assert node.receives("n2", CANDIDACY) == CANDIDACY


@pytest.mark.parametrize(
    "message", [{"type": "response_vote", "term": TERM}, answer(11)], ids=lambda message: message["type"]
)
def test_a_stranger_has_no_say(message: Message) -> None:
    """It votes for nobody and acknowledges nothing. Red when `is_member` is not asked."""
    node = Node(leading=message["type"] == "next_node_idx")
    assert node.receives("n9", message) is None
    assert node.guard.counters["stranger"] == 1


@pytest.mark.parametrize(
    "message", [{}, {"type": "append_entries"}, {"type": "apply_command", "command": b"x"}], ids=str
)
def test_nonsense_is_counted_and_goes_no_further(message: Message) -> None:
    node = Node()
    assert node.receives("n2", message) is None
    assert node.guard.counters["malformed"] == 1


def test_a_command_that_the_library_would_forward_stops_the_node() -> None:
    with pytest.raises(InvariantError, match="apply_command"):
        Node().sends("n2", {"type": "apply_command", "command": b"x"})


# Snapshots ----------------------------------------------------------------------------------------------------------


def snapshot(index: int) -> Snapshot:
    store = SnapshotStore(SimDisk(), "c")
    store.write(SnapshotMeta("c", index, TERM, (Member("n1", "h:1"),)), [b"state"])
    newest = store.newest()
    assert newest is not None
    return newest


def heartbeat(**fields: Any) -> Message:
    return {"type": "append_entries", "term": TERM, "commit_index": 90, "burst": 0, **fields}


def piece_of(whole: Snapshot) -> Message:
    meta, data = whole.meta, whole.data
    fields = {"index": meta.index, "term": meta.term, "offset": 0, "total": len(data), "data": data}
    return heartbeat(serialized=fields)


def test_a_piece_of_a_snapshot_is_a_heartbeat_that_commits_nothing() -> None:
    """The library takes the commit index against its own, different log. Red when the message is passed on."""
    node = Node()
    seen = node.receives("n2", piece_of(snapshot(50)))
    assert seen is not None
    assert seen["serialized"] is None
    assert seen["commit_index"] == 0
    assert "prevLogIdx" not in seen
    assert [installed.meta.index for installed in node.core.installed] == [50]
    assert node.said == [answer(51, received=len(snapshot(50).data))]


def test_a_piece_that_leads_nowhere_is_answered_without_success() -> None:
    node = Node()
    broken = piece_of(snapshot(50))
    broken["serialized"]["offset"] = 7
    node.receives("n2", broken)
    assert node.said == [answer(0, success=False, received=7 + len(snapshot(50).data))]


def test_a_leader_sends_pieces_in_the_place_of_entries_until_the_follower_is_satisfied() -> None:
    """Red when appends go on in the meantime: each is refused, and the transfer begins again."""
    node = Node(leading=True)
    node.sends("n2", heartbeat(serialized=None))
    assert node.core.loads == 1
    assert node.core.next["n2"] == 11, "or the library goes on asking"
    node.core.transfers.offer(snapshot(6))
    node.sends("n2", append(10, 4))
    assert node.said[-1]["serialized"]["index"] == 6
    node.sends("n3", append(10, 4))
    assert "serialized" not in node.said[-1]
    node.receives("n2", answer(7, received=len(snapshot(6).data)))
    assert node.guard.behind, "the rest is waiting"
    node.sends("n2", append(10, 4))
    assert "serialized" not in node.said[-1]


def test_a_snapshot_that_a_follower_cannot_use_does_not_hold_the_log_for_ever() -> None:
    """The next heartbeat asks anew where the follower is. Red when the transfer just begins again."""
    node = Node(leading=True)
    whole = snapshot(6)
    for _ in range(3):
        node.sends("n2", heartbeat(serialized=None))
        node.core.transfers.offer(whole)
        node.sends("n2", append(10, 4))
        node.receives("n2", answer(0, success=False, received=len(whole.data)))
        assert not node.core.transfers.sending, "the journal may be trimmed"
        assert not node.guard.behind, "not at once: it may never be able to"
        node.sends("n2", append(10, 4))
        assert "serialized" not in node.said[-1]
    assert node.core.loads == 3


def test_a_leader_tells_nobody_that_more_is_committed_than_is_on_its_own_disk() -> None:
    """One that leads alone commits at once. A follower that it takes in must not apply what it could still forget.

    Red when the commit index leaves as the library gives it.
    """
    node = Node(leading=True)
    node.journal.add(b"\0c", 11, TERM)
    for commit, told in ((8, 8), (11, 10)):
        node.sends("n2", append(10, 4, (11, TERM), commit_index=commit))
        assert node.said[-1]["commit_index"] == told


def test_a_follower_that_cannot_keep_up_gets_heartbeats() -> None:
    """Red when the backlog is not looked at: everything it lacks would be queued for it at every heartbeat."""
    node = Node(leading=True)
    node.wire.backlog = BACKLOG_BYTES_MAX + 1
    node.sends("n2", append(4, 3, (5, 3)))
    assert node.said[-1]["entries"] == []
    assert node.core.next["n2"] == 11
    node.wire.backlog = 0
    node.sends("n2", append(4, 3, (5, 3)))
    assert len(node.said[-1]["entries"]) == 1
