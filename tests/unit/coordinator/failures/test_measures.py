"""Numbers over many runs."""

from __future__ import annotations

from dataclasses import replace

from coordinator.failures.measures import Run, Spread, cell_of

WELL = Run(
    atomic=True,
    committed=True,
    needless_abort=False,
    recorded=True,
    locks_held_s=0.5,
    others_held_s=0.25,
    unknown_s=1.0,
    half_done_s=0.0,
)


def test_a_spread_has_the_middle_and_the_largest_in_milliseconds() -> None:
    assert Spread.of([0.003, 0.001, 0.002]) == Spread(p50=2.0, max=3.0)
    assert Spread.of([0.004, 0.001, 0.002, 0.003]) == Spread(p50=2.0, max=4.0)


def test_a_cell_counts_what_went_wrong() -> None:
    """Goal: one run that is not atomic is enough, and is not lost among many."""
    broken = replace(WELL, atomic=False, committed=False, needless_abort=True, locks_held_s=2.0)
    cell = cell_of("2pc", "split", [WELL, broken, WELL])
    assert (cell.atomic, cell.broken, cell.runs, cell.committed, cell.needless_aborts) == (False, 1, 3, 2, 1)
    assert cell.dropped == 1
    assert cell_of("2pc", "split", [replace(broken, recorded=False)]).dropped == 0
    assert cell.locks_held_ms == Spread(p50=500.0, max=2_000.0)
    assert cell.others_held_ms == Spread(p50=250.0, max=250.0)
    assert cell_of("2pc", "split", [WELL]).atomic
