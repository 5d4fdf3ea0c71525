"""How fast is `RaftLog` on three processes, against the bare cost of one forced write and one round trip?

    python -m benchmarks.log [--quick] [--json] [--directory DIR]

Three processes on loopback, each with a directory of its own on one real disk, every batch forced with `fdatasync`,
peers authenticated by a shared secret: the production configuration. The proposers are coroutines in the leader's
process, as a coordinator's drivers are; each proposes 200 bytes, waits until they are applied, and proposes again.

The machine is never quiet, so every round measures the floor (`benchmarks/floor.py`) and the log in turn, and the
ratio is the median over the rounds.
"""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import os
import random
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.floor import RECORD_BYTES, Floor
from benchmarks.harness import (
    Options,
    Report,
    data_directory,
    free_ports,
    options,
    progress,
    quiet,
    use_uvloop,
)
from coordinator.demo.measures import percentile
from raftlog import Applied, LogConfig, Member, RaftLog, RealDisk, Role, Security

NODES = 3
IN_FLIGHT = (1, 4, 16, 64, 256, 1_000)
PIPELINED = 256
FLOOR_SAMPLES = 200  # a round
GOAL_SEQUENTIAL = 3.0
GOAL_PIPELINED_PER_S = 60_000
ELECTION_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement: so many proposers, for so long. Latencies are seconds."""

    in_flight: int
    per_s: float
    latencies: array[float]


class LostLeader(Exception):
    """The measurement says nothing: the cluster changed its leader meanwhile."""


# In a node's process -----------------------------------------------------------------------------------------


class _Counter:
    """The smallest state machine: what is measured is the log."""

    def __init__(self) -> None:
        self._applied = 0

    def apply(self, _index: int, _command: bytes) -> int:
        self._applied += 1
        return self._applied

    def snapshot(self) -> Iterable[bytes]:
        return [b"%d" % self._applied]

    def restore(self, chunks: Iterable[bytes]) -> None:
        self._applied = int(b"".join(chunks))


async def _load(log: RaftLog, in_flight: int, seconds: float) -> Load:
    command, latencies = os.urandom(RECORD_BYTES), array("d")
    begun = time.perf_counter()
    end = begun + seconds

    async def propose_again_and_again() -> None:
        now = time.perf_counter()
        while now < end:
            before = now
            outcome = await log.propose(command)
            now = time.perf_counter()
            if not isinstance(outcome, Applied):
                raise LostLeader(f"in the middle of a measurement: {outcome}")
            latencies.append(now - before)

    async with asyncio.TaskGroup() as proposers:
        for _ in range(in_flight):
            proposers.create_task(propose_again_and_again())
    return Load(in_flight, len(latencies) / (time.perf_counter() - begun), latencies)


async def _serve(control: Connection, config: LogConfig, directory: Path) -> None:
    log = RaftLog(config, _Counter(), RealDisk(directory), random.Random())
    await log.start()
    while True:
        match await asyncio.to_thread(control.recv):
            case ("leads",):
                control.send(log.leadership.role is Role.LEADER)
            case ("load", in_flight, seconds):
                control.send(await _load(log, in_flight, seconds))
            case ("stop",):
                await log.stop()
                return


def _node(control: Connection, config: LogConfig, directory: Path) -> None:
    quiet()
    use_uvloop()
    asyncio.run(_serve(control, config, directory))


# In the measuring process ------------------------------------------------------------------------------------


class Cluster:
    """Three nodes, each in its own process, told over a pipe what to do."""

    def __init__(self, controls: list[Connection]) -> None:
        self._controls = controls

    def load(self, in_flight: int, seconds: float) -> Load:
        """Have the leader's process propose."""
        result: Load = _ask(self._leader(), "load", in_flight, seconds)
        return result

    def _leader(self) -> Connection:
        end = time.monotonic() + ELECTION_TIMEOUT_S
        while time.monotonic() < end:
            for control in self._controls:
                if _ask(control, "leads"):
                    return control
            time.sleep(0.05)
        raise TimeoutError(f"no leader within {ELECTION_TIMEOUT_S:g} s")


