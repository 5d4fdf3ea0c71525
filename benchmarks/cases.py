"""What the commit path's benchmark measures: the cases, question by question, and a table for each question.

All cases are measured in every round, one after the other, so that a figure of one and a figure of another come from
the same minutes; what is reported is the median over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import TypeAlias

from benchmarks.clients import Style, Work
from benchmarks.harness import Report
from benchmarks.measuring import KINDS, Measured, middle
from benchmarks.subject import ACCOUNTS, BANKS, CLASSIC_KEYS, KEYS

__all__ = ["ALONE", "MANY", "Case", "Maker", "Question", "Rounds", "over", "questions", "tell"]

CLIENTS = (1, 4, 16, 64, 256, 512)
ALONE, SOME, MANY = 1, 64, 256
BRANCHES = (2, 4, 8)
PAYLOADS_BYTES = {"0.1 KiB": 102, "1 KiB": 1_024, "16 KiB": 16_384}
ZIPF = 0.99

NO_OP = Work(Style.PUT, KEYS)
CLASSIC = Work(Style.PUT, CLASSIC_KEYS)
ONE_PHASE = Work(Style.PUT, KEYS, branches=1)
LOOK = Work(Style.LOOK, KEYS)
TRANSFER = Work(Style.TRANSFER, BANKS, accounts=ACCOUNTS)
HOT_TRANSFER = Work(Style.TRANSFER, BANKS, accounts=ACCOUNTS, skew=ZIPF)


class Maker(StrEnum):
    """Who commits: we, or the hand-written coordinator, its libraries as they come or tuned."""

    COMMITD = "commitd"
    BY_HAND = "by-hand"
    BY_HAND_TUNED = "by-hand-tuned"


@dataclass(frozen=True, slots=True)
class Case:
    """`clients` clients that ask `maker` for `work`."""

    work: Work
    clients: int
    maker: Maker = Maker.COMMITD


Rounds: TypeAlias = Mapping[Case, Sequence[Measured]]


QUICK = (Case(TRANSFER, MANY), Case(TRANSFER, MANY, Maker.BY_HAND))


@dataclass(frozen=True, slots=True)
class Question:
    """A table of cases, each row with its name."""

    title: str
    text: str
    column: str
    rows: Mapping[str, Case]


def questions(quick: bool) -> list[Question]:
    """All of them; of a quick run fewer cases each."""
    return [_by_clients(quick), _by_path(quick), _by_branches(quick), _by_payload(quick), _by_load(quick)]


def _by_clients(quick: bool) -> Question:
    text = "No-op transactions: two branches, each of which writes one small row in the memory resource manager."
    counts = (ALONE, MANY) if quick else CLIENTS
    return Question("By clients", text, "clients", {str(count): Case(NO_OP, count) for count in counts})


def _by_path(quick: bool) -> Question:
    text = (
        "The same, by the path that the coordinator takes. Classic: the participants' capabilities do not say "
        "*prevent*. Read-only: one branch writes, the other reads. One-phase: a single branch."
    )
    works = {"staged": NO_OP, "classic": CLASSIC, "read-only branch": LOOK, "one-phase": ONE_PHASE}
    return Question(
        "By path",
        text,
        "path, clients",
        {
            f"{name}, {clients}": Case(work, clients)
            for clients in ((ALONE,) if quick else (ALONE, MANY))
            for name, work in works.items()
        },
    )


def _by_branches(quick: bool) -> Question:
    text = f"No-op branches over two participants, {SOME} clients."
    rows = {str(n): Case(Work(Style.PUT, KEYS, branches=n), SOME) for n in ((8,) if quick else BRANCHES)}
    return Question("By branches", text, "branches", rows)


def _by_payload(quick: bool) -> Question:
    text = f"What each of two branches carries and writes, {SOME} clients."
    sizes = {"16 KiB": PAYLOADS_BYTES["16 KiB"]} if quick else PAYLOADS_BYTES
    rows = {name: Case(Work(Style.PUT, KEYS, payload_bytes=size), SOME) for name, size in sizes.items()}
    return Question("By payload", text, "payload of a branch", rows)


def _by_load(quick: bool) -> Question:
    text = (
        f"A debit at one SQLite bank, a credit at the other, each of {ACCOUNTS:,} accounts (SmallBank's *send "
        f"payment*). Hot: accounts by Zipf's law, exponent {ZIPF}. By hand: `benchmarks/handwritten.py`, whose banks "
        "refuse an account that is in use (syncs: its commits, each of which is one at least); tuned: with a "
        "write-ahead log, uvloop and connections without limit."
    )
    rows = {
        f"transfers, {ALONE}": Case(TRANSFER, ALONE),
        f"transfers by hand, {ALONE}": Case(TRANSFER, ALONE, Maker.BY_HAND),
        f"transfers, {SOME}": Case(TRANSFER, SOME),
        f"hot transfers, {SOME}": Case(HOT_TRANSFER, SOME),
        f"transfers, {MANY}": Case(TRANSFER, MANY),
        f"transfers by hand, {MANY}": Case(TRANSFER, MANY, Maker.BY_HAND),
        f"transfers by hand, tuned, {MANY}": Case(TRANSFER, MANY, Maker.BY_HAND_TUNED),
    }
    if quick:
        rows = {name: case for name, case in rows.items() if case.work is HOT_TRANSFER or case in QUICK}
    return Question("By load", text, "load, clients", rows)


def over(rounds: Rounds, one: Case, other: Case, figure: Callable[[Measured], float]) -> float:
    """`figure` of one case over that of another, the median of the rounds."""
    pairs = zip(rounds[one], rounds[other], strict=True)
    return median(figure(ours) / max(figure(theirs), 1e-9) for ours, theirs in pairs)


def tell(report: Report, question: Question, rounds: Rounds) -> None:
    """The table of a question."""
    report.heading(question.title)
    report.text(question.text)
    headers = [question.column, "committed/s", "p50 ms", "p99 ms", "p99.9 ms"]
    headers += [f"µs {kind}" for kind in KINDS] + ["µs in all", "syncs", "not committed"]
    report.table(headers, [[name, *_cells(middle(rounds[case]))] for name, case in question.rows.items()])


def _cells(measured: Measured) -> list[str]:
    latencies = (measured.p50_ms, measured.p99_ms, measured.p999_ms)
    cpu_us = [f"{measured.cpu_us[kind]:.0f}" for kind in KINDS]
    return [
        f"{measured.per_s:,.0f}",
        *(f"{latency:.1f}" for latency in latencies),
        *cpu_us,
        f"{measured.all_cpu_us:.0f}",
        f"{measured.syncs:.2f}",
        str(measured.failed),
    ]
