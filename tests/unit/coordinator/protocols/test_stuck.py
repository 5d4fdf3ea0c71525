"""Which open transactions a person should look at."""

from __future__ import annotations

import pytest

from coordinator.ledger.commands import BY_VOTES, Begin, Decide, Diverge, End, Heard, Progress
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Mode,
    Path,
    Reporting,
    Retry,
    StepRecord,
    TransactionRecord,
    WorkflowRecord,
)
from coordinator.ledger.table import Ledger
from coordinator.protocols.stuck import Kind, Thresholds, stuck

THRESHOLDS = Thresholds(late_ms=60_000, refusals=2)
SAGA = StepRecord(Mode.SAGA, (), None, "undo", (), Retry(1, 100, 1_000))
BRANCHES = (BranchRecord("a", "bank-a", "do", b"", step=SAGA), BranchRecord("b", "bank-b", "do", b"", step=SAGA))
BEGIN = Begin("t", b"d", Path.STEPS, BRANCHES, deadline_ms=10_000, at_ms=1_000)
ABORT = Decide("t", Decision.ABORT, BY_VOTES, at_ms=5_000, done=("b",))


def after(*commands: Begin | Decide | Diverge | Progress | End) -> TransactionRecord:
    ledger = Ledger()
    for command in commands:
        ledger.execute(command)
    record = ledger.get("t")
    assert record is not None
    return record


def refusals(count: int) -> list[Progress]:
    return [Progress("t", "a", number + 1, Heard.UNSETTLED) for number in range(count)]


def test_a_workflow_whose_code_has_diverged_waits_for_a_person() -> None:
    begin = Begin("t", b"d", Path.STEPS, (), 10_000, 1_000, workflow=WorkflowRecord("book", b""))
    assert stuck(after(begin), THRESHOLDS, 1_000) is None
    assert stuck(after(begin, Diverge("t", "step 1 is another")), THRESHOLDS, 1_000) == (
        Kind.DIVERGED,
        "step 1 is another",
    )


@pytest.mark.parametrize(("now_ms", "is_late"), [(70_999, False), (71_000, True)])
def test_an_undecided_one_is_late_so_long_after_its_deadline(now_ms: int, is_late: bool) -> None:
    found = stuck(after(BEGIN), THRESHOLDS, now_ms)
    assert (found is not None) is is_late
    assert not is_late or found == (Kind.LATE, "undecided 60 s after its deadline")


@pytest.mark.parametrize(("now_ms", "is_late"), [(64_999, False), (65_000, True)])
def test_a_decided_one_is_late_so_long_after_its_decision_and_names_whom_it_waits_for(
    now_ms: int, is_late: bool
) -> None:
    found = stuck(after(BEGIN, ABORT), THRESHOLDS, now_ms)
    assert (found is not None) is is_late
    assert not is_late or found == (Kind.LATE, "decided 60 s ago, and not confirmed by a at bank-a")


def test_what_was_refused_often_enough_behind_the_decision_is_stuck_at_once_with_its_branch() -> None:
    assert stuck(after(BEGIN, ABORT, *refusals(1)), THRESHOLDS, 5_000) is None
    found = stuck(after(BEGIN, ABORT, *refusals(2)), THRESHOLDS, 5_000)
    assert found == (Kind.REFUSED, "branch a at bank-a has refused 2 times to undo")


def test_a_delayed_one_is_late_so_long_after_its_time() -> None:
    mail = StepRecord(Mode.FORWARD, (), None, None, (), Retry(1, 100, 1_000), not_before_ms=100_000)
    begin = BEGIN._replace(branches=(*BRANCHES, BranchRecord("m", "mail", "say", b"", step=mail)))
    record = after(begin, Decide("t", Decision.COMMIT, BY_VOTES, at_ms=5_000, done=("a", "b")))
    assert stuck(record, THRESHOLDS, 164_999) is None
    assert stuck(record, THRESHOLDS, 165_000) is not None


def test_an_application_that_has_not_been_told_for_so_long_is_named() -> None:
    record = after(BEGIN._replace(notify="http://shop/hook"), ABORT, End("t", ("a",)))
    assert stuck(record, THRESHOLDS, 64_999) is None
    assert stuck(record, THRESHOLDS, 65_000) == (
        Kind.UNTOLD,
        "decided 60 s ago, and http://shop/hook has not taken the notice",
    )


def test_work_that_is_reported_behind_the_decision_may_take_as_long_as_the_deadline() -> None:
    ship = StepRecord(Mode.FORWARD, (), None, None, (), Retry(1, 100, 1_000), reporting=Reporting("token", "secret"))
    begin = BEGIN._replace(branches=(*BRANCHES, BranchRecord("s", "mail", "ship", b"", step=ship)), deadline_ms=90_000)
    record = after(begin, Decide("t", Decision.COMMIT, BY_VOTES, at_ms=5_000, done=("a", "b")))
    assert stuck(record, THRESHOLDS, 154_999) is None
    assert stuck(record, THRESHOLDS, 155_000) is not None


def test_what_has_ended_is_never_stuck() -> None:
    assert stuck(after(BEGIN, ABORT, *refusals(2), End("t", ("a",))), THRESHOLDS, 1_000_000) is None
