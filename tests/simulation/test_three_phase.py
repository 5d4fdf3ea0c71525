"""Three phases in the whole system: real replicas, banks on the real engine, peers over the lossy network, and faults
that take all coordinators away for longer than the banks wait. And proof that the checkers would notice a broken rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest

from coordinator.ledger.records import Decision
from participant import three_phase
from participant.termination import Ballot, Ending, Heard, Leaning, after_canvass
from tests.simulation.canaries import is_found
from tests.simulation.seeds import runs_of
from tests.simulation.settings import three_phased
from tests.simulation.system_world import SystemWorld

_World = partial(SystemWorld, harder=three_phased)


@pytest.mark.parametrize(("seed", "hours"), runs_of("three"))
def test_participants_and_the_log_end_it_in_one_way(seed: int, hours: float) -> None:
    """Whatever fails; and all comes to its end when the faults stop."""
    _World(seed).run(hours)


def test_participants_end_some_in_both_ways_without_any_coordinator() -> None:
    """Otherwise the tests of this file would show nothing."""
    world = _World(3)
    world.run(0.25)
    assert set(world.branches.by_peers.values()) == set(Decision)
    assert world.tally.taken_over["three-phase"] > 20


def test_canary_a_majority_that_aborts_whatever_it_hears_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of it has precommitted, and the coordinators have counted it."""

    def aborts(ballot: Ballot, count: int, heard: Iterable[Heard]) -> Ending | Leaning | None:
        step = after_canvass(ballot, count, heard)
        return Leaning.PREABORTED if isinstance(step, Leaning) else step

    monkeypatch.setattr(three_phase, "after_canvass", aborts)
    promises = ("a prepared branch waits for the decision", "participants end it in one way", "contradicts the record")
    assert is_found(_World, *promises)
