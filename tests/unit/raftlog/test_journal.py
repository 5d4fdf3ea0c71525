"""The journal: what the library sees in memory, what a restart rebuilds, and how far it may be vouched for."""

from __future__ import annotations

import msgpack
import pytest

from raftlog.errors import Corrupt, InvariantError
from raftlog.journal import RaftJournal
from raftlog.port import Member
from raftlog.snapshots import SnapshotMeta

Entry = tuple[bytes, int, int]


def entries(first: int, last: int, term: int) -> list[Entry]:
    return [(b"c%d" % index, index, term) for index in range(first, last + 1)]


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta("c", index, term, (Member("n1", "h:1"),))


class Disk:
    """The batches of one journal, in the order in which they became durable."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.snapshot: SnapshotMeta | None = None

    def journal(self) -> RaftJournal:
        """What a restart rebuilds."""
        return RaftJournal(self.batches, self.snapshot)

    def flush(self, journal: RaftJournal) -> None:
        self.batches.append(journal.take())
        journal.synced()

    def compact(self, journal: RaftJournal, snapshot: SnapshotMeta, **tail: int) -> None:
        self.snapshot = snapshot
        self.batches = [journal.compact(snapshot, **tail)]
        journal.synced()


def held(journal: RaftJournal) -> list[Entry]:
    return list(journal[:])


def begun(disk: Disk, *parts: list[Entry]) -> RaftJournal:
    """A journal that begins as the library begins it, with these entries after the first; not flushed."""
    journal = disk.journal()
    journal.add(b"\x01", 1, 0)
    for part in parts:
        for entry in part:
            journal.add(*entry)
    return journal


# Rebuilding -------------------------------------------------------------------------------------------------------


def test_a_new_journal_is_empty_and_owes_nothing() -> None:
    journal = Disk().journal()
    assert len(journal) == 0
    assert (journal.first_index, journal.last_index, journal.last_term, journal.durable_index) == (0, 0, 0, 0)
    assert not journal.dirty
    assert journal.getRaftCommitIndex() == 1


def test_entries_and_ballot_come_back() -> None:
    """Red when `setCurrentTerm` queues no record."""
    disk = Disk()
    journal = begun(disk, entries(2, 5, term=1))
    journal.setCurrentTerm(3, "n2")
    disk.flush(journal)
    again = disk.journal()
    assert held(again) == held(journal)
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (3, "n2")
    assert again.durable_index == again.last_index == 5
    assert not again.dirty


def test_what_was_cut_stays_cut() -> None:
    """Red when `deleteEntriesFrom` queues no record: the replay then finds a gap, or an old entry."""
    disk = Disk()
    journal = begun(disk, entries(2, 6, term=1))
    disk.flush(journal)
    journal.deleteEntriesFrom(3)  # a position: entry 4
    assert journal.last_index == 3
    for entry in entries(4, 5, term=2):
        journal.add(*entry)
    disk.flush(journal)
    assert held(disk.journal()) == held(journal)
    assert disk.journal().last_term == 2


def test_the_commit_index_is_not_kept() -> None:
    """A stored one may point behind the end of a log whose tail a power cut took."""
    disk = Disk()
    journal = begun(disk, entries(2, 5, term=1))
    disk.flush(journal)
    journal.setRaftCommitIndex(5)
    assert not journal.dirty
    assert disk.journal().getRaftCommitIndex() == 1


def test_a_gap_between_entries_is_an_error_at_once() -> None:
    journal = begun(Disk(), entries(2, 3, term=1))
    with pytest.raises(InvariantError, match="entry 5 after 3"):
        journal.add(b"c5", 5, 1)


@pytest.mark.parametrize("record", [[1, 7, 1, b"c"], [9, 1], [], "x"], ids=str)
def test_records_that_make_no_sense_refuse_to_start(record: object) -> None:
    """Red when `_replay` appends without looking."""
    disk = Disk()
    disk.flush(begun(disk, entries(2, 3, term=1)))
    disk.batches.append(msgpack.packb([record]))
    with pytest.raises(Corrupt, match="journal"):
        disk.journal()


@pytest.mark.parametrize("call", ["clear", "deleteEntriesTo"])
def test_the_library_cannot_shorten_the_log_by_itself(call: str) -> None:
    journal = begun(Disk())
    with pytest.raises(NotImplementedError):
        getattr(journal, call)(*((1,) if call == "deleteEntriesTo" else ()))


# Vouching ---------------------------------------------------------------------------------------------------------


def test_an_entry_is_vouched_for_when_its_batch_is_synced_and_not_before() -> None:
    """Red when `take` says so already, and when `synced` vouches for what was added after the take."""
    journal = begun(Disk(), entries(2, 3, term=1))
    assert journal.durable_index == 0
    journal.take()
    journal.add(b"c4", 4, 1)
    assert journal.durable_index == 0
    journal.synced()
    assert journal.durable_index == 3
    assert journal.dirty


def test_what_was_cut_while_its_batch_was_on_its_way_is_not_vouched_for() -> None:
    """Another entry may stand in its place by then. Red when `deleteEntriesFrom` leaves `_taken` alone."""
    journal = begun(Disk(), entries(2, 6, term=1))
    journal.take()
    journal.deleteEntriesFrom(3)
    for entry in entries(4, 6, term=2):
        journal.add(*entry)
    journal.synced()
    assert journal.durable_index == 3
    journal.take()
    journal.synced()
    assert journal.durable_index == 6


def test_what_is_cut_after_its_sync_is_no_longer_vouched_for() -> None:
    """Red when `deleteEntriesFrom` leaves `_durable` alone."""
    disk = Disk()
    journal = begun(disk, entries(2, 6, term=1))
    disk.flush(journal)
    journal.deleteEntriesFrom(3)
    assert journal.durable_index == 3


# Our own snapshots -------------------------------------------------------------------------------------------------


def test_compaction_keeps_what_the_snapshot_does_not_cover_queued_or_not() -> None:
    """Red when `compact` builds the checkpoint of durable entries only, or without the ballot."""
    disk = Disk()
    journal = begun(disk, entries(2, 6, term=1))
    disk.flush(journal)
    journal.setCurrentTerm(2, "n3")
    for entry in entries(7, 9, term=2):
        journal.add(*entry)
    disk.compact(journal, meta(4, 1))
    assert not journal.dirty
    assert journal.durable_index == 9
    assert held(journal)[1:] == entries(5, 6, term=1) + entries(7, 9, term=2)
    again = disk.journal()
    assert held(again) == held(journal)
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (2, "n3")
    assert again.first_index == again.getRaftCommitIndex() == 4
    assert again.term_at(4) == 1


@pytest.mark.parametrize(
    ("tail_entries", "tail_bytes", "first"),
    [(0, 100, 6), (3, 100, 3), (100, 100, 1), (100, 4, 4), (100, 5, 4), (100, 0, 6), (2, 4, 4)],
)
def test_compaction_leaves_a_tail_behind_the_snapshot_within_both_bounds(
    tail_entries: int, tail_bytes: int, first: int
) -> None:
    """A follower that was away for a moment gets these, and no snapshot; commands are two bytes each.

    Red when `_tail_base` looks at one of the bounds only.
    """
    disk = Disk()
    journal = begun(disk, entries(2, 8, term=1))
    disk.flush(journal)
    disk.compact(journal, meta(6, 1), tail_entries=tail_entries, tail_bytes=tail_bytes)
    assert journal.first_index == first
    assert held(journal)[1:] == entries(first + 1, 8, term=1)
    assert journal.durable_index == 8
    journal.deleteEntriesFrom(len(journal) - 1)
    journal.add(b"c8", 8, 2)
    disk.flush(journal)
    again = disk.journal()
    assert held(again)[1:] == [*entries(7, 7, term=1), (b"c8", 8, 2)]
    assert again.first_index == again.getRaftCommitIndex() == 6, "nothing that the snapshot covers is applied again"


def test_a_crash_between_snapshot_and_trim_loses_no_entry() -> None:
    """Red when `_join` discards the log behind the snapshot (what the library does)."""
    disk = Disk()
    journal = begun(disk, entries(2, 9, term=1))
    disk.flush(journal)
    disk.snapshot = meta(6, 1)
    again = disk.journal()
    assert held(again)[1:] == entries(7, 9, term=1)
    assert again.term_at(6) == 1
    again.add(b"c10", 10, 1)
    disk.flush(again)
    assert held(disk.journal()) == held(again)


def test_everything_may_be_covered() -> None:
    disk = Disk()
    journal = begun(disk, entries(2, 5, term=3))
    disk.flush(journal)
    disk.compact(journal, meta(5, 3))
    again = disk.journal()
    assert (again.first_index, again.last_index, again.last_term, len(again)) == (5, 5, 3, 1)


# A leader's snapshots ------------------------------------------------------------------------------------------------


def test_a_received_snapshot_discards_the_log() -> None:
    disk = Disk()
    journal = begun(disk, entries(2, 5, term=1))
    disk.flush(journal)
    journal.rebase(meta(20, 4))
    assert (journal.first_index, journal.last_index, journal.last_term) == (20, 20, 4)
    disk.snapshot = meta(20, 4)
    disk.flush(journal)
    journal.add(b"c21", 21, 4)
    disk.flush(journal)
    assert held(disk.journal()) == held(journal)


def test_a_received_snapshot_is_vouched_for_when_its_record_is_synced() -> None:
    """Also when a batch of the old log is on its way meanwhile. Red when `rebase` leaves `_taken` alone."""
    journal = begun(Disk(), entries(2, 30, term=1))
    journal.take()
    journal.rebase(meta(20, 4))
    journal.synced()
    assert journal.durable_index < 20
    journal.take()
    journal.synced()
    assert journal.durable_index == 20


def test_a_crash_between_received_snapshot_and_its_record_loses_nothing_later() -> None:
    """The snapshot is on the disk, the journal still ends before it; then life goes on, and another crash comes.

    Red when `_join` queues no record: what follows is then appended behind the old log, and dropped.
    """
    disk = Disk()
    disk.flush(begun(disk, entries(2, 5, term=1)))
    disk.snapshot = meta(20, 4)
    for _ in range(2):
        journal = disk.journal()
        assert (journal.first_index, journal.last_index, journal.last_term) == (20, 20, 4)
        assert journal.dirty
    for entry in entries(21, 23, term=4):
        journal.add(*entry)
    disk.flush(journal)
    again = disk.journal()
    assert held(again) == held(journal)
    assert again.durable_index == 23


def test_a_log_that_contradicts_the_snapshot_is_discarded() -> None:
    """Its entries at and behind the snapshot's end were never committed (figure 13, step 7).

    Red when `_join` keeps later entries without comparing terms.
    """
    disk = Disk()
    disk.flush(begun(disk, entries(2, 9, term=1)))
    disk.snapshot = meta(6, 4)
    assert held(disk.journal())[0][1:] == (6, 4)
    assert len(disk.journal()) == 1


@pytest.mark.parametrize("snapshot", [None, meta(3, 1)], ids=["none", "older"])
def test_a_journal_without_the_snapshot_that_it_follows_refuses_to_start(snapshot: SnapshotMeta | None) -> None:
    """Red when `_join` does not compare."""
    disk = Disk()
    journal = begun(disk, entries(2, 9, term=1))
    disk.compact(journal, meta(5, 1))
    disk.snapshot = snapshot
    with pytest.raises(Corrupt, match="begins at entry 5"):
        disk.journal()


# Looking things up ------------------------------------------------------------------------------------------------


def test_terms_and_slices_of_a_trimmed_log() -> None:
    disk = Disk()
    journal = begun(disk, entries(2, 4, term=1), entries(5, 8, term=2), entries(9, 9, term=5))
    disk.compact(journal, meta(3, 1))
    assert [journal.term_at(index) for index in (2, 3, 4, 5, 8, 9, 10)] == [None, 1, 1, 2, 2, 5, None]
    assert journal.slice(5, 2) == entries(5, 6, term=2)
    assert journal.slice(9, 100) == entries(9, 9, term=5)
    assert journal.slice(10, 100) == []


@pytest.mark.parametrize(
    ("index", "floor", "first"), [(8, 2, 5), (8, 7, 7), (9, 2, 9), (4, 4, 4), (3, 5, 3), (4, 1, 3)]
)
def test_the_first_entry_of_a_run_of_one_term(index: int, floor: int, first: int) -> None:
    disk = Disk()
    journal = begun(disk, entries(2, 4, term=1), entries(5, 8, term=2), entries(9, 9, term=5))
    disk.compact(journal, meta(3, 1))
    assert journal.first_of_run(index, floor) == first
