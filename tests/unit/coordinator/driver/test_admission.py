"""Every limit of a leader refuses by name, and only past it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.driver.admission import Admission
from coordinator.errors import Overloaded

LIMITS = Admission(in_flight_max=2, open_max=3, records_max=4, waiters_max=1, listeners_max=1, untold_max=2)


def test_below_its_limits_a_leader_takes_one_more() -> None:
    """`admit` raises at a limit."""
    LIMITS.admit(in_flight=1, open_=2, records=3)
    LIMITS.admit_waiter(0)


@pytest.mark.parametrize(
    ("in_flight", "open_", "records", "named"),
    [(2, 2, 2, "in_flight_max"), (3, 3, 3, "in_flight_max"), (0, 3, 3, "open_max"), (0, 0, 4, "records_max")],
)
def test_at_a_limit_the_refusal_names_it_and_says_when_to_come_again(
    in_flight: int, open_: int, records: int, named: str
) -> None:
    with pytest.raises(Overloaded, match=named) as refused:
        LIMITS.admit(in_flight=in_flight, open_=open_, records=records)
    assert refused.value.retry_after_s == 1.0
    assert refused.value.retry_safe


def test_too_many_listeners_and_too_many_untold_are_refused_by_name() -> None:
    LIMITS.admit_listener(0)
    LIMITS.admit_notice(untold=1, at_host=1)
    with pytest.raises(Overloaded, match="listeners_max"):
        LIMITS.admit_listener(1)
    with pytest.raises(Overloaded, match="untold_max"):
        LIMITS.admit_notice(untold=2, at_host=0)
    with pytest.raises(Overloaded, match="untold_per_host_max"):
        replace(LIMITS, untold_per_host_max=1).admit_notice(untold=1, at_host=1)


def test_too_many_waiters_are_refused_by_name() -> None:
    with pytest.raises(Overloaded, match="waiters_max"):
        LIMITS.admit_waiter(1)
