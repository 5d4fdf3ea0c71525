"""One transaction of a single client, taken apart: when does each step of it begin, and how long does it take?

The replicas run as in production but for a log and participants that note the time (`benchmarks/timed.py`); the
participants are the stock banks.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.bank import Clients, Heard, serving
from benchmarks.harness import Report
from benchmarks.timed import Step, read_steps
from coordinator.demo.accounts import BANKS
from coordinator.demo.cluster import Cluster
from coordinator.demo.process import Process

__all__ = ["BAR_WIDTH", "Taken", "bar", "take_apart", "tell", "whole"]

WARM_UP = 100
BAR_WIDTH = 40
LAST_END_S = 0.5  # the end of the last transaction waits this long at most for another proposal to ride along with


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

    @property
    def committed_at_s(self) -> float:
        """When it was: the record of the branches and every vote are durable."""
        return max(self.steps[step].ended_s for step in (("begin", ""), *(("prepare", bank) for bank in BANKS)))


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
    reply = Row("reply: committed to client", lambda t: t.committed_at_s, lambda t: t.heard.ended_at_s)
    return [
        accept,
        _row("branches logged", "begin"),
        *(_row(f"prepare at {bank}", "prepare", bank) for bank in BANKS),
        reply,
        _row("decision logged", "decide"),
        *(_row(f"commit at {bank}", "commit", bank) for bank in BANKS),
        _row("end logged (rides along)", "end"),
    ]


async def take_apart(directory: Path, count: int) -> list[Taken]:
    """`count` transactions, or a few less."""
    chance = Random(1)
    async with serving(directory, chance, _TimedCluster) as cluster:
        clients = Clients(tuple(cluster.replicas.values()), 1, chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run())
            await clients.answered(WARM_UP + count)
            clients.stop()
        await asyncio.sleep(LAST_END_S)
    return list(whole(clients.heard[WARM_UP:], read_steps(directory)))


def whole(heard: Iterable[Heard], steps: Iterable[Step]) -> Iterable[Taken]:
    """The transactions of which every step was seen, each once."""
    by_gid: dict[str, dict[tuple[str, str], Step]] = defaultdict(dict)
    for step in steps:
        by_gid[step.gid][step.what, step.branch] = step
    complete = {("begin", ""), ("decide", ""), ("end", "")} | {(v, b) for v in ("prepare", "commit") for b in BANKS}
    return (Taken(each, by_gid[each.gid]) for each in heard if by_gid[each.gid].keys() == complete)


def tell(report: Report, taken: list[Taken]) -> None:
    """The table of the steps."""
    rows = []
    heard_ms = median((each.heard.ended_at_s - each.heard.begun_at_s) * 1e3 for each in taken)
    for row in _rows():
        begun = median((row.begun(each) - each.heard.begun_at_s) * 1e3 for each in taken)
        took = median((row.ended(each) - row.begun(each)) * 1e3 for each in taken)
        ended = median((row.ended(each) - each.heard.begun_at_s) * 1e3 for each in taken)
        rows.append([row.name, f"{begun:.2f}", f"{took:.2f}", f"{ended:.2f}", bar(begun, ended, heard_ms)])
    report.heading("One transaction, step by step")
    report.text(
        f"Medians over {len(taken)} transfers of a single client on the staged path, in ms from the moment it asks. It "
        f"hears the answer after {heard_ms:.2f} ms, where the bars end; what comes later it does not wait for."
    )
    report.table(["operation", "begins", "duration", "cumulative", "bar"], rows)


def bar(begun_ms: float, ended_ms: float, scale_ms: float) -> str:
    """From begin to end, as far as that lies within the scale."""
    first, last = (min(BAR_WIDTH, round(at / scale_ms * BAR_WIDTH)) for at in (begun_ms, ended_ms))
    if first == BAR_WIDTH:
        return "later"
    return ("." * first + "#" * max(1, last - first)).ljust(BAR_WIDTH, ".")
