"""What does an honest distributed commit cost, and how many a second are there?

    python -m benchmarks.commit [--quick] [--json] [--directory DIR]

Three replicas and two participants, each a process on loopback, everything forced to disk; the clients in processes of
their own (`benchmarks/clients.py`). Beside it, in the same rounds: the floor (`benchmarks/alone.py`), the classic path,
and two-phase commit as people write it by hand (`benchmarks/handwritten.py`). After that, many open transactions at a
participant that is gone (`benchmarks/backlog.py`), and one transaction taken apart (`benchmarks/waterfall.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median

from benchmarks import backlog, cases, goals, waterfall
from benchmarks.alone import Alone, measure_alone
from benchmarks.backlog import Backlog
from benchmarks.cases import ALONE, CLASSIC, MANY, NO_OP, TRANSFER, Case, Maker, Rounds
from benchmarks.clients import Generators, generators
from benchmarks.floor import Floor
from benchmarks.handwritten import ByHand
from benchmarks.harness import Options, Report, data_directory, options, progress
from benchmarks.measuring import Measured, System, measure, middle
from benchmarks.services import RETENTION_S
from benchmarks.spending import CORES
from benchmarks.subject import KEYS, Subject

TAKEN_APART = 300
BY_HAND_LONGER = 2.5  # its transactions are so slow that a short time would hold hardly one of each client

_NO_OP_ALONE, _CLASSIC_ALONE = Case(NO_OP, ALONE), Case(CLASSIC, ALONE)
_NO_OP, _TRANSFER = Case(NO_OP, MANY), Case(TRANSFER, MANY)
_BY_HAND = Case(TRANSFER, MANY, Maker.BY_HAND)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every case is measured `rounds` times for `seconds`."""

    rounds: int
    seconds: float
    backlog: backlog.Plan


FULL = Plan(rounds=3, seconds=2.0, backlog=backlog.FULL)
QUICK = Plan(rounds=1, seconds=0.8, backlog=backlog.QUICK)


@dataclass(frozen=True, slots=True)
class Results:
    """All that was measured, round by round where there are rounds."""

    alone: Sequence[Alone]
    rounds: Rounds
    backlog: Backlog


