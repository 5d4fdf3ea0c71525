"""The port to the disk: the operating system's and the one that forgets behave alike while nothing fails."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from coordinator.simulation.disk import SimDisk
from raftlog import LogConfig, Member, RaftLog, Security
from raftlog.disk import Disk, RealDisk
from raftlog.errors import ConfigError
from tests.support.loopback import Blob


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path / "not" / "there" / "yet") if request.param == "real" else SimDisk()


def put(disk: Disk, name: str, *pieces: bytes) -> None:
    file = disk.open(name)
    for piece in pieces:
        file.append(piece)
    file.sync()
    file.close()


def test_appended_pieces_read_back_as_one(disk: Disk) -> None:
    put(disk, "log", b"one ", b"", b"two ")
    put(disk, "log", b"three")
    assert disk.read("log") == b"one two three"


def test_names_are_sorted_and_follow_renames_and_removals(disk: Disk) -> None:
    for name in ("c", "a", "b"):
        put(disk, name, name.encode())
    disk.replace("c", "a")
    disk.remove("b")
    disk.sync_directory()
    assert disk.names() == ["a"]
    assert disk.read("a") == b"c"


def test_a_file_is_cut_to_size_and_appended_to_after_that(disk: Disk) -> None:
    put(disk, "log", b"0123456789")
    disk.truncate("log", 4)
    put(disk, "log", b"x")
    assert disk.read("log") == b"0123x"


@pytest.mark.parametrize("operation", ["read", "remove", "truncate", "replace"])
def test_what_is_not_there_is_an_os_error(disk: Disk, operation: str) -> None:
    extra: dict[str, tuple[object, ...]] = {"truncate": (0,), "replace": ("b",)}
    with pytest.raises(FileNotFoundError):
        getattr(disk, operation)("a", *extra.get(operation, ()))


def test_a_closed_file_takes_nothing_more(disk: Disk) -> None:
    """Not even when the operating system has given its number to another. Red when `close` keeps the number."""
    file = disk.open("log")
    file.close()
    other = disk.open("other")
    with pytest.raises(OSError, match=r"closed|descriptor"):
        file.append(b"x")
    other.close()
    assert disk.read("other") == b""


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`write` may take less than it is given (write(2)). Red when `append` writes only once."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    disk = RealDisk(tmp_path)
    put(disk, "log", b"0123456789")
    assert disk.read("log") == b"0123456789"


def test_syncs_reach_the_operating_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when `_RealFile.sync`, `truncate`, `sync_directory` or the making of a directory does not call it."""
    synced: list[tuple[str, int]] = []

    def noted(name: str) -> None:
        call = getattr(os, name)

        def sync(fd: int) -> None:
            synced.append((name, os.fstat(fd).st_ino))
            call(fd)

        monkeypatch.setattr(os, name, sync)

    noted("fsync")
    noted("fdatasync")
    disk = RealDisk(tmp_path / "data")
    put(disk, "log", b"0123456789")
    disk.truncate("log", 4)
    disk.sync_directory()
    directory = tmp_path / "data"
    log = (directory / "log").stat().st_ino
    made = ("fsync", tmp_path.stat().st_ino)
    assert synced == [made, ("fdatasync", log), ("fsync", log), ("fsync", directory.stat().st_ino)]


def test_nobody_else_can_read_what_is_written(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "data")
    put(disk, "log", b"x")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "log").stat().st_mode & 0o777 == 0o600


async def test_a_second_process_on_a_directory_leaves_it_as_it_is(tmp_path: Path) -> None:
    """Recovery rewrites the journal; under a running node it would take the file away that the node appends to.

    Red when `RaftLog.start` does not claim the directory before it reads it.
    """
    member = Member("n1", "127.0.0.1:1")
    config = LogConfig("c", "n1", (member,), Security(b"a secret of the test"))
    disk = RealDisk(tmp_path)
    put(disk, "journal-0000000001.wal", b"what the running node has written")
    disk.claim()
    with pytest.raises(ConfigError, match="in use by another process"):
        await RaftLog(config, Blob(), RealDisk(tmp_path), Random(1)).start()
    assert [(name, disk.read(name)) for name in disk.names()] == [
        ("journal-0000000001.wal", b"what the running node has written")
    ]
    disk.release()
    again = RealDisk(tmp_path)
    again.claim()
    again.release()
