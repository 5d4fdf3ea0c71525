"""`commitd serve` with its two ports timed: when each proposal and each call of every transaction began and ended.

    python -m benchmarks.timed serve --config cluster.toml --node n1

The code that is measured is the production code; it is given a log and participants that do the same as ever and note
the time. The notes are appended to `<node>.times` next to the configuration, one msgpack array each, in seconds of the
monotonic clock, which all processes of a machine share. A note costs a few microseconds, a step takes milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from coordinator import compose
from coordinator.cli.main import main
from coordinator.ledger.commands import Begin, Decide, End, decode
from coordinator.participants.http import HttpParticipants
from participant.wire import Answer, Operation
from raftlog import Outcome, RaftLog

__all__ = ["Step", "read_steps"]


@dataclass(frozen=True, slots=True)
class Step:
    """One proposal (`begin`, `decide`, `end`) or one call (`prepare`, `commit`) of a transaction. Seconds."""

    what: str
    gid: str
    branch: str
    begun_s: float
    ended_s: float


class _Notes:
    """A file of notes, each written at once, so that they survive `kill -9`."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, *fields: Any) -> None:
        os.write(self._fd, msgpack.packb(fields))


def read_steps(directory: Path) -> Iterator[Step]:
    """What the replicas whose configuration is in `directory` have noted so far."""
    for file in sorted(directory.glob("*.times")):
        with file.open("rb") as stream:
            for what, *fields in msgpack.Unpacker(stream):
                yield from _proposed(*fields) if what == "propose" else [Step(what, *fields)]


def _proposed(data: bytes, begun_s: float, ended_s: float) -> Iterator[Step]:
    command = decode(data)
    if isinstance(command, Begin | Decide | End):
        yield Step(type(command).__name__.lower(), command.gid, "", begun_s, ended_s)


def _time_ports(notes: _Notes) -> None:
    """Let `compose` build a replica over timed ports."""

    class TimedLog(RaftLog):
        def propose(self, command: bytes, *, command_id: bytes | None = None) -> asyncio.Future[Outcome]:
            begun_s = time.monotonic()
            outcome = super().propose(command, command_id=command_id)
            outcome.add_done_callback(lambda _: notes.add("propose", command, begun_s, time.monotonic()))
            return outcome

    class TimedParticipants(HttpParticipants):
        def call(self, name: str, operation: Operation) -> asyncio.Future[Answer]:
            begun_s, key = time.monotonic(), operation.key
            answer = super().call(name, operation)
            answer.add_done_callback(
                lambda _: notes.add(operation.verb.value, key.gid, key.branch, begun_s, time.monotonic())
            )
            return answer

    replaced: dict[str, Any] = {"RaftLog": TimedLog, "HttpParticipants": TimedParticipants}
    for name, timed in replaced.items():
        setattr(compose, name, timed)


def _serve() -> None:
    options = dict(zip(sys.argv, sys.argv[1:], strict=False))
    _time_ports(_Notes(Path(options["--config"]).parent / f"{options['--node']}.times"))
    main()


if __name__ == "__main__":
    _serve()
