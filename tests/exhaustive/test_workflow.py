"""Workflows in worlds small enough to be searched completely.

Goal: no order of what the code asks, what its participants say and what the log takes, with a worker that dies, two
workers at once, a leader that dies or is cut off, and a deadline at any moment, does a step twice, tells the code what
is not so, leaves a step undone or unconfirmed, undoes in the wrong order, or goes on for ever. The canaries break one
rule each, and the search must find it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from coordinator.ledger import transitions, workflows
from coordinator.ledger.commands import Extend
from coordinator.ledger.records import BranchRecord, Mode, Retry, StepRecord, TransactionRecord
from coordinator.ledger.workflows import StepState
from coordinator.protocols import steps
from coordinator.protocols import workflow as protocol
from tests.exhaustive import workflow_world
from tests.exhaustive.step_world import Budget, Found, explored
from tests.exhaustive.workflow_world import FAILS, RETURNS, Code, WorkflowWorld

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


def takes_what_there_is_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine decides as of a transaction that was declared."""
    advance = steps._advance

    def hasty(record: TransactionRecord, todo: Any) -> Any:
        done = record.branches and all(each.step and each.step.done for each in record.branches)
        return advance(record._replace(workflow=None) if done else record, todo)

    monkeypatch.setattr(steps, "_advance", hasty)


def takes_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log does not look whether a step is the next one."""

    def blind(record: TransactionRecord, command: Extend) -> bool:
        return record.workflow is not None

    monkeypatch.setitem(transitions._HOLDS, transitions.Guard.NEXT_STEP, blind)
    grown = workflows.grown

    def longer(record: TransactionRecord, command: Any) -> Any:
        if isinstance(command, Extend):
            command = command._replace(number=len(record.branches) + 1)
        return grown(record, command)

    monkeypatch.setattr(workflows, "grown", longer)


def places_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step comes after another."""
    monkeypatch.setattr(workflow_world, "placed", lambda _, branch: branch)


def answers_before_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code hears of a step as soon as that is recorded, not when its answer is."""
    monkeypatch.setattr(protocol, "step_is_answered", lambda _: True)
    monkeypatch.setattr(workflows, "step_is_answered", lambda _: True)


def leaves_open_what_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded between the abort's proposal and the abort is not ended."""
    settle = steps.settle

    def careless(record: TransactionRecord, todo: Any) -> Any:
        commits = record.phase is steps.Phase.COMMITTING
        asked = [
            each
            for each in record.branches
            if (steps.rules_of(each).on_commit if commits else steps.rules_of(each).on_abort) is not None
        ]
        return settle(record._replace(branches=tuple(asked)), todo)

    monkeypatch.setattr(steps, "settle", careless)


CANARIES: Mapping[Callable[[pytest.MonkeyPatch], None], tuple[Code, Budget, dict[str, int]]] = {
    takes_what_there_is_for_all: (CODES["two sagas"], Budget(), {}),
    takes_any_number: (CODES["two sagas"], Budget(twins=1), {}),
    places_nothing: (code(Mode.SAGA, Mode.SAGA, end=FAILS), Budget(), {}),
    answers_before_it_is_recorded: (CODES["two sagas"], Budget(), {}),
    leaves_open_what_is_asked_for_nothing: (CODES["saga and message"], Budget(), {}),
}


@pytest.mark.parametrize("broken", CANARIES, ids=lambda canary: canary.__name__)
def test_a_broken_rule_is_found(monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]) -> None:
    broken(monkeypatch)
    world_of, budget, refusals = CANARIES[broken]
    with pytest.raises(Found):
        explored(WorkflowWorld(world_of, refusals, budget))
