"""One measurement of the commit path: some clients, for some seconds, and what all processes spent meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Protocol

from benchmarks.clients import Calling, Generators, Work
from benchmarks.spending import CORES, Reading, cpu_s
from coordinator.demo.measures import percentile

__all__ = ["KINDS", "NOTHING", "Measured", "System", "measure", "middle"]

SETTLE_S = 0.3
KINDS = ("coordinators", "participants", "clients")


class System(Protocol):
    """What is measured: `calling` opens at `urls` what clients ask through."""

    calling: Calling

    @property
    def urls(self) -> Sequence[str]:
        """Where clients ask."""

    async def read(self) -> Reading:
        """What its processes have spent until now."""


@dataclass(frozen=True, slots=True)
class Measured:
    """`cpu_us` and `syncs` are for each committed transaction. `others`: the share of all cores that processes had
    which do not belong to the measurement. `failed`: transactions that were not committed, warming up included."""

    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: Mapping[str, float]
    syncs: float
    others: float
    failed: int

    @property
    def all_cpu_us(self) -> float:
        """Of all processes together."""
        return sum(self.cpu_us.values())


NOTHING = Measured(0.0, inf, inf, inf, dict.fromkeys(KINDS, 0.0), 0.0, 0.0, 0)
"""Of something that did not work."""


async def measure(system: System, generators: Generators, work: Work, clients: int, seconds: float) -> Measured:
    """Let `clients` clients work, and look at `seconds` of it once all of them have begun."""
    await generators.begin(system.calling, system.urls, work, clients)
    await asyncio.sleep(SETTLE_S)
    before, clients_before_s = await system.read(), cpu_s(generators.pids)
    await asyncio.sleep(seconds)
    clients_after_s, after = cpu_s(generators.pids), await system.read()
    answers = await generators.end()
    latencies_ms = [latency * 1e3 for latency in answers.between(before.at_s, after.at_s)]
    took_s, count = after.at_s - before.at_s, max(1, len(latencies_ms))
    longest_ms = latencies_ms or [inf]  # nobody has waited to the end
    spent_s = {kind: after.cpu_s[kind] - before.cpu_s[kind] for kind in before.cpu_s}
    spent_s["clients"] = clients_after_s - clients_before_s
    others_s = after.machine_s - before.machine_s - sum(spent_s.values())
    return Measured(
        len(latencies_ms) / took_s,
        percentile(longest_ms, 50),
        percentile(longest_ms, 99),
        percentile(longest_ms, 99.9),
        cpu_us={kind: spent_s[kind] / count * 1e6 for kind in KINDS},
        syncs=(after.syncs - before.syncs) / count,
        others=max(0.0, others_s / took_s / CORES),
        failed=sum(answers.failures.values()),
    )


def middle(rounds: Sequence[Measured]) -> Measured:
    """The median of each figure; `failed` is their sum."""
    return Measured(
        median(each.per_s for each in rounds),
        median(each.p50_ms for each in rounds),
        median(each.p99_ms for each in rounds),
        median(each.p999_ms for each in rounds),
        {kind: median(each.cpu_us[kind] for each in rounds) for kind in KINDS},
        median(each.syncs for each in rounds),
        median(each.others for each in rounds),
        sum(each.failed for each in rounds),
    )
