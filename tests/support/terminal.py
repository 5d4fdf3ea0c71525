"""A terminal for the documentation: one shell that keeps its directory, variables and background jobs, alone on its
network. Ended, with everything that it started, by its process group.

The pages use fixed ports (7001 to 7003, 8001 to 8003, 9001, 9002), because a reader does. Where the system allows it,
the shell runs in a network namespace of its own, so that they are always free; elsewhere they must be, and one terminal
waits for another.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex

__all__ = ["PORTS", "Terminal", "terminal"]

PORTS = (7001, 7002, 7003, 8001, 8002, 8003, 9001, 9002)
BLOCK_TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0

# The loopback interface of a new namespace is down; /sbin/ip may not be installed.
_LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
os.execvp(sys.argv[1], sys.argv[1:])
"""


# What a shell says of the death of its background jobs is no output of a command.
_OBITUARY = re.compile(r"^\S+: line \d+: +\d+ (?:Killed|Terminated) .*\n", re.MULTILINE)


class Terminal:
    """`run` one block after the other."""

    def __init__(self, shell: asyncio.subprocess.Process, scripts: Path) -> None:
        self._shell = shell
        self._scripts = scripts
        self._count = 0

    async def run(self, commands: str) -> tuple[int, str]:
        """Run commands; their exit status, and what they printed on both outputs."""
        assert self._shell.stdin is not None
        self._count += 1
        script = self._scripts / f"{self._count}.sh"
        script.write_text(commands, encoding="utf-8")
        mark = f"ended-{token_hex(8)}"
        self._shell.stdin.write(f". {script} </dev/null; printf '{mark} %d\\n' $?\n".encode())
        async with asyncio.timeout(BLOCK_TIMEOUT_S):
            printed = await self._until(mark)
        before, _, status = printed.rpartition(mark)
        return int(status), _OBITUARY.sub("", before)

    async def _until(self, mark: str) -> str:
        """Everything up to the line that begins with `mark`, which is the last one."""
        assert self._shell.stdout is not None
        printed = ""
        while not re.search(rf"{mark} \d+\n", printed):
            data = await self._shell.stdout.read(65_536)
            assert data, f"the shell ended:\n{printed}"
            printed += data.decode(errors="replace")
        return printed


@asynccontextmanager
async def terminal(directory: Path, variables: dict[str, str]) -> AsyncIterator[Terminal]:
    """A shell in `directory` with these variables and no others."""
    scripts = directory.parent / "blocks"
    scripts.mkdir()
    own_network = _own_network()
    async with nullcontext() if own_network else _turn():
        shell = await asyncio.create_subprocess_exec(
            *own_network,
            *("bash", "--norc", "--noprofile"),
            cwd=directory,
            env=variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield Terminal(shell, scripts)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            async with asyncio.timeout(END_TIMEOUT_S):
                await shell.communicate()  # also those that inherited its output have ended


@cache
def _own_network() -> tuple[str, ...]:
    """What to begin a command with, to give it a network of its own; nothing where that is not possible."""
    unshare = shutil.which("unshare")
    for options in (["--net"], ["--net", "--map-root-user"]):
        command = [unshare or "unshare", *options, sys.executable, "-c", _LOOPBACK_UP]
        if unshare and subprocess.run([*command, "true"], capture_output=True, check=False, timeout=20).returncode == 0:
            return tuple(command)
    return ()


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    """The ports of this machine, for one process of the tests at a time. Raises OSError if something else has one."""
    lock = Path(tempfile.gettempdir(), f"commitd-pages-{os.getuid()}.lock")
    with await asyncio.to_thread(lock.open, "w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        for port in PORTS:
            with socket.socket() as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind(("127.0.0.1", port))
        yield
