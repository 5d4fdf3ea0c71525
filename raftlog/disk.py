"""The port to one directory of a disk: append, sync, rename, and nothing that hides when data is durable.

POSIX promises little (fsync(2), rename(2)): appended bytes survive a power cut once the *file* is synced, a new,
renamed or removed name once its *directory* is. `RealDisk` is the operating system; the tests have a disk that
forgets everything that was not synced. Every call blocks; callers run them off the event loop.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

__all__ = ["Claim", "Disk", "File", "RealDisk"]

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class File(Protocol):
    """A file open for appending."""

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end. Durable only after `sync`. Raises OSError."""

    def reserve(self, size_bytes: int) -> None:
        """Make room for so many bytes more. Until something is appended there they read as zeros, after a crash too.

        A sync need not record a new length then, for which a journalling file system needs a transaction of its own.
        Raises OSError.
        """

    def sync(self) -> None:
        """Make the content durable, including the length (fdatasync). Raises OSError; never call it again then."""

    def close(self) -> None:
        """Give the handle back, without syncing."""


class Disk(Protocol):
    """One directory, owned by one process. Names are plain file names. Every method raises OSError."""

    def claim(self) -> None:
        """Keep other processes off the directory until `release`. Raises BlockingIOError if one is on it."""

    def release(self) -> None:
        """Let the next process in; the end of this one does so too, however it comes."""

    def random_bytes(self, count: int) -> bytes:
        """Bytes that nobody who only knows what is to be written can foresee."""

    def names(self) -> list[str]:
        """The names in the directory, sorted."""

    def read(self, name: str) -> bytes:
        """The whole content of a file."""

    def open(self, name: str) -> File:
        """Open for appending; a file that is not there is created (its name durable after `sync_directory`)."""

    def truncate(self, name: str, size: int) -> None:
        """Cut a file to `size` bytes and make that durable."""

    def replace(self, old: str, new: str) -> None:
        """Rename atomically, over an existing `new` too; durable after `sync_directory`."""

    def remove(self, name: str) -> None:
        """Remove a file; durable after `sync_directory`."""

    def sync_directory(self) -> None:
        """Make created, renamed and removed names durable."""


class Claim:
    """One process owns what is at `path`: an advisory lock, flock(2), which the kernel drops with the process.

    The file or directory must be there. It is to stay there, too: whoever removes it lets two owners in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> None:
        """Keep others out, also others of this process. Raises BlockingIOError if one is in, and OSError."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def drop(self) -> None:
        """Let the next owner in; nothing if this one is not in."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _RealFile:
    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        self._end = os.lseek(self._fd, 0, os.SEEK_END)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self._end)
            self._end += written
            view = view[written:]

    def reserve(self, size_bytes: int) -> None:
        os.posix_fallocate(self._fd, self._end, size_bytes)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # the number may soon be another file's
        os.close(fd)


class RealDisk:
    """A directory of the operating system, created if it is not there."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).absolute()
        _make_durably(self._path)
        self._claim = Claim(self._path)

    def __repr__(self) -> str:
        return f"RealDisk({str(self._path)!r})"

    def claim(self) -> None:
        self._claim.take()

    def release(self) -> None:
        self._claim.drop()

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self._path.iterdir())

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def open(self, name: str) -> File:
        return _RealFile(self._path / name)

    def truncate(self, name: str, size: int) -> None:
        with (self._path / name).open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def replace(self, old: str, new: str) -> None:
        (self._path / old).replace(self._path / new)

    def remove(self, name: str) -> None:
        (self._path / name).unlink()

    def sync_directory(self) -> None:
        _sync_directory(self._path)


def _make_durably(path: Path) -> None:
    """Make a directory and its parents, each of them durable in the one above."""
    if not path.is_dir():
        _make_durably(path.parent)
        path.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
