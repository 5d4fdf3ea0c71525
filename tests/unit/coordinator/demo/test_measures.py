"""Percentiles by nearest rank, and the gap that a fault leaves."""

from __future__ import annotations

import pytest

from coordinator.demo.measures import gap_s, percentile


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    """Goal: nearest rank, not interpolated."""
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_nothing_measured_is_zero() -> None:
    assert percentile([], 99) == 0.0


@pytest.mark.parametrize(
    ("commits_at_s", "expected"),
    [
        ([9.9, 10.5, 12.1], 1.6),  # struck at 10, healed at 12: 10 → 10.5 → 12.1
        ([9.0, 14.0, 20.0], 4.0),  # nothing before 14; what comes later is no part of it
        ([10.1, 10.2, 11.9, 12.0], 1.7),
        ([9.0], 2.0),  # nobody committed any more: up to the healing
        ([], 2.0),
    ],
)
def test_the_gap_is_the_longest_time_without_a_commit(commits_at_s: list[float], expected: float) -> None:
    """Goal: counted from the blow to the first commit after the healing."""
    assert gap_s(commits_at_s, struck_at_s=10.0, healed_at_s=12.0) == pytest.approx(expected)
