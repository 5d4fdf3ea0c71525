"""How long does nobody commit anything after the leading coordinator was killed?

    python -m benchmarks.failover [--quick] [--json] [--directory DIR]

Three replicas and two banks on SQLite, each a process, and clients that work all the time. Again and again the leader
is killed with `kill -9` at a random moment, started again a second later, and left in peace until it serves. The gap is
the longest time without a commit, as the clients hear it, from the blow to the first commit after the healing; so what
the restarted replica disturbs is counted too. Whatever is aborted is aborted because of it: see `benchmarks/bank.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.bank import Clients, Heard, serving
from benchmarks.harness import Options, Report, data_directory, options, progress
from coordinator.demo.cluster import Cluster
from coordinator.demo.measures import gap_s, percentile
from coordinator.wire import Outcome

KILLS = 40
KILLS_QUICK = 6
CLIENTS = 8
DOWN_S = 0.5
PEACE_S = (0.3, 0.8)  # between the healing and the next blow
BINS_MS = (100, 200, 300, 400, 500, 700, 1_000, 1_500)
GOAL_P50_MS = 700
GOAL_P99_MS = 1_500


@dataclass(frozen=True, slots=True)
class Blow:
    """A leader killed, and when it served again. Loop seconds."""

    leader: str
    at_s: float
    healed_at_s: float


@dataclass(frozen=True, slots=True)
class Siege:
    """What came of all the kills."""

    blows: list[Blow]
    heard: list[Heard]

    def gaps_ms(self) -> list[float]:
        commits = [heard.ended_at_s for heard in self.heard if heard.outcome is Outcome.COMMITTED]
        return [gap_s(commits, blow.at_s, blow.healed_at_s) * 1e3 for blow in self.blows]

    def latencies_ms(self) -> list[float]:
        """Of the commits that no kill touched."""
        return [
            (heard.ended_at_s - heard.begun_at_s) * 1e3
            for heard in self.heard
            if heard.outcome is Outcome.COMMITTED
            and not any(heard.ended_at_s > blow.at_s and heard.begun_at_s < blow.healed_at_s for blow in self.blows)
        ]


async def _kill(cluster: Cluster, clients: Clients, chance: Random) -> Blow:
    loop = asyncio.get_running_loop()
    leader = await cluster.leader()
    await asyncio.sleep(chance.uniform(*PEACE_S))
    at_s = loop.time()
    await cluster.processes[leader].kill()
    await asyncio.sleep(DOWN_S)
    await cluster.restart(leader)
    healed_at_s = loop.time()
    await clients.answered(CLIENTS)  # so that there is a commit after the healing
    return Blow(leader, at_s, healed_at_s)


async def _besiege(directory: Path, kills: int, chance: Random) -> Siege:
    async with serving(directory, chance) as cluster:
        clients = Clients(tuple(cluster.replicas.values()), CLIENTS, chance)
        blows = []
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run())
            await clients.answered(10 * CLIENTS)  # warm up
            for number in range(1, kills + 1):
                blows.append(await _kill(cluster, clients, chance))
                progress(f"kill {number} of {kills}: {blows[-1].leader}")
            clients.stop()
    return Siege(blows, clients.heard)


def _distribution(gaps_ms: Sequence[float]) -> list[list[str]]:
    """How many gaps lie between one bound and the next."""
    bounds = [0, *BINS_MS]
    rows = [
        [f"{low:,} to {high:,} ms", str(count), "#" * count]
        for low, high in pairwise(bounds)
        if (count := sum(low <= gap < high for gap in gaps_ms))
    ]
    if over := sum(gap >= bounds[-1] for gap in gaps_ms):
        rows.append([f"{bounds[-1]:,} ms and more", str(over), "#" * over])
    return rows


def _measure(chosen: Options) -> None:
    kills = KILLS_QUICK if chosen.quick else KILLS
    report = Report("Failover: the leading coordinator is killed", chosen)
    report.machine()
    with data_directory(chosen) as directory:
        siege = asyncio.run(_besiege(directory, kills, Random(2)))
    gaps_ms = siege.gaps_ms()
    p50, p90, p99 = (percentile(gaps_ms, rank) for rank in (50, 90, 99))
    outcomes = Counter(heard.outcome for heard in siege.heard)
    usual_ms = median(siege.latencies_ms())
    report.text(
        f"{CLIENTS} clients, transfers between two banks, {len(gaps_ms)} times `kill -9` of the leader. The gap is the "
        "longest time without a commit that the clients see, until the killed replica serves again."
    )
    report.table(
        ["gap without a commit", "ms", "against an undisturbed commit"],
        [
            [name, f"{gap:,.0f}", f"{gap / usual_ms:.0f} x"]
            for name, gap in (("p50", p50), ("p90", p90), ("p99", p99), ("longest", max(gaps_ms)))
        ],
    )
    report.text(f"Goal: p50 at most {GOAL_P50_MS} ms, p99 at most {GOAL_P99_MS:,} ms.")
    report.table(["gap", "kills", ""], _distribution(gaps_ms))
    report.table(
        ["transactions", "count"],
        [
            ["committed", f"{outcomes[Outcome.COMMITTED]:,}"],
            ["aborted (nothing but a failover could have)", f"{outcomes[Outcome.ABORTED]:,}"],
            ["without an answer", f"{outcomes[Outcome.DECIDING]:,}"],
        ],
    )
    for reason, count in Counter(heard.reason for heard in siege.heard if heard.reason).most_common():
        report.text(f"{count} x {reason}")
    report.end(
        {
            "gap_ms": {"p50": round(p50), "p99": round(p99)},
            "aborted_by_failover": outcomes[Outcome.ABORTED],
            "kills": len(gaps_ms),
        }
    )


if __name__ == "__main__":
    _measure(options("The gap without commits when the leading coordinator is killed"))
