"""A follower that hears its leader's appends twice, late and out of order never gives up what it has verified.

The core is the real one, library included; it never ticks, so that it only does what it is told.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raftlog.config import Timing
from raftlog.core import RaftCore
from raftlog.journal import RaftJournal
from raftlog.messages import Message
from raftlog.port import Member
from raftlog.transfers import Transfers

Entry = tuple[bytes, int, int]
MEMBERS = tuple(Member(name, "h:1") for name in ("n1", "n2", "n3"))


class Follower:
    """`n1`, and everything that it said."""

    def __init__(self, log: list[Entry]) -> None:
        self.said: list[Message] = []
        self.journal = RaftJournal([], None)
        for entry in log:
            self.journal.add(*entry)
        self.core = RaftCore(
            "n1",
            MEMBERS,
            Timing(),
            self.journal,
            self,
            Transfers(lambda: None, lambda _index, _term: False, lambda _snapshot: None),
            clock=lambda: 0.0,
            dice=Random(0),
            apply=lambda _index, _entry: [],
            on_state=lambda: None,
            on_members=lambda: None,
        )
        self.flush()

    def send(self, _peer: str, message: Message) -> bool:
        self.said.append(message)
        return True

    def backlog_bytes(self, _peer: str) -> int:
        return 0

    def flush(self) -> None:
        if self.journal.dirty:
            self.journal.take()
            self.core.guard.flush_started()
            self.core.flushed()

    @property
    def log(self) -> list[Entry]:
        return [tuple(entry) for entry in self.journal[:]]


def log_of(terms: list[int]) -> list[Entry]:
    """Entries in terms that never fall; the first is the same everywhere."""
    return [(b"\0%d" % term, index, term) for index, term in enumerate(accumulate(terms, max, initial=0), 1)]


TERMS = st.lists(st.integers(1, 4), max_size=12)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Entry], list[Entry], list[Message]]:
    """A leader's log, a follower's log with a prefix of it and a tail of its own, and appends of that leader."""
    leader = log_of(draw(TERMS))
    common = draw(st.integers(1, len(leader)))
    last_term = leader[common - 1][2]
    # Another leader wrote the tail, in a term of its own: no entry of it is one of the leader's.
    tail_term = 10 + last_term
    tail = [(b"\0x", common + 1 + at, tail_term) for at in range(draw(st.integers(0, 6)))]
    appends = []
    for _ in range(draw(st.integers(1, 15))):
        previous = draw(st.integers(1, len(leader)))
        end = draw(st.integers(previous, len(leader)))
        commit = draw(st.integers(0, end))
        appends.append(append(leader, previous, end, commit))
    order = draw(st.lists(st.sampled_from(appends), min_size=1, max_size=30))
    return leader, leader[:common] + tail, order


def append(leader: list[Entry], previous: int, end: int, commit: int) -> Message:
    return {
        "type": "append_entries",
        "term": 20,
        "commit_index": commit,
        "burst": 0,
        "prevLogIdx": previous,
        "prevLogTerm": leader[previous - 1][2],
        "entries": [list(entry) for entry in leader[previous:end]],
    }


@given(histories(), st.lists(st.booleans(), min_size=30, max_size=30))
def test_late_and_repeated_appends_never_take_back_what_was_acknowledged(
    history: tuple[list[Entry], list[Entry], list[Message]], flushes: list[bool]
) -> None:
    """What was acknowledged stays, entry for entry; what is acknowledged is the leader's; the commit index never falls.

    Red when `Guard._trimmed` passes appends on as they came (the library truncates at each overlap), and when an
    acknowledgement says what is held instead of what was verified.
    """
    leader, own, appends = history
    follower = Follower(own)
    verified = commit = 1
    for message, flush in zip(appends, flushes, strict=False):
        follower.core.receive("n2", {**message, "entries": [list(entry) for entry in message["entries"]]})
        if flush:
            follower.flush()
        acknowledged = [said["next_node_idx"] - 1 for said in follower.said if said["success"]]
        verified = max([verified, *acknowledged])
        assert verified <= len(leader)
        assert follower.log[:verified] == leader[:verified]
        assert follower.core.commit_index >= commit
        commit = follower.core.commit_index
        assert follower.log[:commit] == leader[:commit]
    follower.core.receive("n2", append(leader, 1, len(leader), len(leader)))
    follower.flush()
    assert follower.log[: len(leader)] == leader
    assert follower.core.commit_index == len(leader)


@given(histories())
def test_a_leader_that_obeys_refusals_soon_finds_where_the_logs_agree(
    history: tuple[list[Entry], list[Entry], list[Message]],
) -> None:
    """In no more steps than the follower's log has terms. Red when refusals name the entry before the last."""
    leader, own, _ = history
    follower = Follower(own)
    following, steps = len(leader) + 1, 0
    while True:
        follower.core.receive("n2", append(leader, following - 1, following - 1, 0))
        follower.flush()
        answer: dict[str, Any] = follower.said[-1]
        if answer["success"]:
            break
        assert answer["next_node_idx"] < following
        following = answer["next_node_idx"]
        steps += 1
    assert steps <= len({term for _, _, term in own}) + 1
