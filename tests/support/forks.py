"""Processes of a cluster that are forked from one that has imported everything already.

They are processes like others: with a pid, a group and files of their own, killed and paused by the system. Only the
import is saved, which is nearly all that a start costs (half a second of CPU for each coordinator); and their hashes of
texts are the same. Whoever tests the start itself, or what might hang on the order of a set, takes `Cluster` as it is.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from coordinator.demo.cluster import Cluster
from coordinator.demo.process import Child, Process

__all__ = ["Forked", "ForkedCluster"]

_IMPORTED = ["coordinator.cli.main", "coordinator.cli.serve", "coordinator.cli.participant", "tests.support.forks"]
_PR_SET_PDEATHSIG = 1  # prctl(2)


class ForkedCluster(Cluster):
    """`Cluster`, whose coordinators and banks start at once."""

    def _process(self, name: str, verb: str, config: Path, *more: str) -> Process:
        return Forked(name, (verb, "--config", str(config), *more), self.directory / f"{name}.log")


class Forked(Process):
    """`Process`, without the import."""

    async def _begin(self, environment: Mapping[str, str]) -> Child:
        return await asyncio.to_thread(_forked, self._module, self._arguments, environment, self._log)


class _Child:
    """As much of an `asyncio.subprocess.Process` as is wanted here."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self._process = process
        self.pid: int = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    async def wait(self) -> int:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


@cache
def _forks() -> ForkServerContext:
    """The process that they are forked from starts with the first of them, and ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _forked(*what: Any) -> _Child:
    """Returns when it has its group, and can be killed by it."""
    ready, its_end = _forks().Pipe(duplex=False)
    process = _forks().Process(target=_run, args=(*what, its_end))
    process.start()
    its_end.close()
    with ready:
        ready.recv()
    return _Child(process)


def _run(module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path, ready: Connection) -> None:
    """What the forked process does: what `python -m module arguments` does."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    server: Any = forkserver._forkserver
    os.close(server._forkserver_alive_fd)  # ours would keep the server alive, and it us
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    ready.send(None)
    ready.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
