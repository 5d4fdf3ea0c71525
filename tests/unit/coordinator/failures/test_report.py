"""What is printed of cells, for programs and for people."""

from __future__ import annotations

from dataclasses import replace

from coordinator.failures.measures import Cell, Spread
from coordinator.failures.report import document, failed, page

CELL = Cell(
    protocol="2pc",
    scenario="split",
    runs=3,
    broken=0,
    committed=3,
    needless_aborts=0,
    dropped=0,
    locks_held_ms=Spread(80.0, 1_240.0),
    others_held_ms=Spread(70.0, 1_230.0),
    unknown_ms=Spread(3_050.0, 6_100.0),
    half_done_ms=Spread(0.0, 2.0),
)
BROKEN = replace(CELL, broken=1)


def test_a_program_gets_every_measure() -> None:
    assert document([CELL]) == {
        "cells": [
            {
                "protocol": "2pc",
                "scenario": "split",
                "runs": 3,
                "atomic": True,
                "locks_held_ms": {"p50": 80.0, "max": 1_240.0},
                "others_held_ms": {"p50": 70.0, "max": 1_230.0},
                "unknown_ms": {"p50": 3_050.0, "max": 6_100.0},
                "half_done_ms": {"p50": 0.0, "max": 2.0},
                "needless_aborts": 0,
                "as_claimed": True,
            }
        ]
    }


def test_a_claim_that_is_broken_is_named() -> None:
    assert list(failed([CELL])) == []
    assert list(failed([BROKEN])) == ["2pc, split: not so that all or nothing, once, and as the client was told"]


def test_the_page_shows_numbers_as_people_read_them_and_what_is_broken() -> None:
    assert "| 2pc | two-phase commit, the classic path | 3 | 2 |" in page([CELL])
    assert "| split | yes |" in page([CELL])
    assert "| split | 80 ms / 1.2 s |" in page([CELL])
    assert "| split | 0 / 2 ms |" in page([CELL])
    assert "| split | NO, 1 of 3; **not as claimed** |" in page([BROKEN])
    assert "| 0 of 1 |" in page([BROKEN])
