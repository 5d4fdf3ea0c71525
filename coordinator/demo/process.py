"""One `commitd` process as a child: started like a user would, killed, paused, and never left behind.

Every child leads a process group of its own, so that Ctrl-C at the terminal reaches this process only, and is ended by
its pid. The kernel kills it when this process dies, however it dies (prctl(2), PR_SET_PDEATHSIG, through setpriv(1)).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from coordinator.demo.errors import DemoError

__all__ = ["Child", "Process"]

LOG_TAIL_LINES = 5
_CONFIG_PREFIX = "COMMITD_"


class Child(Protocol):
    """What must be known of a process that was started, as `asyncio.subprocess.Process` has it."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """None while it runs."""

    async def wait(self) -> int:
        """Its status, when it has ended."""


class Process:
    """`commitd` with `arguments`. What it says goes to the end of `log`. `module` stands in for `commitd` if given."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, *, module: str = "coordinator") -> None:
        self.name = name
        self._arguments = tuple(arguments)
        self._log = log
        self._module = module
        self._child: Child | None = None
        self._watching: asyncio.Task[None] | None = None
        self._may_end = False
        self._fault = ""

    @property
    def pid(self) -> int:
        """Of the process that was started last, which is also the number of its group."""
        if self._child is None:
            raise ProcessLookupError(f"{self.name} was not started")
        return self._child.pid

    async def start(self) -> None:
        """Start it, the first time or again."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_CONFIG_PREFIX)}
        self._child = await self._begin(environment)
        self._may_end = False
        self._watching = asyncio.create_task(self._watch(self._child))

    async def _begin(self, environment: Mapping[str, str]) -> Child:
        """As the leader of a process group of its own, which is killed when this process dies."""
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *_dies_with_us(),
                sys.executable,
                "-P",  # also where a directory of our user's is called as one of our packages
                "-m",
                self._module,
                *self._arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._may_end = True
        self._signal(signal.SIGKILL)
        if self._watching is not None:
            await asyncio.shield(self._watching)

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def check(self) -> None:
        """Raises DemoError, with the end of its log, if it has ended although nobody asked it to."""
        if self._fault:
            said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
            raise DemoError("\n".join([self._fault, "the last that it said:", *said]))

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.returncode is None:
            os.killpg(self._child.pid, number)

    async def _watch(self, child: Child) -> None:
        status = await child.wait()
        if not self._may_end:
            self._fault = f"{self.name} ended by itself with status {status}"


def _dies_with_us() -> tuple[str, ...]:
    """The words before a command that make the kernel kill it when its parent is gone."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv is not None else ()
