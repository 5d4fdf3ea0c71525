"""What does a transaction cost by two-phase commit, three phases, TCC, a saga and a message?

    python -m benchmarks.protocols [--quick] [--json] [--directory DIR]

Three replicas and two participants, each a process on loopback, everything forced to disk. Every branch writes one
small row in the memory resource manager, whatever its protocol, so that what differs is what the protocol adds. All
protocols take their turn in every round, and a ratio is taken within each round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks.clients import Calling, ClientCaller, Generators, Style, Work, generators
from benchmarks.harness import Options, Report, data_directory, options, progress
from benchmarks.measuring import KINDS, Measured, measure, middle
from benchmarks.spending import Reading
from benchmarks.subject import KEYS, Subject
from coordinator.client import Branch, CommitProtocol
from coordinator.client.outcomes import Ended

CLIENTS = (1, 64)
STEPS = 5
THREE_PHASE_KEYS = ("keys-three-a", "keys-three-b")  # of their own: with the secret, an end in two phases costs a look
PROOF_SECRET = "only for this benchmark"
RETENTION_S = 3_600.0  # longer than a run: else what one protocol has left is forgotten while another is measured


class AsThreePhase(ClientCaller):
    """Every branch votes, precommits and commits."""

    async def ask(self, branches: Sequence[Branch]) -> Ended:
        return await self.client.commit(branches, protocol=CommitProtocol.THREE_PHASE)


class AsTcc(ClientCaller):
    """Every branch is reserved, then confirmed; each is a row that is written."""

    async def ask(self, branches: Sequence[Branch]) -> Ended:
        tcc = self.client.tcc()
        for branch in branches:
            tcc.reserve(branch.participant, branch.body, attempt="put", confirm="put", cancel="put")
        return await tcc.run()


class AsSaga(ClientCaller):
    """Every branch is a step, one after the other."""

    async def ask(self, branches: Sequence[Branch]) -> Ended:
        saga = self.client.saga()
        for branch in branches:
            saga.step(branch.participant, "put", branch.body, undo="put")
        return await saga.run()


class AsMessage(ClientCaller):
    """The first branch is the local transaction, the others are messages."""

    async def ask(self, branches: Sequence[Branch]) -> Ended:
        first, *others = branches
        message = self.client.message()
        message.when(first.participant, "put", first.body)
        for branch in others:
            message.send(branch.participant, "put", branch.body)
        return await message.run()


@dataclass(frozen=True, slots=True)
class Case:
    """`clients` clients that ask for transactions of so many branches by a protocol."""

    protocol: str
    branches: int
    clients: int

    @property
    def name(self) -> str:
        return f"{self.protocol} of {self.branches}"


PROTOCOLS: Mapping[str, Calling] = {
    "two-phase": ClientCaller,
    "three-phase": AsThreePhase,
    "tcc": AsTcc,
    "saga": AsSaga,
    "message": AsMessage,
}
SHAPES = (("two-phase", 2), ("three-phase", 2), ("tcc", 2), ("message", 2), ("two-phase", STEPS), ("saga", STEPS))
AGAINST = SHAPES[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """Every case is measured `rounds` times for `seconds`."""

    rounds: int
    seconds: float


FULL = Plan(rounds=3, seconds=4.0)
QUICK = Plan(rounds=1, seconds=0.8)


@dataclass(frozen=True, slots=True)
class Seen:
    """One measurement; `log_bytes`: by how much the leader's journal has grown for each committed transaction."""

    measured: Measured
    log_bytes: float


Rounds: TypeAlias = Mapping[Case, Sequence[Seen]]


class Logging(Subject):
    """Two participants with rows, and two that take three phases; remembers how large the leader's journal was whenever
    it was looked at."""

    def __init__(self, directory: Path) -> None:
        kinds = dict.fromkeys(KEYS, "keys") | dict.fromkeys(THREE_PHASE_KEYS, "keys-three-phase")
        super().__init__(directory, kinds, proof_secret=PROOF_SECRET, retention_s=RETENTION_S)
        self.looks: list[tuple[float, int]] = []

    async def read(self) -> Reading:
        reading = await super().read()
        view = await self._document(f"{self.replicas[await self.leader()]}/v1/cluster")
        self.looks.append((reading.at_s, int(view["journal_bytes"])))
        return reading


def grown_per_s(looks: Sequence[tuple[float, int]]) -> float:
    """Bytes a second between the last two looks: (s, bytes). Raises RuntimeError if there were fewer at the end."""
    (began_s, before), (ended_s, after) = looks[-2:]
    if after < before:
        raise RuntimeError("a snapshot made the journal shorter during a measurement: measure for a shorter time")
    return (after - before) / (ended_s - began_s)


