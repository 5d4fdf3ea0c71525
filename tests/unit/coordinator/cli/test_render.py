"""What `txn show` says of steps: how each takes part, and how far it has come."""

from __future__ import annotations

from rich.console import Console

from coordinator.cli.render import transaction_table
from coordinator.http.views import transaction_view
from coordinator.ledger.records import BranchRecord, Mode, Path, Phase, Retry, StepRecord, TransactionRecord

STEP = StepRecord(Mode.SAGA, (), None, "undo", (), Retry(1, 100, 100))
RECORD = TransactionRecord("g", b"d", Path.STEPS, Phase.PREPARING, (), 1_000, 1)


def shown(*steps: StepRecord | None) -> list[str]:
    """The lines about branches."""
    branches = tuple(BranchRecord(f"s{n}", "bank", "do", b"", step=step) for n, step in enumerate(steps, 1))
    console = Console(width=200)
    with console.capture() as printed:
        console.print(transaction_table(transaction_view(RECORD._replace(branches=branches))))
    lines = (line.strip() for line in printed.get().splitlines())
    return [line for line in lines if line.startswith("branch")]


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
