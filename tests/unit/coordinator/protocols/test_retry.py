"""Back-off: what the window is, and where in it the next attempt falls."""

from __future__ import annotations

import pytest

from coordinator.protocols.retry import Backoff, delay_s

BACKOFF = Backoff(base_s=0.1, cap_s=1.0)


@pytest.mark.parametrize(("attempt", "window_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (10_000, 1.0)])
def test_the_window_doubles_up_to_the_cap(attempt: int, window_s: float) -> None:
    assert delay_s(BACKOFF, attempt, 0.0) == 0.0
    assert delay_s(BACKOFF, attempt, 0.5) == pytest.approx(window_s / 2)
    assert delay_s(BACKOFF, attempt, 0.999) < window_s


@pytest.mark.parametrize(("base_s", "cap_s"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_a_backoff_that_cannot_work_is_refused(base_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match=f"base_s={base_s}, cap_s={cap_s}"):
        Backoff(base_s, cap_s)


@pytest.mark.parametrize(("jitter", "shortest_s"), [(0.0, 0.4), (0.25, 0.3), (1.0, 0.0)])
def test_chance_draws_no_more_of_the_window_than_it_may(jitter: float, shortest_s: float) -> None:
    backoff = Backoff(0.1, 1.0, jitter)
    assert delay_s(backoff, 3, 0.0) == pytest.approx(shortest_s)
    assert delay_s(backoff, 3, 1.0) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="jitter"):
        Backoff(0.1, 1.0, 1.5)
