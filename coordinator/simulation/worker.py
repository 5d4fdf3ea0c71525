"""The simulated thread that waits for the disk: `raftlog.worker.Worker` on virtual time."""

from __future__ import annotations

import asyncio

from coordinator.simulation.process import PROCESS
from raftlog.worker import Done, Job

__all__ = ["SimWorker"]


class SimWorker:
    """Jobs take as long as the process's disk is slow, one at a time, in order."""

    def __init__(self, name: str) -> None:
        process = PROCESS.get()
        if process is None:
            raise RuntimeError("only a simulated process has threads")
        self._name = name
        self._process = process

    def submit(self, job: Job, done: Done) -> None:
        def finished(future: asyncio.Future[None]) -> None:
            done(future.exception())

        self._process.submit(self, job, ()).add_done_callback(finished)

    def stop(self) -> None:
        """What was submitted still ends, each job at its own time."""
