"""The write-ahead log: what is written is read back, what a crash tears is cut, what is damaged is refused."""

from __future__ import annotations

import struct
import zlib
from random import Random

import msgpack
import pytest

from coordinator.simulation.disk import PowerCut, SimDisk
from raftlog.errors import ConfigError, Corrupt, DiskFailed, InvariantError
from raftlog.wal import BATCH_BYTES_MAX, WriteAheadLog
from tests.support.survivals import NOTHING

OWNER = {"cluster": "c", "node": "n1"}
BATCHES = [b"one", b"two" * 300, b"", b"four"]


def opened(disk: SimDisk, owner: dict[str, str] = OWNER) -> tuple[WriteAheadLog, list[bytes]]:
    wal = WriteAheadLog(disk, "journal", owner)
    return wal, wal.recover()


def written(*batches: bytes) -> SimDisk:
    """A disk with a log of these batches, written one by one after an empty start."""
    disk = SimDisk()
    wal, _ = opened(disk)
    for batch in batches:
        wal.write(batch)
    wal.close()
    return disk


def the_file(disk: SimDisk) -> str:
    (name,) = disk.names()
    return name


def holding(data: bytes, name: str = "journal-0000000001.wal") -> SimDisk:
    """A disk with one file of this content."""
    disk = SimDisk()
    file = disk.open(name)
    file.append(data)
    file.sync()
    disk.sync_directory()
    return disk


def batch_bytes(kind: int, sequence: int, payload: bytes, *, salt: int) -> bytes:
    """A batch by the book: the format as the module's docstring gives it."""
    crc = zlib.crc32(struct.pack("<BQ", kind, sequence) + payload, salt)
    return struct.pack("<4sBIQI", b"\xc7WAL", kind, len(payload), sequence, crc) + payload


def salt_of(disk: SimDisk) -> int:
    unpacker = msgpack.Unpacker()
    unpacker.feed(disk.read(the_file(disk))[21:])
    salt: int = unpacker.unpack()["salt"]
    return salt


def test_an_empty_directory_begins_a_log() -> None:
    disk = SimDisk()
    assert opened(disk)[1] == []
    assert opened(disk)[1] == []


def test_batches_are_read_back_in_their_order() -> None:
    disk = written(*BATCHES)
    wal, batches = opened(disk)
    assert batches == BATCHES
    wal.write(b"five")
    assert opened(disk)[1] == [*BATCHES, b"five"]


def test_the_size_is_that_of_the_file() -> None:
    disk = SimDisk()
    wal, _ = opened(disk)
    for batch in BATCHES:
        wal.write(batch)
        assert wal.size_bytes == len(disk.read(the_file(disk)))
    wal.rotate(b"checkpoint")
    assert wal.size_bytes == len(disk.read(the_file(disk)))
    assert opened(disk)[0].size_bytes == len(disk.read(the_file(disk)))


def test_a_checkpoint_stands_for_everything_before_it() -> None:
    disk = SimDisk()
    wal, _ = opened(disk)
    wal.write(b"old")
    wal.rotate(b"checkpoint")
    wal.write(b"new")
    assert opened(disk)[1] == [b"checkpoint", b"new"]
    assert len(disk.names()) == 1


def test_what_is_written_is_durable_when_write_returns() -> None:
    """Red when `file.sync()` is removed from `WriteAheadLog.write`."""
    disk = SimDisk()
    wal, _ = opened(disk)
    for position, batch in enumerate(BATCHES):
        wal.write(batch)
        assert opened(disk.crash(NOTHING))[1] == BATCHES[: position + 1]


def test_what_recovery_returns_is_durable_even_if_it_never_was_before() -> None:
    """A process that is killed between write and sync leaves bytes in the page cache only.

    Red when `_begin` does not sync, and when `recover` goes on with the file that it read.
    """
    disk = written(b"one")
    wal, _ = opened(disk)
    disk.crash_at(disk.operations + 1)  # after the append, before the sync
    with pytest.raises(PowerCut):
        wal.write(b"two")
    after = disk.kill()
    recovered = opened(after)[1]
    assert recovered == [b"one", b"two"]
    assert opened(after.crash(NOTHING))[1] == recovered


@pytest.mark.parametrize("seed", range(20))
def test_what_recovery_returns_after_a_failed_sync_is_durable(seed: int) -> None:
    """The failed sync left clean pages that are on no disk; syncing them again does nothing.

    Red when `recover` syncs the file that it read instead of writing it anew.
    """
    disk = SimDisk(Random(seed))
    wal, _ = opened(disk)
    wal.write(b"one")
    disk.fail_next_sync()
    with pytest.raises(DiskFailed):
        wal.write(b"two" * 1_000)
    recovered = opened(disk)[1]
    assert opened(disk.crash(NOTHING))[1] == recovered


