"""The write-ahead log against every damage and every crash that can be drawn."""

from __future__ import annotations

import struct
import zlib
from random import Random

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.simulation.disk import PowerCut, SimDisk
from raftlog.errors import Corrupt
from raftlog.wal import WriteAheadLog

OWNER = {"cluster": "c", "node": "n1"}
HEAD_BYTES = 21
BATCHES = st.lists(st.binary(max_size=40) | st.sampled_from([b"\xc7WAL", b"\xc7WAL" * 9, b"\0" * 30]), min_size=1)


def opened(disk: SimDisk) -> tuple[WriteAheadLog, list[bytes]]:
    wal = WriteAheadLog(disk, "journal", OWNER)
    return wal, wal.recover()


def written(batches: list[bytes]) -> tuple[str, bytes, list[int]]:
    """A log of these batches: its name, its bytes, and where each batch begins (the header's batch first)."""
    disk = SimDisk()
    wal, _ = opened(disk)
    starts = [0, wal.size_bytes]
    for batch in batches:
        wal.write(batch)
        starts.append(wal.size_bytes)
    (name,) = disk.names()
    return name, disk.read(name)[: starts[-1]], starts  # without the room that is reserved behind it


def holding(name: str, data: bytes) -> SimDisk:
    disk = SimDisk()
    file = disk.open(name)
    file.append(data)
    file.sync()
    disk.sync_directory()
    return disk


@given(BATCHES, st.data())
def test_a_log_cut_anywhere_gives_the_batches_that_are_whole(batches: list[bytes], data: st.DataObject) -> None:
    """Red when recovery raises at a torn tail, and when it does not compare checksums."""
    name, whole, starts = written(batches)
    end = data.draw(st.integers(starts[1], len(whole)))
    junk = data.draw(st.sampled_from([b"", b"\0" * 100, b"\xc7WAL\0"])) if end in starts else b""
    kept = sum(start <= end for start in starts[2:])
    assert opened(holding(name, whole[:end] + junk))[1] == batches[:kept]


@given(BATCHES, st.data())
def test_a_damaged_byte_is_noticed_wherever_it_is(batches: list[bytes], data: st.DataObject) -> None:
    """Before the last batch, it refuses to open and says where. In the last, damage cannot be told from a torn tail.

    Red when `_later_batch` always says no.
    """
    name, whole, starts = written(batches)
    at = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    disk = holding(name, whole[:at] + bytes((value,)) + whole[at + 1 :])
    batch = max(number for number, start in enumerate(starts) if start <= at)
    if batch == len(batches):
        assert opened(disk)[1] == batches[:-1]
        return
    with pytest.raises(Corrupt) as raised:
        opened(disk)
    assert (raised.value.file, raised.value.offset) == (name, starts[batch])


@given(BATCHES, st.integers(0, (1 << 32) - 1), st.integers(0, 1 << 63), st.binary(max_size=40), st.data())
def test_a_torn_batch_is_cut_whatever_batches_it_holds(
    batches: list[bytes], guess: int, sequence: int, planted: bytes, data: st.DataObject
) -> None:
    """Whoever chooses a payload does not know the salt of the file that it goes into. Red when there is none."""
    disk = SimDisk()
    wal, _ = opened(disk)
    (name,) = disk.names()
    assume(guess != msgpack.unpackb(disk.read(name)[HEAD_BYTES : wal.size_bytes])["salt"])
    for batch in batches:
        wal.write(batch)
    kept = wal.size_bytes
    crc = zlib.crc32(planted, zlib.crc32(struct.pack("<BQ", 2, sequence), guess))
    forged = struct.pack("<4sBIQI", b"\xc7WAL", 2, len(planted), sequence, crc) + planted
    wal.write(forged * 2 + b"end")
    end = data.draw(st.integers(kept, wal.size_bytes - 1))
    assert opened(holding(name, disk.read(name)[:end]))[1] == batches


STEPS = st.lists(st.tuples(st.sampled_from(["write", "write", "write", "rotate", "reopen"]), st.binary(max_size=1_500)))


@given(STEPS, st.integers(0, 60), st.integers(0, 1 << 32))
def test_a_crash_anywhere_keeps_what_was_written_and_at_most_one_batch_more(
    steps: list[tuple[str, bytes]], crash_at: int, seed: int
) -> None:
    """Writes, rotations and restarts, a power cut at some operation of the disk, and again one in the recovery.

    Red when a sync is removed from `write` or `_begin`.
    """
    disk = SimDisk()
    kept: list[bytes] = []
    coming: list[bytes] = []
    disk.crash_at(crash_at)
    try:
        wal, _ = opened(disk)
        for what, payload in steps:
            match what:
                case "write":
                    coming = [*kept, payload]
                    wal.write(payload)
                case "rotate":
                    coming = [payload]
                    wal.rotate(payload)
                case _:
                    coming = kept
                    wal.close()
                    wal, found = opened(disk)
                    assert found == kept
            kept = coming
    except PowerCut:
        pass
    rng = Random(seed)
    after = disk.crash(rng)
    after.crash_at(rng.randrange(8))
    try:
        opened(after)
    except PowerCut:
        after = after.crash(rng)
    after.relent()
    found = opened(after)[1]
    assert found in (kept, coming)
    assert opened(after)[1] == found
