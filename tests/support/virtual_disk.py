"""A disk with a volatile write cache under a real file system, for real servers, and its power cut.

Method: a FUSE file system in a process of its own shows one file, the disk. What is written to it stays in memory until
the disk is told to flush; ext4 lies on it by a loop device, so that a server's `fsync` ends in a flush and a memory map
or a directory entry is treated like everything else. `cut` writes into another file what the disk would hold after a
power cut: all that was flushed, and by chance some of the blocks that were written since. It waits for one of the next
writes, because between a write and its flush is the worst moment. The disk itself goes on, so one run has many cuts.

Needs root, /dev/fuse and loop devices; `missing` says what is not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = ["BLOCK_BYTES", "DISK_BYTES", "DROP_SYNCS", "FILE", "Cut", "VirtualDisk", "missing", "mounted"]

BLOCK_BYTES = 4096
DISK_BYTES = 512 << 20  # sparse
START_LOOKS_MAX = 500
_LOOK_EVERY_S = 0.02
UNMOUNT_ATTEMPTS = 50
_UNMOUNT_PAUSE_S = 0.1
_TOOLS = ("fusermount3", "mkfs.ext4", "losetup", "eatmydata")
FILE = "disk"

# Put before a command: none of its syncs reaches the disk. For showing that the tests can fail.
DROP_SYNCS = ("env", "LD_PRELOAD=libeatmydata.so")


def missing() -> str:
    """Why there can be no virtual disk here; empty if there can."""
    if os.geteuid() != 0:
        return "a virtual disk needs root"
    absent = [device for device in ("/dev/fuse", "/dev/loop-control") if not Path(device).exists()]
    if absent:
        return f"a virtual disk needs {', '.join(absent)}"
    tools = [tool for tool in _TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    return f"a virtual disk needs {', '.join(tools)}: make servers" if tools else ""


class Cut(NamedTuple):
    """When it was (`time.monotonic`), how many blocks were in the cache, and how many of them survived all the same."""

    at: float
    unflushed: int
    survived: int


class VirtualDisk:
    """A disk, mounted at `place` as long as the block of `plugged` runs."""

    def __init__(self, place: Path, process: asyncio.subprocess.Process) -> None:
        self.place = place
        self._process = process

    @classmethod
    @asynccontextmanager
    async def plugged(cls, folder: Path) -> AsyncIterator[VirtualDisk]:
        """A new disk; its files are in `folder`."""
        image, device = folder / "image", folder / "device"
        device.mkdir()
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", "-F", "-b", str(BLOCK_BYTES), "-m", "0", image)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.fuse_disk", image, device),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        try:
            for _ in range(START_LOOKS_MAX):
                if (device / FILE).exists():
                    break
                await asyncio.sleep(_LOOK_EVERY_S)
            with mounted(device / FILE, folder / "live") as place:
                yield cls(place, process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            if device.is_mount():
                _unmount(device)
            elif process.returncode is None:
                process.kill()
            await process.wait()

    def settle(self) -> None:
        """Bring everything to the disk, as an idle system does sooner or later."""
        _run("sync", "--file-system", self.place)

    async def cut(self, into: Path, seed: int, keep: float, writes: int) -> Cut:
        """Write into `into` what a power cut leaves after so many more writes, or a second without.

        `keep`: the chance of each unflushed block.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([str(into), seed, keep, writes]).encode() + b"\n")
        return Cut(*json.loads(await stdout.readline()))


@contextmanager
def mounted(image: Path, place: Path, *, is_kept: bool = True) -> Iterator[Path]:
    """The file system in the file `image`, at the new directory `place`, as long as the block runs."""
    place.mkdir()
    _run("mount", "-o", "loop", image, place)
    try:
        place.chmod(0o755)
        yield place
    finally:
        _unmount(place)
        place.rmdir()
        if not is_kept:
            image.unlink()


def _unmount(place: Path) -> None:
    """Processes that were killed may keep it busy for a moment."""
    for _ in range(UNMOUNT_ATTEMPTS):
        if subprocess.run(["umount", place], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(_UNMOUNT_PAUSE_S)
    _run("umount", place)


def _run(*command: str | Path) -> None:
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(command, check=True, env=environment)
