"""A process that runs one `RaftLog` node on a real disk, and a handle on it for tests.

The process reads requests from its standard input and writes what happens to its standard output, one JSON object a
line. Requests carry a number `n`, which their answer repeats:

    {"n": 1, "do": "propose", "command": "text"}     {"n": 1, "outcome": "applied", "index": 7, "result": 3}
    {"n": 2, "do": "barrier"}                        {"n": 2, "outcome": "applied", ..., "commands": [...]}
    {"n": 3, "do": "status"}                         {"n": 3, "applied_index": 7, "counters": {...}, ...}

The command serves as its own id. Unasked, the process says `{"leadership": [role, term, leader]}` at every change,
and `{"started": true}` or `{"failed": "why"}` once. At the end of its input it stops quietly.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from raftlog.config import LogConfig, Security, Timing
from raftlog.disk import RealDisk
from raftlog.errors import LogError
from raftlog.node import RaftLog
from raftlog.port import Applied, Leadership, Member, Outcome, Refused, Role

__all__ = ["LogNode"]

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 30.0
_LINE_BYTES_MAX = 16 << 20
_TIMING = Timing(heartbeat_s=0.03, election_min_s=0.15, election_max_s=0.3, lease_s=0.5, silence_s=0.5, redial_s=0.02)


class Tape:
    """Remembers every command in the order of application; the result is how many there are."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def apply(self, _index: int, command: bytes) -> int:
        self.commands.append(command.decode())
        return len(self.commands)

    def snapshot(self) -> Iterable[bytes]:
        captured = list(self.commands)
        return (command.encode() + b"\n" for command in captured)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.commands = b"".join(chunks).decode().splitlines()


# The process ---------------------------------------------------------------------------------------------------------


def _say(**fields: Any) -> None:
    """One line, handed to the kernel before anything else happens: what was said survives our death."""
    os.write(1, json.dumps(fields).encode() + b"\n")


def _outcome(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Applied(index, result):
            return {"outcome": "applied", "index": index, "result": result}
        case Refused(reason, leader):
            return {"outcome": "refused", "reason": reason, "leader": leader}
        case _:
            return {"outcome": "unknown", "reason": outcome.reason}


async def _answer(log: RaftLog, tape: Tape, request: dict[str, Any]) -> None:
    match request["do"]:
        case "propose":
            command = request["command"].encode()
            said = _outcome(await log.propose(command, command_id=command))
        case "barrier":
            said = {**_outcome(await log.barrier()), "commands": tape.commands}
        case _:
            said = asdict(log.status())
    _say(n=request["n"], **said)


async def _serve(config: LogConfig, directory: str) -> None:
    tape = Tape()
    log = RaftLog(config, tape, RealDisk(directory), random.SystemRandom())
    log.subscribe(lambda seen: _say(leadership=[seen.role, seen.term, seen.leader]))
    await log.start()
    _say(started=True)
    reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        while line := await reader.readline():
            group.create_task(_answer(log, tape, json.loads(line)))
        await log.stop()


def _main(directory: str, name: str, members: dict[str, str], snapshot_entries: int) -> int:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    config = LogConfig(
        cluster="processes",
        name=name,
        members=tuple(Member(member, address) for member, address in members.items()),
        security=Security(secret=b"a secret between processes"),
        timing=_TIMING,
        snapshot_entries=snapshot_entries,
    )
    try:
        asyncio.run(_serve(config, directory))
    except (LogError, OSError) as error:
        _say(failed=str(error))
        return 1
    return 0


# The handle ----------------------------------------------------------------------------------------------------------


class LogNode:
    """One process. `leadership` is what it said last; answers that it gave before it died are heard after it, too."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_n = 0
        self._changed = asyncio.Event()
        self.leadership = Leadership(Role.FOLLOWER, 0, None)
        self.failure: str | None = None
        self._started = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, directory: Path, name: str, members: dict[str, str], snapshot_entries: int = 50) -> LogNode:
        """Start the process, and wait until it runs, or says why it does not (`failure`)."""
        arguments = json.dumps([str(directory), name, members, snapshot_entries])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.lognode",
            arguments,
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
        )
        node = cls(process)
        await node.until(lambda: node._started or node.failure is not None)
        return node

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if not line.endswith(b"\n"):
                break  # it died in the middle of a word
            self._hear(json.loads(line))
            self._changed.set()
        for future in self._asked.values():
            future.set_result({"outcome": "unknown", "reason": "the process is gone"})
        self._asked.clear()
        if not self._started and self.failure is None:
            self.failure = "the process ended without a word"
        self.leadership = Leadership(Role.FOLLOWER, self.leadership.term, None)
        self._changed.set()

    def _hear(self, said: dict[str, Any]) -> None:
        if "n" in said:
            self._asked.pop(said["n"]).set_result(said)
        elif "leadership" in said:
            role, term, leader = said["leadership"]
            self.leadership = Leadership(Role(role), term, leader)
        else:
            self._started = self._started or "started" in said
            self.failure = said.get("failed", self.failure)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until `holds()`, asked again whenever the process said something."""
        async with asyncio.timeout(_PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def ask(self, do: str, **fields: Any) -> asyncio.Future[dict[str, Any]]:
        """Send a request; the future is its answer, `unknown` if the process dies before it gives one."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        if self._reading.done() or self._process.stdin.is_closing():
            future.set_result({"outcome": "unknown", "reason": "the process is gone"})
            return future
        self._last_n += 1
        self._asked[self._last_n] = future
        self._process.stdin.write(json.dumps({"n": self._last_n, "do": do, **fields}).encode() + b"\n")
        return future

    @property
    def leads(self) -> bool:
        return self.leadership.role is Role.LEADER

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it lives."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def gone(self) -> int:
        """Wait for the end of the process; everything that it ever said has been heard then. Its exit code."""
        async with asyncio.timeout(_PATIENCE_S):
            await self._reading
            return await self._process.wait()

    async def stop(self) -> int:
        """Let it stop quietly."""
        assert self._process.stdin is not None
        self.signal(signal.SIGCONT)
        self._process.stdin.close()
        return await self.gone()


if __name__ == "__main__":
    sys.exit(_main(*json.loads(sys.argv[1])))
