"""One process owns one set of files: an advisory lock that the kernel drops with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from participant.errors import AlreadyOwned

__all__ = ["FileGuard"]


class FileGuard:
    """Hold the lock file at `path` (created if absent, never removed: removing it would let two owners in)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> None:
        """Raises AlreadyOwned."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise AlreadyOwned(
                f"{self._path} is locked by another process: stop it, or give this one other files"
            ) from None
        self._fd = fd

    def drop(self) -> None:
        """Let the next owner in."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
