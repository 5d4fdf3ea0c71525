"""The goals of the commit path, and whether a run has met them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isinf

from benchmarks.harness import Report

__all__ = ["GOALS", "Goal", "tell"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that is to be at most, or at least, `bound`. `key`: its name in JSON. `form`: how it is written."""

    key: str
    figure: str
    bound: float
    at_most: bool
    form: str

    def verdict(self, measured: float) -> str:
        """Whether it is met, and by how much it is not. An infinite figure stands for what did not work at all."""
        if isinf(measured):
            return "not met"
        if (measured <= self.bound) if self.at_most else (measured >= self.bound):
            return "met"
        if self.at_most:
            return f"not met: {measured / self.bound:.2f} times the goal"
        return f"not met: {measured / self.bound:.0%} of the goal"

    @property
    def text(self) -> str:
        """The bound, as it is written."""
        return f"{'≤' if self.at_most else '≥'} {self.form.format(self.bound)}"


GOALS = (
    Goal("staged_over_floor", "staged, 1 client, p50 over the floor", 2.0, True, "{:.2f} ×"),
    Goal("staged_over_classic", "staged over classic, 1 client, p50", 0.75, True, "{:.2f} ×"),
    Goal(
        "noop_per_s", "no-op transactions of 2 branches at 256 clients, synced, 3 replicas", 5_000, False, "{:,.0f}/s"
    ),
    Goal("sqlite_transfers_per_s", "transfers on two SQLite participants, synced", 2_500, False, "{:,.0f}/s"),
    Goal("over_handwritten", "against hand-written 2PC in the same run, transactions/s", 10, False, "{:.1f} ×"),
    Goal("syncs_per_transaction", "forced writes per transaction at 256 clients, whole cluster", 0.3, True, "{:.2f}"),
    Goal(
        "bytes_per_open_transaction",
        "memory per open transaction at a replica, without bodies",
        4_096,
        True,
        "{:,.0f} B",
    ),
    Goal("open_over_none", "p99 at healthy participants, with many open transactions over none", 2.0, True, "{:.2f} ×"),
)


def tell(report: Report, figures: Mapping[str, float], why: Mapping[str, str]) -> None:
    """The table of the goals. `why`: what stands in the way of a figure, by its key."""
    report.heading("Goals")
    rows = []
    for goal in GOALS:
        verdict = goal.verdict(figures[goal.key])
        reason = "" if verdict == "met" else why.get(goal.key, "")
        rows.append([goal.figure, goal.text, goal.form.format(figures[goal.key]), verdict, reason])
    report.table(["figure", "goal", "measured", "verdict", "why"], rows)
