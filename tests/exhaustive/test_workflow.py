"""Workflows in worlds small enough to be searched completely.

Goal: no order of what the code asks, what its participants say and what the log takes, with a worker that dies, two
workers at once, a leader that dies or is cut off, and a deadline at any moment, does a step twice, tells the code what
is not so, leaves a step undone or unconfirmed, undoes in the wrong order, or goes on for ever. The canaries break one
rule each, and the search must find it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coordinator.ledger.records import BranchRecord, Mode, Retry, StepRecord
from coordinator.ledger.workflows import StepState
from tests.exhaustive import workflow_world
from tests.exhaustive.step_world import Budget, Found, explored
from tests.exhaustive.workflow_world import FAILS, RETURNS, Code, WorkflowWorld
from tests.support.broken_workflows import BREAKS

BOTH_ENDS = {"committed", "aborted"}


def step(number: int, mode: Mode, attempts: int = 1) -> BranchRecord:
    name = f"s{number}"
    record = StepRecord(
        mode,
        (),
        f"confirm-{name}" if mode is Mode.TCC else None,
        f"undo-{name}" if mode in (Mode.TCC, Mode.SAGA) else None,
        (("own", name),) if mode in (Mode.TCC, Mode.SAGA) else (),
        Retry(1 if mode is Mode.TWO_PHASE else attempts, 100, 100),
    )
    return BranchRecord(name, f"bank-{name}", f"do-{name}", b"", step=record)


def code(*modes: Mode, end: str = RETURNS, attempts: int = 1) -> Code:
    """One step after the other, whatever it hears."""

    def next_of(heard: tuple[StepState, ...]) -> BranchRecord | str:
        at = len(heard)
        return step(at + 1, modes[at], attempts) if at < len(modes) else end

    return next_of


def trying(heard: tuple[StepState, ...]) -> BranchRecord | str:
    """If the second step is refused, a third one stands for it."""
    if len(heard) < 2 or (len(heard) == 2 and heard[1] is StepState.REFUSED):
        return step(len(heard) + 1, Mode.SAGA)
    return RETURNS


CODES: Mapping[str, Code] = {
    "two sagas": code(Mode.SAGA, Mode.SAGA),
    "saga and pivot": code(Mode.SAGA, Mode.PIVOT),
    "tcc and two-phase": code(Mode.TCC, Mode.TWO_PHASE),
    "saga and message": code(Mode.SAGA, Mode.FORWARD),
}
BUDGETS = {
    "worker": Budget(deaths=1),
    "two workers": Budget(twins=1),
    "leader": Budget(crashes=1),
    "loss": Budget(losses=1),
    "cut": Budget(cuts=1),
}


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("name", CODES)
def test_one_fault_at_any_moment(name: str, budget: Budget) -> None:
    census = explored(WorkflowWorld(CODES[name], {}, budget))
    assert census.worlds > 30
    assert census.ends == BOTH_ENDS


def test_a_worker_and_a_leader_die() -> None:
    census = explored(WorkflowWorld(CODES["two sagas"], {}, Budget(deaths=1, crashes=1)))
    assert census.worlds > 300
    assert census.ends == BOTH_ENDS


@pytest.mark.parametrize("budget", [Budget(crashes=1), Budget(twins=1), Budget(deaths=1)], ids=str)
def test_what_is_refused_is_not_done_and_something_else_is(budget: Budget) -> None:
    assert explored(WorkflowWorld(trying, {"do-s2": 1}, budget)).ends == BOTH_ENDS


@pytest.mark.parametrize("budget", [Budget(crashes=1), Budget(losses=1), Budget(cuts=1)], ids=str)
def test_code_that_fails_is_undone(budget: Budget) -> None:
    assert explored(WorkflowWorld(code(Mode.SAGA, Mode.SAGA, end=FAILS), {}, budget)).ends == {"aborted"}


def test_a_pivot_that_has_succeeded_outlives_the_failure_of_the_code() -> None:
    """But if it was refused, or prevented in time, all is undone."""
    pays = code(Mode.SAGA, Mode.PIVOT, end=FAILS, attempts=2)
    assert explored(WorkflowWorld(pays, {}, Budget(crashes=1))).ends == BOTH_ENDS
    assert explored(WorkflowWorld(pays, {"do-s2": 2}, Budget(crashes=1))).ends == {"aborted"}


# Canaries


def places_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step comes after another."""
    monkeypatch.setattr(workflow_world, "placed", lambda _, branch: branch)


CANARIES: Mapping[str, tuple[Code, Budget]] = {
    "what there is, is taken for all": (CODES["two sagas"], Budget()),
    "a step of any number": (CODES["two sagas"], Budget(twins=1)),
    "no step comes after another": (code(Mode.SAGA, Mode.SAGA, end=FAILS), Budget()),
    "an answer before it is recorded": (CODES["two sagas"], Budget()),
    "what is asked for nothing stays open": (CODES["saga and message"], Budget()),
}
_BREAKS = {**BREAKS, "no step comes after another": places_nothing}


@pytest.mark.parametrize("name", CANARIES)
def test_a_broken_rule_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _BREAKS[name](monkeypatch)
    its_code, budget = CANARIES[name]
    with pytest.raises(Found):
        explored(WorkflowWorld(its_code, {}, budget))
