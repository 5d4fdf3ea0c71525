"""How far the journal vouches for itself, against the simplest model: what a restart would rebuild right now."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftlog.journal import RaftJournal
from raftlog.snapshots import SnapshotMeta


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta("c", index, term, ())


class JournalMachine(RuleBasedStateMachine):
    """Appends, cuts, ballots, batches on their way, trims, received snapshots and crashes, in any order.

    Red when `synced` vouches for more than was taken, and when `deleteEntriesFrom` leaves `_taken` or `_durable` alone.
    """

    @initialize()
    def begin(self) -> None:
        self.batches: list[bytes] = []
        self.snapshot: SnapshotMeta | None = None
        self.in_flight: tuple[str, bytes, SnapshotMeta | None] | None = None
        self.received: SnapshotMeta | None = None
        self.term = 1
        self.journal = RaftJournal([], None)
        self.journal.add(b"\x01", 1, 0)

    # The library -----------------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.journal.add(b"c%d" % self.term, self.journal.last_index + 1, self.term)

    @property
    def covered(self) -> int:
        """Up to here a snapshot stands for the log; that is committed, and never cut."""
        return max(self.journal.first_index, 0 if self.snapshot is None else self.snapshot.index)

    @precondition(lambda self: self.journal.last_index > self.covered)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """And go on in a later term, so that what stands there afterwards is another entry."""
        index = data.draw(st.integers(self.covered + 1, self.journal.last_index))
        self.journal.deleteEntriesFrom(index - self.journal.first_index)
        self.term += 1

    @rule(vote=st.sampled_from(["n1", "n2", None]))
    def ballot(self, vote: str | None) -> None:
        self.term += 1
        self.journal.setCurrentTerm(self.term, vote)

    # The disk --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.in_flight is None and self.journal.dirty)
    @rule()
    def take(self) -> None:
        self.in_flight = ("write", self.journal.take(), self.received)
        self.received = None

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def sync(self) -> None:
        assert self.in_flight is not None
        what, payload, received = self.in_flight
        self.snapshot = received or self.snapshot
        self.batches = [payload] if what == "rotate" else [*self.batches, payload]
        self.in_flight = None
        self.journal.synced()

    @precondition(lambda self: self.in_flight is None and self.received is None)
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        """To a snapshot of what is applied, which is durable."""
        if self.journal.durable_index <= self.covered:
            return
        index = data.draw(st.integers(self.covered + 1, self.journal.durable_index))
        self.snapshot = meta(index, self.journal.term_at(index) or 0)
        tail_entries, tail_bytes = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 10))
        payload = self.journal.compact(self.snapshot, tail_entries=tail_entries, tail_bytes=tail_bytes)
        self.in_flight = ("rotate", payload, None)

    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        """A leader's snapshot of something that is not held: behind the end, or in the place of a tail."""
        self.term += 1
        first, last = self.covered + 1, self.journal.last_index
        index = data.draw(st.integers(first, max(first, last)) | st.integers(max(first, last + 1), last + 5))
        self.received = meta(index, self.term)
        self.journal.rebase(self.received)

    @rule(survives=st.sampled_from(["nothing", "the snapshot", "all"]))
    def crash(self, survives: str) -> None:
        """What was on its way is lost; or the snapshot that a leader sent is stored, but not its record; or all is."""
        if self.in_flight is not None:
            what, payload, received = self.in_flight
            if survives != "nothing":
                self.snapshot = received or self.snapshot
            if survives == "all":
                self.batches = [payload] if what == "rotate" else [*self.batches, payload]
        self.in_flight, self.received = None, None
        self.journal = RaftJournal(self.batches, self.snapshot)
        if len(self.journal) == 0:
            self.journal.add(b"\x01", 1, 0)

    # The promise -----------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_vouched_for_would_be_rebuilt(self) -> None:
        again = RaftJournal(self.batches, self.snapshot)
        for index in range(max(self.journal.first_index, again.first_index), self.journal.durable_index + 1):
            assert again.term_at(index) == self.journal.term_at(index), index
        assert again.last_index >= min(self.journal.durable_index, self.journal.last_index)

    @invariant()
    def everything_is_vouched_for_when_nothing_is_on_its_way(self) -> None:
        if self.in_flight is None and not self.journal.dirty:
            assert self.journal.durable_index == self.journal.last_index
            again = RaftJournal(self.batches, self.snapshot)
            behind = again.first_index + 1  # a tail that the snapshot covers is not rebuilt
            assert again.slice(behind, len(again)) == self.journal.slice(behind, len(self.journal))
            assert again.getCurrentTerm() == self.journal.getCurrentTerm()
            assert again.getVotedForNodeId() == self.journal.getVotedForNodeId()


JournalMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestJournal = JournalMachine.TestCase
