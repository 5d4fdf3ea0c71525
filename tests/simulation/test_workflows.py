"""Workflows in the whole system: production's workers run code whose steps the banks do, and are killed, cut off and
paused like everybody else. They are played in the runs of `test_steps.py` and `test_system_world.py`, too. And proof
that the checkers would notice a broken rule."""

from __future__ import annotations

from functools import partial

import pytest

from tests.simulation.canaries import is_found
from tests.simulation.seeds import runs_of
from tests.simulation.settings import coded
from tests.simulation.system_world import SystemWorld
from tests.support.broken_workflows import BREAKS

_World = partial(SystemWorld, harder=coded)
# `exhaustive/test_workflow.py` finds some of them, too, and others.
_PROMISES = {
    "what there is, is taken for all": ("a workflow commits when its code has returned",),
    "a step of any number": ("code that does the same again does not diverge",),
    "an answer before it is recorded": ("what the code hears is recorded",),
    "a worker begins behind the record": ("conservation", "all steps or none", "the same again does not diverge"),
    "each run has another time": ("code that does the same again does not diverge",),
    "an answer is another step's": ("the code hears what its steps have given",),
    "an answer is not given again": ("every run hears the same",),
    "another result is told": ("a caller is told what the code has returned",),
    "an unknown begin is taken for one": ("a workflow that was begun ends",),
    "a dead worker is waited for": ("every transaction final", "all clients answered"),
}
_FIRST = {
    "a worker begins behind the record": 3,
    "an answer is not given again": 1,
    "an unknown begin is taken for one": 5,
    "a dead worker is waited for": 2,
}


@pytest.mark.parametrize(("seed", "hours"), runs_of("workflows"))
def test_code_that_is_run_anew_does_no_step_twice(seed: int, hours: float) -> None:
    """Whatever fails; and every workflow ends when the faults stop."""
    _World(seed).run(hours)


@pytest.mark.parametrize("name", _PROMISES)
def test_canary_a_broken_rule_of_workflows_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    BREAKS[name](monkeypatch)
    assert is_found(_World, *_PROMISES[name], first=_FIRST.get(name, 0))
