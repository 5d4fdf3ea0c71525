"""Transactions of steps in worlds small enough to be searched completely.

Goal: no order of deliveries, with a leader that dies or is cut off, a call or a proposal that is given up, a request
that comes twice, a deadline at any moment and refusals, lets an action take effect twice, leaves one undone or
unconfirmed, or in the wrong order, lets nobody know its results, or goes on for ever; and both ends can be reached.
The canaries break one rule each, and the search must find it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coordinator.ledger.records import BranchRecord, Delivery, Mode, Reporting, Retry, StepRecord
from coordinator.protocols.declaration import check
from coordinator.protocols.modes import step_of
from tests.exhaustive.step_world import Budget, Found, search
from tests.support.broken_steps import BREAKS

BOTH_ENDS = {"committed", "aborted"}


def steps(*words: str, attempts: int = 1) -> tuple[BranchRecord, ...]:
    """`a=saga`; `b=tcc>a`: after it; `c=pivot<b`: and with its result; `a=saga!`: it is reported. `own`: each takes its
    own."""
    branches = []
    for word in words:
        name, _, how = word.partition("=")
        reporting = Reporting("token", f"secret-{name}") if how.endswith("!") else None
        how = how.removesuffix("!")
        takes = "<" in how
        kind, _, after = how.partition("<" if takes else ">")
        mode = Mode(kind)
        step = StepRecord(
            mode,
            (after,) if after else (),
            f"confirm-{name}" if mode is Mode.TCC else None,
            f"undo-{name}" if mode in (Mode.TCC, Mode.SAGA) else None,
            ((("own", name),) if mode in (Mode.TCC, Mode.SAGA) else ()) + ((("from", after),) if takes else ()),
            Retry(1 if mode is Mode.TWO_PHASE else attempts, 100, 100),
            reporting=reporting,
        )
        branches.append(BranchRecord(name, f"bank-{name}", f"do-{name}", b"", step=step))
    check(branches)
    return tuple(branches)


MIXTURES = {
    "saga and pivot": steps("a=saga", "b=pivot<a"),
    "saga": steps("a=saga", "b=saga<a"),
    "tcc": steps("a=tcc", "b=tcc"),
    "two-phase and saga": steps("a=two-phase", "b=saga"),
    "message": steps("a=pivot", "b=forward<a"),
    "tcc and messages": steps("a=tcc", "b=forward<a", "c=forward>b"),
}
REPORTED = {
    "saga and pivot": steps("a=saga!", "b=pivot<a"),
    "saga": steps("a=saga", "b=saga<a!"),
    "tcc": steps("a=tcc!", "b=tcc<a"),
    "saga after it": steps("a=saga!", "b=saga>a"),
    "message": steps("a=pivot", "b=forward<a!"),
}
THROUGH_ANOTHER = steps("a=saga", "b=two-phase>a", "c=saga>b")
BUDGETS = {
    "crash": Budget(crashes=1),
    "loss": Budget(losses=1),
    "copy": Budget(copies=1),
    "cut": Budget(cuts=1),
}


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("branches", MIXTURES.values(), ids=MIXTURES)
def test_one_fault_at_any_moment(branches: tuple[BranchRecord, ...], budget: Budget) -> None:
    census = search(branches, budget)
    assert census.worlds > 100
    assert census.ends == BOTH_ENDS


@pytest.mark.parametrize("name", ["saga and pivot", "saga", "message"])
def test_a_crash_and_a_call_or_a_proposal_that_is_given_up(name: str) -> None:
    census = search(MIXTURES[name], Budget(crashes=1, losses=1))
    assert census.worlds > 1_000
    assert census.ends == BOTH_ENDS


@pytest.mark.parametrize("refusals", [{"do-a": 1}, {"do-b": 1}, {"undo-a": 1}], ids=str)
def test_a_step_that_is_begun_anew(refusals: Mapping[str, int]) -> None:
    """Before the decision or behind it, with a crash."""
    census = search(steps("a=saga", "b=pivot<a", attempts=2), Budget(crashes=1), refusals)
    assert census.worlds > 500
    assert census.ends == BOTH_ENDS


def test_what_is_refused_for_good_aborts_all() -> None:
    assert search(steps("a=saga", "b=tcc>a", "c=pivot"), Budget(crashes=1), {"do-c": 1}).ends == {"aborted"}
    assert search(MIXTURES["saga and pivot"], Budget(cuts=1), {"do-b": 1}).ends == {"aborted"}


def test_what_comes_after_a_two_phase_branch_is_undone_before_what_comes_before_it() -> None:
    assert search(THROUGH_ANOTHER, Budget()).ends == BOTH_ENDS


@pytest.mark.parametrize("budget", [*BUDGETS.values(), Budget(declines=1)], ids=[*BUDGETS, "decline"])
@pytest.mark.parametrize("branches", REPORTED.values(), ids=REPORTED)
def test_a_step_that_somebody_reports_at_any_moment(branches: tuple[BranchRecord, ...], budget: Budget) -> None:
    """Before the answer of its action, behind the decision, or as refused. Red with a report that counts by itself."""
    census = search(branches, budget)
    assert census.worlds > 50
    assert census.ends == BOTH_ENDS


def test_a_reported_step_that_is_begun_anew() -> None:
    """Somebody has the token of the attempt that was refused, and reports it."""
    assert search(steps("a=saga!", "b=pivot<a", attempts=2), Budget(crashes=1), {"do-a": 1}).ends == BOTH_ENDS
    assert search(REPORTED["message"], Budget(crashes=1, declines=1), {"do-b": 1}).ends == BOTH_ENDS


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_message_that_is_set_aside_is_delivered_once_more_or_dropped(budget: Budget) -> None:
    """Whatever happens in between. Red with a dead letter that is called, and with one that never ends."""
    (pivot, message) = steps("a=pivot", "b=forward<a")
    letter = message._replace(step=step_of(message)._replace(delivery=Delivery("", 1)))
    census = search((pivot, letter), budget, {"do-b": 1})
    assert census.worlds > 50
    assert census.ends == BOTH_ENDS


# Canaries

WHERE = {
    "undo without preventing": (MIXTURES["saga"], Budget(crashes=1), {}),
    "the pivot is not prevented": (MIXTURES["saga and pivot"], Budget(), {}),
    "the next attempt before the record of the last": (
        steps("a=saga", "b=pivot", attempts=2),
        Budget(crashes=1),
        {"do-a": 1},
    ),
    "the decision before the results": (MIXTURES["message"], Budget(crashes=1, losses=1), {}),
    "a call before the record": (MIXTURES["saga"], Budget(crashes=1), {}),
    "steps in any order": (THROUGH_ANOTHER, Budget(), {}),
    "undo in any order": (MIXTURES["saga"], Budget(), {}),
    "undo in the order of neighbours only": (THROUGH_ANOTHER, Budget(), {}),
    "a report counts before its action has run": (steps("a=saga!", attempts=2), Budget(), {"do-a": 1}),
    "a step does not wait for the report of the one before it": (REPORTED["saga after it"], Budget(declines=1), {}),
    "what was reported as refused is not undone": (REPORTED["saga"], Budget(declines=1), {}),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_rule_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    BREAKS[name](monkeypatch)
    branches, budget, refusals = WHERE[name]
    with pytest.raises(Found):
        search(branches, budget, refusals)
