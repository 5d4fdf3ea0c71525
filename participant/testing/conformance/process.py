"""The participant under test as a process: started, killed without warning, started again, and never left behind.

It leads a process group of its own, and the whole group is killed: what a wrapper has started goes with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from participant.errors import CheckError

__all__ = ["START_TIMEOUT_S", "Process"]

START_TIMEOUT_S = 20.0  # until it answers
ASK_EVERY_S = 0.02
LOG_TAIL_LINES = 5


class Process:
    """`command` without a shell. `serves` asks whether it answers by now."""

    def __init__(self, command: Sequence[str], serves: Callable[[], Awaitable[bool]]) -> None:
        self._command = tuple(command)
        self._serves = serves
        self._child: asyncio.subprocess.Process | None = None
        # What it says is shown only if it does not start. A file, because a pipe that nobody reads would stop it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        """Start it, and wait until it answers. Raises CheckError."""
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            raise CheckError(f"{self._command[0]}: {error.strerror}") from error
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await self._serves():
                    if not self.is_running:
                        raise CheckError(self._died(self._child.returncode))
                    await asyncio.sleep(ASK_EVERY_S)
        except TimeoutError:
            raise CheckError(
                f"the participant that was started does not answer within {START_TIMEOUT_S:g} s; is the URL its own?"
            ) from None

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._child is None:
            return
        with suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(self._child.pid, signal.SIGKILL)
        await self._child.wait()

    async def close(self) -> None:
        """End it for good."""
        await self.kill()
        self._log.close()

    def _died(self, status: int | None) -> str:
        self._log.seek(0)
        said = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        why = f"the participant that was started ended at once, with status {status}"
        return "\n".join((why, *said[-LOG_TAIL_LINES:]))
