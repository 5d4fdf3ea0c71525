"""What `txn show` says of steps: how each takes part, and how far it has come."""

from __future__ import annotations

from rich.console import Console

from coordinator.cli.render import transaction_table
from coordinator.http.views import transaction_view
from coordinator.ledger.records import (
    Asked,
    BranchRecord,
    Mode,
    Notice,
    Path,
    Phase,
    Retry,
    StepRecord,
    TransactionRecord,
    WorkflowRecord,
)

STEP = StepRecord(Mode.SAGA, (), None, "undo", (), Retry(1, 100, 100))
RECORD = TransactionRecord("g", b"d", Path.STEPS, Phase.PREPARING, (), 1_000, 1)


def shown(*steps: StepRecord | None) -> list[str]:
    """The lines about branches."""
    branches = tuple(BranchRecord(f"s{n}", "bank", "do", b"", step=step) for n, step in enumerate(steps, 1))
    return lines("branch", RECORD._replace(branches=branches))


def lines(head: str, record: TransactionRecord, worker: str | None = None) -> list[str]:
    """Those that begin so."""
    console = Console(width=200)
    with console.capture() as printed:
        console.print(transaction_table(transaction_view(record), worker=worker))
    every = (line.strip() for line in printed.get().splitlines())
    return [line for line in every if line.startswith(head)]


def test_a_step_shows_its_mode_and_what_is_noted_of_it() -> None:
    assert shown(STEP, STEP._replace(done=True), STEP._replace(attempt=3)) == [
        "branch s1  bank do (saga): open",
        "branch s2  bank do (saga, done): open",
        "branch s3  bank do (saga, attempt 3): open",
    ]


def test_a_step_that_needs_a_person_shows_how_often_it_was_refused() -> None:
    step = STEP._replace(mode=Mode.FORWARD, undo=None, settling=7)
    assert shown(step) == ["branch s1  bank do (forward, refused 6 times behind the decision): open"]


def test_a_branch_without_a_step_shows_none() -> None:
    assert shown(None) == ["branch s1  bank do: open"]


def test_what_is_told_at_a_url_shows_what_is_known_there_and_who_has_given_that_up() -> None:
    record = RECORD._replace(phase=Phase.COMMITTED, notify="http://a/[b]", notified=Notice.DECIDED)
    assert lines("notify", record) == ["notify    http://a/[b] (knows: decided)"]
    dropped = record._replace(notice_dropped="dropped by ann: [gone]")
    assert lines("notify", dropped) == ["notify    http://a/[b] (knows: decided; dropped by ann: [gone])"]


def test_a_workflow_shows_who_runs_it_or_what_came_of_it() -> None:
    record = RECORD._replace(workflow=WorkflowRecord("book", b"\x01"))
    assert lines("workflow", record) == ["workflow  book: waits for a worker"]
    assert lines("workflow", record, "w-1") == ["workflow  book: run by w-1"]
    returned = record._replace(phase=Phase.COMMITTED, workflow=WorkflowRecord("book", b"", result=b"\xa2[]"))
    assert lines("workflow", returned) == ['workflow  book: returned "[]"']
    assert lines("workflow", record._replace(phase=Phase.ABORTING)) == ["workflow  book"]


def test_a_step_that_was_refused_for_good_says_why() -> None:
    branches = (BranchRecord("s1", "bank", "do", b"", ended=True, step=STEP),)
    workflow = WorkflowRecord("book", b"", (Asked(b"", 1, "no [money]"),))
    record = RECORD._replace(branches=branches, workflow=workflow)
    assert lines("branch", record) == ["branch s1  bank do (saga, refused: no [money]): ended"]
