"""Snapshots on the disk: whole or not there, verified before use, the newest one counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.simulation.disk import PowerCut, SimDisk
from raftlog.errors import ConfigError, Corrupt, DiskFailed
from raftlog.port import Member
from raftlog.snapshots import Snapshot, SnapshotMeta, SnapshotStore
from tests.support.survivals import EXTREMES, NOTHING

MEMBERS = (Member("n1", "h:1"), Member("n2", "h:2"))
CHUNKS = [b"first", b"", b"x" * 70_000, b"last"]


def meta(index: int = 7, cluster: str = "c") -> SnapshotMeta:
    return SnapshotMeta(cluster, index, 3, MEMBERS)


def data_of(index: int = 7) -> bytes:
    disk = SimDisk()
    SnapshotStore(disk, "c").write(meta(index), CHUNKS)
    return disk.read(f"snapshot-{index:020d}.snap")


def test_an_empty_directory_has_no_snapshot() -> None:
    store = SnapshotStore(SimDisk(), "c")
    assert store.recover() is None
    assert store.newest() is None


def test_what_was_written_comes_back() -> None:
    disk = SimDisk()
    SnapshotStore(disk, "c").write(meta(), CHUNKS)
    snapshot = SnapshotStore(disk, "c").recover()
    assert snapshot is not None
    assert snapshot.meta == meta()
    assert b"".join(snapshot.chunks()) == b"".join(CHUNKS)


def test_a_state_without_bytes_is_a_state() -> None:
    store = SnapshotStore(SimDisk(), "c")
    store.write(meta(), iter(()))
    snapshot = store.newest()
    assert snapshot is not None
    assert list(snapshot.chunks()) == []


def test_what_was_written_is_durable_when_write_returns() -> None:
    """Red when `_store` syncs the file or the directory no more."""
    disk = SimDisk()
    SnapshotStore(disk, "c").write(meta(), CHUNKS)
    snapshot = SnapshotStore(disk.crash(NOTHING), "c").recover()
    assert snapshot is not None
    assert b"".join(snapshot.chunks()) == b"".join(CHUNKS)


def test_a_crash_at_any_step_leaves_the_old_one_or_the_new_one() -> None:
    """Whole, whatever survives. Red when the file gets its name before it is synced, and when the older one is
    removed before that."""
    for ahead in range(100):
        disk = SimDisk()
        store = SnapshotStore(disk, "c")
        store.write(meta(5), [b"old"])
        disk.crash_at(disk.operations + ahead)
        try:
            store.write(meta(9), [b"new"] * 10)
        except PowerCut:
            for survival in EXTREMES:
                snapshot = SnapshotStore(disk.crash(survival), "c").recover()
                assert snapshot is not None, f"{survival} before step {ahead}"
                expected = b"old" if snapshot.meta.index == 5 else b"new" * 10
                assert b"".join(snapshot.chunks()) == expected
        else:
            break
    assert ahead > 5, "a snapshot takes more steps than that"


def test_only_the_newest_is_kept() -> None:
    disk = SimDisk()
    store = SnapshotStore(disk, "c")
    for index in (3, 20, 100):
        store.write(meta(index), [b"%d" % index])
    assert disk.names() == ["snapshot-00000000000000000100.snap"]


def test_an_older_one_that_comes_late_does_not_displace_a_newer_one() -> None:
    """A leader's snapshot overtook ours while that was being written."""
    disk = SimDisk()
    store = SnapshotStore(disk, "c")
    store.adopt(Snapshot.verify(data_of(20)))
    store.write(meta(9), [b"ours"])
    newest = store.newest()
    assert newest is not None
    assert newest.meta.index == 20
    assert len(disk.names()) == 1


def test_what_a_crash_left_unfinished_is_cleared_away() -> None:
    """Red when `recover` leaves it: the next attempt would append to it."""
    disk = SimDisk()
    store = SnapshotStore(disk, "c")
    for origin in ("own", "received"):
        disk.open(f"snapshot-{7:020d}.snap.{origin}.tmp").append(b"half of it")
    disk.open("journal-0000000001.wal").append(b"not ours")
    assert store.recover() is None
    assert disk.names() == ["journal-0000000001.wal"]
    store.write(meta(), CHUNKS)
    assert store.newest() is not None


def test_a_snapshot_that_vanishes_while_it_is_read_was_followed_by_a_newer_one() -> None:
    class Busy(SimDisk):
        """Between listing and reading, a newer snapshot takes the place of the older."""

        busy = True

        def read(self, name: str) -> bytes:
            if self.busy:
                self.busy = False
                SnapshotStore(self, "c").write(meta(20), [b"newer"])
            return super().read(name)

    disk = Busy()
    SnapshotStore(disk, "c").write(meta(5), [b"older"])
    snapshot = SnapshotStore(disk, "c").newest()
    assert snapshot is not None
    assert snapshot.meta.index == 20


def damaged(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 97):
        yield data[:at] + bytes((data[at] ^ 0x40,)) + data[at + 1 :]
    for size in (0, 7, 8, 12, 31, len(data) - 1):
        yield data[:size]
    yield data + b"x"


def test_damage_anywhere_refuses_to_load_and_names_the_file() -> None:
    """Red when `verify` does not compare the digest."""
    whole = data_of()
    for number, data in enumerate(damaged(whole)):
        disk = SimDisk()
        disk.open("snapshot-00000000000000000007.snap").append(data)
        with pytest.raises(Corrupt, match=r"snapshot-0+7\.snap is corrupt at byte") as raised:
            SnapshotStore(disk, "c").recover()
        assert raised.value.file == "snapshot-00000000000000000007.snap", f"damage {number}"


def test_a_snapshot_of_a_later_format_refuses_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of()
    monkeypatch.setattr("raftlog.snapshots.SNAPSHOT_VERSION", 2)
    with pytest.raises(Corrupt, match="format version 1; this code knows 2"):
        Snapshot.verify(data)


def test_a_snapshot_of_another_cluster_is_refused() -> None:
    """Red when `newest` does not compare."""
    disk = SimDisk()
    SnapshotStore(disk, "d").write(meta(cluster="d"), CHUNKS)
    with pytest.raises(ConfigError, match="belongs to cluster 'd'"):
        SnapshotStore(disk, "c").recover()


def test_every_disk_error_is_one_of_ours() -> None:
    failures = 0
    for operation in range(100):
        disk = SimDisk()
        disk.fail_at(operation)
        try:
            SnapshotStore(disk, "c").write(meta(), CHUNKS)
        except DiskFailed as error:
            assert "snapshot-" in str(error)  # noqa: PT017
            failures += 1
        else:
            break
    assert failures == operation > 5
