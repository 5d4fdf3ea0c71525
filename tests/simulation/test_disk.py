"""The disk that forgets forgets exactly what a real one may forget."""

from __future__ import annotations

from random import Random

import pytest

from coordinator.simulation.disk import BLOCK_BYTES, PowerCut, SimDisk
from raftlog.disk import Disk


def _crashes(disk: SimDisk, count: int = 300) -> list[SimDisk]:
    return [disk.crash(Random(seed)) for seed in range(count)]


def _with_file(data: bytes) -> SimDisk:
    disk: Disk = SimDisk()
    file = disk.open("log")
    file.append(data)
    file.sync()
    disk.sync_directory()
    assert isinstance(disk, SimDisk)
    return disk


def test_synced_content_survives_every_crash() -> None:
    disk = _with_file(b"durable")
    disk.open("log").append(b" and not")
    assert all(after.read("log").startswith(b"durable") for after in _crashes(disk))


def test_unsynced_content_is_kept_lost_shortened_and_full_of_holes() -> None:
    """Broken on purpose by surviving whole: red."""
    disk = _with_file(b"d" * 100)
    file = disk.open("log")
    for _ in range(8):
        file.append(b"x" * BLOCK_BYTES)
    whole = b"d" * 100 + b"x" * 8 * BLOCK_BYTES
    survivors = {after.read("log") for after in _crashes(disk)}
    assert b"d" * 100 in survivors, "never lost"
    assert whole in survivors, "never kept"
    assert any(0 < len(content) - 100 < 8 * BLOCK_BYTES for content in survivors), "never shortened"
    holes = [content for content in survivors if b"\0" in content and b"x" in content]
    assert any(content.rindex(b"x") > content.index(b"\0") for content in holes), "no hole before kept bytes"
    assert all(set(content[100:]) <= {0, ord("x")} for content in survivors)


def test_names_survive_in_order_once_changed_and_surely_once_synced() -> None:
    disk = SimDisk()
    for name in ("one", "two", "three"):
        disk.open(name)
    survivors = {tuple(after.names()) for after in _crashes(disk)}
    assert survivors == {(), ("one",), ("one", "two"), ("one", "three", "two")}
    disk.sync_directory()
    assert {tuple(after.names()) for after in _crashes(disk)} == {("one", "three", "two")}


def test_a_rename_is_atomic_and_may_outlive_the_content() -> None:
    disk = _with_file(b"old")
    file = disk.open("new")
    file.append(b"new")
    disk.replace("new", "log")
    assert disk.read("log") == b"new"
    survivors = {after.read("log") for after in _crashes(disk)}
    assert {b"old", b"new", b""} <= survivors
    file.sync()
    disk.sync_directory()
    assert {after.read("log") for after in _crashes(disk)} == {b"new"}


def test_a_removed_name_may_come_back_until_the_directory_is_synced() -> None:
    disk = _with_file(b"x")
    disk.remove("log")
    assert {tuple(after.names()) for after in _crashes(disk)} == {(), ("log",)}
    disk.sync_directory()
    assert {tuple(after.names()) for after in _crashes(disk)} == {()}


def test_truncation_is_durable_at_once() -> None:
    disk = _with_file(b"0123456789")
    disk.truncate("log", 4)
    disk.open("log").append(b"abc")
    assert {after.read("log") for after in _crashes(disk)} == {b"0123", b"0123a", b"0123ab", b"0123abc"} | {
        b"0123" + bytes(length) for length in (1, 2, 3)
    }


def test_reserved_room_reads_as_zeros_until_it_is_written() -> None:
    """Also after a crash, which may take the room back as long as it was not synced."""
    disk = SimDisk(reserves=True)
    file = disk.open("log")
    file.reserve(6)
    file.append(b"ab")
    disk.sync_directory()
    assert disk.read("log") == b"ab\0\0\0\0"
    assert {b"", b"ab", b"ab\0\0\0\0", bytes(6)} <= {after.read("log") for after in _crashes(disk)}
    file.sync()
    file.append(b"cd")
    assert {after.read("log") for after in _crashes(disk)} == {b"ab\0\0\0\0", b"abcd\0\0"}
    file.append(b"efgh")
    assert disk.read("log") == b"abcdefgh"


def test_kill_keeps_the_page_cache_but_does_not_sync_it() -> None:
    disk = SimDisk()
    disk.open("log").append(b"written")
    after = disk.kill()
    assert after.read("log") == b"written"
    assert any(crashed.names() == [] for crashed in _crashes(after))
    with pytest.raises(PowerCut):
        disk.read("log")


@pytest.mark.parametrize("how", ["next", "numbered"])
def test_a_failed_sync_may_lose_the_data_for_good(how: str) -> None:
    """A later sync that succeeds does not bring them back (Rebello et al., ATC 2020)."""
    survivors = set()
    for seed in range(100):
        disk = SimDisk(Random(seed))
        file = disk.open("log")
        disk.sync_directory()
        file.append(b"first")
        if how == "next":
            disk.fail_next_sync()
        else:
            disk.fail_at(disk.operations)
        with pytest.raises(OSError, match="injected"):
            file.sync()
        assert disk.read("log") == b"first", "the page cache still shows it"
        file.append(b"second")
        file.sync()
        survivors.add(disk.crash(Random(seed)).read("log"))
    assert b"firstsecond" in survivors
    assert bytes(5) + b"second" in survivors
    assert all(content.endswith(b"second") and len(content) == 11 for content in survivors)


def test_every_operation_is_a_crash_point() -> None:
    def work(disk: SimDisk) -> None:
        file = disk.open("log")
        file.append(b"a")
        file.sync()
        disk.sync_directory()
        disk.truncate("log", 0)
        disk.replace("log", "final")
        disk.remove("final")

    whole = SimDisk()
    work(whole)
    assert whole.operations == 7
    for number in range(7):
        cut: list[int] = []
        disk = SimDisk()
        disk.crash_at(number, lambda cut=cut, number=number: cut.append(number))
        with pytest.raises(PowerCut):
            work(disk)
        assert cut == [number]
        assert disk.operations == number + 1
        with pytest.raises(PowerCut):
            disk.names()


def test_the_same_seed_leaves_the_same_state() -> None:
    disk = SimDisk()
    file = disk.open("log")
    for number in range(20):
        file.append(bytes([number]) * 700)
    for seed in range(20):
        first, second = disk.crash(Random(seed)), disk.crash(Random(seed))
        assert first.names() == second.names()
        assert [first.read(name) for name in first.names()] == [second.read(name) for name in second.names()]


def test_rot_changes_one_bit() -> None:
    disk = _with_file(b"abc")
    disk.flip_bit("log", 1)
    assert disk.read("log") == b"acc"
    assert disk.crash(Random(1)).read("log") == b"acc"