async def _measure_cases(
    directory: Path, floor: Floor, clients: Generators, asked: Sequence[Case], plan: Plan
) -> tuple[list[Alone], Rounds]:
    alone: list[Alone] = []
    rounds: dict[Case, list[Measured]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        subject = await stack.enter_async_context(Subject(_made(directory / "commitd")))
        systems: dict[Maker, System] = {Maker.COMMITD: subject}
        for maker in {case.maker for case in asked} - systems.keys():
            by_hand = ByHand(_made(directory / maker), tuned=maker is Maker.BY_HAND_TUNED)
            systems[maker] = await stack.enter_async_context(by_hand)
        for case in (_NO_OP, _TRANSFER, _BY_HAND):  # warm up
            await measure(systems[case.maker], clients, case.work, case.clients, plan.seconds)
        for number in range(1, plan.rounds + 1):
            alone.append(await measure_alone(floor, clients, subject.banks[KEYS[0]], number))
            for at, case in enumerate(asked, 1):
                seconds = plan.seconds if case.maker is Maker.COMMITD else plan.seconds * BY_HAND_LONGER
                seen = await measure(systems[case.maker], clients, case.work, case.clients, seconds)
                rounds[case].append(seen)
                progress(f"round {number} of {plan.rounds}, case {at} of {len(asked)}: {seen.per_s:,.0f}/s")
    return alone, rounds


async def _measure_all(directory: Path, asked: Sequence[Case], plan: Plan) -> Results:
    with Floor(directory) as floor, generators() as clients:
        alone, rounds = await _measure_cases(directory, floor, clients, asked, plan)
        return Results(alone, rounds, await backlog.open_many(_made(directory / "backlog"), clients, plan.backlog))


def _figures(results: Results) -> dict[str, float]:
    rounds, no_op = results.rounds, middle(results.rounds[_NO_OP])
    over_floor = [
        staged.p50_ms / alone.floor_ms for staged, alone in zip(rounds[_NO_OP_ALONE], results.alone, strict=True)
    ]
    return {
        "staged_over_floor": median(over_floor),
        "staged_over_classic": cases.over(rounds, _NO_OP_ALONE, _CLASSIC_ALONE, lambda seen: seen.p50_ms),
        "noop_per_s": no_op.per_s,
        "sqlite_transfers_per_s": middle(rounds[_TRANSFER]).per_s,
        "over_handwritten": cases.over(rounds, _TRANSFER, _BY_HAND, lambda seen: seen.per_s),
        "syncs_per_transaction": no_op.syncs,
        "bytes_per_open_transaction": results.backlog.bytes_each,
        "open_over_none": results.backlog.slower,
    }


def _why(results: Results) -> dict[str, str]:
    """What stands in the way of a figure, as far as the run can tell."""
    rounds = results.rounds
    staged, classic = middle(rounds[_NO_OP_ALONE]), middle(rounds[_CLASSIC_ALONE])
    return {
        "staged_over_floor": f"{staged.all_cpu_us:,.0f} µs of CPU each over all processes: {CORES} cores, were they "
        f"always busy, take {staged.all_cpu_us / CORES / 1e3:.2f} ms, and {staged.p50_ms:.2f} ms were seen",
        "staged_over_classic": f"the entry of the log that the staged path does not wait for takes "
        f"{classic.p50_ms - staged.p50_ms:.2f} ms; {staged.p50_ms:.2f} ms are common to both",
        "open_over_none": results.backlog.trouble,
        "noop_per_s": _spent(middle(rounds[_NO_OP])),
        "sqlite_transfers_per_s": _spent(middle(rounds[_TRANSFER])),
        "over_handwritten": f"by hand {_spent(middle(rounds[_BY_HAND]))}; ours {_spent(middle(rounds[_TRANSFER]))}",
    }


def _spent(seen: Measured) -> str:
    most = CORES * 1e6 / seen.all_cpu_us
    return f"{seen.all_cpu_us:.0f} µs of CPU each: {CORES} cores do {most:,.0f}/s at most; others had {seen.others:.0%}"


def _tell_floor(report: Report, alone: Sequence[Alone], rounds: Rounds) -> None:
    report.heading("One client, against the floor")
    staged, classic = middle(rounds[_NO_OP_ALONE]), middle(rounds[_CLASSIC_ALONE])
    report.table(
        ["median of", "ms"],
        [
            ["a forced write and a round trip, alone", f"{median(each.written_ms for each in alone):.2f}"],
            ["a prepare over HTTP at a participant, alone", f"{median(each.prepared_ms for each in alone):.2f}"],
            ["the floor: both at the same time", f"{median(each.floor_ms for each in alone):.2f}"],
            ["a transaction on the staged path", f"{staged.p50_ms:.2f}"],
            ["a transaction on the classic path", f"{classic.p50_ms:.2f}"],
        ],
    )


def _tell_how(report: Report, plan: Plan) -> None:
    report.text(
        f"Medians over {plan.rounds} rounds of {plan.seconds:g} s, in which every case took its turn. µs: CPU of all "
        "threads of all processes of a kind for each committed transaction, from /proc; the processes share the cores. "
        "Syncs: forced writes of all replicas and participants for each committed transaction: the replicas' own "
        "counters; calls of `fdatasync` and `fsync` in the memory participants; commits to SQLite's write-ahead "
        "log, and its checkpoints (`benchmarks/services.py`). Finished transactions are forgotten after "
        f"{RETENTION_S:g} s, at that cost."
    )


def _measure(chosen: Options) -> None:
    report = Report("Commit: three replicas, two participants", chosen)
    report.machine()
    plan, questions = QUICK if chosen.quick else FULL, cases.questions(chosen.quick)
    asked = list(dict.fromkeys(case for question in questions for case in question.rows.values()))
    with data_directory(chosen) as directory:
        results = asyncio.run(_measure_all(directory, asked, plan))
        taken = [] if chosen.quick else asyncio.run(waterfall.take_apart(_made(directory / "apart"), TAKEN_APART))
    figures = _figures(results)
    _tell_how(report, plan)
    goals.tell(report, figures, _why(results))
    _tell_floor(report, results.alone, results.rounds)
    for question in questions:
        cases.tell(report, question, results.rounds)
    backlog.tell(report, results.backlog)
    if taken:
        waterfall.tell(report, taken)
    report.end({key: _rounded(figure) for key, figure in figures.items()})


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _rounded(figure: float) -> float | None:
    """For JSON, which knows no infinity."""
    if not isfinite(figure):
        return None
    return round(figure) if figure >= 100 else round(figure, 3)


if __name__ == "__main__":
    _measure(options("Throughput, latency and cost of transactions, against goals"))
