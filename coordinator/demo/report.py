"""What the demo says at the end: a table for people, one JSON object for programs. Owns: the words and the keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from coordinator.demo.faults import FaultKind
from coordinator.demo.measures import gap_s, percentile, wait_s
from coordinator.demo.run import Result
from coordinator.demo.strike import Struck
from coordinator.shards import shard_of
from coordinator.wire import Outcome
from participant.wire import CONFLICT

__all__ = ["ok", "summary", "table"]

LISTED_MAX = 12  # lines of one kind, before "and N more"


def ok(result: Result) -> bool:
    """Whether the books are right and every client has its answer."""
    return result.verdict.ok and not _with(result, Outcome.DECIDING)


def summary(result: Result) -> dict[str, Any]:
    """The result as one JSON object. Every line of the file is committed, aborted, rejected or deciding."""
    latencies_ms = _latencies_ms(result)
    return {
        "transfers": len(result.file.transfers) + len(result.file.rejections),
        "committed": _with(result, Outcome.COMMITTED),
        "aborted": _with(result, Outcome.ABORTED),
        "rejected": len(result.file.rejections),
        "deciding": _with(result, Outcome.DECIDING),
        "faults": [
            {"kind": struck.kind.value, "target": struck.target, "gap_ms": _gap_ms(result, struck)}
            | ({"shard": struck.shard} if result.shards > 1 else {})
            for struck in result.struck
        ],
        "faults_by_kind": _by_kind(result),
        "latency_ms": {"p50": _rounded(percentile(latencies_ms, 50)), "p99": _rounded(percentile(latencies_ms, 99))},
        "audit": {
            "conserved": result.verdict.conserved,
            "answers_match": result.verdict.answers_match,
            "in_doubt": result.verdict.in_doubt,
        },
        "ok": ok(result),
    }


def table(result: Result) -> Table:
    """The result for people. Text from outside is never taken for markup."""
    rows = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(justify="right", no_wrap=True)
    rows.add_column()
    for row in (*_outcomes(result), *_measured(result), *_judged(result)):
        rows.add_row(*(Text(cell) for cell in row))
    verdict = Text("ok", "bold green") if ok(result) else Text("NOT OK", "bold red")
    rows.add_row("", verdict, Text(f"after {result.took_s:.0f} s"))
    return rows


_Row = tuple[str, str, str]


def _outcomes(result: Result) -> Iterator[_Row]:
    yield "committed", f"{_with(result, Outcome.COMMITTED):,}", ""
    reasons = Counter(_kind(heard.reason) for heard in result.heard if heard.outcome is Outcome.ABORTED)
    yield "aborted", f"{reasons.total():,}", ""
    for reason, times in reasons.most_common(LISTED_MAX):
        yield "", f"{times:,}", reason
    if len(reasons) > LISTED_MAX:
        yield "", "", f"and {len(reasons) - LISTED_MAX:,} more reasons"
    rejections = result.file.rejections
    yield "rejected", f"{len(rejections):,}", ""
    for line in _bounded(f"line {reject.line}: {reject.why}" for reject in rejections):
        yield "", "", line
    yield "deciding", f"{_with(result, Outcome.DECIDING):,}", ""


def _measured(result: Result) -> Iterator[_Row]:
    latencies_ms = _latencies_ms(result)
    yield "latency", f"{percentile(latencies_ms, 50):,.0f} ms", "p50"
    yield "", f"{percentile(latencies_ms, 99):,.0f} ms", "p99"
    yield "faults", f"{len(result.struck)}", ", ".join(f"{times} {kind}" for kind, times in _by_kind(result).items())
    for struck in result.struck:
        yield "", f"{_gap_ms(result, struck):,.0f} ms", _gap(result, struck)


def _judged(result: Result) -> Iterator[_Row]:
    verdict = result.verdict
    yield "audit", "yes" if verdict.conserved else "NO", "money conserved, every account exact"
    yield "", "yes" if verdict.answers_match else "NO", "every answer equals every ledger and the rows of both banks"
    yield "", f"{verdict.in_doubt:,}", "left prepared or unfinished"
    for line in _bounded(verdict.findings):
        yield "", "", line


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    listed = list(lines)
    yield from listed[:LISTED_MAX]
    if len(listed) > LISTED_MAX:
        yield f"and {len(listed) - LISTED_MAX:,} more"


def _kind(reason: str) -> str:
    """A reason without the names in it, so that equal ones can be counted. Whose row it was, matters to nobody here."""
    if reason.startswith(CONFLICT):
        return f"{CONFLICT}with other transfers"
    return re.sub(r"'[^']*'", "…", reason) or "no reason given"


def _with(result: Result, outcome: Outcome) -> int:
    return sum(heard.outcome is outcome for heard in result.heard)


def _latencies_ms(result: Result) -> list[float]:
    return [(heard.ended_at_s - heard.begun_at_s) * 1_000 for heard in result.heard]


def _by_kind(result: Result) -> dict[str, int]:
    times = Counter(struck.kind.value for struck in result.struck)
    return {kind.value: times[kind.value] for kind in FaultKind if times[kind.value]}


def _gap(result: Result, struck: Struck) -> str:
    """What `_gap_ms` is."""
    if result.shards == 1 or struck.shard is None:
        return f"without a commit after {struck.kind.value} {struck.target}"
    return f"longest wait in shard {struck.shard} after {struck.kind.value} {struck.target}"


def _gap_ms(result: Result, struck: Struck) -> float:
    """The time without a commit; of one shard of several, where clients may want nothing, the longest wait."""
    if result.shards == 1 or struck.shard is None:
        commits_at_s = [heard.ended_at_s for heard in result.heard if heard.outcome is Outcome.COMMITTED]
        return _rounded(gap_s(commits_at_s, struck.at_s, struck.healed_at_s) * 1_000)
    waits_s = [
        (heard.begun_at_s, heard.ended_at_s)
        for heard in result.heard
        if shard_of(heard.transfer.gid, result.shards) == struck.shard
    ]
    return _rounded(wait_s(waits_s, struck.at_s, struck.healed_at_s) * 1_000)


def _rounded(milliseconds: float) -> float:
    return round(milliseconds, 1)
