"""Workflows under any faults, in any order: what `tests/exhaustive` searches for one fault, walked at random with many.

Goal: whatever the code asks for, whoever refuses, and whoever dies how often, each step takes effect once or is undone,
in the opposite order, and all comes to its end when the faults stop.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.ledger.records import Mode
from tests.exhaustive.step_world import Budget, SmallWorld
from tests.exhaustive.test_workflow import code
from tests.exhaustive.workflow_world import FAILS, RETURNS, WorkflowWorld

EVENTS = 80  # of which some are faults
MOVES_MAX = 500  # to the end, without faults
FAULT, LATE = 0.2, 0.02  # how often something fails, and how often the deadline may come
FAULTS = Budget(crashes=3, losses=4, copies=2, cuts=1, deaths=2, twins=1)

seeds = st.integers(0, 2**32)
modes = st.lists(st.sampled_from((Mode.TWO_PHASE, Mode.TCC, Mode.SAGA, Mode.FORWARD)), max_size=4)


def walked(world: SmallWorld, chance: Random) -> SmallWorld:
    for number in range(EVENTS + MOVES_MAX):
        following = [*world.moves()]
        faults = [*world.faults()] if number < EVENTS and chance.random() < FAULT else []
        soon = [each for each in following if each[0] != "late"]
        if not following:
            break
        if faults or (soon and chance.random() >= LATE):
            following = faults or soon
        _, world = chance.choice(following)
        if world.is_over:
            world.audit()
    return world


@settings(max_examples=300, deadline=None)
@given(modes, st.booleans(), st.sampled_from((RETURNS, FAILS)), st.integers(1, 2), st.integers(0, 2), seeds)
def test_every_step_takes_effect_once_or_is_undone(
    asked: list[Mode], pays: bool, end: str, attempts: int, refusals: int, seed: int
) -> None:
    """Seen red with an engine that commits what there is once it has succeeded, and with steps that come after none."""
    chance = Random(seed)
    asked = [*asked, Mode.PIVOT] if pays else asked
    attempts_of = {f"do-s{number}": refusals for number in range(1, len(asked) + 1) if chance.random() < 0.3}
    world = walked(WorkflowWorld(code(*asked, end=end, attempts=attempts), attempts_of, FAULTS), chance)
    assert world.is_over, f"it never ends: {world.record}"
    world.audit()
