"""What a note makes of a step that is reported: its report is of the action, whatever comes of a confirm or an undo."""

from __future__ import annotations

import pytest

from coordinator.ledger.commands import Heard, Progress
from coordinator.ledger.progress import advanced
from coordinator.ledger.records import BranchRecord, Mode, Report, Reporting, Retry, StepRecord
from participant.values import packed

RESULT = packed("room 7", "result")


def _reported(mode: Mode, undo: str | None, confirm: str | None = None) -> BranchRecord:
    heard = Reporting("token", "secret", begun=True, heard=Report.DONE)
    step = StepRecord(mode, (), confirm, undo, (), Retry(1, 100, 1_000), reporting=heard, done=True, result=RESULT)
    return BranchRecord("a", "hotel", "book", b"", step=step)


@pytest.mark.parametrize(("mode", "confirm"), [(Mode.TCC, "settle"), (Mode.SAGA, None)])
def test_a_refused_confirm_or_undo_leaves_what_was_reported_of_the_action(mode: Mode, confirm: str | None) -> None:
    """Others take the result, and so does the undo. Seen red: found by a property, which gave a message `None`."""
    before = _reported(mode, "release", confirm)
    after = advanced(before, Progress("t", "a", 1, Heard.UNSETTLED))
    assert before.step is not None
    assert after.step == before.step._replace(settling=2)


def test_work_behind_the_decision_that_is_refused_is_begun_anew() -> None:
    after = advanced(_reported(Mode.FORWARD, None), Progress("t", "a", 1, Heard.UNSETTLED))
    assert after.step is not None
    assert (after.step.settling, after.step.reporting, after.step.result) == (2, Reporting("token", "secret"), b"")
