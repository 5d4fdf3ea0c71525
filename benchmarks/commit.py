"""How many transactions a second, how long does one take, and where does its time go?

    python -m benchmarks.commit [--quick] [--json] [--directory DIR]

Three replicas and two banks on SQLite (`synchronous=FULL`), each a process on loopback, and 1 to 64 clients in this
one, each of which has one transfer between the banks committed after the other. Then a single client's transactions
are taken apart: the replicas run as in production but for a log and participants that note the time
(`benchmarks/timed.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.bank import CLIENTS_MAX, Clients, Heard, serving
from benchmarks.floor import Floor
from benchmarks.harness import Options, Report, data_directory, options, progress
from benchmarks.timed import Step, read_steps
from coordinator.demo.accounts import BANKS
from coordinator.demo.cluster import Cluster
from coordinator.demo.measures import percentile
from coordinator.demo.process import Process
from coordinator.wire import Outcome

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
CLIENTS_QUICK = (1, 8, 64)
FLOOR_SAMPLES = 400
TAKEN_APART = 300
TAKEN_APART_QUICK = 100
WARM_UP = 100
BAR_WIDTH = 40
LAST_END_S = 0.5  # the end of the last transaction waits this long at most for another proposal to ride along with


# Throughput --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """What some clients heard in one stretch of time. Latencies are milliseconds."""

    per_s: float
    latencies_ms: list[float]
    failed: int


async def _load(cluster: Cluster, count: int, seconds: float, chance: Random) -> Load:
    clients = Clients(tuple(cluster.replicas.values()), count, chance)
    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run())
        await clients.answered(count)  # every client has found the leader
        begun, before = asyncio.get_running_loop().time(), len(clients.heard)
        await asyncio.sleep(seconds)
        clients.stop()
        took_s, heard = asyncio.get_running_loop().time() - begun, clients.heard[before:]
    committed = [each for each in heard if each.outcome is Outcome.COMMITTED]
    return Load(len(committed) / took_s, list(map(_latency_ms, committed)), len(heard) - len(committed))


async def _loads(directory: Path, counts: Iterable[int], rounds: int, seconds: float) -> dict[int, list[Load]]:
    chance, loads = Random(1), defaultdict(list)
    async with serving(directory, chance) as cluster:
        await _load(cluster, max(counts), 1.0, chance)  # warm up
        for number in range(1, rounds + 1):
            for count in counts:
                loads[count].append(await _load(cluster, count, seconds, chance))
            progress(f"throughput, round {number} of {rounds}")
    return loads


def _latency_ms(heard: Heard) -> float:
    return (heard.ended_at_s - heard.begun_at_s) * 1e3


def _throughput(report: Report, loads: dict[int, list[Load]]) -> dict[int, float]:
    per_s = {count: median(load.per_s for load in measured) for count, measured in loads.items()}
    rows = []
    for count, measured in loads.items():
        p50, p99 = (median(percentile(load.latencies_ms, rank) for load in measured) for rank in (50, 99))
        failed = sum(load.failed for load in measured)
        row = [str(count), f"{per_s[count]:,.0f}", f"{per_s[count] / per_s[1]:.1f} x", f"{p50:.1f}", f"{p99:.1f}"]
        rows.append([*row, str(failed)])
    report.heading("Transactions by number of clients")
    report.table(["clients", "committed/s", "against one", "p50 ms", "p99 ms", "not committed"], rows)
    report.text("The clients share the machine's cores with the five processes that they measure.")
    return per_s


# One transaction, taken apart --------------------------------------------------------------------------------


class _TimedCluster(Cluster):
    """The same cluster, its replicas with timed ports."""

    def _process(self, name: str, verb: str, config: Path, *more: str) -> Process:
        if verb != "serve":
            return super()._process(name, verb, config, *more)
        arguments = (verb, "--config", str(config), *more)
        return Process(name, arguments, self.directory / f"{name}.log", module="benchmarks.timed")


@dataclass(frozen=True, slots=True)
class Taken:
    """One transaction: what its client heard, and its steps by (what, branch)."""

    heard: Heard
    steps: dict[tuple[str, str], Step]


_Moment = Callable[[Taken], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One operation of the waterfall: when it begins and when it is over, in seconds of the common clock."""

    name: str
    begun: _Moment
    ended: _Moment


def _row(name: str, what: str, branch: str = "") -> Row:
    return Row(name, lambda taken: taken.steps[what, branch].begun_s, lambda taken: taken.steps[what, branch].ended_s)


