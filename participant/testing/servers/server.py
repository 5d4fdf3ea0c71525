"""One server process of our own: its folder, its port, its start and its end.

As root, the databases' servers refuse to run; they are run as the user that their package made. The folder is then that
user's, below the system's folder for temporary files, which every user may pass.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

__all__ = ["START_TIMEOUT_S", "Server", "ServerFailed", "ServerMissing", "find_program"]

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
REMOVE_ATTEMPTS = 100
_PROBE_INTERVAL_S = 0.02
_LOG_LINES = 15  # of the server's log, in an error

LOOPBACK = "127.0.0.1"


class ServerMissing(Exception):
    """The server's program is not installed. Says which package has it."""


class ServerFailed(Exception):
    """The server did not start, or ended by itself. Says what its log said last."""


def find_program(name: str, package: str, *folders: Path) -> Path:
    """Where a program is: in the path, or in one of `folders`. Raises ServerMissing."""
    places = [*folders, *map(Path, os.get_exec_path()), Path("/usr/sbin"), Path("/sbin")]
    for folder in places:
        if os.access(folder / name, os.X_OK):
            return folder / name
    raise ServerMissing(f"{name} is not installed: apt-get install {package} (or your system's like)")


class Server(ABC):
    """A server that is made once, and may be started, killed and started again."""

    user = ""  # whom root runs it as; empty: root

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._log = folder / "log"
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path | None = None, **options: Any) -> AsyncIterator[Self]:
        """A new server, started, for as long as the block runs. Raises ServerMissing, ServerFailed.

        Its folder is made in `directory`, or with the system's temporary files. The path must be short: that of a
        socket may have 107 bytes.
        """
        folder = Path(tempfile.mkdtemp(prefix="commitd-", dir=directory))
        server = cls(folder, _free_port(), **options)
        try:
            await server.set_up()
            yield server
        finally:
            await server.kill()
            await _remove(folder)

    async def set_up(self) -> None:
        """Make the data in the folder, which must be there and empty, and start. Raises ServerFailed."""
        if self._is_given_away():
            shutil.chown(self.folder, self.user)
        await self.make()
        await self.start()

    @abstractmethod
    async def make(self) -> None:
        """Make the data, before the first start."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What runs the server."""

    @abstractmethod
    async def probe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether it answers in its own protocol that it is ready."""

    async def start(self) -> None:
        """Start it, and wait until it is ready. Raises ServerFailed."""
        if self._process is not None:
            return
        self._process = await self._spawn(self.command())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await self._is_ready():
                    self.check()
                    await asyncio.sleep(_PROBE_INTERVAL_S)
        except TimeoutError:
            raise ServerFailed(f"not ready within {START_TIMEOUT_S:g} s:\n{self._last_words()}") from None

    def check(self) -> None:
        """Raises ServerFailed, with the end of its log, if it has ended although nobody asked it to."""
        if self._process is not None and self._process.returncode is not None:
            raise ServerFailed(f"{self.command()[0]} has ended by itself:\n{self._last_words()}")

    async def kill(self) -> None:
        """SIGKILL, for those that it has begun as well, and wait until all are gone. Its data stays."""
        family: list[int] = []
        await self._end(lambda process: family.extend(_kill(process.pid)))
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while any(map(_is_running, family)):  # noqa: ASYNC110 - they are no children of ours
                    await asyncio.sleep(_PROBE_INTERVAL_S)

    async def stop(self) -> None:
        """SIGTERM, and wait; SIGKILL if that takes too long."""
        await self._end(asyncio.subprocess.Process.terminate)

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._process is None:
            raise ServerFailed("it is not running")
        return self._process.pid

    async def _end(self, by: Callable[[asyncio.subprocess.Process], None]) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            by(process)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def run_to_end(self, *command: str | Path) -> None:
        """Run a tool of the server. Raises ServerFailed."""
        process = await self._spawn(command)
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            _kill(process.pid)
            await process.wait()
            raise
        if status != 0:
            raise ServerFailed(f"{command[0]} failed:\n{self._last_words()}")

    async def _spawn(self, command: Sequence[str | Path]) -> asyncio.subprocess.Process:
        setpriv: list[str] = []  # becomes the command, so the process is the server's
        if self._is_given_away():
            group = pwd.getpwnam(self.user).pw_gid
            setpriv = ["setpriv", f"--reuid={self.user}", f"--regid={group}", "--clear-groups"]
        if shutil.which("setpriv") is not None:  # the kernel kills it when this process dies, however it dies
            setpriv = [*(setpriv or ["setpriv"]), "--pdeathsig=KILL"]
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(*setpriv, "--", *command) if setpriv else command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # A MariaDB that starts removes the temporary tables of others from a folder that they share.
                env=os.environ | {"TMPDIR": str(self.folder)},
                start_new_session=True,  # Ctrl-C at the terminal is for this process
            )

    def _is_given_away(self) -> bool:
        return bool(self.user) and os.geteuid() == 0

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
                try:
                    return await self.probe(reader, writer)
                finally:
                    writer.close()
        except (OSError, TimeoutError, EOFError):
            return False

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-_LOG_LINES:])


def _kill(pid: int) -> list[int]:
    """SIGKILL a process, and those that it has begun: they would outlive it, and keep the next server from starting.

    Gives all of them. It is stopped first: one that sees its children die may begin others.
    """
    family = [pid]
    with suppress(OSError):  # it has ended; or there is no proc(5): it alone
        os.kill(pid, signal.SIGSTOP)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            family += _kill(int(child))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return family


def _is_running(pid: int) -> bool:
    """Whether it still holds anything: memory that it shares, a port, a file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


async def _remove(folder: Path) -> None:
    """Once nobody writes into it any more."""
    for _ in range(REMOVE_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not await asyncio.to_thread(folder.exists):
            return
        await asyncio.sleep(_PROBE_INTERVAL_S)


def _free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