def test_a_log_is_dead_after_a_failed_write() -> None:
    """What the disk holds is unknown then; a second sync that succeeds proves nothing (fsync(2), NOTES).

    Red when `write` keeps its file handle through an error.
    """
    disk = SimDisk()
    wal, _ = opened(disk)
    disk.fail_next_sync()
    with pytest.raises(DiskFailed, match="journal"):
        wal.write(b"one")
    with pytest.raises(DiskFailed, match="earlier write"):
        wal.write(b"two")
    with pytest.raises(DiskFailed, match="earlier write"):
        wal.rotate(b"checkpoint")


def test_a_log_is_dead_after_a_failed_rotation() -> None:
    """Whichever of its steps fails; and the log is whole, before or after. Red when `rotate` keeps its file handle."""
    for ahead in range(100):
        disk = written(b"one")
        wal, _ = opened(disk)
        disk.fail_at(disk.operations + ahead)
        try:
            wal.rotate(b"checkpoint")
        except DiskFailed:
            with pytest.raises(DiskFailed, match="earlier write"):
                wal.write(b"two")
            assert opened(disk)[1] in ([b"one"], [b"checkpoint"])
        else:
            break
    assert ahead > 5, "a rotation has more steps than that"


def test_a_closed_log_takes_nothing_more() -> None:
    wal, _ = opened(SimDisk())
    wal.close()
    wal.close()  # twice is once
    with pytest.raises(DiskFailed, match="closed"):
        wal.write(b"one")


def test_every_disk_error_in_recovery_is_one_of_ours() -> None:
    disk = written(*BATCHES)
    failures = 0
    for operation in range(100):
        after = disk.crash(NOTHING)
        after.fail_at(operation)
        try:
            opened(after)
        except DiskFailed:
            failures += 1
        else:
            break
    assert failures == operation > 5


