"""The table of claims: each can fail, each speaks of something, and each cell is spoken of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.failures.claims import CLAIMS, Claim, as_claimed, broken_claims, claims_about
from coordinator.failures.measures import Cell, Spread
from coordinator.failures.play import places
from coordinator.failures.protocols import PROTOCOLS
from coordinator.failures.scenarios import OUTAGE_S, SCENARIOS

NONE, LONG, SHORT = Spread(0.0, 0.0), Spread(OUTAGE_S * 1_000 + 1, OUTAGE_S * 1_000 + 1), Spread(1.0, 1.0)
CELLS = [
    Cell(
        protocol,
        scenario,
        runs=2,
        broken=broken,
        committed=committed,
        needless_aborts=2 - committed,
        dropped=2 - committed,
        locks_held_ms=spread,
        others_held_ms=spread,
        unknown_ms=spread,
        half_done_ms=spread,
    )
    for protocol, scenario in places([], [])
    for spread in (NONE, SHORT, LONG)
    for committed in (0, 1, 2)
    for broken in (0, 1, 2)
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.says)
def test_a_claim_holds_or_not(claim: Claim) -> None:
    """Goal: no claim is always true, and none is always false, about the cells that it speaks of."""
    about = [cell for cell in CELLS if claim.speaks_of(cell)]
    assert {claim.holds(cell) for cell in about} == {True, False}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.says)
def test_a_claim_names_protocols_and_scenarios_that_are_there(claim: Claim) -> None:
    assert claim.protocols <= {protocol.key for protocol in PROTOCOLS}
    assert claim.scenarios <= {scenario.key for scenario in SCENARIOS}
    assert claim.source


def test_every_cell_is_claimed_to_be_atomic() -> None:
    """Goal: no cell is as claimed because nothing is claimed of it. What ends on silence is broken by chance."""
    for cell in (cell for cell in CELLS if cell.protocol != "3pc-textbook-alone"):
        assert any(not claim.holds(replace(cell, broken=1)) for claim in claims_about(cell))


def test_a_cell_that_breaks_a_claim_is_not_as_claimed() -> None:
    well = Cell("2pc", "refused", 2, 0, 0, 0, 0, SHORT, SHORT, SHORT, SHORT)
    held_for_long = replace(well, locks_held_ms=LONG)
    assert as_claimed(well)
    assert not as_claimed(held_for_long)
    assert ["rows are free again" in claim.says for claim in broken_claims(held_for_long)] == [True]


def test_a_textbook_failure_that_does_not_appear_is_not_as_claimed() -> None:
    """Goal: a group of one that does not block is as suspicious as three that do."""
    blocks = Cell("2pc-alone", "dies-voted", 2, 0, 2, 0, 0, LONG, LONG, LONG, SHORT)
    assert as_claimed(blocks)
    assert not as_claimed(replace(blocks, locks_held_ms=SHORT))
