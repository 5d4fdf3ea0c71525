"""The circuit breaker: when calls are worth making, probes, and the way back."""

from __future__ import annotations

from coordinator.driver.breaker import FAILURES_MAX, PROBE_CAP_S, PROBE_FIRST_S, Breaker


def opened(at: float = 10.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_MAX):
        breaker.failed(at, probe=False)
    return breaker


def test_calls_pass_until_enough_in_a_row_had_no_answer() -> None:
    """Broken on purpose by not counting: red. By counting over answers in between: red."""
    breaker = Breaker()
    for _ in range(3):
        for _ in range(FAILURES_MAX - 1):
            breaker.failed(10.0, probe=False)
        assert breaker.may_pass(10.0)
        breaker.answered()
    assert not opened().may_pass(10.0)


def test_one_probe_at_a_time_passes_after_a_while() -> None:
    """Broken on purpose by forgetting the probe under way: red."""
    breaker = opened(10.0)
    assert breaker.probe_at == 10.0 + PROBE_FIRST_S
    assert not breaker.may_pass(10.0 + PROBE_FIRST_S / 2)
    assert breaker.may_pass(10.0 + PROBE_FIRST_S)
    breaker.passing()
    assert not breaker.may_pass(99.0)
    assert breaker.probe_at is None


def test_probes_become_rarer_up_to_a_cap() -> None:
    breaker, now, pauses = opened(0.0), 0.0, []
    for _ in range(100):
        assert breaker.probe_at is not None
        pauses.append(round(breaker.probe_at - now, 9))
        now = breaker.probe_at
        assert breaker.passing()
        breaker.failed(now, probe=True)
    assert pauses[0] == PROBE_FIRST_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == PROBE_CAP_S


def test_one_answer_lets_everything_pass_again() -> None:
    breaker = opened(10.0)
    breaker.passing()
    breaker.answered()
    assert breaker.may_pass(10.0)
    assert not breaker.is_open


def test_calls_that_were_under_way_when_it_opened_do_not_put_the_probe_off() -> None:
    """Broken on purpose by doubling the pause at each failure: red (and a bank was back for two seconds unnoticed)."""
    breaker = opened(10.0)
    for _ in range(100):
        breaker.failed(10.05, probe=False)
    assert breaker.probe_at == 10.0 + PROBE_FIRST_S


def test_a_call_from_before_that_ends_while_a_probe_is_out_is_not_taken_for_it() -> None:
    """Broken on purpose by not asking whose end it is: red (a second probe leaves, and the pause doubles)."""
    breaker = opened(10.0)
    assert breaker.passing()
    breaker.failed(10.2, probe=False)
    assert not breaker.may_pass(99.0)