def cases() -> list[Case]:
    """All of them, those with the same clients together."""
    return [Case(protocol, branches, clients) for clients in CLIENTS for protocol, branches in SHAPES]


async def _measure_all(directory: Path, plan: Plan) -> Rounds:
    rounds: dict[Case, list[Seen]] = {case: [] for case in cases()}
    with generators() as clients:
        async with Logging(directory) as subject:
            for case in rounds:  # warm up
                await _measure_one(subject, clients, case, plan.seconds / 4)
            for number in range(1, plan.rounds + 1):
                for at, case in enumerate(rounds, 1):
                    seen = await _measure_one(subject, clients, case, plan.seconds)
                    rounds[case].append(seen)
                    progress(f"round {number} of {plan.rounds}, case {at} of {len(rounds)}: {case.name}")
    return rounds


async def _measure_one(subject: Logging, clients: Generators, case: Case, seconds: float) -> Seen:
    subject.calling = PROTOCOLS[case.protocol]
    keys = THREE_PHASE_KEYS if case.protocol == "three-phase" else KEYS
    work = Work(Style.PUT, keys, branches=case.branches, space=f"{case.name}/")
    measured = await measure(subject, clients, work, case.clients, seconds)
    return Seen(measured, grown_per_s(subject.looks) / max(measured.per_s, 1e-9))


# What is said of it


def over(rounds: Rounds, case: Case, figure: Callable[[Seen], float]) -> float:
    """`figure` of a case over that of two-phase commit of two with as many clients: the median of the rounds."""
    against = rounds[Case(*AGAINST, case.clients)]
    pairs = zip(rounds[case], against, strict=True)
    return median(figure(one) / max(figure(other), 1e-9) for one, other in pairs)


FIGURES: Mapping[str, Callable[[Seen], float]] = {
    "per_s": lambda seen: seen.measured.per_s,
    "p50_ms": lambda seen: seen.measured.p50_ms,
    "cpu_us": lambda seen: seen.measured.all_cpu_us,
    "syncs": lambda seen: seen.measured.syncs,
    "log_bytes": lambda seen: seen.log_bytes,
}


def tell(report: Report, rounds: Rounds) -> None:
    """Two tables for each number of clients: ratios, and what was measured."""
    for clients in CLIENTS:
        asked = [case for case in rounds if case.clients == clients]
        report.heading("1 client" if clients == 1 else f"{clients} clients")
        ratios = [
            [case.name, *(f"{over(rounds, case, figure):.2f} x" for figure in FIGURES.values())] for case in asked
        ]
        headers = ["committed/s", "p50", "CPU", "forced writes", "log bytes"]
        report.table([f"against {' of '.join(map(str, AGAINST))}", *headers], ratios)
        headers = ["committed/s", "p50 ms", *(f"µs {kind}" for kind in KINDS), "µs in all", "syncs", "log bytes"]
        report.table(["measured", *headers, "not committed"], [_measured(case, rounds[case]) for case in asked])


def _measured(case: Case, seen: Sequence[Seen]) -> list[str]:
    each = middle([one.measured for one in seen])
    return [
        case.name,
        f"{each.per_s:,.0f}",
        f"{each.p50_ms:.1f}",
        *(f"{each.cpu_us[kind]:,.0f}" for kind in KINDS),
        f"{each.all_cpu_us:,.0f}",
        f"{each.syncs:.2f}",
        f"{median(one.log_bytes for one in seen):,.0f}",
        str(each.failed),
    ]


def _run(chosen: Options) -> None:
    plan = QUICK if chosen.quick else FULL
    report = Report("Protocols: two-phase commit, three phases, TCC, a saga, a message", chosen)
    report.machine()
    with data_directory(chosen) as directory:
        rounds = asyncio.run(_measure_all(directory, plan))
    others = median(one.measured.others for seen in rounds.values() for one in seen)
    report.text(
        f"Medians over {plan.rounds} rounds of {plan.seconds:g} s, in which each protocol took its turn. The processes "
        f"share the cores; others had {others:.0%} of them. Every branch writes one small row in the memory resource "
        "manager; of TCC, trying and confirming write one each. µs: CPU of all processes of a kind for each committed "
        "transaction. Syncs: forced writes of all replicas and participants for each. Log bytes: by how much the "
        "leader's journal grows for each; no coordinator forgets anything meanwhile. A message is committed when its "
        "local transaction is; it is delivered afterwards, which is in the cost and not in the p50."
    )
    tell(report, rounds)
    report.end(
        {
            f"{key}_over_two_phase": {
                case.name: round(over(rounds, case, figure), 3) for case in rounds if case.clients == CLIENTS[-1]
            }
            for key, figure in FIGURES.items()
        }
        | {"failed": sum(one.measured.failed for seen in rounds.values() for one in seen)}
    )


if __name__ == "__main__":
    _run(options("The cost of a transaction by protocol"))
