"""Sagas, TCC, messages and mixtures in the whole system: real replicas, banks on the real engine, and every fault that
the simulator has, waiting for the worst moments. And proof that the checkers would notice a broken rule."""

from __future__ import annotations

from functools import partial

import pytest

from coordinator.ledger.commands import Heard
from coordinator.ledger.records import Decision, Mode, Report
from tests.simulation.canaries import is_found
from tests.simulation.seeds import runs_of
from tests.simulation.settings import declared, stepwise
from tests.simulation.system_world import SystemWorld
from tests.support.broken_steps import BREAKS

_World = partial(SystemWorld, harder=stepwise)
_Declared = partial(SystemWorld, harder=declared)  # for canaries, none of which is about workflows
_REPORTED = (Mode.TCC, Mode.SAGA, Mode.FORWARD)
# What is found here within minutes; `exhaustive/test_steps.py` finds all of them.
_PROMISES = {
    "undo without preventing": "all steps or none",
    "the pivot is not prevented": "all steps or none",
    "the next attempt before the record of the last": "no attempt begins before the refusal of the last is recorded",
    "a call before the record": "nothing runs before it is recorded",
    "steps in any order": "steps run in their order",
    "undo in any order": "steps are undone in the opposite order",
}


@pytest.mark.parametrize(("seed", "hours"), runs_of("steps"))
def test_every_step_takes_effect_once_or_is_undone(seed: int, hours: float) -> None:
    """In its order, whatever fails; and all comes to its end when the faults stop."""
    _World(seed).run(hours)


def test_every_mode_is_committed_undone_and_taken_over() -> None:
    """Otherwise the tests of this file would show nothing; with what is reported, stands in line, or is set aside, and
    with code that is run anew."""
    world = _World(0)
    world.run(0.15)
    assert {mode for mode, decision in world.steps.ends if decision is Decision.COMMIT} == set(Mode) - {Mode.SOURCE}
    assert {mode for mode, decision in world.steps.ends if decision is Decision.ABORT} == {Mode.SAGA, Mode.TCC}
    assert world.tally.taken_over["steps"] > 50
    assert set(world.reports.heard) == {(mode, report) for mode in _REPORTED for report in Report}
    assert set(world.letters.become) == {Heard.SET_ASIDE, Heard.REDELIVERED, Heard.DROPPED}
    assert world.order.delivered > 20
    assert set(world.tally.open_steps) == {"to be reported", "in line", "at its turn", "set aside"}
    flows = world.flows.counts
    assert min(flows["end in commit"], flows["end in abort"], flows["refusals heard"], flows["answers heard again"]) > 5
    assert world.tally.taken_over["workflows"] > 50


@pytest.mark.parametrize("name", _PROMISES)
def test_canary_a_broken_rule_of_steps_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    BREAKS[name](monkeypatch)
    assert is_found(_Declared, _PROMISES[name])