def _rows() -> list[Row]:
    accept = Row("accept: client to driver", lambda t: t.heard.begun_at_s, lambda t: t.steps["begin", ""].begun_s)
    reply = Row("reply: decision to client", lambda t: t.steps["decide", ""].ended_s, lambda t: t.heard.ended_at_s)
    return [
        accept,
        _row("begin logged", "begin"),
        *(_row(f"prepare at {bank}", "prepare", bank) for bank in BANKS),
        _row("decision logged", "decide"),
        reply,
        *(_row(f"commit at {bank}", "commit", bank) for bank in BANKS),
        _row("end logged (rides along)", "end"),
    ]


async def _take_apart(directory: Path, count: int) -> list[Taken]:
    chance = Random(1)
    async with serving(directory, chance, _TimedCluster) as cluster:
        clients = Clients(tuple(cluster.replicas.values()), 1, chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run())
            await clients.answered(WARM_UP + count)
            clients.stop()
        await asyncio.sleep(LAST_END_S)
    return list(_whole(clients.heard[WARM_UP:], read_steps(directory)))


def _whole(heard: Iterable[Heard], steps: Iterable[Step]) -> Iterable[Taken]:
    """The transactions of which every step was seen, each once."""
    by_gid: dict[str, dict[tuple[str, str], Step]] = defaultdict(dict)
    for step in steps:
        by_gid[step.gid][step.what, step.branch] = step
    complete = {("begin", ""), ("decide", ""), ("end", "")} | {(v, b) for v in ("prepare", "commit") for b in BANKS}
    return (Taken(each, by_gid[each.gid]) for each in heard if by_gid[each.gid].keys() == complete)


def _waterfall(report: Report, taken: list[Taken]) -> None:
    rows = []
    heard_ms = median(_latency_ms(each.heard) for each in taken)
    for row in _rows():
        begun = median((row.begun(each) - each.heard.begun_at_s) * 1e3 for each in taken)
        took = median((row.ended(each) - row.begun(each)) * 1e3 for each in taken)
        ended = median((row.ended(each) - each.heard.begun_at_s) * 1e3 for each in taken)
        rows.append([row.name, f"{begun:.2f}", f"{took:.2f}", f"{ended:.2f}", _bar(begun, ended, heard_ms)])
    report.heading("One transaction, step by step")
    report.text(
        f"Medians over {len(taken)} transactions of a single client, in ms from the moment it asks. It hears the "
        f"answer after {heard_ms:.2f} ms, where the bars end; what comes later it does not wait for."
    )
    report.table(["operation", "begins", "duration", "cumulative", "bar"], rows)


def _bar(begun_ms: float, ended_ms: float, scale_ms: float) -> str:
    """From begin to end, as far as that lies within the scale."""
    first, last = (min(BAR_WIDTH, round(at / scale_ms * BAR_WIDTH)) for at in (begun_ms, ended_ms))
    if first == BAR_WIDTH:
        return "later"
    return ("." * first + "#" * max(1, last - first)).ljust(BAR_WIDTH, ".")


# The run -----------------------------------------------------------------------------------------------------


def _measure(chosen: Options) -> None:
    report = Report("Transactions: three replicas, two banks", chosen)
    report.machine()
    with data_directory(chosen) as directory, Floor(directory) as floor:
        for name in ("whole", "apart"):
            (directory / name).mkdir()
        counts, rounds, seconds = (CLIENTS_QUICK, 1, 2.0) if chosen.quick else (CLIENTS, 3, 4.0)
        samples = floor.measure(FLOOR_SAMPLES)
        loads = asyncio.run(_loads(directory / "whole", counts, rounds, seconds))
        samples += floor.measure(FLOOR_SAMPLES)
        taken = asyncio.run(_take_apart(directory / "apart", TAKEN_APART_QUICK if chosen.quick else TAKEN_APART))
    per_s = _throughput(report, loads)
    floor_ms = median(map(sum, samples)) * 1e3
    alone_ms = median(percentile(load.latencies_ms, 50) for load in loads[1])
    report.text(
        f"The floor of one forced write and one round trip (see the log's benchmark) was {floor_ms:.2f} ms: one client "
        f"waits **{alone_ms / floor_ms:.1f} x the floor** for a transaction with two forced log entries and two votes."
    )
    _waterfall(report, taken)
    report.end(
        {
            "per_s": {str(count): round(rate) for count, rate in per_s.items()},
            "alone_over_floor": round(alone_ms / floor_ms, 2),
            "alone_ms": round(alone_ms, 2),
        }
    )


if __name__ == "__main__":
    _measure(options(f"Throughput and latency of transactions, 1 to {CLIENTS_MAX} clients"))