def _ask(control: Connection, *question: Any) -> Any:
    control.send(question)
    return control.recv()


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Start the nodes; stop them at the end."""
    spawn = mp.get_context("spawn")
    members = tuple(Member(f"n{at}", f"127.0.0.1:{port}") for at, port in enumerate(free_ports(NODES), 1))
    secret = os.urandom(32)
    controls, nodes = [], []
    for member in members:
        ours, theirs = spawn.Pipe()
        config = LogConfig("benchmark", member.name, members, Security(secret))
        node = spawn.Process(target=_node, args=(theirs, config, directory / member.name), daemon=True)
        node.start()
        theirs.close()  # so that a node's death is heard here
        controls.append(ours)
        nodes.append(node)
    try:
        yield Cluster(controls)
        for control in controls:
            control.send(("stop",))
    finally:
        for node in nodes:
            node.join(10)
            node.kill()


@dataclass(frozen=True, slots=True)
class Round:
    """Floor and log, measured in turn. Microseconds, each the median of the round."""

    sync_us: float
    round_trip_us: float
    floor_us: float
    sequential_us: float


def _round(floor: Floor, nodes: Cluster, seconds: float) -> Round:
    samples = floor.measure(FLOOR_SAMPLES)
    sequential = nodes.load(1, seconds).latencies
    samples += floor.measure(FLOOR_SAMPLES)
    return Round(
        median(sync for sync, _ in samples) * 1e6,
        median(trip for _, trip in samples) * 1e6,
        median(map(sum, samples)) * 1e6,
        median(sequential) * 1e6,
    )


def _sequential(report: Report, floor: Floor, nodes: Cluster, rounds: int) -> float:
    measured = []
    for number in range(1, rounds + 1):
        measured.append(_round(floor, nodes, seconds=0.5))
        progress(f"sequential, round {number} of {rounds}: {measured[-1].sequential_us:.0f} µs")
    ratio = median(each.sequential_us / each.floor_us for each in measured)
    report.heading("One proposal at a time")
    report.table(
        ["median of", "µs"],
        [
            ["one appended record, forced (fdatasync)", f"{median(each.sync_us for each in measured):.0f}"],
            ["one loopback round trip", f"{median(each.round_trip_us for each in measured):.0f}"],
            ["the floor: both, one after the other", f"{median(each.floor_us for each in measured):.0f}"],
            ["one proposal, from call to applied", f"{median(each.sequential_us for each in measured):.0f}"],
        ],
    )
    report.text(
        f"Over {rounds} rounds, floor and log in turn: a proposal takes **{ratio:.2f} x the floor** "
        f"(goal: at most {GOAL_SEQUENTIAL:g} x)."
    )
    return ratio


def _pipelined(report: Report, nodes: Cluster, rounds: int, seconds: float) -> float:
    loads: dict[int, list[Load]] = {in_flight: [] for in_flight in IN_FLIGHT}
    for number in range(1, rounds + 1):
        progress(f"in flight, round {number} of {rounds}")
        for in_flight, measured in loads.items():
            measured.append(nodes.load(in_flight, seconds))
    alone = median(load.per_s for load in loads[1])
    rows = []
    for in_flight, measured in loads.items():
        per_s = median(load.per_s for load in measured)
        p50, p99 = (median(percentile(load.latencies, rank) for load in measured) * 1e3 for rank in (50, 99))
        rows.append([f"{in_flight:,}", f"{per_s:,.0f}", f"{per_s / alone:.1f} x", f"{p50:.2f}", f"{p99:.2f}"])
    report.heading("Many in flight")
    report.table(["in flight", "proposals/s", "against one", "p50 ms", "p99 ms"], rows)
    pipelined = median(load.per_s for load in loads[PIPELINED])
    report.text(f"{PIPELINED} in flight: **{pipelined:,.0f} proposals/s** (goal: at least {GOAL_PIPELINED_PER_S:,}).")
    return pipelined


def _measure(chosen: Options) -> None:
    report = Report("The log: three processes, forced writes", chosen)
    report.machine()
    report.text(
        f"`RaftLog` on {NODES} processes on uvloop, commands of {RECORD_BYTES} bytes, the proposers in the leader's "
        "process. The floor is one `write` and `fdatasync` of a record appended to a file, then one round trip of it "
        "over loopback TCP between two processes, with blocking calls and nothing else."
    )
    with data_directory(chosen) as directory, Floor(directory) as floor, cluster(directory) as nodes:
        nodes.load(PIPELINED, 1.0)  # warm up
        ratio = _sequential(report, floor, nodes, rounds=5 if chosen.quick else 15)
        pipelined = _pipelined(report, nodes, rounds=2 if chosen.quick else 5, seconds=0.7 if chosen.quick else 2.0)
    report.end({"sequential_over_floor": round(ratio, 3), "pipelined_per_s": round(pipelined)})


if __name__ == "__main__":
    _measure(options("Latency and throughput of the replicated log"))
