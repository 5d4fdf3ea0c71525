"""Many open transactions: what do they cost a replica, and do they slow down the others?

A participant prepares, and answers every commit with "come again". When enough transactions are in doubt there, it is
killed with `kill -9`, and the leader, too: so its successor takes all of them over, and finds the participant gone.
They are decided and open; the leader keeps a driver for each, all replicas its record. Until then the replicas wait
long before they try again (`benchmarks/patient.py`), and their limit of what may wait for one participant is raised,
because they would refuse new transactions there long before (that is what the limit is for).

What memory a transaction takes is the growth of the largest replica, its log's tail included. The transactions of
others are timed before any of them was opened, and again under the new leader.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.clients import ClientCaller, Generators, Style, Work
from benchmarks.harness import Report, progress
from benchmarks.measuring import NOTHING, Measured, measure, middle
from benchmarks.patient import HURRY
from benchmarks.spending import cpu_s, resident_bytes
from benchmarks.subject import KEYS, Subject
from coordinator.demo.errors import DemoError
from participant.values import canonical

__all__ = ["FULL", "QUICK", "Backlog", "Plan", "open_many", "tell"]

DOUBTFUL = "doubtful"
LIMITS = {"waiting_per_participant_max": 1_000_000}
OPENERS = 256
OPENING_TIMEOUT_S = 120.0
ENOUGH = 0.99  # of the transactions that were to be open: with fewer, nothing was shown
CLIENTS = 16
WARM_UP = 2_000  # transactions before memory is looked at: what a process takes once belongs to none of them
SETTLE_S = 1.0
QUIET = 0.2  # of a core, by the leader: its last calls to the dead participant have come back
QUIET_TIMEOUT_S = 20.0

_HEALTHY = Work(Style.PUT, KEYS)
_IN_DOUBT = Work(Style.PUT, (KEYS[0], DOUBTFUL), rows=1_000_000)
_BODIES_BYTES = 2 * len(canonical({"key": "100-1000-0", "value": 1_000}, "body"))


@dataclass(frozen=True, slots=True)
class Plan:
    """`for_memory` transactions are opened, memory is read, and more are opened up to `for_others`; then the others are
    timed for `rounds` times `seconds`."""

    for_memory: int
    for_others: int
    rounds: int
    seconds: float


FULL = Plan(20_000, 100_000, rounds=4, seconds=3.0)
QUICK = Plan(2_000, 5_000, rounds=2, seconds=1.0)


@dataclass(frozen=True, slots=True)
class Backlog:
    """`bytes_each`: of memory at a replica for each of `measured` transactions, without their bodies. `open`: how many
    were open while the others were timed; `without` and `with_them`: what those others saw. `trouble`: why nothing
    could be shown, if so."""

    measured: int
    bytes_each: float
    open: int
    without: Measured
    with_them: Measured
    trouble: str = ""

    @property
    def slower(self) -> float:
        """The p99 of the others, with the open transactions over without; infinite if there were too few of them."""
        return self.with_them.p99_ms / self.without.p99_ms


async def open_many(directory: Path, generators: Generators, plan: Plan) -> Backlog:
    """Open them, and look."""
    kinds = {**dict.fromkeys(KEYS, "keys"), DOUBTFUL: "keys-doubtful"}
    async with Subject(directory, kinds, server="benchmarks.patient", limits=LIMITS) as subject:
        await _open(subject, generators, WARM_UP, _HEALTHY)
        without = await _others(subject, generators, plan)
        progress(f"backlog: p99 of the others {without.p99_ms:.1f} ms")
        before = _memory_bytes(subject)
        opened = await _open(subject, generators, plan.for_memory, _IN_DOUBT)
        await asyncio.sleep(SETTLE_S)
        grown = [after - earlier for after, earlier in zip(_memory_bytes(subject), before, strict=True)]
        bytes_each = max(grown) / opened - _BODIES_BYTES
        progress(f"backlog: {bytes_each:,.0f} bytes for each of {opened:,}")
        await _open(subject, generators, plan.for_others - opened, replace(_IN_DOUBT, space="more-"))
        await subject.kill(DOUBTFUL)
        count, with_them, trouble = 0, NOTHING, ""
        try:
            count, with_them = await _under_a_new_leader(subject, generators, plan)
        except DemoError as error:  # nobody leads any more, or not long enough to say so
            trouble = str(error).partition(";")[0]
        if not trouble and count < ENOUGH * plan.for_others:
            trouble, with_them = f"only {count:,} of {plan.for_others:,} were open", NOTHING
        progress(f"backlog: {count:,} open; p99 of the others {with_them.p99_ms:.1f} ms; {trouble}")
    return Backlog(opened, bytes_each, count, without, with_them, trouble)


def tell(report: Report, backlog: Backlog) -> None:
    """The table of the open transactions."""
    report.heading("Open transactions")
    report.text(
        "Transactions between a healthy participant and one that was killed when all of them were prepared there. "
        f"Each takes **{backlog.bytes_each:,.0f} bytes** at the largest replica, its log's tail included and its "
        f"bodies not (growth over {backlog.measured:,}). {CLIENTS} clients at healthy participants meanwhile:"
    )
    rows = {"no open transactions": backlog.without}
    if not backlog.trouble:
        rows[f"{backlog.open:,} open transactions"] = backlog.with_them
    report.table(
        ["with", "committed/s", "p50 ms", "p99 ms", "p99.9 ms", "µs coordinators", "not committed"],
        [
            [
                name,
                f"{seen.per_s:,.0f}",
                *(f"{latency:.1f}" for latency in (seen.p50_ms, seen.p99_ms, seen.p999_ms)),
                f"{seen.cpu_us['coordinators']:.0f}",
                str(seen.failed),
            ]
            for name, seen in rows.items()
        ],
    )
    if backlog.trouble:
        report.text(f"With the open transactions nothing was measured: {backlog.trouble}.")


async def _under_a_new_leader(subject: Subject, generators: Generators, plan: Plan) -> tuple[int, Measured]:
    """How many transactions are open, and what the others see. Raises DemoError."""
    await _take_over(subject)
    await _quiet(subject)
    count = await subject.open_transactions()
    seen = await _others(subject, generators, plan)
    return count, seen


async def _open(subject: Subject, generators: Generators, count: int, work: Work) -> int:
    """How many were committed. What was not, because the machine had no time for it, leaves nothing behind."""
    answers = await generators.have_done(ClientCaller, subject.urls, work, OPENERS, count, OPENING_TIMEOUT_S)
    for failure, times in answers.failures.most_common(3):
        progress(f"backlog: {times} x {failure}")
    return len(answers.latencies_s)


async def _others(subject: Subject, generators: Generators, plan: Plan) -> Measured:
    rounds = [await measure(subject, generators, _HEALTHY, CLIENTS, plan.seconds) for _ in range(plan.rounds)]
    return middle(rounds)


def _memory_bytes(subject: Subject) -> list[int]:
    return [resident_bytes(subject.children[name].pid) for name in subject.replicas]


async def _take_over(subject: Subject) -> None:
    """Kill the leader, so that another one drives everything anew, in its usual hurry; and start it again."""
    leader = await subject.leader()
    _hurry(subject)
    await subject.processes[leader].kill()
    successor = await subject.leader(other_than=leader)
    await subject.restart(leader)
    _hurry(subject)
    progress(f"backlog: {successor} leads after {leader}")


def _hurry(subject: Subject) -> None:
    for name in subject.replicas:
        os.kill(subject.children[name].pid, HURRY)


async def _quiet(subject: Subject) -> None:
    """Wait until the leader has found out that the participant is dead."""
    pid, loop = subject.children[await subject.leader()].pid, asyncio.get_running_loop()
    give_up_at, spent_s = loop.time() + QUIET_TIMEOUT_S, cpu_s([pid])
    while loop.time() < give_up_at:
        await asyncio.sleep(SETTLE_S)
        former_s, spent_s = spent_s, cpu_s([pid])
        if spent_s - former_s < QUIET * SETTLE_S:
            return