def test_a_batch_larger_than_the_format_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when `_encode` does not ask."""
    disk = written(b"one")
    wal, _ = opened(disk)
    with monkeypatch.context() as patched:
        patched.setattr("raftlog.wal.BATCH_BYTES_MAX", 10)
        with pytest.raises(InvariantError):
            wal.write(b"x" * 11)
    assert BATCH_BYTES_MAX < 1 << 32, "the length field could not hold it"
    assert opened(disk)[1] == [b"one"]


# What a crash leaves ------------------------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_wherever_it_is_torn() -> None:
    """Red when recovery raises at any batch that does not verify, and when it keeps half a batch."""
    whole = written(*BATCHES)
    data = whole.read(the_file(whole))
    start = len(data) - len(b"four") - 21
    for end in range(start, len(data)):
        disk = holding(data[:end])
        wal, batches = opened(disk)
        assert batches == BATCHES[:-1], f"torn at byte {end}"
        wal.write(b"again")
        assert opened(disk)[1] == [*BATCHES[:-1], b"again"]


@pytest.mark.parametrize("junk", [b"\0" * 3_000, b"\xff" * 7, b"\xc7WAL", b"\xc7WAL" * 100], ids=len)
def test_what_a_file_system_puts_behind_the_end_is_cut(junk: bytes) -> None:
    whole = written(*BATCHES)
    assert opened(holding(whole.read(the_file(whole)) + junk))[1] == BATCHES


def test_an_unfinished_generation_is_forgotten() -> None:
    disk = written(*BATCHES)
    file = disk.open("journal-0000000007.wal.tmp")
    file.append(b"half a file")
    assert opened(disk)[1] == BATCHES
    assert len(disk.names()) == 1


def test_of_two_generations_the_newer_one_counts() -> None:
    """The crash came before the older one was removed. Red when recovery reads the oldest."""
    newer, older = written(b"new"), written(b"old")
    disk = holding(newer.read(the_file(newer)), "journal-0000000012.wal")
    file = disk.open("journal-0000000009.wal")
    file.append(older.read(the_file(older)))
    assert opened(disk)[1] == [b"new"]
    assert len(disk.names()) == 1


def test_files_of_others_are_left_alone() -> None:
    disk = written(b"one")
    for name in ("journal-1.wal", "other-0000000001.wal", "journal-0000000001.walx", "snapshot-1.tmp"):
        disk.open(name).append(b"mine")
    assert opened(disk)[1] == [b"one"]
    assert len(disk.names()) == 5


def torn_around_a_batch(salt_of_ours: int, salt_of_theirs: int, data: bytes) -> SimDisk:
    """A log whose last batch was torn at its end; what it holds are the bytes of a batch with the other salt."""
    planted = batch_bytes(2, 1_000, b"somebody's bytes", salt=salt_of_theirs)
    return holding(data + batch_bytes(2, 3, planted + b"end", salt=salt_of_ours)[:-1])


def test_a_torn_batch_that_holds_the_bytes_of_a_batch_is_cut_like_any_other() -> None:
    """A command is anybody's bytes. Red when `_checksum` leaves the salt out: the log then refuses to open.

    Had the planted bytes our salt, they would be what a batch that was acknowledged looks like behind a lost one.
    """
    whole = written(b"one", b"two")
    salt, data = salt_of(whole), whole.read(the_file(whole))
    for other in (0, salt ^ 1, salt ^ (1 << 31)):
        assert opened(torn_around_a_batch(salt, other, data))[1] == [b"one", b"two"]
    with pytest.raises(Corrupt, match="a later one does"):
        opened(torn_around_a_batch(salt, salt, data))


def test_each_generation_has_a_salt_of_its_own() -> None:
    """Whoever saw one file, in a backup say, knows nothing of the next. Red when `_begin` keeps the salt."""
    disk = SimDisk()
    wal, _ = opened(disk)
    salts = [salt_of(disk)]
    wal.rotate(b"checkpoint")
    salts.append(salt_of(disk))
    opened(disk)
    salts.append(salt_of(disk))
    assert len(set(salts)) == 3


# Damage ------------------------------------------------------------------------------------------------------------


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes((data[at] ^ (1 << bit),)) + data[at + 1 :]


def test_any_flipped_byte_before_the_last_batch_refuses_to_open_and_says_where() -> None:
    """Every byte of every batch but the last one, the header included: the batch that holds it is named.

    Red when `_later_batch` says no: then the log opens without what was acknowledged.
    """
    whole = written(b"first", b"second" * 20, b"third")
    name, data = the_file(whole), whole.read(the_file(whole))
    ends = [data.find(b"\xc7WAL", at) for at in range(1, len(data))]
    starts = sorted({0, *(end for end in ends if end >= 0)})
    assert len(starts) == 4
    for at in range(starts[-1]):
        with pytest.raises(Corrupt) as raised:
            opened(holding(flipped(data, at), name))
        assert raised.value.file == name
        assert raised.value.offset == max(start for start in starts if start <= at), f"flipped at {at}"
        assert name in str(raised.value)
        assert str(raised.value.offset) in str(raised.value)


def test_a_missing_batch_refuses_to_open() -> None:
    """Red when `_scan` does not compare sequence numbers."""
    whole = written(b"one", b"two", b"three")
    data = whole.read(the_file(whole))
    second = data.index(b"two") - 21
    with pytest.raises(Corrupt, match="was expected"):
        opened(holding(data[:second] + data[second + 24 :]))


def test_a_damaged_log_is_left_as_it_was_found() -> None:
    """So that it can be looked at, and so that a second attempt does not succeed."""
    whole = written(b"one", b"two", b"three")
    data = flipped(whole.read(the_file(whole)), 60)
    disk = holding(data)
    for _ in range(2):
        with pytest.raises(Corrupt):
            opened(disk)
    assert disk.read(the_file(disk)) == data


@pytest.mark.parametrize("owner", [{"cluster": "c", "node": "n2"}, {"cluster": "d", "node": "n1"}, {}], ids=str)
def test_the_log_of_another_owner_is_refused(owner: dict[str, str]) -> None:
    """Red when `_check_header` does not compare."""
    with pytest.raises(ConfigError, match="belongs to"):
        opened(written(b"one"), owner)


def test_the_log_of_another_format_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = written(b"one")
    monkeypatch.setattr("raftlog.wal.WAL_VERSION", 3)
    with pytest.raises(ConfigError, match="'wal': 2"):
        opened(disk)


def test_a_log_from_before_there_was_salt_is_refused_and_left_as_it_is() -> None:
    """Red when the version is asked for after the batches: they do not verify, and would be cut as a torn tail."""
    header = batch_bytes(1, 0, msgpack.packb({"wal": 1, **OWNER}), salt=0)
    data = header + batch_bytes(2, 1, b"acknowledged", salt=0)
    disk = holding(data)
    with pytest.raises(ConfigError, match=r"belongs to {'wal': 1, .*, not to {'wal': 2, "):
        opened(disk)
    assert disk.read(the_file(disk)) == data


@pytest.mark.parametrize("content", [b"", b"not a log", b"\0" * 4_096])
def test_a_named_file_without_a_header_is_refused(content: bytes) -> None:
    """A file gets its name only after its header is durable, so this is no crash's doing."""
    with pytest.raises(Corrupt, match="at byte 0"):
        opened(holding(content))
